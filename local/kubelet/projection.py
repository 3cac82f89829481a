"""What a projected volume holds, and keeping it so.

    <directory>/<node>/token     ServiceAccount token, audience `modelcache`, bound to the agent's pod on <node>
    <directory>/<node>/ca.crt    from the ConfigMap `modelcache-ca`, once there is one

Beside the nodes, `operator` may have the same two files: for whoever gives commands to all nodes (audience
`modelcache-commands`, see docs/cli.md).

Files are replaced by renaming, so that a reader sees the old one or the new one. Tokens are replaced when four fifths of their
life are over, as the kubelet does (pkg/kubelet/token/token_manager.go).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from modelcache.kube.client import KubeClient
from modelcache.kube.clock import Clock
from modelcache.kube.errors import AlreadyExists, KubeError
from modelcache.kube.informer import Informer
from modelcache.kube.objects import ObjectMeta, PartialObject
from modelcache.kube.resources import CONFIG_MAPS, NAMESPACES, PODS, SERVICE_ACCOUNTS, ResourceType
from modelcache.rpc.commands import AUDIENCE as COMMANDS_AUDIENCE

ACCOUNT = "modelcache-agent"
AUDIENCE = "modelcache"
OPERATOR_ACCOUNT = "modelcache-operator"
OPERATOR = "operator"
BUNDLE = "modelcache-ca"
BUNDLE_FILE, TOKEN_FILE = "ca.crt", "token"
TOKEN_SECONDS = 3600
REPLACE_AT = 0.8
_RBAC = "rbac.authorization.k8s.io"
_ROLES = ResourceType(_RBAC, "v1", "clusterroles", "ClusterRole", False)
_BINDINGS = ResourceType(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False)
_OPERATOR_ROLE: dict[str, Any] = {
    "apiVersion": f"{_RBAC}/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "modelcache-cache-operator"},
    "rules": [{"apiGroups": ["nvidia.com"], "resources": ["dynamomodels/cache"], "verbs": ["get", "update", "delete"]}],
}
"""As in manifests/samples/commands.yaml."""
RETRY_SECONDS = 1.0


class _ConfigMap(msgspec.Struct, frozen=True):
    metadata: ObjectMeta
    data: dict[str, str] | None = None


class Projection:
    """Keeps the files of the agents of `nodes`. `prepare` first, then `run` in a task."""

    def __init__(
        self, client: KubeClient, namespace: str, nodes: Sequence[str], directory: Path, clock: Clock,
        *, operator: bool = False,
    ) -> None:  # fmt: skip
        """`operator`: keep those of an administrator too."""
        self._client = client
        self._namespace = namespace
        self._nodes = nodes
        self._folders = [*nodes, OPERATOR] if operator else list(nodes)
        self._directory = directory
        self._clock = clock
        self._bundles = Informer(
            client,
            CONFIG_MAPS,
            _ConfigMap,
            namespace=namespace,
            field_selector=f"metadata.name={BUNDLE}",
            clock=clock,
        )
        self._bundles.on_change(self._bundle_changed)

    async def prepare(self) -> None:
        """Register namespace, accounts and pods, and write the tokens. Raises KubeError."""
        await self._create(NAMESPACES, _object("v1", "Namespace", self._namespace), "")
        await self._create(SERVICE_ACCOUNTS, _object("v1", "ServiceAccount", ACCOUNT), self._namespace)
        for node in self._nodes:
            await self._create(PODS, _pod(node), self._namespace)
        if OPERATOR in self._folders:
            await self._create(SERVICE_ACCOUNTS, _object("v1", "ServiceAccount", OPERATOR_ACCOUNT), self._namespace)
            await self._create(_ROLES, _OPERATOR_ROLE, "")
            await self._create(_BINDINGS, _operator_binding(self._namespace), "")
        for folder in self._folders:
            await self._write_token(folder)

    async def run(self) -> None:
        """Follow the ConfigMap and replace tokens, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._bundles.run())
            group.create_task(self._replace_tokens())

    async def _replace_tokens(self) -> None:
        while True:
            await self._clock.sleep(TOKEN_SECONDS * REPLACE_AT)
            for folder in self._folders:
                while not await self._replaced(folder):
                    await self._clock.sleep(RETRY_SECONDS)

    async def _replaced(self, folder: str) -> bool:
        with contextlib.suppress(KubeError):
            await self._write_token(folder)
            return True
        return False

    async def _write_token(self, folder: str) -> None:
        account = ACCOUNT if folder in self._nodes else OPERATOR_ACCOUNT
        spec: dict[str, Any] = {"audiences": [AUDIENCE], "expirationSeconds": TOKEN_SECONDS}
        if account == ACCOUNT:
            pod = await self._client.get(PODS, _pod_name(folder), self._namespace, into=PartialObject)
            spec["boundObjectRef"] = {
                "apiVersion": "v1", "kind": "Pod", "name": pod.metadata.name, "uid": pod.metadata.uid
            }  # fmt: skip
        else:
            spec["audiences"] = [COMMANDS_AUDIENCE]
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = SERVICE_ACCOUNTS.path(account, self._namespace, "token")
        answer = json.loads(await self._client.request("POST", path, body=body, subject=f"a token for {folder}"))
        self._write(folder, TOKEN_FILE, answer["status"]["token"])

    def _bundle_changed(self, old: _ConfigMap | None, new: _ConfigMap | None) -> None:
        if new is None or new.metadata.name != BUNDLE:
            return  # like the kubelet, which leaves the last one in running pods
        for folder in self._folders:
            self._write(folder, BUNDLE_FILE, (new.data or {}).get(BUNDLE_FILE, ""))

    def _write(self, folder: str, name: str, content: str) -> None:
        target = self._directory / folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = target.with_name(f".{name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as file:
            file.write(content)
        temporary.rename(target)

    async def _create(self, resource: ResourceType, body: dict[str, Any], namespace: str) -> None:
        with contextlib.suppress(AlreadyExists):
            await self._client.create(resource, body, namespace, name=body["metadata"]["name"])


def _object(version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}}


def _operator_binding(namespace: str) -> dict[str, Any]:
    subject = {"kind": "ServiceAccount", "name": OPERATOR_ACCOUNT, "namespace": namespace}
    role = {"apiGroup": _RBAC, "kind": "ClusterRole", "name": _OPERATOR_ROLE["metadata"]["name"]}
    return {
        **_object(f"{_RBAC}/v1", "ClusterRoleBinding", f"{OPERATOR_ACCOUNT}-{namespace}"),
        "roleRef": role,
        "subjects": [subject],
    }


def _pod_name(node: str) -> str:
    return f"modelcache-agent-{node}"


def _pod(node: str) -> dict[str, Any]:
    """A pod that is bound to its node from the beginning, as those of a DaemonSet are in the end."""
    container = {"name": "agent", "image": "modelcache-agent"}
    spec = {"nodeName": node, "serviceAccountName": ACCOUNT, "containers": [container]}
    return {**_object("v1", "Pod", _pod_name(node)), "spec": spec}
