"""`modelcache du`, `gc`, `evict` and `verify` through the controller: real processes, TLS, tokens of the API server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from typer.testing import CliRunner

from cli.main import app
from modelcache.rpc.commands import AUDIENCE
from tests.support.cluster import CacheCluster, Model, write_repository
from tests.support.waiting import wait_until

ACCOUNT, VIEWER = "operator", "viewer"
RBAC = "rbac.authorization.k8s.io"
SAMPLE = Path(__file__).parents[2] / "manifests" / "samples" / "commands.yaml"


class Asked(NamedTuple):
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    def results(self) -> dict[str, list[str]]:
        return {node["node"]: [line["result"] for line in node["revisions"]] for node in self.json["nodes"]}


class Operator:
    """Gives commands from outside of the cluster, as `docs/cli.md` says."""

    def __init__(self, cluster: CacheCluster, directory: Path) -> None:
        self.cluster = cluster
        self.path = f"/api/v1/namespaces/{cluster.namespace}"
        for account, role in ((ACCOUNT, "modelcache-cache-operator"), (VIEWER, "modelcache-cache-viewer")):
            self._grant(account, role)
        self.token, self.authorities = directory / "operator.token", directory / "operator.ca"
        self.token.write_text(self.new_token(AUDIENCE) + "\n")
        bundle = cluster.api.get(f"{self.path}/configmaps/modelcache-ca").expect(200)
        self.authorities.write_text(bundle["data"]["ca.crt"])

    def _grant(self, account: str, role: str) -> None:
        """A ServiceAccount with one of the roles that the sample has."""
        api, namespace = self.cluster.api, self.cluster.namespace
        body = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}}
        api.post(f"{self.path}/serviceaccounts", body).expect(201)
        (found,) = (each for each in yaml.safe_load_all(SAMPLE.read_text()) if each["metadata"]["name"] == role)
        api.apply(f"/apis/{RBAC}/v1/clusterroles/{role}", yaml.safe_dump(found), "tests", force=True).expect(200, 201)
        binding = {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": f"{namespace}-{account}"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        }
        api.post(f"/apis/{RBAC}/v1/clusterrolebindings", binding).expect(201)

    def new_token(self, audience: str, account: str = ACCOUNT) -> str:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": [audience], "expirationSeconds": 600},
        }
        answer = self.cluster.api.post(f"{self.path}/serviceaccounts/{account}/token", body).expect(201)
        return str(answer["status"]["token"])

    def ask(self, *arguments: str, token: Path | None = None, controller: str = "") -> Asked:
        """With a controller that is not named: all of them."""
        options = ["--controller", controller or self.cluster.commands, "--token-file", str(token or self.token)]
        done = CliRunner().invoke(app, [*arguments, *options, "--ca-file", str(self.authorities)])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Asked(done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def operator(cluster: CacheCluster, tmp_path: Path) -> Operator:
    return Operator(cluster, tmp_path)


@pytest.fixture
def repositories(repositories: Path) -> Path:
    write_repository(repositories, "acme/small", {"config.json": b"{}", "w.bin": b"w" * 100_000})
    return repositories


def test_all_nodes_are_asked(
    operator: Operator, cluster: CacheCluster, model: Callable[[str], Model], namespace: str, tmp_path: Path
) -> None:
    first, second, third = cluster.nodes
    small = model("small")
    small.create("hf://acme/small", storage={"nodeLocal": {"reclaimPolicy": "Retain"}})
    wait_until(lambda: small.wait_ready()["readyNodes"] == sorted(cluster.nodes), what="all nodes have the model")

    usage = operator.ask("du", "-o", "json")
    assert (usage.code, usage.results()) == (0, {node: [""] for node in cluster.nodes}), usage
    assert all(node["occupiedBytes"] >= 100_000 for node in usage.json["nodes"])
    table = operator.ask("du", "--node", first)
    assert table.stdout.splitlines()[0].split()[:2] == ["NODE", "MODEL"]
    assert [line.split()[0] for line in table.stdout.splitlines()[1:]] == [first, f"{first}:"]
    evicted = operator.ask("evict", "small", "-n", namespace, "-o", "json")
    assert (evicted.code, evicted.results()) == (3, {node: ["kept"] for node in cluster.nodes})
    assert operator.ask("verify", "absent").code == 1
    assert operator.ask("verify", "small", "-n", namespace).code == 0

    unknown = operator.ask("du", "--node", "absent", "--node", first, "-o", "json")
    assert (unknown.code, list(unknown.results())) == (4, [first])
    assert [failure["reason"] for failure in unknown.json["failures"]] == ["UnknownNode"]

    small.delete()
    wait_until(small.gone, what="the model is gone")
    assert operator.ask("gc", "--dry-run").code == 0, "what is retained goes only for others"
    (cluster.paths(first).partial / ("f" * 64)).write_bytes(b"x" * 10_000)
    assert operator.ask("gc", "--dry-run").code == 3, "litter"
    assert operator.ask("gc").code == 0
    evicted = operator.ask("evict", "small", "-n", namespace, "-o", "json")
    assert (evicted.code, evicted.results()) == (0, {node: ["removed"] for node in cluster.nodes}), evicted
    assert operator.ask("evict", "small", "-n", namespace).code == 3

    cluster.kill(second)
    late = operator.ask("du", "-o", "json")
    assert (late.code, sorted(late.results())) == (4, sorted([first, third]))
    (failure,) = late.json["failures"]
    assert (failure["node"], failure["reason"]) == (second, "NotConnected")
    assert second in late.stderr

    # Who may not, gets nothing; and no token is in any log.
    other = tmp_path / "other.token"
    for token in (operator.new_token("modelcache"), "no token at all"):
        other.write_text(token)
        refused = operator.ask("du", token=other)
        assert (refused.code, "UNAUTHENTICATED" in refused.stderr) == (1, True), refused
    assert operator.ask("du", token=tmp_path / "absent").code == 1
    # Who may only look, may not delete: the API server says so, by the roles that are bound.
    other.write_text(operator.new_token(AUDIENCE, VIEWER))
    assert operator.ask("du", "--node", first, token=other).code == 0
    for words in (("gc",), ("evict", "small", "-n", namespace), ("verify",)):
        refused = operator.ask(*words, "--node", first, token=other)
        assert (refused.code, "PERMISSION_DENIED" in refused.stderr) == (1, True), refused
    assert operator.token.read_text().strip() not in cluster.all_logs()
