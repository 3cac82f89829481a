"""`hf://` against a hub: what is pinned, what is listed, and how each refusal reads."""

import hashlib
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from agent.store import Store
from agent.transfer import Downloader, TransferSettings
from controller.request import Request
from controller.resolver import build_manifest
from local.hub.faults import AnyFault, Close, Flip, Listing, Status
from local.hub.repository import Repository
from modelcache.manifest import ManifestFile
from modelcache.sources import errors
from modelcache.sources.base import Credential, Location, Resolution, SourceFile
from modelcache.sources.hf import HuggingFaceSource
from modelcache.sources.uri import parse_uri
from tests.support.hub import MINILM, Serve, ask, minilm_files
from tests.support.nginx import AUTHORITY
from tests.support.tls_front import tls_front

FILES: Mapping[str, bytes] = {"config.json": b"{}", "model.safetensors": b"weights", "sub/dir/vocab.txt": b"a\nb\n"}


def resolve(
    url: str,
    uri: str = "hf://o/n",
    revision: str | None = None,
    token: str | None = None,
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Resolution:
    source = HuggingFaceSource({"HF_ENDPOINT": url, **(environ or {})}, timeout=timeout)
    credential = None if token is None else Credential({"token": token})
    return source.resolve(parse_uri(uri), revision, credential, include, exclude)


def refused(url: str, kind: type[errors.SourceError], **arguments: object) -> errors.SourceError:
    """The error that resolving raises; of exactly that kind, in one or two sentences without a token."""
    with pytest.raises(errors.SourceError) as caught:
        resolve(url, **arguments)  # type: ignore[arg-type]  # passed on as they are
    assert type(caught.value) is kind, caught.value
    assert "hf_" not in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.message.endswith(".")
    return caught.value


def test_a_real_model(serve: Serve) -> None:
    root = minilm_files()
    repository = Repository(MINILM, root)
    resolution = resolve(serve(repository).url, f"hf://{MINILM}")
    assert resolution.uri == f"hf://{MINILM}"
    assert resolution.revision == repository.refs()[0]["main"]
    for file in resolution.files:
        content = (root / file.path).read_bytes()
        assert file.size == len(content)
        if file.sha256:
            assert file.sha256 == hashlib.sha256(content).hexdigest()
        else:
            assert file.git_oid == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    assert {file.path for file in resolution.files} == {
        path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()
    }
    assert [file.path for file in resolution.files if file.sha256] == ["model.safetensors"]


def test_the_located_bytes_are_the_listed_ones(serve: Serve) -> None:
    files = {**FILES, "name with #?%.json": b"odd", "\u00e9\U0001f917.txt": b"accent"}
    server = serve(Repository("o/n", files, private=True, tokens=["hf_good"]))
    source, uri = HuggingFaceSource({"HF_ENDPOINT": server.url}), parse_uri("hf://o/n")
    credential = Credential({"token": "hf_good"})
    resolution = source.resolve(uri, None, credential, (), ())
    for file in resolution.files:
        location = source.locate(uri, resolution.revision, file, credential)
        answer = ask(location.url, headers=location.headers)
        if answer.status == 302:
            answer = ask(answer.headers["location"])
        assert answer.body == files[file.path]


def test_a_revision_is_pinned_once(serve: Serve) -> None:
    repository = Repository("o/n", dict(FILES))
    repository.tag("v1", "main")
    server = serve(repository)
    before = resolve(server.url)
    repository.commit({"other": b"1"})
    after = resolve(server.url)
    assert before.revision != after.revision
    assert {file.path for file in after.files} == {"other"}
    for revision in ("v1", before.revision):
        assert resolve(server.url, revision=revision) == before
        assert resolve(server.url, f"hf://o/n@{revision}") == before
        assert resolve(server.url, f"hf://o/n:{revision}") == before


def test_revisions_with_slashes(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES), revisions={"refs/pr/1": {"a": b"1"}, "feature/x": {"b": b"1"}}))
    assert resolve(server.url, "hf://o/n@refs/pr/1").files[0].path == "a"
    assert resolve(server.url, "hf://o/n@feature%2Fx").files[0].path == "b"
    assert resolve(server.url, revision="feature/x").files[0].path == "b"


