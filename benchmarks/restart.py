"""How long is a node without its labels when its agent is restarted? And what does the agent read before it labels?

A cache with many published revisions is made, an API server started with a Node that carries no labels of ours, and then the
agent's own process is started as a DaemonSet starts it, without a controller: the time is from the start of the process
until the Node carries the labels of all revisions. After that it is killed with SIGKILL and started once more with its
labels in place: none of them may go away, not even for a moment.

What is read is seen from outside: the kernel tells (inotify) about every file of the published tree, the hub view and blobs/
that is opened, and each counts with its whole size.

    python -m benchmarks.restart [--revisions N] [--files N] [--file-bytes N] [--rounds N] [--directory DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from watchdog.events import FileOpenedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from agent.store import HubClaim, NewBlob, Store
from benchmarks import report
from benchmarks.origin import REPOSITORY, environment
from modelcache.api.labels import model_labels
from modelcache.manifest import Manifest, ManifestFile, Sha256
from modelcache.paths import CachePaths

NODE, NAMESPACE = "bench", "team"
LOOK_SECONDS = 0.1
LIMIT_SECONDS = 120.0
NO_CONTROLLER = "127.0.0.1:1"
"""Nobody listens there."""


class Start(NamedTuple):
    """One start of the agent: until all labels were there, the seconds, those of the CPU that the process used, the bytes of
    published files that were opened, and all that the process read; and the most labels that were missing on the way.
    """

    seconds: float
    cpu_seconds: float
    content_bytes: int
    process_bytes: int
    labels_lost: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark."""
    given = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="bench-restart-", dir=given.directory) as name:
        directory = Path(name)
        root = directory / "cache"
        labels = fill(root, given.revisions, given.files, given.file_bytes)
        with Api(directory / "kubeconfig") as api:
            api.create_node()
            fresh = []
            for _ in range(given.rounds):
                api.remove_labels()
                fresh.append(start(api, root, labels, keeps=False, observed=False))
            api.remove_labels()
            seen = start(api, root, labels, keeps=False, observed=True)
            again = [start(api, root, labels, keeps=True, observed=True) for _ in range(given.rounds)]
    seconds = [each.seconds for each in fresh]
    watched = [seen, *again]
    report.show(
        f"{given.revisions} revisions with {given.files} files, {given.rounds} starts each",
        ["what", "value"],
        [
            ["seconds until all labels are there, median", statistics.median(seconds)],
            ["the same, slowest", max(seconds)],
            ["seconds of CPU until then, median", statistics.median(each.cpu_seconds for each in fresh)],
            ["bytes of published files opened until then", sum(each.content_bytes for each in watched)],
            ["MiB read by the process in all (program, index, manifests)", seen.process_bytes / (1 << 20)],
            ["labels missing at any moment of a restart", sum(each.labels_lost for each in again)],
        ],
    )
    report.finish(
        {
            "revisions": given.revisions,
            "files": given.files,
            "seconds_to_labels": statistics.median(seconds),
            "cpu_seconds_to_labels": statistics.median(each.cpu_seconds for each in fresh),
            "slowest_seconds_to_labels": max(seconds),
            "bytes_read": max(each.content_bytes for each in watched),
            "labels_lost": sum(each.labels_lost for each in again),
        }
    )
    return 0


def fill(root: Path, revisions: int, files: int, file_bytes: int) -> dict[str, str]:
    """Makes a cache; the labels that a node with it should carry. Half of the models have two revisions.

    Nothing is synced: this cache need not survive a power failure, and is not what is measured.
    """
    with mock.patch.object(os, "fsync"), Store.open(root) as store:
        labels: dict[str, str] = {}
        for number in range(revisions):
            count = files // revisions + (number < files % revisions)
            manifest = _manifest(store, number, count, file_bytes)
            model = f"model-{number * 2 // 3:05}"
            claim = HubClaim(repo_id=f"bench/{model}", commit=manifest.revision, ref="main")
            store.publish(NAMESPACE, model, manifest, claim)
            store.set_current(NAMESPACE, model, manifest.snapshot)
            labels |= model_labels(NAMESPACE, model, manifest.revision)
    return labels


def _manifest(store: Store, number: int, count: int, file_bytes: int) -> Manifest:
    entries, blobs = [], []
    for index in range(count):
        data = secrets.token_bytes(file_bytes)
        sha256 = hashlib.sha256(data).hexdigest()
        path = store.paths.partial / f"{number}-{index}"
        path.write_bytes(data)
        blobs.append(NewBlob(path, sha256, len(data)))
        folder = "tokenizer/" if index % 5 == 4 else ""
        entries.append(ManifestFile(path=f"{folder}file-{index:03}", size=len(data), sha256=Sha256(sha256)))
    store.commit_blobs(blobs)
    store.admissions.admit(NAMESPACE, [blob.sha256 for blob in blobs])
    return Manifest.build(f"hf://bench/model-{number * 2 // 3:05}", f"{number:040x}", entries)


