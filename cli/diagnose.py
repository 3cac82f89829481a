"""`modelcache diagnose`: everything that a report about a fault needs, in one archive, without secrets.

Reads with the rights of whoever runs it, changes nothing, and never asks for Secrets. What cannot be read is noted in
`problems.txt` and does not keep the rest from being collected: half of the answers are worth more than none. Everything goes
through `cli.redaction` on its way into the archive.
"""

from __future__ import annotations

import asyncio
import io
import json
import tarfile
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cli.redaction import redacted, scrub
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import KubeError
from modelcache.kube.resources import (
    CONFIG_MAPS,
    CRDS,
    DYNAMO_MODELS,
    ENDPOINT_SLICES,
    EVENTS,
    LEASES,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
    ResourceType,
)

DEPLOYMENTS = ResourceType("apps", "v1", "deployments", "Deployment", True)
DAEMON_SETS = ResourceType("apps", "v1", "daemonsets", "DaemonSet", True)
NETWORK_POLICIES = ResourceType("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True)
CLUSTER_ROLES = ResourceType("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False)
ROLES = ResourceType("rbac.authorization.k8s.io", "v1", "roles", "Role", True)
POLICIES = ResourceType(
    "admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", False
)

IN_THE_NAMESPACE = (
    CONFIG_MAPS, DAEMON_SETS, DEPLOYMENTS, ENDPOINT_SLICES, EVENTS, LEASES, NETWORK_POLICIES, PODS, ROLES, SERVICES,
    SERVICE_ACCOUNTS,
)  # fmt: skip
EVERYWHERE = (CLUSTER_ROLES, CRDS, DYNAMO_MODELS, NODES, POLICIES)
_OURS_AMONG = {CLUSTER_ROLES: "modelcache", POLICIES: "modelcache", CRDS: "dynamomodels.nvidia.com"}
"""Of these, only objects whose name begins so."""

LOG_LINES = 2000
LOG_BYTES = 4 * 1024 * 1024
MAX_LOGS = 40
"""Pods whose logs are fetched, controllers first: a thousand agents say the same."""
_METRICS_PORT = 8080


class Archive:
    """A gzipped tar in memory; whatever goes in is redacted first."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w:gz")  # noqa: SIM115  # closed by `content`
        self.problems: list[str] = []

    def text(self, name: str, text: str) -> None:
        """Add a text, scrubbed."""
        self._add(name, scrub(text))

    def _add(self, name: str, text: str) -> None:
        data = text.encode(errors="replace")
        entry = tarfile.TarInfo(f"modelcache-diagnose/{name}")
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))

    def objects(self, name: str, objects: list[dict[str, Any]]) -> None:
        """Add Kubernetes objects as JSON."""
        self._add(name, json.dumps([redacted(each) for each in objects], indent=1, ensure_ascii=False))

    def content(self) -> bytes:
        """All of it; nothing can be added afterwards."""
        self.text("problems.txt", "\n".join(self.problems) + "\n" if self.problems else "none\n")
        self._tar.close()
        return self._buffer.getvalue()


async def collect(client: KubeClient, namespace: str) -> tuple[bytes, list[str]]:
    """The archive and what could not be read. `namespace` is that of the installation."""
    archive = Archive()
    archive.text("versions.txt", f"modelcache {version('dynamo-model-cache')}\nAPI server {client.server}\n")
    await _noted(archive, "the version of the API server", partial(_server_version, client, archive))
    pods: list[dict[str, Any]] = []
    for resource in EVERYWHERE:
        await _noted(archive, resource.plural, partial(_objects, client, archive, resource, ""))
    for resource in IN_THE_NAMESPACE:
        found = await _noted(archive, resource.plural, partial(_objects, client, archive, resource, namespace))
        if resource is PODS:
            pods = found or []
    await _noted(archive, "events of DynamoModels", partial(_model_events, client, archive))
    names = sorted(str(pod["metadata"]["name"]) for pod in pods)
    names.sort(key=lambda name: not name.startswith("modelcache-controller"))
    for name in names[:MAX_LOGS]:
        await _noted(archive, f"log of {name}", partial(_log, client, archive, namespace, name))
        await _noted(archive, f"metrics of {name}", partial(_metrics, client, archive, namespace, name))
    return archive.content(), archive.problems


def diagnose(kubeconfig: Path | None, namespace: str, target: Path) -> list[str]:
    """Write the archive to `target`; what could not be read. Raises KubeError, ConfigError and OSError."""
    content, problems = asyncio.run(_connected(kubeconfig, namespace))
    target.write_bytes(content)
    return problems


async def _connected(kubeconfig: Path | None, namespace: str) -> tuple[bytes, list[str]]:
    async with KubeClient.connect(kubeconfig, user_agent="modelcache-diagnose") as client:
        return await collect(client, namespace)


async def _noted(
    archive: Archive, what: str, step: Callable[[], Awaitable[list[dict[str, Any]] | None]]
) -> list[dict[str, Any]] | None:
    try:
        return await step()
    except KubeError as error:
        archive.problems.append(scrub(f"{what}: {error}"))
        return None


async def _server_version(client: KubeClient, archive: Archive) -> None:
    archive.text("server-version.json", (await client.request("GET", "/version")).decode(errors="replace"))


async def _objects(
    client: KubeClient, archive: Archive, resource: ResourceType, namespace: str
) -> list[dict[str, Any]]:
    prefix = _OURS_AMONG.get(resource, "")
    found: list[dict[str, Any]] = []
    async for page in client.list_pages(resource, namespace, into=dict[str, Any]):
        # Items of a list do not name their kind.
        found += [
            {**each, "kind": resource.kind} for each in page.objects if each["metadata"]["name"].startswith(prefix)
        ]
    archive.objects(f"{'namespace' if namespace else 'cluster'}/{resource.plural}.json", found)
    return found


async def _model_events(client: KubeClient, archive: Archive) -> None:
    found: list[dict[str, Any]] = []
    selector = "involvedObject.kind=DynamoModel"
    async for page in client.list_pages(EVENTS, into=dict[str, Any], field_selector=selector):
        found += [{**each, "kind": "Event"} for each in page.objects]
    archive.objects("cluster/model-events.json", found)


async def _log(client: KubeClient, archive: Archive, namespace: str, pod: str) -> None:
    path = f"{PODS.path(pod, namespace)}/log"
    query = {"tailLines": LOG_LINES, "limitBytes": LOG_BYTES, "timestamps": True}
    archive.text(f"logs/{pod}.log", (await client.request("GET", path, query)).decode(errors="replace"))


async def _metrics(client: KubeClient, archive: Archive, namespace: str, pod: str) -> None:
    path = f"{PODS.path(f'{pod}:{_METRICS_PORT}', namespace)}/proxy/metrics"
    archive.text(f"metrics/{pod}.txt", (await client.request("GET", path)).decode(errors="replace"))
