"""Commands where there are two controllers: the one that leads answers, the other one says who that is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_commands import Operator
from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess
from tests.support.waiting import wait_until

pytestmark = pytest.mark.e2e


@pytest.fixture
def pair(
    installed: None, api: Api, kubeconfig: Path, tmp_path: Path, hub: HubProcess, request: pytest.FixtureRequest
) -> Iterator[CacheCluster]:
    """One node with its agent, and two controllers."""
    cluster = CacheCluster(api, kubeconfig, tmp_path / "nodes", hub, nodes=1, controllers=2)
    try:
        cluster.project(*cluster.nodes)
        for number in range(2):
            cluster.start_replica(number, "--lease-duration", "4")
        cluster.start_agent(cluster.nodes[0])
        cluster.wait_connected()
        yield cluster
    finally:
        request.node.add_report_section("teardown", "cluster logs", cluster.all_logs()[-20000:])
        cluster.close()


def test_a_controller_that_does_not_lead_names_the_one_that_does(pair: CacheCluster, tmp_path: Path) -> None:
    operator = Operator(pair, tmp_path)
    addresses = dict(zip(("controller", "controller-1"), pair.commands.split(","), strict=True))
    leader = pair.leader()
    (follower,) = addresses.keys() - {leader}
    path = f"/apis/coordination.k8s.io/v1/namespaces/{pair.namespace}/leases/modelcache-controller"
    # The identity is the name of the pod, and something that tells two processes of one name apart.
    identity = pair.api.get(path).expect(200)["spec"]["holderIdentity"].rsplit("_", 2)[0]

    def refused() -> bool:
        # It learns who leads when it looks at the Lease the next time.
        answer = operator.ask("du", controller=addresses[follower])
        assert (answer.code, "does not lead" in answer.stderr) == (1, True), answer
        return f"{identity} does" in answer.stderr

    wait_until(refused, what="the follower names the leader")
    assert operator.ask("du", controller=addresses[leader]).code == 0
    assert operator.ask("du", "-o", "json").results() == {pair.nodes[0]: []}
    pair.terminate(leader)
    wait_until(lambda: operator.ask("du", "-o", "json").code == 0, what="the other one leads and answers")
    assert pair.leader() == follower