def start(api: Api, root: Path, labels: dict[str, str], *, keeps: bool, observed: bool) -> Start:
    """Starts the agent, waits for the labels, and kills it. `keeps`: they are there already, and must stay.

    `observed`: what is opened is counted, which takes so much time itself that the rest is measured without it.
    """
    opened = Opened(CachePaths(root))
    with (
        opened if observed else contextlib.nullcontext(),
        Labels(api, labels) as seen,
        Agent(root, api.kubeconfig) as agent,
    ):
        began = time.perf_counter()
        agent.start()
        if keeps:
            # Long enough for every mistake: it has looked at everything, and goes on to look for a controller.
            while not agent.settled():
                if time.perf_counter() - began > LIMIT_SECONDS:
                    raise RuntimeError(f"the agent does not settle; it said:\n{agent.said()}")
                time.sleep(LOOK_SECONDS)
        elif not seen.complete.wait(LIMIT_SECONDS):
            raise RuntimeError(f"{seen.missing} labels are missing; the agent said:\n{agent.said()}")
        cpu_seconds, process_bytes = agent.cpu_seconds(), agent.bytes_read()
    return Start(
        seen.completed_at - began, cpu_seconds, opened.bytes(), process_bytes, seen.most_missing if keeps else 0
    )


class Labels:
    """Follows the labels of the Node, state after state."""

    def __init__(self, api: Api, wanted: dict[str, str]) -> None:
        self._wanted = wanted
        self._stream = api.watch()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self.missing = len(wanted)
        self.most_missing = 0
        self.completed_at = 0.0
        self.complete = threading.Event()
        self._over = False

    def _follow(self) -> None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):  # the stream was closed
            for line in self._stream:
                if self._over:
                    return
                found = json.loads(line)["object"]["metadata"].get("labels") or {}
                self.missing = sum(found.get(key) != value for key, value in self._wanted.items())
                self.most_missing = max(self.most_missing, self.missing)
                if not self.missing:
                    self.completed_at = time.perf_counter()
                    self.complete.set()

    def __enter__(self) -> Labels:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        # Not closed here: that would wait for the thread, which waits for the next change. It ends with the server.
        self._over = True


class Agent:
    """The agent's process."""

    def __init__(self, root: Path, kubeconfig: Path) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed in __exit__
        self._command = [sys.executable, "-m", "cli.main", "agent", "--node", NODE, "--root", str(root)]
        self._command += ["--kubeconfig", str(kubeconfig), "--controller", NO_CONTROLLER, "--insecure"]
        self._command += ["--log-format", "text", "--peer-listen", ""]
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begins."""
        self._process = subprocess.Popen(
            self._command, cwd=REPOSITORY, env=environment(), stdout=self._log, stderr=subprocess.STDOUT, text=True
        )

    def said(self) -> str:
        """Its log."""
        self._log.seek(0)
        return self._log.read()

    def settled(self) -> bool:
        """Whether it has looked at everything and goes on to look for a controller."""
        return "no controller" in self.said()

    def bytes_read(self) -> int:
        """Everything that went through read(2) since its start (rchar of proc(5))."""
        assert self._process is not None
        found = re.search(r"^rchar: (\d+)$", Path(f"/proc/{self._process.pid}/io").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0

    def cpu_seconds(self) -> float:
        """User and system time since its start (proc(5), fields 14 and 15 of stat)."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._log.close()


class Opened(FileSystemEventHandler):
    """Counts the content that anybody opens while it is entered."""

    def __init__(self, paths: CachePaths) -> None:
        self._paths = paths
        self._observer = Observer()
        self._lock = threading.Lock()
        self._opened: set[str] = set()
        self.changed = threading.Event()
        """Set when the first file was opened."""

    def on_any_event(self, event: FileSystemEvent) -> None:
        """A file was opened."""
        with self._lock:
            self._opened.add(os.fsdecode(event.src_path))
        self.changed.set()

    def bytes(self) -> int:
        """The sizes of all files that were opened."""
        with self._lock:
            return sum(Path(path).stat().st_size for path in self._opened)

    def __enter__(self) -> Opened:
        for top in (self._paths.models, self._paths.hub, self._paths.blobs):
            self._observer.schedule(self, str(top), recursive=True, event_filter=[FileOpenedEvent])
        self._observer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._observer.stop()
        self._observer.join()


class Api:
    """A Kubernetes API server with one Node."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        command = [sys.executable, "-m", "local.kube", "--kubeconfig", str(kubeconfig)]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._url = self._process.stdout.readline().strip()

    def create_node(self) -> None:
        """The Node that is labelled."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}}
        self._ask("POST", "/api/v1/nodes", body, "application/json")

    def labels(self) -> dict[str, str]:
        """Its labels now."""
        found: dict[str, str] = self._ask("GET", f"/api/v1/nodes/{NODE}")["metadata"].get("labels") or {}
        return found

    def watch(self) -> http.client.HTTPResponse:
        """Its states as lines of JSON, from now on, beginning with the present one."""
        path = f"/api/v1/nodes?watch=1&fieldSelector=metadata.name%3D{NODE}"
        answer: http.client.HTTPResponse = urllib.request.urlopen(self._url + path, timeout=LIMIT_SECONDS)
        return answer

    def remove_labels(self) -> None:
        """As if the agent had never been here."""
        patch = {"metadata": {"labels": dict.fromkeys(self.labels())}}
        self._ask("PATCH", f"/api/v1/nodes/{NODE}", patch, "application/merge-patch+json")

    def _ask(self, method: str, path: str, body: object = None, kind: str = "") -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data, {"Content-Type": kind} if kind else {}, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.restart", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--revisions", type=int, default=1000)
    parser.add_argument("--files", type=int, default=20_000, help="of all revisions together")
    parser.add_argument("--file-bytes", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where the cache is made (default: the temporary directory)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
