"""What the conformance tests share: paths in a fresh namespace, and a custom resource of their own.

Everything asserted in this folder is true of kube-apiserver 1.36, and must hold on `local.kube` too. Messages are quoted
as far as users or clients read them, and not further, because their wording moves between releases.

    KUBEBUILDER_ASSETS=<directory with etcd and kube-apiserver> pytest -m conformance     the real server
    KUBECTL=<another kubectl> pytest -m conformance                                       another client
"""

from collections.abc import Iterator

import pytest

from tests.integration.kube_conformance.objects import CRDS, WIDGET_API, WIDGET_CRD, condition
from tests.support.api import Api
from tests.support.kubectl import Kubectl
from tests.support.waiting import wait_until


@pytest.fixture
def kc(kubectl: Kubectl, namespace: str) -> Kubectl:
    """kubectl in the test's namespace."""
    return kubectl.in_namespace(namespace)


@pytest.fixture
def configmaps(namespace: str) -> str:
    """Path of the test's ConfigMaps."""
    return f"/api/v1/namespaces/{namespace}/configmaps"


@pytest.fixture(scope="session")
def widget_crd(api: Api) -> Iterator[None]:
    """The Widget CRD, established, served and published."""
    path = f"{CRDS}/{WIDGET_CRD['metadata']['name']}"
    api.post(CRDS, WIDGET_CRD).expect(201)
    wait_until(lambda: condition(api.get(path).json(), "Established") == "True", what="the Widget CRD is established")
    wait_until(lambda: api.get(f"/apis/{WIDGET_API}/widgets").status == 200, what="widgets are served")
    # The document for kubectl explain and apply is published a moment later than the resource itself.
    wait_until(lambda: f"apis/{WIDGET_API}" in api.get("/openapi/v3").json()["paths"], what="widgets are documented")
    yield
    api.delete(path).expect(200)


@pytest.fixture
def widgets(widget_crd: None, namespace: str) -> str:
    """Path of the test's Widgets."""
    return f"/apis/{WIDGET_API}/namespaces/{namespace}/widgets"