def test_thousands_of_files_in_pages_sorted_by_bytes(serve: Serve) -> None:
    files = {f"d{i % 7}/e{i % 11}/f{i}.txt": b"" for i in range(2000)} | {
        "\U0001f917": b"",
        "\uffff": b"",
        "Z": b"",
        "a": b"",
    }
    server = serve(Repository("o/n", dict(files)), page_size=300)
    resolution = resolve(server.url)
    assert [file.path for file in resolution.files] == sorted(files, key=str.encode)
    commit = resolution.revision
    assert server.hub.stats.requests_to(f"/api/models/o/n/tree/{commit}") == -(-(len(files) + 84) // 300)


def test_filters(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES)))
    assert [file.path for file in resolve(server.url, include=("*.json", "sub/")).files] == [
        "config.json",
        "sub/dir/vocab.txt",
    ]
    assert [file.path for file in resolve(server.url, exclude=("*.json", "sub/*")).files] == ["model.safetensors"]
    error = refused(server.url, errors.EmptyRepository, include=("*.bin",))
    assert "spec.source.include ['*.bin']" in error.message
    assert "3 files" in error.message


@pytest.mark.parametrize("files", [{}, {".gitattributes": b"*.bin filter=lfs"}])
def test_an_empty_repository(serve: Serve, files: dict[str, bytes]) -> None:
    assert "'main'" in refused(serve(Repository("o/n", dict(files))).url, errors.EmptyRepository).message


def test_what_does_not_exist(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES)), tokens={"hf_known": "bob"})
    assert "spec.source.secretRef" in refused(server.url, errors.NotFound, uri="hf://o/none").message
    assert "permissions" in refused(server.url, errors.NotFound, uri="hf://o/none", token="hf_known").message
    assert "'nope'" in refused(server.url, errors.RevisionNotFound, revision="nope").message
    refused(server.url, errors.RevisionNotFound, revision="0" * 40)


def test_private_repositories(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES), private=True, tokens=["hf_good"]), tokens={"hf_known": "bob"})
    assert len(resolve(server.url, token="hf_good").files) == 3
    assert len(resolve(server.url, environ={"HF_TOKEN": "hf_good"}).files) == 3
    assert "spec.source.secretRef" in refused(server.url, errors.NotFound).message
    refused(server.url, errors.NotFound, token="hf_known")
    refused(server.url, errors.Unauthorized, token="hf_invalid")
    # A credential of the DynamoModel is used instead of the installation's, also when it is the worse one.
    refused(server.url, errors.NotFound, token="hf_known", environ={"HF_TOKEN": "hf_good"})


def test_gated_repositories_are_refused_before_any_node_starts(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES), gated="manual", tokens=["hf_good"]), tokens={"hf_known": "bob"})
    assert len(resolve(server.url, token="hf_good").files) == 3
    page = f"{server.url}/o/n"
    assert page in refused(server.url, errors.Unauthorized).message
    assert page in refused(server.url, errors.LicenseNotAccepted, token="hf_known").message
    assert server.hub.stats.file_bytes == 0


