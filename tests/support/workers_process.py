"""`python -m local.workers` as a process of its own, and its control API."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.process import python_module
from tests.support.waiting import PATIENCE


class WorkersProcess:
    """Worker pods on given nodes; see `local.workers`. Close it."""

    def __init__(self, kubeconfig: Path, namespace: str, cache: Path, workers: dict[str, str], *options: str) -> None:
        """`cache` is the directory with one cache root for each node; each pod mounts its namespace's at /models."""
        mount = f"/models={cache}/{{node}}/models/{{namespace}}"
        pairs = [f"{name}={node}" for name, node in workers.items()]
        arguments = ("--kubeconfig", str(kubeconfig), "--namespace", namespace, "--mount", mount, *options, *pairs)
        self._process = python_module("local.workers", *arguments)
        self._url = self._process.first_line()

    def adapters(self, name: str) -> dict[str, dict[str, Any]]:
        """What a worker itself lists: name -> source, sha256, and so on."""
        found: dict[str, dict[str, Any]] = self._call("GET", f"/workers/{name}")["adapters"]
        return found

    def all_adapters(self) -> dict[str, set[str]]:
        """The names that each worker lists."""
        return {worker["name"]: set(worker["adapters"]) for worker in self._call("GET", "/workers")}

    def address(self, name: str) -> str:
        """URL of a worker."""
        return str(self._call("GET", f"/workers/{name}")["address"])

    def restart(self, name: str) -> None:
        """Restart its container: it forgets everything."""
        self._call("POST", f"/workers/{name}/restart")

    def switch(self, name: str, **switches: Any) -> None:
        """Misbehave from now on, or not any more; see `local.workers.switches`."""
        self._call("PUT", f"/workers/{name}/switches", switches)

    def add(self, name: str, node: str) -> None:
        """Start another one."""
        self._call("POST", "/workers", {"name": name, "node": node})

    def remove(self, name: str) -> None:
        """Stop one; its pod goes."""
        self._call("DELETE", f"/workers/{name}")

    def close(self) -> None:
        """End them all; their pods go as well."""
        self._process.terminate()
        self._process.close()

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self._url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)
