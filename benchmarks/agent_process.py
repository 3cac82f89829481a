"""A process like an agent that fetches one model: the same modules in memory, the real store, the real transfer engine.

Its start is separate from its work, because controller and agent run long before a model is asked for. Before it says `ready`
it resolves the model once and forgets the answer, so that the client of the source is loaded (huggingface_hub alone takes
half a second) as it is in a controller after its first model. Then it waits for a line, and resolves anew, fetches, verifies
and publishes, all of which counts. So does `fdatasync`: what is published survives a power failure, which no other program
in these benchmarks can say of its files.

    python -m benchmarks.agent_process ROOT REPOSITORY [options]         with HF_ENDPOINT in the environment
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict, cast

from agent.store import Store
from agent.transfer import Downloader, Progress, TransferSettings
from benchmarks.origin import REPOSITORY, environment
from modelcache.manifest import GitOid, Manifest, ManifestFile, Sha256
from modelcache.sources.base import SourceFile, installed_schemes, source_for
from modelcache.sources.uri import SourceURI, parse_uri

DEFAULTS = TransferSettings()
NAMESPACE, NAME = "bench", "model"


class Done(TypedDict):
    """What the process says at the end. Times are from `go` to published."""

    seconds: float
    received_seconds: float
    """Until the last byte was here; until all digests were known; then committing and publishing are left."""
    verified_seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    snapshot: str


class AgentProcess:
    """The parent's side. `start` is over when the process is ready; a context manager that leaves no process behind."""

    def __init__(self, root: Path, repository: str, url: str, *options: str) -> None:
        command = [sys.executable, "-m", "benchmarks.agent_process", str(root), repository, *options]
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=environment(HF_ENDPOINT=url, HF_HOME=str(root / "no-hf-home")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def ready(self) -> None:
        """Blocks until the process has opened its store. Raises RuntimeError when it ends instead."""
        if self._process.stdout is None or self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the agent process ended before it was ready; what it said is above")

    def go(self) -> None:
        """Lets it begin."""
        if self._process.stdin is not None:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()

    def ended_within(self, seconds: float) -> bool:
        """Whether the process ends by itself in that time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def done(self) -> Done:
        """Blocks until the end. Raises RuntimeError when the download failed."""
        # Not `communicate`: it knows nothing of what `ready` has read ahead.
        text = self._process.stdout.read() if self._process.stdout is not None else ""
        if self._process.wait() != 0:
            raise RuntimeError(f"the agent process ended with {self._process.returncode}; what it said is above")
        return cast(Done, json.loads(text))

    def kill(self) -> None:
        """SIGKILL, and until it is gone."""
        self._process.kill()
        self._process.communicate()


def main(arguments: list[str] | None = None) -> int:
    """The process itself."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent_process", description=__doc__)
    parser.add_argument("root", type=Path)
    parser.add_argument("repository", help="org/name, or the URI of another source")
    parser.add_argument("--connections", type=int, default=DEFAULTS.connections)
    parser.add_argument("--piece-bytes", type=int, default=DEFAULTS.piece_bytes)
    options = parser.parse_args(arguments)
    # Nothing of it is called: it is here for the memory that it takes in an agent.
    importlib.import_module("agent.main")
    settings = TransferSettings(connections=options.connections, piece_bytes=options.piece_bytes, reserve_bytes=0)
    uri = parse_uri(
        options.repository if "://" in options.repository else f"hf://{options.repository}", installed_schemes()
    )
    with Store.open(options.root) as store, Downloader(store, settings) as downloader:
        gc.freeze()  # as `agent.main` does
        source_for(uri).resolve(uri, None, None, (), ())
        print("ready", flush=True)
        sys.stdin.readline()
        steps, cpu_before = Steps(), time.process_time()
        complete = fetch(store, downloader, uri, steps)
        done = Done(
            seconds=steps.now,
            received_seconds=steps.received,
            verified_seconds=steps.verified,
            cpu_seconds=time.process_time() - cpu_before,
            peak_rss_bytes=peak_rss_bytes(),
            snapshot=complete.snapshot,
        )
    print(json.dumps(done), flush=True)
    return 0


class Steps:
    """Takes the time from its creation. Progress is told a few times a second, so steps are about that exact."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self.received = self.verified = 0.0

    @property
    def now(self) -> float:
        """Seconds."""
        return time.perf_counter() - self._started

    def see(self, progress: Progress) -> None:
        """Takes the time of a step when its bytes are complete."""
        if not self.received and progress.received_bytes == progress.total_bytes:
            self.received = self.now
        if not self.verified and progress.verified_bytes == progress.total_bytes:
            self.verified = self.now


def fetch(store: Store, downloader: Downloader, uri: SourceURI, steps: Steps) -> Manifest:
    """What controller and agent do with a new model, in one process: resolve, fetch, publish."""
    source = source_for(uri)
    resolution = source.resolve(uri, None, None, (), ())
    listed = {file.path: file for file in resolution.files}
    manifest = Manifest.build(resolution.uri, resolution.revision, map(_entry, resolution.files))
    with store.hold() as hold:
        digests = downloader.fetch(
            manifest,
            lambda file: source.locate(uri, resolution.revision, listed[file.path], None),
            namespace=NAMESPACE,
            hold=hold,
            progress=steps.see,
        )
        complete = manifest.with_sha256(digests)
        store.publish(NAMESPACE, NAME, complete)
    store.set_current(NAMESPACE, NAME, complete.snapshot)
    return complete


def peak_rss_bytes() -> int:
    """The most memory that this process ever had resident, shared libraries included (VmHWM of proc(5)).

    Not `ru_maxrss`: that keeps the size of the parent from before exec.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError("/proc/self/status has no VmHWM: this needs Linux")
    return int(found[1]) * 1024


def _entry(file: SourceFile) -> ManifestFile:
    return ManifestFile(
        path=file.path,
        size=file.size,
        sha256=Sha256(file.sha256) if file.sha256 is not None else None,
        git_oid=GitOid(file.git_oid) if file.git_oid is not None else None,
        etag=file.etag,
        checksum=file.checksum,
        locator=file.locator,
    )


if __name__ == "__main__":
    sys.exit(main())
