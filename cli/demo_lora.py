"""The second half of `make demo`: a LoRA adapter, cached on the nodes of two workers and loaded into both.

The workers are stand-ins (`local.workers`) with the API of real ones, each on a node of its own. They take an adapter only
from a directory that is really there, seen through the mounts of their pod. One of them is restarted at the end and has to get
back what it has forgotten, without anybody's doing.
"""

from __future__ import annotations

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

BASE_MODEL = "Qwen/Qwen3-0.6B"
REPOSITORY = "demo/my-lora"
NAME = "my-lora"
LORA = "my-custom-lora"
WORKERS = ("worker-0", "worker-1")
TIMEOUT = 90.0
_POLL = 0.2

MANIFEST = f"""\
apiVersion: nvidia.com/v1alpha1
kind: DynamoModel
metadata:
  name: {NAME}
  namespace: default
spec:
  modelName: {LORA}
  baseModelName: {BASE_MODEL}
  modelType: lora
  source:
    uri: hf://{REPOSITORY}
"""


class LoraDemoError(Exception):
    """The adapter did not get where it must; the message says what is there instead."""


@dataclass(frozen=True)
class Loaded:
    """What the workers themselves said: how many had the adapter, and seconds until the restarted one had it again."""

    workers: int
    healed_seconds: float


def write_adapter(directory: Path, *, rank: int = 8, hidden: int = 64) -> None:
    """Write a small adapter as PEFT does: a configuration, and the two matrices of two modules as safetensors."""
    directory.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": BASE_MODEL,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": ["q_proj", "v_proj"],
    }
    (directory / "adapter_config.json").write_text(json.dumps(config, indent=2))
    shapes = {
        f"base_model.model.model.layers.0.self_attn.{module}.lora_{half}.weight": shape
        for module in ("q_proj", "v_proj")
        for half, shape in (("A", (rank, hidden)), ("B", (hidden, rank)))
    }
    header: dict[str, Any] = {}
    size = 0
    for name, (rows, columns) in shapes.items():
        length = 4 * rows * columns
        header[name] = {"dtype": "F32", "shape": [rows, columns], "data_offsets": [size, size + length]}
        size += length
    text = json.dumps(header).encode()
    # https://github.com/huggingface/safetensors#format: length of the header, header, data. The numbers do not matter.
    weights = Random(0).randbytes(size)  # noqa: S311  # no secret
    (directory / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + weights)


def worker_arguments(cluster: Path, nodes: list[str], control_port: int) -> list[str]:
    """Arguments of `python -m local.workers`: one worker on each of the first nodes, with the namespace's cache mounted."""
    where = cluster.resolve() / "nodes" / "{node}" / "models" / "{namespace}"
    pairs = [f"{worker}={nodes[index % len(nodes)]}" for index, worker in enumerate(WORKERS)]
    return [
        "--kubeconfig", str(cluster / "kubeconfig"), "--control-port", str(control_port), "--base-model", BASE_MODEL,
        "--mount", f"/models={where}", *pairs,
    ]  # fmt: skip


class WorkerControl:
    """The control API of the workers."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def holders(self) -> dict[str, str]:
        """Workers that list the adapter, and what they were told to load; empty while the API does not answer."""
        with contextlib.suppress(OSError, ValueError):
            return {
                worker["name"]: str(worker["adapters"][LORA].get("source", ""))
                for worker in self._call("GET", "/workers")
                if LORA in worker["adapters"]
            }
        return {}

    def restart(self, worker: str) -> None:
        """Restart the container of a worker. Raises LoraDemoError."""
        try:
            self._call("POST", f"/workers/{worker}/restart")
        except OSError as error:
            raise LoraDemoError(f"{worker} cannot be restarted: {error}") from error

    def _call(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self._url + path, method=method)  # noqa: S310 (a loopback address of our own)
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return json.load(answer)


def load_and_heal(control: WorkerControl, kubectl: Callable[..., str], say: Callable[[str], None]) -> Loaded:
    """Wait for the adapter in both workers, restart one, and wait until it has it again. Raises LoraDemoError."""
    kubectl("wait", "--for=condition=EndpointsReady", f"dynamomodel/{NAME}", f"--timeout={TIMEOUT:.0f}s")
    kubectl("get", "dynamomodel", NAME)
    holders = control.holders()
    for worker, source in sorted(holders.items()):
        say(f"  {worker} lists {LORA}, loaded from {source}")
    victim = WORKERS[0]
    say(f"restarting {victim}: its engine forgets every adapter")
    before = time.monotonic()
    control.restart(victim)
    healed = _until(lambda: victim in control.holders(), f"{victim} did not get {LORA} back within {TIMEOUT:.0f} s")
    say(f"  {victim} lists {LORA} again after {healed - before:.1f} s")
    kubectl("wait", "--for=condition=EndpointsReady", f"dynamomodel/{NAME}", f"--timeout={TIMEOUT:.0f}s")
    kubectl("get", "dynamomodel", NAME, "-o", "jsonpath={.status.endpoints}")
    return Loaded(len(holders), round(healed - before, 2))


def _until(condition: Callable[[], bool], otherwise: str) -> float:
    """When the condition became true (monotonic). Raises LoraDemoError."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise LoraDemoError(otherwise)
        time.sleep(_POLL)
    return time.monotonic()
