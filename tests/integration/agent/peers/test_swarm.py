"""Agents that download one model together."""

from __future__ import annotations

import pytest

from tests.support.fetching import PIECE, content
from tests.support.swarm import Team


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
