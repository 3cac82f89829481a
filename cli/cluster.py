"""A whole cluster of the cache on one machine: local.kube, a kubelet's stand-in, the controller, N agents, each a process.

`modelcache up` runs it; the directory it lives in keeps everything over a restart:

    <directory>/kubeconfig          for kubectl
    <directory>/ports.json          so that addresses, and with them open shells, stay valid
    <directory>/kube/               the objects of local.kube
    <directory>/nodes/<node>/       the cache of each node
    <directory>/projected/<node>/   the token and the certificate authorities of its agent
    <directory>/logs/<process>.log

Nothing here is a short cut: agents prove their node by a token and talk to the controller and to each other with certificates,
and both are clients of the Kubernetes API, as in a cluster.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from agent.sync import CONNECTED
from local.kubelet.projection import BUNDLE_FILE, OPERATOR, TOKEN_FILE
from local.ports import NoPortError, free_port, is_free
from local.supervisor import Program, Supervisor, log_tail
from modelcache.api.crd import custom_resource_definition
from modelcache.api.labels import GPU_NODE_LABEL, ZONE_LABEL
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import KubeError, NotFound
from modelcache.kube.objects import PartialObject
from modelcache.kube.resources import CRDS, DYNAMO_MODELS, NODES

START_TIMEOUT = 60.0
"""Seconds within which local.kube has to answer."""
_POLL = 0.1
_MANAGER = "modelcache-up"
_MANAGED = {"app.kubernetes.io/managed-by": _MANAGER}


class StartError(Exception):
    """The cluster did not come up; the message says which part, why, and where its log is."""


def node_names(count: int) -> list[str]:
    """Names of the nodes of a cluster of `count`."""
    return [f"node-{index}" for index in range(count)]


def node_object(name: str) -> dict[str, Any]:
    """The Node as a kubelet and GPU feature discovery would have registered it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {
                **_MANAGED,
                "kubernetes.io/hostname": name,
                "kubernetes.io/os": "linux",
                GPU_NODE_LABEL: "true",
                ZONE_LABEL: "local",
            },
        },
    }


