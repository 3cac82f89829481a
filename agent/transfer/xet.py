"""Reads files that Hugging Face only gives through Xet, its content-addressed storage: those above 50 GB.

`hf_xet`, the hub's own client, knows the protocol: which blocks make up a file, where they lie, how they are packed. It is
asked for byte ranges as ordered streams, so to the rest of the engine this is a PieceSource like any other: the same
pieces and journal, the same digests, peers first. What it does for itself is bounded here: its buffers (by default up to 6 GB),
its retries (minutes in which nothing is said; waiting is the download's business), its connections, and its telemetry, which
is off.

It asks the hub for its own short-lived token (`token_url`), with the headers of the location, and talks to the hosts that the
hub names. Proxies and authorities come from the usual environment variables, as it reads them.

The library is only imported when a file needs it: it takes 20 MiB.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from agent.store.errors import io_errors
from agent.transfer.cancel import CancelToken
from agent.transfer.connections import split_url
from agent.transfer.origin import Web
from agent.transfer.places import Places
from agent.transfer.source import Sink
from modelcache.manifest import ManifestFile
from modelcache.sources.base import XetContent
from modelcache.sources.errors import NotFound, SourceError, Unauthorized, Unreachable

if TYPE_CHECKING:
    from hf_xet import XetDownloadStream, XetDownloadStreamGroup, XetSession

MIB = 1024 * 1024
MOST_GROUPS = 16
"""One for each model and credential; each keeps a token and idle connections."""
_CACHE_VARIABLE = "HF_XET_CACHE"

_Key = tuple[str, tuple[tuple[str, str], ...]]


def settings(connections: int) -> dict[str, object]:
    """The configuration of hf_xet 1.8, by the names of `XetConfig`. Buffers for a piece on each connection, and no more."""
    return {
        # A hub names the address of the storage: it must not be able to name directories of this node (`local://`).
        "data.local_cas_scheme": "no-local-storage://",
        "telemetry.enabled": False,
        "log.dir_max_size": 1 * MIB,
        "client.retry_max_attempts": 1,
        "client.enable_adaptive_concurrency": True,
        "client.ac_initial_download_concurrency": connections,
        "client.ac_max_download_concurrency": connections,
        "reconstruction.min_reconstruction_fetch_size": 16 * MIB,
        "reconstruction.max_reconstruction_fetch_size": 64 * MIB,
        "reconstruction.min_prefetch_buffer": 16 * MIB,
        "reconstruction.download_buffer_size": connections * 16 * MIB,
        "reconstruction.download_buffer_perfile_size": 16 * MIB,
        "reconstruction.download_buffer_limit": connections * 16 * MIB,
    }


class XetClient:
    """hf_xet for all downloads of an agent. Thread-safe. Nothing is imported before the first stream."""

    def __init__(self, connections: int, cache: Path, more: Mapping[str, object]) -> None:
        """`cache`: a directory of ours for what hf_xet writes (its log); made when it is needed. `more`: see `settings`."""
        self._settings = {**settings(connections), **more}
        self._cache = cache
        self._lock = threading.Lock()
        self._session: XetSession | None = None
        self._groups: OrderedDict[_Key, XetDownloadStreamGroup] = OrderedDict()

    def stream(
        self, content: XetContent, headers: Mapping[str, str], size: int, start: int, end: int
    ) -> XetDownloadStream:
        """The bytes `start` to `end` of a file of `size` bytes, in order. Raises OSError and RuntimeError as hf_xet does."""
        from hf_xet import XetFileInfo

        return self._group(content, headers).download_stream(XetFileInfo(content.hash, size), start=start, end=end)

    def drop(self, content: XetContent, headers: Mapping[str, str]) -> None:
        """Something went wrong: a group remembers the error of one task in all that follow, so the next one is new."""
        with self._lock:
            self._groups.pop(_key(content, headers), None)

    def _group(self, content: XetContent, headers: Mapping[str, str]) -> XetDownloadStreamGroup:
        key = _key(content, headers)
        with self._lock:
            session = self._session = self._session or self._open()
            group = self._groups.get(key)
            if group is not None:
                self._groups.move_to_end(key)
                return group
        # Outside of the lock: it asks the hub for a token. Two threads may do so at once; one of the groups is used then.
        group = session.new_download_stream_group(
            token_refresh_url=content.token_url, token_refresh_headers=dict(headers)
        )
        with self._lock:
            group = self._groups.setdefault(key, group)
            while len(self._groups) > MOST_GROUPS:
                self._groups.popitem(last=False)
        return group

    def _open(self) -> XetSession:
        from hf_xet import XetConfig, XetSession

        if _CACHE_VARIABLE not in os.environ:
            # Its only way to be told: by default it writes below the home directory, which an agent need not have.
            with io_errors("create", self._cache):
                self._cache.mkdir(mode=0o700, exist_ok=True)
            os.environ[_CACHE_VARIABLE] = str(self._cache)
        return XetSession(XetConfig().with_config(self._settings))


def _key(content: XetContent, headers: Mapping[str, str]) -> _Key:
    return content.token_url, tuple(sorted(headers.items()))


class XetSource:
    """The PieceSource of files whose place says that they are in Xet."""

    def __init__(self, web: Web, places: Places, client: XetClient) -> None:
        self._web = web
        self._places = places
        self._client = client

    def read(self, file: ManifestFile, sink: Sink, cancel: CancelToken) -> None:
        """See PieceSource."""
        location = self._places.of(file).location
        assert location.xet is not None
        origin, _ = split_url(location.xet.token_url)
        with self._web.budget.request(origin.text, cancel):
            try:
                self._receive(file, location.xet, location.headers, sink, cancel)
            except SourceError:
                self._client.drop(location.xet, location.headers)
                raise

    def forget(self, file: ManifestFile) -> None:
        """See PieceSource."""
        self._places.forget(file)

    def _receive(
        self, file: ManifestFile, content: XetContent, headers: Mapping[str, str], sink: Sink, cancel: CancelToken
    ) -> None:
        where = f"{file.path}: Xet content {content.hash}"
        with _translated(where, cancel):
            stream = self._client.stream(content, headers, file.size, sink.position, sink.end)
        watchdog = Watchdog(stream.cancel, lambda: _received(stream), self._web.stall_seconds)
        chunks = iter(stream)
        with watchdog, cancel.on_cancel(stream.cancel):
            while sink.position < sink.end:
                with _translated(where, cancel):
                    data = next(chunks, b"")
                if not data:
                    break
                self._pour(memoryview(data), where, sink, cancel)
        cancel.check()
        if watchdog.bitten:
            raise Unreachable(f"{where}: nothing came for {self._web.stall_seconds:g} s")
        if sink.position < sink.end:
            raise Unreachable(f"{where} ended at byte {sink.position}, {sink.end} were asked for")

    def _pour(self, data: memoryview, where: str, sink: Sink, cancel: CancelToken) -> None:
        if len(data) > sink.end - sink.position:
            raise Unreachable(f"{where}: more bytes came than were asked for")
        while data:
            space = sink.space()
            count = min(len(space), len(data))
            space[:count] = data[:count]
            data = data[count:]
            sink.filled(count)
            self._web.limiter.pay(count, cancel)


class _translated:
    """Turns what hf_xet raises into SourceErrors. A context manager."""

    def __init__(self, where: str, cancel: CancelToken) -> None:
        self._where = where
        self._cancel = cancel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, OSError | RuntimeError | ValueError):
            return
        self._cancel.check()
        said = f"{self._where}: {str(error)[:300]}"
        # XetAuthenticationError and XetObjectNotFoundError are these.
        if isinstance(error, PermissionError):
            raise Unauthorized(f"{said}; check the token in spec.source.secretRef") from error
        if isinstance(error, FileNotFoundError):
            raise NotFound(said) from error
        raise Unreachable(said) from error


class Watchdog:
    """Calls `bite`, once, when `progress` has not changed for `seconds`. A context manager with a thread inside."""

    def __init__(self, bite: Callable[[], object], progress: Callable[[], int], seconds: float) -> None:
        self.bitten = False
        self._bite = bite
        self._progress = progress
        self._seconds = seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="xet-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        before = self._progress()
        while not self._ended.wait(self._seconds):
            now = self._progress()
            if now == before:
                self.bitten = True
                self._bite()
                return
            before = now


def _received(stream: XetDownloadStream) -> int:
    progress = stream.progress()
    return 0 if progress is None else int(progress.bytes_completed)
