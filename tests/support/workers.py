"""LoRA adapters and inference workers in tests: small adapters, and `local.workers` as a process."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.process import python_module
from tests.support.waiting import PATIENCE

BASE_MODEL = "Qwen/Qwen3-0.6B"
TARGETS = ("v_proj", "q_proj")


def adapter_files(
    weights: bytes = b"weights", *, rank: int = 8, base_model: str = BASE_MODEL, targets: Any = TARGETS
) -> dict[str, bytes]:
    """What a repository with an adapter in it contains, by path."""
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base_model,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": targets,
    }
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": weights}


def write_files(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Put files into a directory; returns it."""
    for path, content in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return directory


class WorkersProcess:
    """`python -m local.workers` with its control API."""

    def __init__(self, *arguments: str) -> None:
        self._process = python_module("local.workers", *arguments)
        self.control = self._process.first_line()

    def all(self) -> list[dict[str, Any]]:
        """What every worker says about itself."""
        found: list[dict[str, Any]] = self._call("GET", "/workers")
        return found

    def one(self, name: str) -> dict[str, Any]:
        """What one worker says about itself."""
        found: dict[str, Any] = self._call("GET", f"/workers/{name}")
        return found

    def adapters(self, name: str) -> dict[str, str]:
        """Adapters of a worker: name -> sha256 of the weights that it read."""
        return {adapter: loaded["sha256"] for adapter, loaded in self.one(name)["adapters"].items()}

    def switch(self, name: str, **switches: Any) -> None:
        """Behave like this; what is left out is as usual."""
        self._call("PUT", f"/workers/{name}/switches", switches)

    def restart(self, name: str) -> None:
        """Restart the container."""
        self._call("POST", f"/workers/{name}/restart")

    def forget(self, name: str) -> None:
        """Lose all adapters and say nothing."""
        self._call("POST", f"/workers/{name}/forget")

    def add(self, name: str, node: str) -> None:
        """Start another worker."""
        self._call("POST", "/workers", {"name": name, "node": node})

    def remove(self, name: str) -> None:
        """Stop a worker and delete its Pod."""
        self._call("DELETE", f"/workers/{name}")

    def logs(self) -> str:
        """Everything that it has printed."""
        return self._process.logs()

    def terminate(self) -> int:
        """Ask it to end, which deletes the Pods; returns the exit code."""
        return self._process.terminate()

    def close(self) -> None:
        """End it."""
        self._process.close()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.control + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)
