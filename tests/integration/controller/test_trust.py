"""The certificate authority at the API server: several controllers, lost objects, damaged ones, and succession."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from controller.authority import PUBLISH, SKEW, SUCCESSION
from controller.credentials import SecretProblem, read_credential
from controller.trust import Trust, UnusableAuthority
from modelcache.api.spec import SecretRef
from modelcache.kube.client import KubeClient
from modelcache.tls.certificates import new_key, presented, read_authorities, read_certificate, signed_by
from modelcache.tls.identity import CONTROLLER, Identity
from modelcache.tls.wallet import Wallet
from tests.support.api import Api
from tests.support.enrolling import Cluster
from tests.support.fake_clock import FakeClock
from tests.support.kube import KubeServer

LIFETIME = timedelta(hours=4)


@dataclass
class Replica:
    """What one controller has of the authority."""

    trust: Trust
    wallet: Wallet

    def issues(self, bundle: bytes) -> bool:
        """Whether it issues certificates that whoever has `bundle` trusts."""
        certificate = read_certificate(self.trust.issue(new_key().public_key(), "node-a"))
        assert presented(certificate).identity == Identity("node-a")
        return signed_by(certificate, read_authorities(bundle))

    def is_trusted(self, bundle: bytes) -> bool:
        """Whether its own certificate is trusted by whoever has `bundle`."""
        held = self.wallet.current
        assert held.presented.identity == CONTROLLER
        return signed_by(read_certificate(held.certificate), read_authorities(bundle))


class Replicas:
    """Controllers of one namespace, and the time for all of them."""

    def __init__(self, client: KubeClient, cluster: Cluster) -> None:
        self.now = datetime.now(UTC)
        self.client = client
        self.cluster = cluster

    def one(self) -> Replica:
        wallet = Wallet()
        trust = Trust(
            self.client, self.cluster.namespace, wallet, FakeClock(), Random(0), lambda: self.now, lifetime=LIFETIME
        )
        return Replica(trust, wallet)


@pytest.fixture
def cluster(own_kube: KubeServer) -> Iterator[Cluster]:
    made = Cluster(Api(own_kube.kubeconfig))
    yield made
    made.close()


@pytest.fixture
async def replicas(own_kube: KubeServer, cluster: Cluster) -> AsyncIterator[Replicas]:
    async with KubeClient.connect(own_kube.kubeconfig) as client:
        yield Replicas(client, cluster)


async def test_controllers_that_start_together_have_one_authority(replicas: Replicas) -> None:
    several = [replicas.one() for _ in range(6)]
    await asyncio.gather(*(one.trust.load() for one in several))
    bundle = replicas.cluster.bundle()
    assert len(read_authorities(bundle)) == 1
    assert all(one.issues(bundle) and one.is_trusted(bundle) for one in several)
    secret = replicas.cluster.api.get(f"{replicas.cluster.path}/secrets/modelcache-ca").expect(200)
    assert len(secret["data"]) == 2
    assert b"PRIVATE" not in bundle


async def test_one_authority_follows_another_without_anybody_being_left_behind(replicas: Replicas) -> None:
    first, second = replicas.one(), replicas.one()
    await first.trust.load()
    old = replicas.cluster.bundle()
    replicas.now += SUCCESSION
    await asyncio.gather(first.trust.look(), second.trust.look())
    both = replicas.cluster.bundle()
    assert len(read_authorities(both)) == 2
    assert all(one.issues(old) and one.is_trusted(old) for one in (first, second)), "the new one only signs later"
    replicas.now += PUBLISH
    await asyncio.gather(first.trust.look(), second.trust.look())
    assert not any(one.issues(old) or one.is_trusted(old) for one in (first, second))
    assert all(one.issues(both) and one.is_trusted(both) for one in (first, second))
    assert replicas.cluster.bundle() == both, "what the old one has signed is still in use"
    replicas.now += LIFETIME + SKEW
    await first.trust.look()
    new = replicas.cluster.bundle()
    assert len(read_authorities(new)) == 1
    await second.trust.look()
    assert first.issues(new)
    assert second.issues(new)


async def test_the_controllers_own_certificate_is_renewed_in_time(replicas: Replicas) -> None:
    one = replicas.one()
    await one.trust.load()
    before = one.wallet.current
    replicas.now += LIFETIME / 2 - timedelta(minutes=1)
    await one.trust.look()
    assert one.wallet.current is before
    replicas.now += timedelta(minutes=1)
    await one.trust.look()
    assert one.wallet.current.presented.not_after == (replicas.now + LIFETIME).replace(microsecond=0)


async def test_objects_that_were_deleted_come_back(replicas: Replicas) -> None:
    one, other = replicas.one(), replicas.one()
    await asyncio.gather(one.trust.load(), other.trust.load())
    old, api, path = replicas.cluster.bundle(), replicas.cluster.api, replicas.cluster.path
    api.delete(f"{path}/configmaps/modelcache-ca").expect(200)
    await other.trust.look()
    assert replicas.cluster.bundle() == old, "from the Secret"
    api.delete(f"{path}/secrets/modelcache-ca").expect(200)
    told: list[str] = []
    one.trust.on_distrust = lambda: told.append("one")
    await asyncio.gather(one.trust.look(), other.trust.look())
    assert told == ["one"], "whoever has a certificate of the old one has to be sent away"
    new = replicas.cluster.bundle()
    assert new != old, "the key is lost: a new authority"
    assert all(each.issues(new) and each.is_trusted(new) for each in (one, other))


async def test_a_bundle_that_was_changed_by_hand_is_put_right(replicas: Replicas) -> None:
    one = replicas.one()
    await one.trust.load()
    right, path = replicas.cluster.bundle(), f"{replicas.cluster.path}/configmaps/modelcache-ca"
    replicas.cluster.api.patch(path, {"data": {"ca.crt": "nothing"}}).expect(200)
    await one.trust.look()
    assert replicas.cluster.bundle() == right


@pytest.mark.parametrize("data", [{"tls.key": "x"}, {"a.crt": "eA==", "a.key": "eA=="}, {"a.crt": "-", "a.key": "-"}])
async def test_a_secret_that_is_none_of_ours_is_left_alone_and_named(replicas: Replicas, data: dict[str, str]) -> None:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "modelcache-ca"}, "data": encoded}
    replicas.cluster.api.post(f"{replicas.cluster.path}/secrets", body).expect(201)
    with pytest.raises(UnusableAuthority, match="modelcache-ca") as caught:
        await replicas.one().trust.load()
    assert "delete it" in str(caught.value)
    stored = replicas.cluster.api.get(f"{replicas.cluster.path}/secrets/modelcache-ca").expect(200)
    assert stored["data"] == encoded


async def test_the_key_is_never_given_out_as_a_credential(replicas: Replicas) -> None:
    await replicas.one().trust.load()
    for key in (None, "token"):
        with pytest.raises(SecretProblem, match="belongs to the model cache"):
            await read_credential(
                replicas.client, replicas.cluster.namespace, SecretRef(name="modelcache-ca", key=key), "hf"
            )
