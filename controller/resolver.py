"""Asking sources, which block, without being blocked by them.

Each job runs in a thread of its own; at most `workers` at once, and at most half of them at one origin, so that a hub which
hangs until its timeout cannot keep models from other origins waiting. Origins with waiting jobs take turns.

A thread that waits for a server cannot be stopped. A job that is cancelled or replaced therefore runs on, its result is
dropped, and it keeps its place among the `workers` until it ends: an origin that hangs must not be given more and more
threads. The threads are daemons, so that the process can end while they hang.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from controller.credentials import scrub
from controller.problems import MAX_MESSAGE
from controller.request import Pinned, Request
from modelcache.kube.errors import printable
from modelcache.manifest import GitOid, Manifest, ManifestError, ManifestFile, Sha256
from modelcache.sources.answer import Answer
from modelcache.sources.base import Credential, Resolution, Source, source_for
from modelcache.sources.errors import SourceError, Unsupported
from modelcache.sources.uri import SourceURI

_REASON = re.compile(r"[A-Za-z][A-Za-z0-9]{0,63}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A question to a source. `revision` is what to resolve: what the spec asks for, or a commit found earlier."""

    request: Request
    revision: str | None
    credential: Credential | None = None


@dataclass(frozen=True)
class Failure:
    """Why a source did not answer, in the words of a condition. `retry_after` in seconds, as the source asked for."""

    reason: str
    message: str
    retryable: bool = False
    retry_after: float | None = None


Outcome = Pinned | Failure


@dataclass(eq=False)
class _Run:
    key: Hashable
    job: Job
    cancelled: bool = field(default=False)


class Resolver:
    """Runs jobs by key, one at a time for each key. `on_done(key, job, outcome)` is called in the event loop."""

    def __init__(
        self,
        on_done: Callable[[Hashable, Job, Outcome], None],
        *,
        workers: int = 8,
        find_source: Callable[[SourceURI], Source] = source_for,
        observe: Callable[[str, float, str], None] = lambda scheme, seconds, failure: None,
    ) -> None:
        """`observe` is told, from any thread, about each answer: the scheme, the seconds, the reason of a failure."""
        self._observe = observe
        self._on_done = on_done
        self._workers = workers
        self._per_origin = max(1, workers // 2)
        self._find_source = find_source
        self._loop = asyncio.get_running_loop()
        self._current: dict[Hashable, _Run] = {}
        self._waiting: dict[str, deque[_Run]] = {}
        self._running: Counter[str] = Counter()
        self._closed = False

    def job_of(self, key: Hashable) -> Job | None:
        """The job of this key that waits or runs."""
        run = self._current.get(key)
        return run.job if run else None

    def submit(self, key: Hashable, job: Job) -> None:
        """Answer `job` for `key`. The same job again changes nothing, another one replaces it."""
        if self._closed or self.job_of(key) == job:
            return
        self.cancel(key)
        run = _Run(key, job)
        self._current[key] = run
        self._waiting.setdefault(job.request.origin, deque()).append(run)
        self._start_some()

    def cancel(self, key: Hashable) -> None:
        """Nobody wants to know any more."""
        run = self._current.pop(key, None)
        if run is not None:
            run.cancelled = True

    def close(self) -> None:
        """Report nothing any more and start nothing more."""
        self._closed = True
        for key in list(self._current):
            self.cancel(key)
        self._waiting.clear()

    def _start_some(self) -> None:
        while self._running.total() < self._workers and (run := self._next()) is not None:
            self._running[run.job.request.origin] += 1
            name = f"resolve {run.job.request.origin}"
            threading.Thread(target=self._in_thread, args=(run,), name=name, daemon=True).start()

    def _next(self) -> _Run | None:
        """The next job; its origin goes to the end of the line."""
        for origin in list(self._waiting):
            if self._running[origin] >= self._per_origin:
                continue
            line = self._waiting.pop(origin)
            while line:
                run = line.popleft()
                if not run.cancelled:
                    if line:
                        self._waiting[origin] = line
                    return run
        return None

    def _in_thread(self, run: _Run) -> None:
        began = time.monotonic()
        outcome = answer(run.job, self._find_source)
        reason = outcome.reason if isinstance(outcome, Failure) else ""
        self._observe(run.job.request.uri.scheme, time.monotonic() - began, reason)
        # The loop may be closed: the process ends, and nobody is left to be told.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, run, outcome)

    def _finish(self, run: _Run, outcome: Outcome) -> None:
        self._running[run.job.request.origin] -= 1
        if not run.cancelled and not self._closed:
            del self._current[run.key]
            self._on_done(run.key, run.job, outcome)
        if not self._closed:
            self._start_some()


def answer(job: Job, find_source: Callable[[SourceURI], Source]) -> Outcome:
    """Ask the source and check what it says. Blocks. Never raises."""
    request = job.request
    try:
        source = find_source(request.uri)
        resolution = source.resolve(request.uri, job.revision, job.credential, request.include, request.exclude)
        return Pinned.of(build_manifest(request, resolution))
    except SourceError as error:
        message = scrub(error.message, job.credential)
        return Failure(error.reason, message, error.retryable, error.retry_after)
    except ManifestError as error:
        return Failure(
            Unsupported.reason,
            f"Nothing was downloaded: {error}; correct that at the source, or leave it out with spec.source.exclude.",
        )
    except Exception as error:  # noqa: BLE001 -- a source module of somebody else must not end the thread silently
        text = scrub(f"{type(error).__name__}: {error}", job.credential)
        # No traceback: its frames are those of HTTP libraries, whose locals hold the token.
        _log.error("resolving %s failed unexpectedly: %s", request.key, text)
        return Failure("ResolveError", f"{request.uri} could not be read, by a fault of this program: {text}", True)


def outcome_of(request: Request, data: bytes) -> Outcome:
    """What a node has answered that was asked to list. Blocks for a large one. Never raises."""
    try:
        found = Answer.decode(data)
        if found.resolution is not None:
            return Pinned.of(build_manifest(request, found.resolution))
        assert found.refused is not None
        refused = found.refused
        reason = refused.reason if _REASON.fullmatch(refused.reason) else "ResolveError"
        return Failure(reason, printable(refused.message, MAX_MESSAGE), refused.retryable, refused.retry_after)
    except ManifestError as error:
        return Failure(
            Unsupported.reason,
            f"Nothing was downloaded: {error}; correct that at the source, or leave it out with spec.source.exclude.",
        )
    except ValueError as error:
        return Failure(
            Unsupported.reason, f"The answer of the node cannot be read ({error}): update its agent or the controller."
        )


def build_manifest(request: Request, resolution: Resolution) -> Manifest:
    """The manifest of a source's listing. Raises ManifestError."""
    files = (
        ManifestFile(
            path=file.path,
            size=file.size,
            sha256=Sha256(file.sha256) if file.sha256 else None,
            git_oid=GitOid(file.git_oid) if file.git_oid else None,
            etag=file.etag,
            checksum=file.checksum,
            locator=file.locator,
        )
        for file in resolution.files
    )
    return Manifest.build(str(request.uri), resolution.revision, files, request.filters)
