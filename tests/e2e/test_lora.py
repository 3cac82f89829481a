"""Workers and adapters that are restarted, moved, updated and deleted at random: in the end everybody agrees about them.

What the user guide shows step by step is in test_user_guide.py.
"""

import asyncio
from pathlib import Path
from random import Random

import pytest

from benchmarks.churn import BASE_MODEL, Fleet, write_adapters
from local.workers.workers import Workers
from modelcache.kube.client import KubeClient
from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]


async def test_a_restless_fleet_settles(
    cluster: CacheCluster, kubeconfig: Path, namespace: str, repositories: Path, hub: HubProcess, api: Api
) -> None:
    adapters = write_adapters(repositories, 2, ("main", "v2"))
    hub.restart()
    mounts = {"/models": f"{cluster.directory}/{{node}}/models/{{namespace}}"}
    async with KubeClient.connect(kubeconfig) as client:
        workers = Workers(client, namespace=namespace, base_model=BASE_MODEL, mounts=mounts)
        async with workers:
            fleet = Fleet(client, namespace, workers, cluster.nodes, adapters)
            try:
                await fleet.populate(3)
                await fleet.churn(Random(5), steps=15, pause=0.1)
                await fleet.until_agreed(timeout=PATIENCE)
                assert sum(fleet.done.values()) == 15
            finally:
                for adapter in adapters:
                    path = f"/apis/nvidia.com/v1alpha1/namespaces/{namespace}/dynamomodels/{adapter.name}"
                    await asyncio.to_thread(api.delete, path)
                await fleet.until_empty(timeout=PATIENCE)
