"""How the answers to `du`, `gc`, `evict` and `verify` look: a table for people, JSON for scripts.

What an agent says is shown, but never believed to be plain text: control characters and markup of the terminal are taken out.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cli.terminal import human_bytes
from modelcache.kube.errors import printable

if TYPE_CHECKING:
    from modelcache.rpc.modelcache_pb2 import CommandFailure, RevisionLine, RunOnNodesResponse, RunResponse

_OUTCOMES = {0: "", 1: "kept", 2: "removed", 3: "sound", 4: "damaged"}
"""The words for `Outcome`."""
_LONGEST = 1000
"""Characters of one cell."""


class Answers(NamedTuple):
    """What there is to show. Of this node alone: `here`; else one entry for each node that answered, or did not."""

    here: RunResponse | None
    nodes: Sequence[RunOnNodesResponse] = ()

    def each(self) -> Iterator[tuple[str, RunResponse]]:
        """Node and answer of those who answered. The name is empty for this node."""
        if self.here is not None:
            yield "", self.here
        for entry in self.nodes:
            if entry.WhichOneof("outcome") == "response":
                yield entry.node, entry.response

    def lines(self) -> Iterator[tuple[str, RevisionLine]]:
        """Node and line of all revisions."""
        for node, answer in self.each():
            for line in answer.revisions:
                yield node, line

    @property
    def failures(self) -> list[tuple[str, CommandFailure]]:
        """Who did not answer, and why."""
        return [(entry.node, entry.failure) for entry in self.nodes if entry.WhichOneof("outcome") != "response"]


def outcome_of(line: RevisionLine) -> str:
    """What became of a revision, in a word."""
    return _OUTCOMES.get(line.outcome, "unknown")


def show(answers: Answers, output: str) -> None:
    """Print to stdout, in the format `table` or `json`. Who did not answer is told on stderr as well."""
    for node, failure in answers.failures:
        sys.stderr.write(f"modelcache: {node}: {_plain(failure.message) or _reason(failure)}\n")
    if output == "json":
        shown = _described(answers.here) if answers.here is not None else _of_nodes(answers)
        sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        return
    # In a pipe nothing is cut off: lines are as long as they have to be.
    console = Console(width=None if sys.stdout.isatty() else 10_000)
    _show_table(answers, console)
    for node, answer in answers.each():
        console.print(Text(f"{node}: " if node else "") + Text(_summary(answer)), highlight=False)


def _show_table(answers: Answers, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    titles = ["MODEL", "REVISION", "SIZE", "LAST USED", "LAST VERIFIED", "RESULT", "STAYS BECAUSE"]
    for title in titles if answers.here is not None else ["NODE", *titles]:
        table.add_column(title, no_wrap=True, justify="right" if title == "SIZE" else "left")
    for node, line in answers.lines():
        cells = [
            f"{line.model.namespace}/{line.model.name}",
            line.snapshot[:12] + (" *" if line.current else ""),
            human_bytes(line.bytes),
            _moment(line, "last_used"),
            _moment(line, "last_verified"),
            outcome_of(line),
            line.kept,
        ]
        table.add_row(*(Text(_plain(cell)) for cell in (cells if answers.here is not None else [node, *cells])))
    if table.row_count:
        console.print(table)


def _summary(answer: RunResponse) -> str:
    limit = f" of {human_bytes(answer.limit_bytes)}" if answer.HasField("limit_bytes") else ""
    freed = f", {human_bytes(answer.freed_bytes)} freed" if answer.freed_bytes else ""
    unneeded = f", {human_bytes(answer.unneeded_bytes)} unneeded" if answer.unneeded_bytes else ""
    taken = f"{human_bytes(answer.occupied_bytes)}{limit} taken, {human_bytes(answer.free_bytes)} free"
    return f"{taken}{unneeded}{freed}"


def _of_nodes(answers: Answers) -> dict[str, Any]:
    return {
        "nodes": [{"node": node, **_described(answer)} for node, answer in answers.each()],
        "failures": [
            {"node": node, "reason": _reason(failure), "message": failure.message} for node, failure in answers.failures
        ],
    }


def _described(answer: RunResponse) -> dict[str, Any]:
    """An answer as `-o json` prints it. Bytes are numbers, times are RFC 3339 or null."""
    return {
        "occupiedBytes": answer.occupied_bytes,
        "limitBytes": answer.limit_bytes if answer.HasField("limit_bytes") else None,
        "freeBytes": answer.free_bytes,
        "unneededBytes": answer.unneeded_bytes,
        "freedBytes": answer.freed_bytes,
        "revisions": [
            {
                "namespace": line.model.namespace,
                "name": line.model.name,
                "revision": line.snapshot,
                "bytes": line.bytes,
                "lastUsed": _moment(line, "last_used") or None,
                "lastVerified": _moment(line, "last_verified") or None,
                "current": line.current,
                "kept": line.kept,
                "result": outcome_of(line),
                "problems": list(line.problems),
            }
            for line in answer.revisions
        ],
    }


def _reason(failure: CommandFailure) -> str:
    """A word in CamelCase: `Timeout`, `NotConnected`; `Unknown` for one that this version does not know."""
    from modelcache.rpc.modelcache_pb2 import CommandFailure

    names = {number: name for name, number in CommandFailure.Kind.items()}
    words = names.get(failure.kind, "KIND_UNKNOWN").removeprefix("KIND_").split("_")
    return "".join(word.capitalize() for word in words)


def _moment(line: RevisionLine, name: str) -> str:
    if not line.HasField(name):  # type: ignore[arg-type]  # see both uses
        return ""
    try:
        return str(getattr(line, name).ToJsonString())
    except ValueError:  # beyond what a date can be
        return ""


def _plain(text: str) -> str:
    return printable(text, _LONGEST)
