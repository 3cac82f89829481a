"""A hub, and a cluster of three nodes around it, for each test."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model
from tests.support.kubectl import Kubectl
from tests.support.waiting import PATIENCE

CRD = Path(__file__).parents[2] / "manifests" / "crd"


@pytest.fixture(scope="session")
def installed(kubectl: Kubectl) -> None:
    """The CRD, served."""
    kubectl("apply", "--server-side", "-k", CRD)
    kubectl("wait", "--for=condition=Established", "crd/dynamomodels.nvidia.com", f"--timeout={PATIENCE:g}s")


@pytest.fixture
def repositories(tmp_path: Path) -> Path:
    """The directory of repositories that the hub serves: fill it before using `hub`."""
    directory = tmp_path / "repositories"
    directory.mkdir()
    return directory


@pytest.fixture
def hub(repositories: Path) -> Iterator[HubProcess]:
    """The origin."""
    process = HubProcess(repositories)
    yield process
    process.close()


@pytest.fixture
def cluster(
    installed: None, api: Api, kubeconfig: Path, tmp_path: Path, hub: HubProcess, request: pytest.FixtureRequest
) -> Iterator[CacheCluster]:
    """Three nodes with agents and a controller; what they logged is shown when the test fails."""
    running = CacheCluster(api, kubeconfig, tmp_path / "nodes", hub)
    running.start()
    yield running
    request.node.add_report_section("teardown", "cluster logs", running.all_logs()[-20000:])
    running.close()


@pytest.fixture
def model(cluster: CacheCluster, api: Api, namespace: str) -> Iterator[Callable[[str], Model]]:
    """A DynamoModel of the given name in the test's namespace; deleted afterwards, while there is somebody to do it."""
    made: list[Model] = []

    def make(name: str) -> Model:
        made.append(Model(api, namespace, name))
        return made[-1]

    yield make
    for one in made:
        api.delete(one.path)
    # A process that the test has left dead would keep the finalizers: they are not what is tested here.
    for one in made:
        if not one.gone():
            api.patch(one.path, {"metadata": {"finalizers": None}})
