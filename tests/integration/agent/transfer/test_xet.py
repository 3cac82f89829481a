"""Files that only come through Xet: the real hf_xet, its storage in a directory, and a hub that hands out the tokens."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import hf_xet
import pytest

from agent.transfer import Cancelled, CancelToken, Progress
from agent.transfer.source import Alone
from agent.transfer.xet import Watchdog, XetClient
from local.hub.repository import Repository
from local.hub.server import HubServer
from local.hub.xet import XetStorage
from modelcache.manifest import Manifest, ManifestFile, Sha256
from modelcache.sources.base import Location, Resolution, XetContent, source_for
from modelcache.sources.hf import XET_VARIABLE
from modelcache.sources.uri import parse_uri
from tests.support.fetching import PIECE, Fetching, content
from tests.support.hub import hubs
from tests.support.waiting import PATIENCE

LOCAL = {"data.local_cas_scheme": "local://"}
LARGE = content(5 * PIECE + 17)
SMALL = content(2 * PIECE, 1)
URI = parse_uri("hf://acme/model", ("hf",))

Make = Callable[..., Fetching]


def uploaded(directory: Path, *contents: bytes) -> XetStorage:
    """A storage with these contents, put there by hf_xet itself."""
    hashes = {}
    session = hf_xet.XetSession(hf_xet.XetConfig().with_config({"telemetry.enabled": False}))
    for number, data in enumerate(contents):
        path = directory.parent / f"upload-{number}"
        path.write_bytes(data)
        with session.new_upload_commit(endpoint=f"local://{directory}") as commit:
            upload = commit.start_upload_file(str(path))
        hashes[hashlib.sha256(data).hexdigest()] = upload.result().xet_info.hash
    return XetStorage(directory, hashes)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """`acme/model` with a file that has to come through Xet, one that is there but need not, and one in git."""
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet-cache"))
    monkeypatch.setenv(XET_VARIABLE, str(4 * PIECE))
    directory = tmp_path / "cas"
    directory.mkdir()
    files = {"large.safetensors": LARGE, "small.safetensors": SMALL, "config.json": b"{}"}
    with hubs() as serve:
        server = serve(Repository("acme/model", files), xet=uploaded(directory, LARGE, SMALL))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def resolved() -> tuple[Resolution, Manifest]:
    resolution = source_for(URI).resolve(URI, None, None, (), ())
    files = [
        ManifestFile(
            path=file.path,
            size=file.size,
            sha256=Sha256(file.sha256) if file.sha256 else None,
            locator=file.locator,
        )
        for file in resolution.files
    ]
    return resolution, Manifest.build(resolution.uri, resolution.revision, files)


def located(resolution: Resolution) -> Callable[[ManifestFile], Location]:
    listed = {file.path: file for file in resolution.files}
    return lambda file: source_for(URI).locate(URI, resolution.revision, listed[file.path], None)


def all_of(client: XetClient, content: XetContent, file: ManifestFile) -> bytes:
    """What a client gives of a file. hf_xet 1.8 tells of an error or, now and then, just ends the stream (XetSource counts)."""
    received = b""
    with suppress(OSError, RuntimeError, ValueError):
        for data in client.stream(content, {}, file.size, 0, file.size):
            received += data
    return received


def test_a_file_above_the_limit_comes_through_xet_and_the_others_do_not(hub: HubServer, fetching: Make) -> None:
    resolution, manifest = resolved()
    assert [file.path for file in manifest.files if file.locator] == ["large.safetensors"]
    engine = fetching(xet=LOCAL)
    with engine.store.hold() as hold:
        digests = engine.downloader.fetch(manifest, located(resolution), namespace="team", hold=hold)
    assert digests["large.safetensors"] == hashlib.sha256(LARGE).hexdigest()
    assert engine.store.paths.blob(digests["large.safetensors"]).read_bytes() == LARGE
    assert hub.hub.stats.describe()["file_bytes"] == len(SMALL) + len(b"{}")
    assert hub.hub.xet is not None
    assert hub.hub.xet.tokens >= 1


def test_what_has_arrived_through_xet_is_not_fetched_again(hub: HubServer, fetching: Make) -> None:
    resolution, manifest = resolved()
    engine = fetching(xet=LOCAL, connections=1)
    cancel = CancelToken()

    class StopsAfterTwo(Alone):
        pieces = 0

        def arrived(self, file: ManifestFile) -> None:
            self.pieces += 1
            if self.pieces == 2:
                cancel.cancel()

    with engine.store.hold() as hold:
        with pytest.raises(Cancelled):
            engine.downloader.fetch(
                manifest,
                located(resolution),
                namespace="team",
                hold=hold,
                cancel=cancel,
                overlay=StopsAfterTwo(workers=1),
            )
        told: list[Progress] = []
        engine.downloader.fetch(manifest, located(resolution), namespace="team", hold=hold, progress=told.append)
    assert told[-1].fetched_bytes == manifest.size - 2 * PIECE


def test_a_hub_cannot_point_at_directories_of_the_node(hub: HubServer, tmp_path: Path) -> None:
    resolution, manifest = resolved()
    [large] = [file for file in manifest.files if file.locator]
    location = located(resolution)(large)
    assert location.xet is not None
    assert all_of(XetClient(1, tmp_path / "cache", LOCAL), location.xet, large) == LARGE
    assert all_of(XetClient(1, tmp_path / "cache", {}), location.xet, large) == b""


def test_content_that_is_not_there_is_waited_for_like_any_trouble(hub: HubServer, fetching: Make) -> None:
    resolution, manifest = resolved()
    engine = fetching(xet=LOCAL)
    absent = XetContent("0" * 64, f"{hub.url}/api/models/acme/model/xet-read-token/main")
    right = located(resolution)
    asked: list[str] = []

    def locate(file: ManifestFile) -> Location:
        location = right(file)
        asked.append(file.path)
        wrong = file.locator and asked.count(file.path) == 1
        return Location(location.url, location.headers, expires_at=0.0, xet=absent) if wrong else location

    with engine.store.hold() as hold:
        digests = engine.downloader.fetch(manifest, locate, namespace="team", hold=hold)
    assert digests["large.safetensors"] == hashlib.sha256(LARGE).hexdigest()
    assert asked.count("large.safetensors") > 1


def test_a_wrong_limit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(XET_VARIABLE, "fifty")
    with pytest.raises(Exception, match="MODELCACHE_XET_ABOVE_BYTES is 'fifty'"):
        source_for(URI).resolve(URI, None, None, (), ())


def test_a_stream_that_does_not_move_is_ended_once() -> None:

    bitten = threading.Event()
    with Watchdog(bitten.set, lambda: 7, 0.0) as dog:
        assert bitten.wait(PATIENCE)
    assert dog.bitten
    moves = iter(range(10**9))
    with Watchdog(bitten.clear, lambda: next(moves), 0.0) as dog:
        pass
    assert not dog.bitten
