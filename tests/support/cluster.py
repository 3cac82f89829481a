"""A controller, agents and a hub as real processes against a given API server: what the end-to-end tests drive.

Each process can be killed and started again by name, on the same address and the same cache directory, as the kubelet
would do it.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.sync import CONNECTED
from local.ports import free_port
from modelcache.api.labels import is_ours, ready_label, revision_label
from modelcache.paths import CachePaths
from tests.support.api import Api
from tests.support.process import Process, python_module
from tests.support.waiting import PATIENCE, wait_until


def write_repository(root: Path, name: str, files: Mapping[str, bytes]) -> None:
    """Put a repository (`org/name`, or `org/name@branch`) below a directory that `local.hub` serves."""
    for path, content in files.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def tree_of(directory: Path) -> dict[str, str]:
    """Path -> sha256 of every file below `directory`."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


class HubProcess:
    """`python -m local.hub` on a fixed port, with its counters and faults."""

    def __init__(self, root: Path, *options: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = ("--port", str(self.port), *options, str(root))
        self._process = self._start()

    def _start(self) -> Process:
        process = python_module("local.hub", *self._arguments)
        process.first_line()
        return process

    def restart(self) -> None:
        """Kill it and serve the same directories at the same address; reads new commits."""
        self._process.close()
        self._process = self._start()

    def file_bytes(self) -> int:
        """Bytes of file content sent since the start."""
        return int(self._call("GET", "/_stats")["file_bytes"])

    def fault(self, **fault: Any) -> None:
        """Add a fault, see `local.hub.faults`."""
        self._call("POST", "/_faults", fault)

    def no_faults(self) -> None:
        """End all faults."""
        self._call("DELETE", "/_faults")

    def limit(self, bytes_per_second: float | None) -> None:
        """Bandwidth of all file content together."""
        self._call("POST", "/_limits", {"bytes_per_second": bytes_per_second})

    def close(self) -> None:
        """End it."""
        self._process.close()

    def _call(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data=data, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            text = answer.read()
        return json.loads(text) if text else {}


class CacheCluster:
    """The processes of one cluster. Node names are unique, so that tests can share an API server."""

    def __init__(
        self, api: Api, kubeconfig: Path, directory: Path, hub: HubProcess, nodes: int = 3, *, controllers: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`controllers`: how many replicas agents look for; one alone leads without an election.

        `environment` is added to that of all daemons.
        """
        self.api = api
        self.hub = hub
        self._kubeconfig = kubeconfig
        self.identities: dict[str, Path] = {}
        """Kubeconfigs of daemons that are not to be administrators of the API server, by the name of the process."""
        self.directory = directory
        """With the cache root of each node, by its name."""
        self._addresses = [f"127.0.0.1:{free_port()}" for _ in range(controllers)]
        self._enrolments = [f"127.0.0.1:{free_port()}" for _ in range(controllers)]
        self._commands = [f"127.0.0.1:{free_port()}" for _ in range(controllers)]
        self._projected = directory / "projected"
        # Of its own, so that tests that share an API server do not share a certificate authority.
        self.namespace = f"modelcache-{secrets.token_hex(3)}"
        self._processes: dict[str, Process] = {}
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MODELCACHE_"))},
            "HF_ENDPOINT": hub.url,
            **(environment or {}),
        }
        prefix = f"node-{secrets.token_hex(3)}"
        self.nodes = [f"{prefix}-{index}" for index in range(nodes)]
        for node in self.nodes:
            self.add_node(node)

    def add_node(self, node: str, labels: Mapping[str, str] | None = None) -> None:
        """Register a Node object; `start_agent` gives it an agent."""
        labels = {"kubernetes.io/hostname": node, "nvidia.com/gpu.present": "true", **(labels or {})}
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node, "labels": labels}}
        self.api.post("/api/v1/nodes", body).expect(201)

    def start(self) -> None:
        """Start the controller and all agents; returns when all of them are connected.

        A model is wanted on the nodes that have an agent: before the last one is there, it would be Ready without it.
        """
        self.project(*self.nodes)
        self.start_controller()
        for node in self.nodes:
            self.start_agent(node)
        self.wait_connected()

    def wait_connected(self) -> None:
        """Returns when every agent, as it runs now, has been connected."""
        for node in self.nodes:
            self._processes[node].stderr.wait_for(lambda line: CONNECTED in line)

    def project(self, *nodes: str) -> None:
        """Start what gives the agents of these nodes their tokens; returns when they have them."""
        name = f"kubelet of {nodes[0]}"
        self.kill(name)
        kubelet = python_module(
            "local.kubelet", "--kubeconfig", self._kubeconfig, "--namespace", self.namespace,
            "--directory", self._projected, *nodes,
        )  # fmt: skip
        self._processes[name] = kubelet
        kubelet.first_line()

    def start_controller(self, *options: str, module: str = "cli.main") -> None:
        """Start the controller (again). `module` takes the arguments of `modelcache`."""
        self.start_replica(0, "--no-leader-elect", *options, module=module)

    def start_replica(self, number: int, *options: str, module: str = "cli.main") -> str:
        """Start one of several controllers (again); its name."""
        name = f"controller-{number}" if number else "controller"
        self._start(
            name, "controller", "--listen", self._addresses[number], "--enrolment-listen", self._enrolments[number],
            "--commands-listen", self._commands[number], "--namespace", self.namespace, *options, module=module,
        )  # fmt: skip
        return name

    @property
    def commands(self) -> str:
        """Where administrators ask, `host:port` of each replica."""
        return ",".join(self._commands)

    def leader(self) -> str:
        """The name of the replica that holds the Lease, empty when none that runs does."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/modelcache-controller"
        holder = (self.api.get(path).json().get("spec") or {}).get("holderIdentity") or "__"
        pid = holder.split("_")[-2]
        return next((name for name, process in self._processes.items() if str(process.pid) == pid), "")

    def start_agent(self, node: str, *options: str, module: str = "cli.main") -> None:
        """Start the agent of `node` (again). `module` takes the arguments of `modelcache`."""
        projected = self._projected / node
        if not projected.exists():
            self.project(node)
        self._start(
            node, "agent", "--node", node, "--controller", ",".join(self._addresses),
            "--enrolment", ",".join(self._enrolments),
            "--token-file", str(projected / "token"), "--ca-file", str(projected / "ca.crt"),
            "--root", str(self.directory / node), *options, module=module,
        )  # fmt: skip

    def _start(self, name: str, *arguments: str, module: str = "cli.main") -> None:
        self.kill(name)
        kubeconfig = self.identities.get(name, self._kubeconfig)
        common = ("--kubeconfig", str(kubeconfig), "--log-format", "text", "--log-level", "debug")
        self._processes[name] = python_module(module, *arguments, *common, env=self._environment)

    def kill(self, name: str) -> None:
        """`kill -9` of the controller (`controller`) or of a node's agent."""
        process = self._processes.pop(name, None)
        if process is not None:
            process.kill()
            process.close()

    def terminate(self, name: str) -> int:
        """SIGTERM; returns the exit code."""
        process = self._processes.pop(name)
        code = process.terminate()
        process.close()
        return code

    def pids(self) -> list[int]:
        """Process ids of everything that runs."""
        return [process.pid for process in self._processes.values()]

    def logs(self, name: str) -> str:
        """Everything that a process has printed."""
        return self._processes[name].logs()

    def all_logs(self) -> str:
        """Everything that all running processes have printed, for failure messages."""
        return "\n\n".join(process.logs() for process in self._processes.values())

    def paths(self, node: str) -> CachePaths:
        """Where things lie on the disk of `node`."""
        return CachePaths(self.directory / node)

    def labels(self, node: str) -> dict[str, str]:
        """Our labels of `node`."""
        found = self.api.get(f"/api/v1/nodes/{node}").expect(200)["metadata"].get("labels") or {}
        return {key: value for key, value in found.items() if is_ours(key)}

    def ready_nodes(self, namespace: str, name: str) -> list[str]:
        """Nodes that carry the model's label."""
        return [node for node in self.nodes if self.labels(node).get(ready_label(namespace, name)) == "Ready"]

    def revisions(self, namespace: str, name: str) -> set[str | None]:
        """Values of the model's revision label over all nodes."""
        return {self.labels(node).get(revision_label(namespace, name)) for node in self.nodes}

    def close(self) -> None:
        """End all processes and remove the Nodes."""
        for process in self._processes.values():
            process.close()
        self._processes.clear()
        for node in self.nodes:
            self.api.delete(f"/api/v1/nodes/{node}")


class Model:
    """One DynamoModel on the API server."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self.api = api
        self.namespace = namespace
        self.name = name
        self.collection = f"/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamomodels"
        self.path = f"{self.collection}/{name}"

    def create(self, uri: str, **spec: Any) -> None:
        """Create it with `source.uri` and further fields of the spec."""
        source = {"uri": uri, **spec.pop("source", {})}
        body = {
            "apiVersion": "nvidia.com/v1alpha1",
            "kind": "DynamoModel",
            "metadata": {"name": self.name},
            "spec": {"modelName": self.name, "source": source, **spec},
        }
        self.api.post(self.collection, body).expect(201)

    def patch(self, **spec: Any) -> None:
        """Merge into the spec."""
        self.api.patch(self.path, {"spec": spec}).expect(200)

    def delete(self) -> None:
        """Ask for its deletion."""
        self.api.delete(self.path).expect(200, 202)

    def gone(self) -> bool:
        """Whether the API server has forgotten it."""
        return self.api.get(self.path).status == 404

    def status(self) -> dict[str, Any]:
        """Its status, empty before the first."""
        found: dict[str, Any] = self.api.get(self.path).expect(200).get("status") or {}
        return found

    def condition(self, kind: str) -> dict[str, Any]:
        """A condition, empty when it is not there."""
        return next((entry for entry in self.status().get("conditions", []) if entry["type"] == kind), {})

    def wait_condition(
        self, kind: str, status: str, reason: str | None = None, timeout: float = PATIENCE
    ) -> dict[str, Any]:
        """Wait for a condition of the present generation; returns it."""

        def reached() -> dict[str, Any] | None:
            generation = self.api.get(self.path).expect(200)["metadata"]["generation"]
            found = self.condition(kind)
            right = found.get("status") == status and found.get("observedGeneration") == generation
            return found if right and (reason is None or found.get("reason") == reason) else None

        try:
            return wait_until(reached, timeout=timeout)
        except TimeoutError:
            raise AssertionError(
                f"{self.name}: condition {kind} did not become {status} ({reason}); status:\n"
                + json.dumps(self.status(), indent=2)
            ) from None

    def wait_ready(self, timeout: float = PATIENCE) -> dict[str, Any]:
        """Wait until it is Ready; returns the status."""
        self.wait_condition("Ready", "True", timeout=timeout)
        return self.status()

    def events(self) -> list[dict[str, Any]]:
        """Events about it, oldest first."""
        items = self.api.get(f"/api/v1/namespaces/{self.namespace}/events").expect(200)["items"]
        mine = [item for item in items if item["involvedObject"]["name"] == self.name]
        return sorted(mine, key=lambda item: item.get("firstTimestamp") or item.get("eventTime") or "")
