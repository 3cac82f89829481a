"""Every directory of manifests renders, and the API server takes every object of it, without a warning."""

from pathlib import Path

import pytest
import yaml

from tests.support.kube import start_kube
from tests.support.kubectl import Kubectl
from tests.support.manifests import MANIFESTS, kustomizations, render

FOREIGN = {"SecurityContextConstraints", "PodMonitor", "ServiceMonitor", "PrometheusRule"}
"""Kinds that a cluster has when OpenShift or the Prometheus operator is there."""


@pytest.mark.parametrize("directory", kustomizations())
def test_every_directory_renders(directory: str) -> None:
    objects = render(directory)
    assert objects
    names = [(each["kind"], each["metadata"].get("namespace"), each["metadata"]["name"]) for each in objects]
    assert len(names) == len(set(names))
    for each in objects:
        assert "set-by-" not in yaml.safe_dump(each) or directory.startswith(("agent", "overlays/nvme-pools/pool"))


def test_the_installation_is_applied_twice_and_deleted(kubectl: Kubectl) -> None:
    kubectl("create", "namespace", "modelcache-system", check=False)
    first = kubectl("apply", "--server-side", "--validate=strict", "-k", MANIFESTS)
    assert first.stderr == ""
    assert len(first.lines()) == len(render())
    dry = kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-k", MANIFESTS)
    assert dry.stderr == ""
    kinds = {line.split("/")[0] for line in first.lines()}
    assert {
        "daemonset.apps",
        "deployment.apps",
        "networkpolicy.networking.k8s.io",
        "poddisruptionbudget.policy",
    } <= kinds


def test_what_kubectl_applies_itself_is_unchanged_the_second_time_and_may_be_taken_over(tmp_path: Path) -> None:
    # A server of its own: who applies with other tools afterwards has other fields.
    server = start_kube(tmp_path)
    try:
        kubectl = Kubectl(server.kubeconfig, tmp_path)
        # Also what the API server completes is as it was written: else kubectl would patch it again each time.
        assert {line.split()[-1] for line in kubectl("apply", "-k", MANIFESTS).lines()} == {"created"}
        assert {line.split()[-1] for line in kubectl("apply", "-k", MANIFESTS).lines()} == {"unchanged"}
        assert kubectl("diff", "-k", MANIFESTS).stdout == ""
        kubectl("apply", "--server-side", "-k", MANIFESTS)
        assert kubectl("diff", "--server-side", "-k", MANIFESTS).stdout == ""
    finally:
        server.close()


@pytest.mark.parametrize("overlay", ["directories", "openshift", "nvme-pools"])
def test_overlays_are_valid(kubectl: Kubectl, overlay: str) -> None:
    objects = [each for each in render(f"overlays/{overlay}") if each["kind"] not in FOREIGN]
    kubectl("create", "namespace", "modelcache-system", check=False)
    text = yaml.safe_dump_all(objects)
    done = kubectl(
        "apply", "--server-side", "--dry-run=server", "--force-conflicts", "--validate=strict", "-f", "-", input=text
    )
    assert done.stderr == ""
    assert len(done.lines()) == len(objects)
