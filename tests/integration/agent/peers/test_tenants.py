"""Two namespaces in one swarm of nodes: what a node has for one is not given to another node for the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.peers.client import PeerError, PeerStranger
from agent.peers.keys import TenantKey, key_of
from agent.transfer import CancelToken, IntegrityError
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest, ManifestFile
from modelcache.sources.base import Location
from modelcache.sources.errors import NotFound
from tests.support.fetching import PIECE, content, listed, manifest_of
from tests.support.swarm import Member, Team

VICTIM, MALLORY = ObjectKey("team", "secret"), ObjectKey("mallory", "stolen")
SECRET = content(20 * PIECE + 7, seed=1)


def of_mallory(team: Team) -> Callable[[ManifestFile], Location]:
    return lambda file: Location(team.origin.url(f"/mallory/{file.path}"), {})


def cached(team: Team) -> Manifest:
    """The first member has a model of one namespace, which the second is to have as well."""
    manifest = team.serve(("weights", SECRET))
    first, second, *_ = team.members
    first.start(manifest, VICTIM)
    first.finish(manifest)
    for member in (first, second):
        member.meet([first, second], manifest, model=VICTIM)
    return manifest


def meet(team: Team, manifest: Manifest, model: ObjectKey) -> None:
    for member in team.members:
        member.meet(team.members, manifest, model=model)


def run(members: list[Member], manifest: Manifest, team: Team) -> None:
    for member in members:
        member.start(manifest, MALLORY, of_mallory(team))
    for member in members:
        member.finish(manifest)


def test_a_listed_digest_gets_nothing_from_nodes_that_have_the_content(team: Team) -> None:
    team.add(3)
    cached(team)
    claim = manifest_of(listed("weights", SECRET))
    meet(team, claim, MALLORY)
    team.origin.files["/mallory/weights"] = content(len(SECRET), seed=3)
    sha256 = str(claim.files[0].sha256)
    for member in team.members:
        member.start(claim, MALLORY, of_mallory(team))
    for member in team.members:
        with pytest.raises(IntegrityError):
            member.finish(claim)
        assert not member.store.admissions.holds(MALLORY.namespace, sha256)
        assert not member.problems
    assert [member.store.has_blob(sha256) for member in team.members] == [True, False, False]


def test_a_node_gone_bad_is_refused_what_is_there_for_another_namespace(team: Team) -> None:
    first, second, third = team.add(3)
    manifest = cached(team)
    meet(team, manifest, MALLORY)
    (file,) = manifest.files
    key = key_of(file)
    assert key is not None

    def asks(member: Member, namespace: str) -> int:
        wanted = TenantKey(namespace, key)
        return len(member.exchange.client.holding(first.node, first.address, wanted, file.size, CancelToken()).pieces)

    assert asks(second, VICTIM.namespace) == 21
    with pytest.raises(PeerError, match="404"):
        asks(second, MALLORY.namespace)
    with pytest.raises(PeerError, match="404"):
        asks(third, MALLORY.namespace)
    with pytest.raises(PeerStranger):
        asks(third, VICTIM.namespace)


def test_who_has_shown_that_he_may_read_shares_with_his_peers(team: Team) -> None:
    team.add(3)
    manifest = cached(team)
    team.origin.files["/mallory/weights"] = SECRET
    first, *others = team.members
    meet(team, manifest, MALLORY)
    run([first], manifest, team)
    before = team.origin.bytes_sent
    for member in team.members:
        member.meet(team.members, manifest, complete=[first], model=MALLORY)
    run(others, manifest, team)
    assert team.origin.bytes_sent == before


def test_a_node_that_cannot_reach_the_source_gets_the_content_from_peers_that_can(team: Team) -> None:
    """A claim is mounted on one node. Another node has the same content, for another namespace."""
    team.add(3)
    manifest = cached(team)
    team.origin.files["/mallory/weights"] = SECRET
    first, _, third = team.members

    def not_here(file: ManifestFile) -> Location:
        raise NotFound(f"{file.path}: the claim is not mounted into the agent of this node")

    third.start(manifest, MALLORY, of_mallory(team))
    third.finish(manifest)
    before = team.origin.bytes_sent
    for member in team.members:
        member.meet(team.members, manifest, complete=[third], model=MALLORY)
    first.start(manifest, MALLORY, not_here)
    first.finish(manifest)
    assert first.store.admissions.holds(MALLORY.namespace, str(manifest.files[0].sha256))
    assert team.origin.bytes_sent == before
