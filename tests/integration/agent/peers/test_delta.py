"""A new revision, of which most is there already: on the node, or on another one that has another revision or model."""

from __future__ import annotations

from agent.peers.keys import key_of
from agent.peers.ranking import PeerId, PieceId, rank
from agent.peers.tuning import DEFAULT_TUNING
from tests.support.fetching import PIECE, content
from tests.support.swarm import Team

KEPT = [(f"kept-{number}.bin", content(9 * PIECE + number, seed=number)) for number in range(3)]
OLD = ("head.bin", content(2 * PIECE, seed=10))
NEW = ("head.bin", content(2 * PIECE + 5, seed=11))


def size_of(*files: tuple[str, bytes]) -> int:
    return sum(len(data) for _, data in files)


def test_only_what_is_new_is_read_by_those_who_had_the_revision_before(team: Team) -> None:
    team.add(3)
    before = team.serve(*KEPT, OLD)
    team.introduce(before)
    team.run(before)
    sent = team.origin.bytes_sent
    after = team.serve(*KEPT, NEW)
    team.introduce(after)
    team.run(after)
    assert team.origin.bytes_sent - sent == size_of(NEW)
    assert sum(member.swarm.peer_bytes for member in team.members if member.swarm) == 2 * size_of(NEW)


def test_who_comes_with_the_new_revision_gets_the_rest_from_the_only_one_who_had_the_one_before(team: Team) -> None:
    """The one is not even among those who would own its pieces: that it has another revision is why it is asked."""
    veteran, *_ = team.add(8)
    before = team.serve(*KEPT, OLD)
    team.run(before, [veteran])
    sent = team.origin.bytes_sent
    after = team.serve(*KEPT, NEW)
    names = [PeerId(member.node) for member in team.members]
    far = [
        PieceId(key_of(file) or "", 0)
        for file in after.files
        if rank(PieceId(key_of(file) or "", 0), names).index(PeerId(veteran.node)) > DEFAULT_TUNING.look
    ]
    assert far, "otherwise nothing is shown"
    team.introduce(after, earlier=[veteran])
    team.run(after)
    assert team.origin.bytes_sent - sent == size_of(NEW)


def test_what_a_node_has_of_another_model_is_read_from_it(team: Team) -> None:
    other, *_ = team.add(3)
    theirs = team.serve(("elsewhere/weights.bin", KEPT[0][1]))
    team.run(theirs, [other])
    sent = team.origin.bytes_sent
    manifest = team.serve(*KEPT)
    team.introduce(manifest)
    team.run(manifest)
    assert team.origin.bytes_sent - sent == size_of(*KEPT[1:])
