"""What a row says, and when a line is worth printing."""

import io
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from cli.terminal import Row, human_bytes, human_seconds, is_news, line_of, row_of, table_of
from modelcache.api.model import DynamoModel


def model(status: dict[str, Any], **metadata: Any) -> DynamoModel:
    body = {
        "metadata": {"name": "llama", "namespace": "team-a", **metadata},
        "spec": {"modelName": "llama"},
        "status": status,
    }
    return msgspec.json.decode(msgspec.json.encode(body), type=DynamoModel)


COUNTS = {"readyEndpoints": 0, "totalEndpoints": 0}
DOWNLOADING = {
    **COUNTS,
    "phase": "Downloading",
    "nodes": {"wanted": 3, "ready": 1, "downloading": 2, "failed": 0, "summary": "1/3"},
    "progress": {
        "bytesDone": 50, "bytesTotal": 100, "percent": 50, "summary": "50%", "bytesPerSecond": 2048, "etaSeconds": 200,
    },
}  # fmt: skip


def test_a_download_shows_nodes_rate_and_time_left() -> None:
    row = row_of(model(DOWNLOADING))
    assert (row.phase, row.nodes, row.percent, row.rate, row.remaining) == (
        "Downloading",
        "1/3",
        50,
        "2.0 KiB/s",
        "3m20s",
    )
    assert line_of(row) == "team-a/llama  Downloading  nodes 1/3  50%  2.0 KiB/s  3m20s left"


def test_the_message_is_the_first_thing_that_is_wrong() -> None:
    def condition(kind: str, status: str, message: str) -> dict[str, str]:
        return {"type": kind, "status": status, "reason": "R", "message": message, "lastTransitionTime": "t"}

    conditions = [condition("Ready", "False", "not yet"), condition("Resolved", "False", "no such repository")]
    row = row_of(model({**COUNTS, "phase": "Failed", "conditions": conditions}))
    assert row.message == "no such repository"


def test_a_model_without_status_is_pending_and_a_deleted_one_is_deleting() -> None:
    assert row_of(model({"somebody": "else"})).phase == "Pending"
    assert row_of(model(DOWNLOADING, deletionTimestamp="2026-01-01T00:00:00Z")).phase == "Deleting"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (91632363, "87.4 MiB"), (2**50, "1024.0 TiB")]
)
def test_bytes_for_people(count: int, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(8, "8s"), (60, "1m00s"), (7500, "2h05m")])
def test_durations_for_people(seconds: int, text: str) -> None:
    assert human_seconds(seconds) == text


def row(**changes: Any) -> Row:
    return replace(
        Row(
            namespace="n",
            name="m",
            phase="Downloading",
            nodes="0/1",
            percent=0,
            rate="",
            remaining="",
            revision="",
            size="",
            origin_bytes=0,
            peer_bytes=0,
            message="",
        ),
        **changes,
    )


def test_a_line_is_printed_for_changes_and_each_ten_percent() -> None:
    assert is_news(None, row())
    assert not is_news(row(percent=11), row(percent=19, rate="1 B/s"))
    assert is_news(row(percent=19), row(percent=20))
    assert is_news(row(), row(phase="Ready"))
    assert is_news(row(), row(nodes="1/1"))
    assert is_news(row(), row(message="disk full"))


def test_the_table_has_a_bar_and_every_row() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    rows = [row(name="one", percent=50), row(name="two", phase="Ready")]
    console.print(table_of(rows, namespaces=True, width=200))
    text = console.export_text()
    assert "NAMESPACE" in text
    assert "one" in text
    assert "two" in text
    assert "━" in text


def test_where_bytes_came_from_is_shown_once_some_have_come() -> None:
    assert [row(origin_bytes=o, peer_bytes=p).shared for o, p in ((0, 0), (7, 0), (1, 2), (0, 5))] == [
        "",
        "0%",
        "66%",
        "100%",
    ]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table_of([row(origin_bytes=1, peer_bytes=2)], namespaces=True, width=200))
    text = console.export_text()
    assert "FROM PEERS" in text
    assert "66%" in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_ever_cut_off(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    long = row(name="sentence-transformers-all-minilm", nodes="100/100", percent=42, message="a long story " * 9)
    console.print(table_of([long], namespaces=True, width=width))
    text = console.export_text()
    assert "100/100" in text
    assert "42%" in text
    assert "…" not in text
    assert text.count("story") == 9
