"""`https://` against the real nginx: files, folders, versions, redirects, credentials, servers without ranges."""

import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.store import Store
from agent.transfer import CancelToken, Downloader, Progress, TransferSettings
from agent.transfer.errors import Cancelled, IntegrityError
from controller.request import Request
from controller.resolver import build_manifest
from modelcache.manifest import Manifest, ManifestError, ManifestFile
from modelcache.sources import destinations, errors
from modelcache.sources.base import Credential, Location, Resolution, SourceFile
from modelcache.sources.http import HttpSource
from modelcache.sources.uri import parse_uri
from modelcache.sources.web import guard
from tests.support.instant_clock import InstantClock
from tests.support.nginx import AUTHORITY, Nginx, nginx

FILES = {"config.json": b"{}", "sub dir/ünï %25.bin": os.urandom(600_000), "empty": b""}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with nginx(tmp_path_factory.mktemp("nginx"), secrets.token_hex(16)) as running:
        yield running


@pytest.fixture
def folder(server: Nginx, request: pytest.FixtureRequest) -> Path:
    directory = server.root / hashlib.sha1(request.node.nodeid.encode()).hexdigest()[:12]
    write(directory, FILES)
    return directory


def write(directory: Path, files: dict[str, bytes]) -> None:
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    lines = [f"{hashlib.sha256(content).hexdigest()}  {path}\n" for path, content in files.items()]
    (directory / "SHA256SUMS").write_text("".join(lines))


def resolve(
    server: Nginx, path: str, credential: Credential | None = None, revision: str | None = None,
    include: tuple[str, ...] = (),
) -> Resolution:  # fmt: skip
    uri = parse_uri(f"{server.url}/{path}")
    return HttpSource(server.environ).resolve(uri, revision, credential, include, ())


def manifest_of(server: Nginx, path: str, credential: Credential | None = None) -> Manifest:
    uri = parse_uri(f"{server.url}/{path}")
    return build_manifest(Request(uri, None), resolve(server, path, credential))


def fetch(store: Store, server: Nginx, manifest: Manifest, credential: Credential | None = None) -> dict[str, str]:
    source, uri = HttpSource({}), parse_uri(manifest.source)

    def locate(file: ManifestFile) -> Location:
        return source.locate(uri, manifest.revision, SourceFile(file.path, file.size, etag=file.etag), credential)

    settings = TransferSettings(piece_bytes=128 * 1024, reserve_bytes=0)
    with (
        Downloader(store, settings, clock=InstantClock(), environ=server.environ) as downloader,
        store.hold() as hold,
    ):
        return dict(downloader.fetch(manifest, locate, namespace="team", hold=hold))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("way", ["", "no-ranges/", "no-etag/", "no-version/", "moved/"])
def test_a_folder_with_sha256sums(server: Nginx, folder: Path, store: Store, way: str) -> None:
    manifest = manifest_of(server, f"{way}{folder.name}/")
    assert manifest.complete
    assert fetch(store, server, manifest) == digests(folder)


@pytest.mark.parametrize("way", ["", "no-ranges/", "no-etag/"])
def test_one_file(server: Nginx, folder: Path, store: Store, way: str) -> None:
    name = "sub dir/ünï %25.bin"
    quoted = "sub%20dir/%C3%BCn%C3%AF%20%2525.bin"
    manifest = manifest_of(server, f"{way}{folder.name}/{quoted}")
    assert [(file.path, file.size, file.sha256) for file in manifest.files] == [("ünï %25.bin", 600_000, None)]
    assert fetch(store, server, manifest) == {"ünï %25.bin": digests(folder)[name]}


