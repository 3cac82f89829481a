"""From a hub to a model that the unmodified huggingface_hub finds offline, by name and by revision."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.store import HubClaim, Store
from agent.transfer import IntegrityError, Progress
from local.hub.faults import Flip, Status
from local.hub.repository import Repository
from local.hub.server import HubServer
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256
from modelcache.sources.base import Location, SourceFile, source_for
from modelcache.sources.uri import parse_uri
from tests.support.fetching import PIECE, Fetching, content
from tests.support.hub import hubs
from tests.support.instant_clock import InstantClock
from tests.support.waiting import PATIENCE

Make = Callable[..., Fetching]

FILES = {
    "config.json": b'{"model_type": "test"}',
    "model.safetensors": content(5 * PIECE + 7),
    "nested/dir/vocab.txt": b"a\nb\n",
    "empty": b"",
}
LOAD = """
import json, pathlib, sys
from huggingface_hub import snapshot_download, hf_hub_download
found = {}
for revision in json.loads(sys.argv[1]):
    path = pathlib.Path(snapshot_download("acme/model", revision=revision))
    found[str(revision)] = {str(f.relative_to(path)): f.stat().st_size for f in path.rglob("*") if f.is_file()}
    assert pathlib.Path(hf_hub_download("acme/model", "config.json", revision=revision)).read_bytes()
print(json.dumps(found))
"""


class Hub:
    """The resolved manifest of one repository, and how its files are located."""

    def __init__(self, revision: str | None = None) -> None:
        self.uri = parse_uri("hf://acme/model", ("hf",))
        self.source = source_for(self.uri)
        resolution = self.source.resolve(self.uri, revision, None, (), ())
        self.manifest = Manifest.build(
            resolution.uri,
            resolution.revision,
            (
                ManifestFile(
                    path=file.path,
                    size=file.size,
                    sha256=Sha256(file.sha256) if file.sha256 else None,
                    git_oid=GitOid(file.git_oid) if file.git_oid else None,
                )
                for file in resolution.files
            ),
        )

    def locate(self, file: ManifestFile) -> Location:
        listed = SourceFile(path=file.path, size=file.size, sha256=file.sha256, git_oid=file.git_oid)
        return self.source.locate(self.uri, self.manifest.revision, listed, None)


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Repository, HubServer]]:
    """`acme/model` on a hub in this process, which is where `hf://` leads."""
    with hubs() as serve:
        repository = Repository("acme/model", FILES)
        server = serve(repository)
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield repository, server


def fetch_and_publish(engine: Fetching, hub: Hub, name: str, ref: str | None) -> str:
    digests = engine.fetch(hub.manifest, locate=hub.locate)
    complete = hub.manifest.with_sha256(digests)
    claim = HubClaim(repo_id="acme/model", commit=complete.revision, ref=ref)
    with engine.store.hold() as hold:
        hold.add(blobs=digests.values())
        engine.store.publish("team", name, complete, claim)
    engine.store.set_current("team", name, complete.snapshot)
    return complete.snapshot


def load_offline(cache: Path, revisions: list[str | None]) -> dict[str, dict[str, int]]:
    """What the unmodified client finds in a process that may not use the network."""
    environ = {
        "PATH": os.environ["PATH"],
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HOME": str(cache),
    }
    command = [sys.executable, "-c", LOAD, json.dumps(revisions)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


def test_a_model_of_the_hub_is_found_offline(
    fetching: Make, store: Store, repository: tuple[Repository, HubServer]
) -> None:
    engine = fetching()
    engine.origin.files.clear()
    commit = fetch_and_publish(engine, Hub(), "model", "main")
    sizes = {path: len(data) for path, data in FILES.items()}
    before = sorted(str(path) for path in store.paths.hub.rglob("*"))
    found = load_offline(store.paths.hub_cache("team"), [None, "main", commit])
    assert found == {"None": sizes, "main": sizes, commit: sizes}
    assert sorted(str(path) for path in store.paths.hub.rglob("*")) == before  # it works on a read-only mount
    assert store.quick_check("team", "model", commit) == []
    assert store.deep_check("team", "model", commit) == []


def test_another_branch_and_a_new_revision(
    fetching: Make, store: Store, repository: tuple[Repository, HubServer]
) -> None:
    hub_repository, server = repository
    engine = fetching()
    old = fetch_and_publish(engine, Hub(), "model", "main")
    new_files = FILES | {"config.json": b'{"model_type": "newer"}'}
    hub_repository.commit(new_files)
    server.hub.stats.reset()
    new = fetch_and_publish(engine, Hub(), "model", "main")
    assert new != old
    assert server.hub.stats.file_bytes == len(new_files["config.json"])  # the rest is the same content
    found = load_offline(store.paths.hub_cache("team"), [None, old, new])
    assert found["None"]["config.json"] == len(new_files["config.json"])
    assert found[old]["config.json"] == len(FILES["config.json"])
    store.remove_snapshot("team", "model", old)
    assert set(load_offline(store.paths.hub_cache("team"), [None, new])) == {"None", new}


def test_a_flipped_byte_on_the_hub(fetching: Make, store: Store, repository: tuple[Repository, HubServer]) -> None:
    _, server = repository
    server.hub.faults.add(Flip(file="model.safetensors", offset=PIECE + 3))
    engine = fetching()
    hub = Hub()
    with pytest.raises(IntegrityError, match=r"model\.safetensors") as raised:
        engine.fetch(hub.manifest, locate=hub.locate)
    assert raised.value.expected == next(f.sha256 for f in hub.manifest.files if f.path == "model.safetensors")
    server.hub.faults.clear()
    engine.fetch(hub.manifest, locate=hub.locate)


def test_signed_addresses_that_expire(fetching: Make, repository: tuple[Repository, HubServer]) -> None:
    _, server = repository
    engine = fetching(connections=1, clock=InstantClock(tick=0.3))  # told of every byte
    hub = Hub()
    revoked = False

    def revoke(progress: Progress) -> None:
        nonlocal revoked
        if not revoked and progress.fetched_bytes > PIECE:
            revoked = True
            server.hub.signer.revoke()

    with engine.store.hold() as hold:
        engine.downloader.fetch(hub.manifest, hub.locate, namespace="team", hold=hold, progress=revoke)
    assert revoked
    assert server.hub.stats.file_bytes <= hub.manifest.size + PIECE


def test_a_hub_that_asks_for_patience(fetching: Make, repository: tuple[Repository, HubServer]) -> None:
    _, server = repository
    number = server.hub.faults.add(Status(status=429, retry_after=7, on=("resolve",), times=2))
    clock = InstantClock()
    engine = fetching(clock=clock)
    hub = Hub()
    engine.fetch(hub.manifest, locate=hub.locate)
    assert server.hub.faults.applied(number) == 2
    assert sum(clock.waits) >= 7
