"""What people see: tables and live progress on a terminal, a line now and then anywhere else.

The decisions (what a row says, whether a line is worth printing) are pure functions of the DynamoModels; `follow` polls
and draws.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelcache.api.model import DynamoModel
from modelcache.api.status import Condition, Status

_STYLES = {"Ready": "green", "Failed": "red", "Downloading": "cyan", "Pending": "yellow"}
_WIDE = 120
"""Columns of a console that has room for everything."""
_PERCENT_STEP = 10
"""Without a terminal, a line is printed each time a model passes another ten percent."""


@dataclass(frozen=True)
class Row:
    """One DynamoModel as a person wants to see it. `percent` is 0 to 100; `origin_bytes` and `peer_bytes` came from there."""

    namespace: str
    name: str
    phase: str
    nodes: str
    percent: int
    rate: str
    remaining: str
    revision: str
    size: str
    origin_bytes: int
    peer_bytes: int
    message: str

    @property
    def shared(self) -> str:
        """How much came from other nodes, in percent; empty while nothing has come."""
        moved = self.origin_bytes + self.peer_bytes
        return f"{self.peer_bytes * 100 // moved}%" if moved else ""


def row_of(model: DynamoModel) -> Row:
    """What to show of `model`."""
    status = model.last_status() or Status(ready_endpoints=0, total_endpoints=0)
    progress = status.progress
    phase = "Deleting" if model.deleting else status.phase or "Pending"
    moving = phase == "Downloading" and progress is not None
    return Row(
        namespace=model.metadata.namespace,
        name=model.metadata.name,
        phase=phase,
        nodes=status.nodes.summary if status.nodes else "",
        percent=progress.percent if progress else 0,
        rate=f"{human_bytes(progress.bytes_per_second)}/s" if moving and progress and progress.bytes_per_second else "",
        remaining=human_seconds(progress.eta_seconds) if moving and progress and progress.eta_seconds else "",
        revision=(status.resolved_version or "")[:12],
        size=status.model_size or "",
        origin_bytes=(progress.origin_bytes or 0) if progress else 0,
        peer_bytes=(progress.peer_bytes or 0) if progress else 0,
        message="" if phase == "Ready" else main_message(status.conditions),
    )


def main_message(conditions: Sequence[Condition]) -> str:
    """The sentence that explains best why a model is not ready."""
    by_type = {condition.type: condition for condition in conditions}
    for kind in ("Resolved", "Verified", "Downloaded", "Ready"):
        condition = by_type.get(kind)
        if condition is not None and condition.status != "True" and condition.message:
            return condition.message
    return ""


def human_bytes(count: int) -> str:
    """`count` bytes in binary units with three digits or so: 0 B, 1.5 KiB, 87.4 MiB."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def human_seconds(seconds: int) -> str:
    """A duration for people: 8s, 3m20s, 2h05m."""
    if seconds < 60:
        return f"{seconds}s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"


def table_of(rows: Sequence[Row], *, namespaces: bool, width: int) -> RenderableType:
    """The rows as a table with progress bars, for a console of `width` columns, and below it what is wrong with them.

    `namespaces` adds the column. A narrow console gets shorter bars and goes without what matters least; names are
    folded, never cut off.
    """
    narrow = width < _WIDE
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in [*(["NAMESPACE"] if namespaces else []), "NAME"]:
        table.add_column(title, overflow="fold")
    titles = ["PHASE", "NODES", "PROGRESS", "", "LEFT"]
    for title in titles if narrow else [*titles, "RATE", "SIZE", "FROM PEERS", "REVISION"]:
        table.add_column(title, no_wrap=True)
    for row in rows:
        cells: list[RenderableType] = [row.namespace] if namespaces else []
        cells += [row.name, Text(row.phase, style=_STYLES.get(row.phase, "")), row.nodes]
        cells += [ProgressBar(total=100, completed=row.percent, width=8 if narrow else 24), f"{row.percent}%"]
        cells += [row.remaining] if narrow else [row.remaining, row.rate, row.size, row.shared, row.revision]
        table.add_row(*cells)
    notes = [Text(f"{row.namespace}/{row.name}: {row.message}", overflow="fold") for row in rows if row.message]
    return Group(table, *notes)


def line_of(row: Row) -> str:
    """The row as one line of a log."""
    parts = [f"{row.namespace}/{row.name}", row.phase, f"nodes {row.nodes}" if row.nodes else "", f"{row.percent}%"]
    parts += [row.rate, f"{row.remaining} left" if row.remaining else "", row.message]
    return "  ".join(part for part in parts if part)


def is_news(before: Row | None, now: Row) -> bool:
    """Whether `now` deserves a line when `before` was the last one printed."""
    if before is None:
        return True
    if (before.phase, before.nodes, before.message) != (now.phase, now.nodes, now.message):
        return True
    return before.percent // _PERCENT_STEP != now.percent // _PERCENT_STEP


async def polled(read: Callable[[], Awaitable[Sequence[DynamoModel]]], interval: float) -> AsyncIterator[list[Row]]:
    """The rows now, and again every `interval` seconds."""
    while True:
        yield [row_of(model) for model in await read()]
        await asyncio.sleep(interval)


async def follow(
    console: Console,
    updates: AsyncIterator[list[Row]],
    *,
    namespaces: bool,
    finished: Callable[[Sequence[Row]], bool],
) -> list[Row]:
    """Show `updates` until `finished` is true of the rows; returns the last ones."""
    rows: list[Row] = []
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4) as live:
            async for rows in updates:
                live.update(table_of(rows, namespaces=namespaces, width=console.width))
                if finished(rows):
                    break
        return rows
    printed: dict[tuple[str, str], Row] = {}
    async for rows in updates:
        for row in rows:
            key = (row.namespace, row.name)
            if is_news(printed.get(key), row):
                console.print(line_of(row), highlight=False, soft_wrap=True)
                printed[key] = row
        if finished(rows):
            break
    return rows