def node_status(now: str) -> dict[str, Any]:
    """Status of a healthy node, so that `kubectl get nodes` says Ready."""
    condition = {
        "type": "Ready",
        "status": "True",
        "reason": "KubeletReady",
        "message": "stand-in node of modelcache up",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return {"status": {"conditions": [condition], "nodeInfo": {"kubeletVersion": "local"}}}


class LocalCluster:
    """The processes of one local cluster and what they need to find each other."""

    def __init__(self, directory: Path, nodes: int, notice: Callable[[str], None]) -> None:
        self.directory = directory
        self.kubeconfig = directory / "kubeconfig"
        self.nodes = node_names(nodes)
        self._supervisor = Supervisor(notice)
        self._ports: dict[str, int] = {}
        self._log_starts: dict[str, int] = {}

    def cache_root(self, node: str) -> Path:
        """The cache directory of `node`."""
        return self.directory / "nodes" / node

    @property
    def commands(self) -> dict[str, str]:
        """What `modelcache du`, `gc`, `evict` and `verify` need to ask all nodes, as environment variables."""
        files = self.directory.resolve() / "projected" / OPERATOR
        return {
            "MODELCACHE_COMMANDS_CONTROLLER": f"127.0.0.1:{self._ports['commands']}",
            "MODELCACHE_TOKEN_FILE": str(files / TOKEN_FILE),
            "MODELCACHE_CA_FILE": str(files / BUNDLE_FILE),
        }

    def log(self, process: str) -> Path:
        """The log file of a process: `kube`, `kubelet`, `controller` or `agent-<node>`."""
        return self.directory / "logs" / f"{process}.log"

    def pid(self, process: str) -> int | None:
        """Process id, None while it is being restarted."""
        return self._supervisor.pid(process)

    async def start(self, now: str) -> None:
        """Start everything; return when the API serves DynamoModels and all agents are connected to the controller.

        A model is wanted on the nodes that have an agent, so before the last one is there it would be Ready without it.
        `now` is RFC 3339. Raises StartError.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._ports = _remembered_ports(self.directory / "ports.json", ("kube", "controller", "enrolment", "commands"))
        self._run("kube", "-m", "local.kube", "--port", str(self._ports["kube"]),
                  "--kubeconfig", str(self.kubeconfig), "--data", str(self.directory / "kube"))  # fmt: skip
        await self._prepare_api(now)
        projected = self.directory / "projected"
        self._run("kubelet", "-m", "local.kubelet", "--kubeconfig", str(self.kubeconfig),
                  "--directory", str(projected), "--operator", *self.nodes)  # fmt: skip
        controller, enrolment = (f"127.0.0.1:{self._ports[name]}" for name in ("controller", "enrolment"))
        common = ("--kubeconfig", str(self.kubeconfig), "--log-format", "text")
        self._run("controller", "-m", "cli.main", "controller", "--listen", controller,
                  "--enrolment-listen", enrolment, "--commands-listen", f"127.0.0.1:{self._ports['commands']}",
                  "--no-leader-elect", *common)  # fmt: skip
        for node in self.nodes:
            self._run(f"agent-{node}", "-m", "cli.main", "agent", "--node", node, "--controller", controller,
                      "--enrolment", enrolment, "--token-file", str(projected / node / TOKEN_FILE),
                      "--ca-file", str(projected / node / BUNDLE_FILE),
                      "--root", str(self.cache_root(node)), *common)  # fmt: skip
        await self._until_connected()

    async def stop(self) -> None:
        """End all processes; what is on disk stays."""
        await self._supervisor.stop()

    def _run(self, name: str, *arguments: str) -> None:
        log = self.log(name)
        self._log_starts[name] = log.stat().st_size if log.exists() else 0
        self._supervisor.start(Program(name=name, argv=(sys.executable, *arguments), log=log))

    async def _prepare_api(self, now: str) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT):
                await self._until_api_serves()
                async with KubeClient.connect(self.kubeconfig) as client:
                    crd = custom_resource_definition()
                    await client.apply(CRDS, crd["metadata"]["name"], crd, field_manager=_MANAGER, force=True)
                    await self._register_nodes(client, now)
                    await _until_served(client)
        except TimeoutError:
            log = self.log("kube")
            raise StartError(
                f"local.kube did not answer within {START_TIMEOUT:.0f} s. Its log is {log}:\n{log_tail(log)}"
            ) from None
        except KubeError as error:
            raise StartError(f"the local API server refused the first objects: {error}") from error

    async def _until_connected(self) -> None:
        """Read what the agents log, from where their logs ended before this start."""
        missing = set(self.nodes)
        try:
            async with asyncio.timeout(START_TIMEOUT):
                while missing:
                    missing -= {node for node in missing if CONNECTED in self._new_log(f"agent-{node}")}
                    await asyncio.sleep(_POLL)
        except TimeoutError:
            name = f"agent-{min(missing)}"
            raise StartError(
                f"{name} did not connect to the controller within {START_TIMEOUT:.0f} s. Its log is {self.log(name)}:\n"
                f"{log_tail(self.log(name))}\nThat of the controller is {self.log('controller')}:\n"
                f"{log_tail(self.log('controller'))}"
            ) from None

    def _new_log(self, process: str) -> str:
        with contextlib.suppress(OSError), self.log(process).open("rb") as log:
            log.seek(self._log_starts.get(process, 0))
            return log.read().decode(errors="replace")
        return ""

    async def _until_api_serves(self) -> None:
        address = ("127.0.0.1", self._ports["kube"])
        while True:
            try:
                _, writer = await asyncio.open_connection(*address)
            except OSError:
                await asyncio.sleep(_POLL)
                continue
            writer.close()
            if self.kubeconfig.exists():
                return
            await asyncio.sleep(_POLL)

    async def _register_nodes(self, client: KubeClient, now: str) -> None:
        for name in self.nodes:
            await client.apply(NODES, name, node_object(name), field_manager=_MANAGER, force=True)
            await client.merge_patch(NODES, name, node_status(now), subresource="status", field_manager=_MANAGER)
        selector = ",".join(f"{key}={value}" for key, value in _MANAGED.items())
        async for page in client.list_pages(NODES, into=PartialObject, label_selector=selector):
            for node in page.objects:
                if node.metadata.name not in self.nodes:
                    await client.delete(NODES, node.metadata.name)


async def _until_served(client: KubeClient) -> None:
    """A new kind is served a moment after its CRD was stored."""
    while True:
        try:
            async for _ in client.list_pages(DYNAMO_MODELS, into=msgspec.Raw):
                pass
        except NotFound:
            await asyncio.sleep(_POLL)
        else:
            return


def _remembered_ports(path: Path, names: tuple[str, ...]) -> dict[str, int]:
    """Free ports, the same ones as last time where they are still free."""
    try:
        remembered = json.loads(path.read_text())
    except (OSError, ValueError):
        remembered = {}
    ports = {}
    for name in names:
        wished = remembered.get(name, 0) if isinstance(remembered, dict) else 0
        try:
            ports[name] = wished if isinstance(wished, int) and wished and is_free(wished) else free_port()
        except NoPortError as error:
            raise StartError(str(error)) from error
    path.write_text(json.dumps(ports))
    return ports
