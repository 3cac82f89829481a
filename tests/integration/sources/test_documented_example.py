"""The example of a scheme of one's own in docs/sources.md does what the page says, as it stands there."""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.fetching import TransferFetcher
from agent.store import Store
from agent.transfer import Downloader, TransferSettings
from agent.transfer.errors import IntegrityError
from controller.request import Pinned, Request
from controller.resolver import Failure, Job, answer
from modelcache.sources.base import Credential, Location, SourceFile, source_for
from modelcache.sources.errors import Unsupported
from modelcache.sources.uri import SourceURI, parse_uri
from tests.support.instant_clock import InstantClock
from tests.support.origin import Origin

PAGE = Path(__file__).parents[3] / "docs" / "sources.md"
WEIGHTS = bytes(range(256)) * 5000


def block(language: str) -> str:
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(text)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package of the page, as pip would have laid it out."""
    project = tomllib.loads(block("toml"))["project"]
    site = tmp_path / "site"
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (site / "index_source.py").write_text(block("python"))
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(site))


@pytest.fixture
def server() -> Iterator[Origin]:
    with Origin() as origin:
        files = {"config.json": b"{}", "sub dir/weights": WEIGHTS}
        entries = [
            {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for path, content in files.items()
        ]
        origin.files["/tiny/index.json"] = json.dumps(entries).encode()
        origin.files |= {f"/tiny/{path.replace(' ', '%20')}": content for path, content in files.items()}
        yield origin


def test_the_example_of_the_page(installed: None, server: Origin, tmp_path: Path) -> None:
    uri = parse_uri(f"x-index://127.0.0.1:{server.port}/tiny", {"x-index"})
    token = Credential({"token": "canary-token"})
    pinned = answer(Job(Request(uri, None), None, token), source_for)
    assert isinstance(pinned, Pinned)
    assert [file.path for file in pinned.manifest.files] == ["config.json", "sub dir/weights"]
    assert answer(Job(Request(uri, None), pinned.revision, token), source_for) == pinned
    absent = parse_uri(f"x-index://127.0.0.1:{server.port}/absent", {"x-index"})
    failure = answer(Job(Request(absent, None), None), source_for)
    assert isinstance(failure, Failure)
    assert failure.reason == "NotFound"

    store = Store.open(tmp_path / "cache")
    with Downloader(store, TransferSettings(reserve_bytes=0), clock=InstantClock(), environ={}) as downloader:
        fetch = TransferFetcher(store, downloader).begin("team", pinned.manifest, token, ())
        digests = fetch.run()
        assert digests["sub dir/weights"] == hashlib.sha256(WEIGHTS).hexdigest()
        assert {seen.headers["authorization"] for seen in server.seen if "index" not in seen.path} == {
            "Bearer canary-token"
        }
        fetch.close()
    store.close()

    server.files["/tiny/sub%20dir/weights"] = b"x" + WEIGHTS[1:]
    other = Store.open(tmp_path / "other")
    with Downloader(other, TransferSettings(reserve_bytes=0), clock=InstantClock(), environ={}) as downloader:
        fetch = TransferFetcher(other, downloader).begin("team", pinned.manifest, token, ())
        with pytest.raises(IntegrityError, match="sub dir/weights"):
            fetch.run()
        fetch.close()
    other.close()


def test_a_fault_of_somebody_elses_source_is_told_without_what_it_says(
    installed: None, server: Origin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = parse_uri(f"x-index://127.0.0.1:{server.port}/tiny", {"x-index"})
    token = Credential({"token": "canary-token"})
    pinned = answer(Job(Request(uri, None), None, token), source_for)
    assert isinstance(pinned, Pinned)

    def faulty(self: object, uri: SourceURI, revision: str, file: SourceFile, credential: Credential) -> Location:
        raise KeyError(credential.values["token"])

    monkeypatch.setattr(type(source_for(uri)), "locate", faulty)
    store = Store.open(tmp_path / "cache")
    with Downloader(store, TransferSettings(reserve_bytes=0), clock=InstantClock(), environ={}) as downloader:
        fetch = TransferFetcher(store, downloader).begin("team", pinned.manifest, token, ())
        with pytest.raises(Unsupported, match=r"x-index:// failed \(KeyError\)") as caught:
            fetch.run()
        fetch.close()
    store.close()
    assert "canary" not in caught.value.message


def test_an_index_that_is_none_and_a_secret_without_the_key_say_so(installed: None, server: Origin) -> None:
    uri = parse_uri(f"x-index://127.0.0.1:{server.port}/tiny", {"x-index"})
    failure = answer(Job(Request(uri, None), None, Credential({"other": "x"})), source_for)
    assert isinstance(failure, Failure)
    assert (failure.reason, "'token'" in failure.message) == ("Unauthorized", True)
    for text in (b"<html>", b"{}", b'[{"path": 5, "size": 1}]', b'[{"path": "a", "size": -1}]', b"\xff"):
        server.files["/tiny/index.json"] = text
        failure = answer(Job(Request(uri, None), None), source_for)
        assert isinstance(failure, Failure)
        assert failure.reason == "Unsupported"


def test_the_uri_of_the_page_is_one_that_the_api_accepts() -> None:
    """The CRD's own pattern (see `modelcache.api.spec`) lets schemes through that begin with `x-`."""
    (uri,) = re.findall(r"uri: (x-\S+)", PAGE.read_text())
    schema = json.dumps(yaml.safe_load((PAGE.parents[1] / "manifests/crd/dynamomodels.nvidia.com.yaml").read_text()))
    (rule,) = re.findall(r"self\.matches\('(\^\(+hf\|[^']+)'\)", schema)
    assert re.search(rule, uri)