@pytest.mark.parametrize("way", ["", "no-ranges/", "no-etag/"])
def test_one_file_that_is_replaced_is_refused(server: Nginx, folder: Path, store: Store, way: str) -> None:
    path = folder / "model.bin"
    content = bytearray(os.urandom(300_000))
    path.write_bytes(content)
    os.utime(path, (1_600_000_000, 1_600_000_000))
    manifest = manifest_of(server, f"{way}{folder.name}/model.bin")
    content[150_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(errors.SourceChanged, match=r"model\.bin"):
        fetch(store, server, manifest)
    with pytest.raises(errors.SourceChanged, match=manifest.revision[:12]):
        resolve(server, f"{way}{folder.name}/model.bin", revision=manifest.revision)


def test_a_byte_that_is_changed_in_a_folder_is_found(server: Nginx, folder: Path, store: Store) -> None:
    manifest = manifest_of(server, f"{folder.name}/")
    path = folder / "sub dir" / "ünï %25.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="ünï %25"):
        fetch(store, server, manifest)


def test_globs_and_revisions(server: Nginx, folder: Path) -> None:
    every = resolve(server, f"{folder.name}/")
    assert {file.path for file in every.files} == {*FILES, "SHA256SUMS"}
    assert [file.path for file in resolve(server, f"{folder.name}/", include=("*.json",)).files] == ["config.json"]
    assert resolve(server, f"{folder.name}/", revision=every.revision) == every
    with pytest.raises(errors.RevisionNotFound, match="v1"):
        resolve(server, f"{folder.name}/", revision="v1")


@pytest.mark.parametrize("kind", ["basic", "bearer", "leak"])
def test_credentials(server: Nginx, folder: Path, store: Store, kind: str) -> None:
    """`leak` wants a bearer token and redirects to another origin, which refuses to be shown one."""
    values = {"username": "models", "password": server.secret} if kind == "basic" else {"token": server.secret}
    path = f"{kind}/{folder.name}/config.json"
    manifest = manifest_of(server, path, Credential(values))
    assert fetch(store, server, manifest, Credential(values))["config.json"] == digests(folder)["config.json"]
    with pytest.raises(errors.Unauthorized, match="secretRef"):
        resolve(server, path)
    wrong = Credential(dict.fromkeys(values, "models"))
    with pytest.raises(errors.Unauthorized, match="secretRef") as caught:
        resolve(server, path, wrong)
    assert server.secret not in caught.value.message
    with pytest.raises(errors.Unauthorized, match="config"):
        fetch(Store.open(store.paths.root.with_name("other")), server, manifest, wrong)


@pytest.mark.parametrize(
    ("path", "kind", "says"),
    [
        ("nothing.bin", errors.NotFound, "nothing.bin"),
        ("nothing/", errors.NotFound, "SHA256SUMS"),
        ("{folder}", errors.Unsupported, "slash at the end"),
        ("no-version/{folder}/config.json", errors.Unsupported, "neither ETag nor Last-Modified"),
        ("away/x", errors.Unsupported, "not followed"),
        ("metadata/x", errors.Unsupported, r"^169\.254\.169\.254 is an address at which a machine"),
        ("round/x", errors.Unsupported, "redirects"),
        ("busy/x", errors.RateLimited, "429"),
        ("down/x", errors.Unreachable, "503"),
        ("{folder}/?a=b", errors.InvalidURI, "query"),
    ],
)
def test_refusals(server: Nginx, folder: Path, path: str, kind: type[errors.SourceError], says: str) -> None:
    with pytest.raises(kind, match=says) as caught:
        resolve(server, path.format(folder=folder.name))
    assert type(caught.value) is kind


@pytest.mark.parametrize("host", ["169.254.169.254", "[::ffff:169.254.169.254]", "2852039166", "metadata.example"])
def test_no_source_is_at_an_address_of_the_machine_itself(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"metadata.example": "169.254.169.254"}
    look_up = socket.getaddrinfo

    def resolver(name: str, *rest: Any, **options: Any) -> Any:
        return look_up(known.get(name, name), *rest, **options)

    monkeypatch.setattr(destinations.check_name, "__defaults__", (resolver,))
    with pytest.raises(errors.Unsupported, match="no source is read from there"):
        HttpSource({}).resolve(parse_uri(f"http://{host}/latest/meta-data"), None, None, (), ())


@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254"])
def test_a_name_that_stands_for_another_address_when_it_is_connected_to_is_given_up(address: str) -> None:
    step, closed = guard("http://rebinding.example/x"), []

    class Stream:
        def get_extra_info(self, what: str) -> tuple[str, int]:
            assert what == "server_addr"
            return address, 80

        def close(self) -> None:
            closed.append(address)

    step("connection.connect_tcp.started", {"host": "127.0.0.1", "port": 80})
    with pytest.raises(errors.Unsupported, match=r"rebinding\.example means"):
        step("connection.connect_tcp.complete", {"return_value": Stream()})
    assert closed, "before anything was sent"


@pytest.mark.parametrize(
    ("sums", "kind", "says"),
    [
        ("hello\n", errors.MalformedListing, "line 1"),
        (f"{'0' * 64}  absent\n", errors.NotFound, "absent"),
        (f"{'0' * 64}  a\n{'1' * 64}  a\n", errors.MalformedListing, "two digests"),
        (f"\\{'0' * 64}  a\\nb\n", errors.UnsafePath, "line break"),
    ],
)
def test_lists_that_cannot_be_used(
    server: Nginx, folder: Path, sums: str, kind: type[errors.SourceError], says: str
) -> None:
    (folder / "SHA256SUMS").write_text(sums)
    with pytest.raises(kind, match=says):
        resolve(server, f"{folder.name}/")


def test_a_list_that_climbs_out(server: Nginx, folder: Path) -> None:
    (server.root / "outside").write_bytes(b"x")
    (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(b'x').hexdigest()}  ../outside\n")
    with pytest.raises((ManifestError, errors.SourceError), match="outside"):
        manifest_of(server, f"{folder.name}/")


def test_an_untrusted_certificate_and_an_absent_server(server: Nginx) -> None:
    uri = parse_uri(f"{server.url}/x")
    with pytest.raises(errors.Unreachable, match="SSL_CERT_FILE"):
        HttpSource({}).resolve(uri, None, None, (), ())
    with pytest.raises(errors.Unreachable, match="cannot be reached"):
        HttpSource({}).resolve(parse_uri("https://127.0.0.1:9/x"), None, None, (), ())


def test_a_private_authority_from_the_secret_counts_for_its_source_alone(
    server: Nginx, folder: Path, store: Store
) -> None:
    uri, source, cancel = parse_uri(f"{server.url}/bearer/{folder.name}/"), HttpSource({}), CancelToken()
    trusting = Credential({"token": server.secret, "ca.crt": AUTHORITY.read_text()})
    waited: list[str] = []

    def told(progress: Progress) -> None:
        if progress.waiting is not None:
            waited.append(progress.waiting.message)
            cancel.cancel()

    settings = TransferSettings(reserve_bytes=0)
    with Downloader(store, settings, clock=InstantClock(), environ={}) as downloader, store.hold() as hold:

        def fetch(include: str, credential: Credential) -> dict[str, str]:
            resolution = source.resolve(uri, None, trusting, (include,), ())
            manifest = build_manifest(Request(uri, None), resolution)

            def locate(file: ManifestFile) -> Location:
                return source.locate(uri, resolution.revision, SourceFile(file.path, file.size), credential)

            return dict(downloader.fetch(manifest, locate, namespace="team", hold=hold, cancel=cancel, progress=told))

        assert fetch("config.json", trusting)["config.json"] == hashlib.sha256(FILES["config.json"]).hexdigest()
        # Not over the connection that has just been left open.
        with pytest.raises(Cancelled):
            fetch("sub dir/", Credential({"token": server.secret}))
    assert "'ca.crt' of the Secret" in waited[0]


@pytest.mark.parametrize(
    ("authorities", "kind"),
    [("second", errors.Unreachable), ("no certificate", errors.Unsupported), ("", errors.Unsupported)],
)
def test_an_authority_that_is_another_or_none(server: Nginx, authorities: str, kind: type[errors.SourceError]) -> None:
    pem = AUTHORITY.with_name("second.crt").read_text() if authorities == "second" else authorities
    with pytest.raises(kind, match=r"'ca\.crt' of the Secret"):
        HttpSource({}).resolve(parse_uri(f"{server.url}/x"), None, Credential({"ca.crt": pem}), (), ())


def test_a_credential_is_not_sent_unencrypted() -> None:
    with pytest.raises(errors.Unsupported, match="unencrypted"):
        HttpSource({}).resolve(parse_uri("http://models.example/x"), None, Credential({"token": "t" * 8}), (), ())
