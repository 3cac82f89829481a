"""A transfer engine with small pieces, an instant clock and one origin, for tests."""

import hashlib
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

from agent.store import Store
from agent.transfer import CancelToken, Downloader, Progress, TransferSettings
from agent.transfer.clock import Clock
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256
from modelcache.sources.base import Location
from tests.support.instant_clock import InstantClock
from tests.support.origin import Origin
from tests.support.waiting import PATIENCE

PIECE = 64 * 1024
REVISION = "c" * 40
SOURCE = "hf://org/model"
NAMESPACE = "team"


def content(size: int, seed: int = 0) -> bytes:
    """Bytes that do not repeat."""
    return random.Random(seed).randbytes(size)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def listed(path: str, data: bytes, *, digest: str = "sha256", **fields: Any) -> ManifestFile:
    """`data` as a source lists it, with its sha256, its git blob id, or neither (`digest`)."""
    sha256 = Sha256(hashlib.sha256(data).hexdigest()) if digest == "sha256" else None
    oid = GitOid(git_oid(data)) if digest == "git" else None
    return ManifestFile(**{"path": path, "size": len(data), "sha256": sha256, "git_oid": oid, **fields})


def manifest_of(*files: ManifestFile, revision: str = REVISION) -> Manifest:
    return Manifest.build(SOURCE, revision, files)


class Fetching:
    """One downloader, and short ways to use it."""

    def __init__(
        self,
        store: Store,
        origin: Origin,
        *,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.store = store
        self.origin = origin
        self.clock = clock or InstantClock()
        self.told: list[Progress] = []
        self._changed = threading.Condition()
        self.located: list[str] = []
        options: dict[str, Any] = {"piece_bytes": PIECE, "reserve_bytes": 0, "stall_seconds": 30.0, **settings}
        self.downloader = Downloader(
            store, TransferSettings(**options), clock=self.clock, environ=environ or {}, rng=random.Random(1)
        )

    def serve(self, *files: tuple[str, bytes], digest: str = "sha256") -> Manifest:
        """Puts files on the origin and lists them."""
        for path, data in files:
            self.origin.files[f"/{path}"] = data
        return manifest_of(*(listed(path, data, digest=digest) for path, data in files))

    def locate(self, file: ManifestFile) -> Location:
        self.located.append(file.path)
        return Location(self.origin.url(f"/{file.path}"), {"authorization": "Bearer secret"})

    def fetch(
        self,
        manifest: Manifest,
        *,
        locate: Callable[[ManifestFile], Location] | None = None,
        cancel: CancelToken | None = None,
        **options: Any,
    ) -> Mapping[str, str]:
        """Fetches and checks that what was promised is what is in the store."""
        with self.store.hold() as hold:
            digests = self.downloader.fetch(
                manifest,
                locate or self.locate,
                **{"namespace": NAMESPACE, **options},
                hold=hold,
                progress=self._take,
                cancel=cancel,
            )
            for file in manifest.files:
                data = self.store.paths.blob(digests[file.path]).read_bytes()
                assert hashlib.sha256(data).hexdigest() == digests[file.path]
                assert len(data) == file.size
        assert set(digests) == {file.path for file in manifest.files}
        return digests

    def _take(self, progress: Progress) -> None:
        with self._changed:
            self.told.append(progress)
            self._changed.notify_all()

    def until(self, condition: Callable[[Progress], bool]) -> Progress:
        """Blocks until the progress is as wanted; the first one that was."""
        with self._changed:
            assert self._changed.wait_for(lambda: any(map(condition, self.told)), PATIENCE), "no such progress"
            return next(filter(condition, self.told))

    def in_thread(self, manifest: Manifest, **options: Any) -> "Background":
        return Background(self, manifest, options)

    def partials(self) -> list[str]:
        return sorted(entry.name for entry in self.store.paths.partial.iterdir())

    def close(self) -> None:
        self.downloader.close()


class Background:
    """A fetch in another thread; it can be cancelled."""

    def __init__(self, fetching: Fetching, manifest: Manifest, options: dict[str, Any]) -> None:
        self.cancel = CancelToken()
        self.error: BaseException | None = None
        self.digests: Mapping[str, str] | None = None
        self._fetching = fetching
        self._thread = threading.Thread(target=self._run, args=(manifest, options))
        self._thread.start()

    def _run(self, manifest: Manifest, options: dict[str, Any]) -> None:
        try:
            self.digests = self._fetching.fetch(manifest, cancel=self.cancel, **options)
        except BaseException as error:
            self.error = error

    def join(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the fetch did not end"
