"""Fixtures for every test that needs a Kubernetes API server; one server per test process (so one per xdist worker)."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.api import Api
from tests.support.kube import CLUSTER_VARIABLE, KubeServer, start_kube, uses_cluster
from tests.support.kubectl import Kubectl
from tests.support.parsing import parse_undisturbed

parse_undisturbed()

# How long one example takes says something about the machine, and nothing about the code.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


E2E = Path(__file__).parent / "e2e"


def pytest_configure(config: pytest.Config) -> None:
    """Two controllers without an election would both act on every model of one cluster."""
    if uses_cluster() and getattr(config.option, "numprocesses", None):
        raise pytest.UsageError(f"{CLUSTER_VARIABLE}=1 means one cluster for all tests: run them without -n")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On a cluster of somebody else, nothing runs but the end-to-end tests."""
    if uses_cluster():
        others = [item for item in items if not item.path.is_relative_to(E2E)]
        items[:] = [item for item in items if item.path.is_relative_to(E2E)]
        config.hook.pytest_deselected(items=others)


@pytest.fixture(scope="session")
def kube_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    """A running API server: `local.kube`, or the one that the environment asks for (tests/support/kube.py)."""
    server = start_kube(tmp_path_factory.mktemp("kube"))
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def kubeconfig(kube_server: KubeServer) -> Path:
    """Kubeconfig of an administrator of `kube_server`."""
    return kube_server.kubeconfig


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """The real kubectl, in no namespace of its own; `kubectl.in_namespace(...)` for one."""
    return Kubectl(kubeconfig, tmp_path_factory.mktemp("kubectl-home"))


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Api:
    """The API as raw HTTP."""
    return Api(kubeconfig)


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    """A fresh namespace; its deletion is asked for afterwards, not waited for."""
    name = f"test-{secrets.token_hex(4)}"
    api.post("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}).expect(201)
    yield name
    api.delete(f"/api/v1/namespaces/{name}").expect(200, 202)


@pytest.fixture(autouse=True)
def _needs_controllers(request: pytest.FixtureRequest) -> None:
    """Skip what a kube-apiserver alone cannot do."""
    marked = request.node.get_closest_marker("needs_controllers")
    if marked and not request.getfixturevalue("kube_server").runs_controllers:
        pytest.skip(f"{marked.args[0]}: done by kube-controller-manager, which envtest does not run")