def test_a_token_file_of_a_person_is_not_read(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (".cache/huggingface/token", "token"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("hf_good")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    server = serve(Repository("o/n", dict(FILES), private=True, tokens=["hf_good"]))
    refused(server.url, errors.NotFound)


@pytest.mark.parametrize(
    ("fault", "kind", "retry_after"),
    [
        (Status(status=429, retry_after=17), errors.RateLimited, 17.0),
        (Status(status=503, retry_after=3), errors.Unreachable, 3.0),
        (Status(status=500), errors.Unreachable, None),
        (Status(status=418), errors.MalformedListing, None),
    ],
)
def test_a_refusal_is_reported_at_once_and_not_waited_out(
    serve: Serve, fault: AnyFault, kind: type[errors.SourceError], retry_after: float | None
) -> None:
    server = serve(Repository("o/n", dict(FILES)))
    number = server.hub.faults.add(fault)
    error = refused(server.url, kind)
    assert error.retry_after == retry_after
    assert error.retryable == issubclass(kind, errors.Unreachable)
    assert server.hub.faults.applied(number) == 1
    server.hub.faults.clear()
    assert len(resolve(server.url).files) == 3


def test_a_mirror_with_a_certificate_of_a_private_authority(serve: Serve, tmp_path: Path) -> None:
    files = {path: content for path, content in FILES.items() if path != "model.safetensors"}  # that is on a CDN
    hub = serve(Repository("o/n", dict(files), private=True, tokens=["hf_good"]))
    uri, ca = parse_uri("hf://o/n"), AUTHORITY.read_text()
    with tls_front(int(hub.url.rpartition(":")[2]), AUTHORITY) as url, Store.open(tmp_path / "cache") as store:
        source = HuggingFaceSource({"HF_ENDPOINT": url})
        assert "key 'ca.crt' of the Secret" in refused(url, errors.Unreachable, token="hf_good").message
        trusting = Credential({"token": "hf_good", "ca.crt": ca})
        with pytest.raises(errors.NotFound, match="private"):
            source.resolve(uri, None, Credential({"ca.crt": ca}), (), ())
        with pytest.raises(errors.Unsupported, match="no certificates in PEM"):
            source.resolve(uri, None, Credential({"token": "hf_good", "ca.crt": "nothing"}), (), ())
        resolution = source.resolve(uri, None, trusting, (), ())
        manifest = build_manifest(Request(uri, None), resolution)

        def locate(file: ManifestFile) -> Location:
            listed = SourceFile(file.path, file.size, sha256=file.sha256, git_oid=file.git_oid)
            return source.locate(uri, resolution.revision, listed, trusting)

        with Downloader(store, TransferSettings(reserve_bytes=0), environ={}) as downloader, store.hold() as hold:
            got = downloader.fetch(manifest, locate, namespace="team", hold=hold)
    assert got == {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def test_an_unreachable_hub_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        # Bound and not listening: connections are refused, and nobody else gets the port.
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        error = refused(url, errors.Unreachable)
    assert url in error.message
    assert "HF_ENDPOINT" in error.message
    assert error.retryable


def test_a_silent_hub_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert "in time" in refused(url, errors.Unreachable, timeout=0.2).message


def test_a_listing_that_never_ends_is_given_up_on(serve: Serve) -> None:
    server = serve(Repository("o/n", {f"f{i}": b"" for i in range(50)}), page_size=1)
    ticks = iter(range(0, 10_000, 20))
    source = HuggingFaceSource({"HF_ENDPOINT": server.url}, clock=lambda: float(next(ticks)))
    with pytest.raises(errors.Unreachable, match="has not finished"):
        source.resolve(parse_uri("hf://o/n"), None, None, (), ())


@pytest.mark.parametrize(
    "entry",
    [
        {"size": None},
        {"size": -1},
        {"size": "12"},
        {"size": 1.5},
        {"oid": None},
        {"oid": "xyz"},
        {"oid": "0" * 39},
        {"oid": "0" * 40 + "\n"},
        {"path": None},
        {"path": 7},
        {"lfs": {"oid": "0" * 63, "size": 7, "pointerSize": 1}},
        {"lfs": {"oid": "0" * 64, "size": 8, "pointerSize": 1}},
        {"lfs": {"size": 7}},
        {"lfs": []},
    ],
)
def test_a_listing_of_the_wrong_form_is_refused(serve: Serve, entry: Mapping[str, object]) -> None:
    server = serve(Repository("o/n", dict(FILES)))
    server.hub.faults.add(Listing(override={"model.safetensors": entry}))
    refused(server.url, errors.MalformedListing)


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", "A" * 5000, "lone\ud800"])
def test_paths_are_passed_on_for_the_manifest_to_judge(serve: Serve, path: str) -> None:
    server = serve(Repository("o/n", {**FILES, path: b"x"}))
    try:
        listed = {file.path for file in resolve(server.url).files}
    except errors.MalformedListing:
        # What is no Unicode text is no JSON text either.
        assert "\ud800" in path
    else:
        assert path in listed


def test_a_listing_may_name_a_file_twice(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES)))
    server.hub.faults.add(Listing(append=[{"type": "file", "path": "config.json", "size": 1, "oid": "0" * 40}]))
    assert [file.path for file in resolve(server.url).files].count("config.json") == 2


def test_files_in_xet_without_a_published_sha256(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES)))
    server.hub.faults.add(Listing(override={"model.safetensors": {"lfs": None, "xetHash": "1" * 64}}))
    file = next(file for file in resolve(server.url).files if file.path == "model.safetensors")
    # Its object id is that of a pointer: no use for checking what is downloaded.
    assert file == SourceFile("model.safetensors", 7)


def test_an_address_that_is_no_hub(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES)))
    assert "HF_ENDPOINT" in refused(f"{server.url}/some/page", errors.NotFound).message


def test_only_metadata_is_asked_for(serve: Serve) -> None:
    server = serve(Repository("o/n", dict(FILES)))
    server.hub.faults.add(Flip(offset=0))
    server.hub.faults.add(Close())
    resolve(server.url)
    stats = server.hub.stats.describe()
    assert stats["requests"] == {"total": 2, "api": 2}
