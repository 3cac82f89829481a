"""Agents that download one model together."""

from __future__ import annotations

from collections import Counter

import pytest

from agent.transfer import IntegrityError
from tests.support.fetching import PIECE, content
from tests.support.origin import ignores_range
from tests.support.swarm import Team, garble


def test_the_origin_is_read_once(team: Team) -> None:
    big, small = content(40 * PIECE + 77), content(1000, seed=1)
    manifest = team.serve(("big.bin", big), ("small.json", small), ("empty", b""))
    team.add(5)
    team.introduce(manifest)
    team.run(manifest)
    assert team.origin.bytes_sent == len(big) + len(small)
    assert sum(member.swarm.peer_bytes for member in team.members if member.swarm) == 4 * (len(big) + len(small))
    assert not any(member.problems for member in team.members)


@pytest.mark.parametrize("digest", ["sha256", "git"])
def test_small_files_are_shared_too(team: Team, digest: str) -> None:
    files = [(f"file-{number}", content(500 + number, seed=number)) for number in range(60)]
    manifest = team.serve(*files, digest=digest)
    team.add(3)
    team.introduce(manifest)
    team.run(manifest)
    assert team.origin.bytes_sent == sum(len(data) for _, data in files)


def test_bytes_that_do_not_have_the_announced_digest_are_caught_on_receipt(team: Team) -> None:
    data = content(30 * PIECE)
    manifest = team.serve(("big.bin", data))
    liar, *others = team.add(4)
    garble(liar, honest_digest=True)
    team.introduce(manifest)
    team.run(manifest)
    caught = [member for member in others if member.problems]
    assert caught
    for member in caught:
        assert [problem.node for problem in member.problems] == [liar.node]
        assert "big.bin" in member.problems[0].message
    reads = Counter(seen.start for seen in team.origin.requests("/big.bin"))
    assert max(reads.values()) <= 2, "by the liar itself, and by whoever is responsible after it"


@pytest.mark.parametrize("files", [1, 3])
def test_a_peer_that_lies_consistently_is_found_by_the_digest_of_the_file(team: Team, files: int) -> None:
    """The hardest case: wrong bytes with a digest that fits them, the same for everybody, passed on by honest peers."""
    contents = [(f"part-{number}.bin", content(64 * PIECE, seed=number)) for number in range(files)]
    manifest = team.serve(*contents)
    liar, *others = team.add(6)
    garble(liar, honest_digest=False)
    team.introduce(manifest)
    team.run(manifest)
    for member in others:
        assert not [problem for problem in member.problems if problem.node != liar.node]
    assert any(member.problems for member in others)
    total = sum(len(data) for _, data in contents)
    assert team.origin.bytes_sent <= 1.6 * total, team.origin.bytes_sent / total


def test_a_peer_that_dies_in_the_middle_costs_what_it_owned_at_most(team: Team) -> None:
    data = content(60 * PIECE)
    manifest = team.serve(("big.bin", data))
    victim, *others = team.add(5, bandwidth=40 * PIECE)
    team.introduce(manifest)
    for member in team.members:
        member.start(manifest)
    team.origin.until(lambda: team.origin.bytes_sent > len(data) // 2)
    victim.die()
    for member in others:
        member.finish(manifest)
    assert team.origin.bytes_sent <= 1.35 * len(data)
    assert not any(member.problems for member in others), "being dead is no lie"


def test_nobody_waits_for_one_that_sends_far_slower_than_the_others(team: Team) -> None:
    data = content(60 * PIECE)
    manifest = team.serve(("big.bin", data))
    team.add(5)
    (slow,) = team.add(1, uploads=PIECE / 8)
    team.introduce(manifest)
    team.run(manifest)
    assert slow.sent < len(data) / len(team.members), "less than what it owned, and everybody wanted"
    assert team.origin.bytes_sent <= 1.35 * len(data)
    assert not any(member.problems for member in team.members), "being slow is no lie"


def test_one_that_joins_in_the_middle_reads_nothing_from_the_origin_that_is_there_already(team: Team) -> None:
    data = content(60 * PIECE)
    manifest = team.serve(("big.bin", data))
    team.add(3, bandwidth=40 * PIECE)
    team.introduce(manifest)
    for member in team.members:
        member.start(manifest)
    team.origin.until(lambda: team.origin.bytes_sent > len(data) // 3)
    (late,) = team.add(1)
    team.introduce(manifest)
    late.start(manifest)
    for member in team.members:
        member.finish(manifest)
    # What is under way at the moment of joining may be read twice; nothing that is finished is.
    assert team.origin.bytes_sent <= len(data) + 6 * PIECE


def test_a_late_joiner_spreads_over_complete_peers_and_asks_no_origin(team: Team) -> None:
    data = content(30 * PIECE)
    manifest = team.serve(("big.bin", data))
    first = team.add(4)
    team.introduce(manifest)
    team.run(manifest)
    (late,) = team.add(1)
    team.introduce(manifest, complete=first)
    team.run(manifest, [late])
    assert team.origin.bytes_sent == len(data)


def test_zones_do_not_share(team: Team) -> None:
    data = content(10 * PIECE)
    manifest = team.serve(("big.bin", data))
    team.add(2, zone="a")
    team.add(2, zone="b")
    team.introduce(manifest)
    team.run(manifest)
    assert team.origin.bytes_sent == 2 * len(data)


def test_without_peers_everything_is_as_before(team: Team) -> None:
    data = content(10 * PIECE)
    manifest = team.serve(("big.bin", data))
    (alone,) = team.add(1)
    team.run(manifest)
    assert team.origin.bytes_sent == len(data)
    assert alone.swarm is not None
    assert alone.swarm.peer_bytes == 0


def test_peers_that_are_all_dead_are_as_good_as_none(team: Team) -> None:
    data = content(10 * PIECE)
    manifest = team.serve(("big.bin", data))
    alone, *dead = team.add(4)
    team.introduce(manifest)
    for member in dead:
        member.die()
    team.run(manifest, [alone])
    assert team.origin.bytes_sent == len(data)


def test_a_damaged_origin_is_nobody_elses_fault(team: Team) -> None:
    data = content(20 * PIECE)
    manifest = team.serve(("big.bin", data))
    team.origin.files["/big.bin"] = data[:-1] + bytes([data[-1] ^ 1])
    team.add(3)
    team.introduce(manifest)
    for member in team.members:
        member.start(manifest)
    for member in team.members:
        with pytest.raises(IntegrityError):
            member.finish(manifest)
        assert not member.problems


def test_an_origin_without_ranges_is_read_by_one_agent_a_file(team: Team) -> None:
    """Owners of pieces that can only have the whole file must not wait for each other, nor all read everything."""
    files = [(f"big-{number}.bin", content(6 * PIECE + 1, seed=number)) for number in range(3)]
    manifest = team.serve(*files)
    for path, _ in files:
        team.origin.always[f"/{path}"] = ignores_range
    team.add(4)
    team.introduce(manifest)
    team.run(manifest)
    for path, _ in files:
        assert len([seen for seen in team.origin.requests(f"/{path}") if seen.start is None]) == 1, path
