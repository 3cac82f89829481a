"""Which pieces of a file that is wrong are to be fetched again, and whose fault it was. Pure.

A file's digest says that something is wrong, not what. Every piece remembers the nodes it went through (`via`, from the one
that read the origin to the one that sent it), and its xxh3-128. From these, in stages, each of which costs more than the one
before and is only tried when that was not enough:

1. what came through a peer that is known to have lied;
2. pieces of which another agent has a different digest (garbage rarely is the same twice);
3. one piece of every node that read the origin, read anew: if it differs, everything that went through the culprit follows;
4. everything that did not come straight from the origin.

What is fetched again does not come through those that are suspected. When a piece turns out to have been different, the
nodes on its way are guilty together, until the other pieces tell which of them: the one that most bad pieces went through.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set

Via = Sequence[str]


def through(via: Mapping[int, Via], nodes: Set[str]) -> frozenset[int]:
    """The pieces that went through one of `nodes`."""
    return frozenset(index for index, path in via.items() if not nodes.isdisjoint(path))


def differing(mine: Mapping[int, bytes], others: Iterable[Mapping[int, bytes]]) -> frozenset[int]:
    """The pieces of which somebody has another digest."""
    return frozenset(
        index for theirs in others for index, digest in theirs.items() if index in mine and mine[index] != digest
    )


def probes(via: Mapping[int, Via]) -> frozenset[int]:
    """The first piece of every node that read the origin. Agents that got the same from the same choose the same."""
    first: dict[str, int] = {}
    for index in sorted(via):
        if via[index]:
            first.setdefault(via[index][0], index)
    return frozenset(first.values())


def culprits(bad: Iterable[Via]) -> frozenset[str]:
    """The fewest nodes that explain why pieces with these ways were bad, as far as can be told.

    Again and again the node that most of the unexplained ones went through; among equals the one nearest to the origin,
    because those behind it passed on what they got.
    """
    left = [path for path in bad if path]
    found = set()
    while left:
        counts = Counter(node for path in left for node in path)
        worst = min(counts, key=lambda node: (-counts[node], min(p.index(node) for p in left if node in p), node))
        found.add(worst)
        left = [path for path in left if worst not in path]
    return frozenset(found)
