"""Which pieces of a file that is wrong are to be fetched again, and whose fault it was. Pure.

A file's digest says that something is wrong, not what. Every piece remembers the nodes it went through (`via`, from the one
that read the origin to the one that sent it), and its xxh3-128. From these, in stages, each of which costs more than the one
before and is only tried when that was not enough:

1. what came through a peer that is known to have lied;
2. what came through the peers that explain why pieces differ from what those who read them from the origin say they had
   (`disputed`): nobody is believed about anything but what he has read himself, so a liar can only accuse itself;
3. one piece of every node that read the origin, read anew by another: if it differs, everything that went through the
   culprit follows;
4. everything that did not come straight from the origin.

A suspicion only decides which way a piece does not come again. To be dropped and reported takes proof: the piece, fetched
again, was different.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

Via = Sequence[str]


def through(via: Mapping[int, Via], nodes: Set[str]) -> frozenset[int]:
    """The pieces that went through one of `nodes`."""
    return frozenset(index for index, path in via.items() if not nodes.isdisjoint(path))


def disputed(
    mine: Mapping[int, bytes], via: Mapping[int, Via], claims: Mapping[str, Mapping[int, bytes]]
) -> dict[int, tuple[str, ...]]:
    """The pieces of which the node that read the origin says that they are others, with the rest of their ways.

    `claims` are the digests that nodes give for their pieces.
    """
    found = {}
    for index, path in via.items():
        claim = claims.get(path[0], {}).get(index) if path else None
        if claim is not None and claim != mine[index]:
            found[index] = tuple(path[1:]) or tuple(path)
    return found


def probes(via: Mapping[int, Via]) -> frozenset[int]:
    """The first piece of every node that read the origin. Agents that got the same from the same choose the same."""
    first: dict[str, int] = {}
    for index in sorted(via):
        if via[index]:
            first.setdefault(via[index][0], index)
    return frozenset(first.values())


def culprits(bad: Iterable[Via]) -> frozenset[str]:
    """The fewest nodes that explain why pieces with these ways were bad, as far as can be told: those to suspect.

    Again and again the node that most of the unexplained ones went through; among equals the one nearest to the origin,
    because those behind it passed on what they got.
    """
    return frozenset(node for node, _ in _explained(bad))


def convicted(bad: Iterable[Via]) -> frozenset[str]:
    """Those among the culprits of whom it is certain: nobody else would explain as much."""
    return frozenset(node for node, certain in _explained(bad) if certain)


def _explained(bad: Iterable[Via]) -> Iterator[tuple[str, bool]]:
    left = [path for path in bad if path]
    while left:
        counts = Counter(node for path in left for node in set(path))
        most = max(counts.values())
        equals = [node for node, count in counts.items() if count == most]
        worst = min(equals, key=lambda node: (min(path.index(node) for path in left if node in path), node))
        explained = [path for path in left if worst in path]
        # Another one that as many went through is a doubt only if it were the same ones.
        yield worst, not any(other != worst and all(other in path for path in explained) for other in equals)
        left = [path for path in left if worst not in path]
