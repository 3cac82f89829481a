"""Fields of a piece of work on every line that is logged within it."""

import asyncio
import logging
from collections.abc import Iterator

import pytest

from modelcache.logs import AddFields, about, current, readable_trace, trace_of


class Sink(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.addFilter(AddFields())
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def last(self, name: str) -> object:
        return getattr(self.records[-1], name, None)


@pytest.fixture
def sink() -> Iterator[Sink]:
    handler, logger = Sink(), logging.getLogger("tests.logs")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)


LOG = logging.getLogger("tests.logs")


def test_lines_within_carry_the_fields_and_lines_after_do_not(sink: Sink) -> None:
    with about(model="team/llama", trace=""), about(node="node-1"):
        LOG.info("inside")
        assert (sink.last("model"), sink.last("node")) == ("team/llama", "node-1")
        assert not hasattr(sink.records[-1], "trace")
        assert current("node") == "node-1"
    LOG.info("outside")
    assert not hasattr(sink.records[-1], "model")
    assert current("node") == ""


def test_what_a_line_says_itself_wins(sink: Sink) -> None:
    with about(node="node-1"):
        LOG.info("inside", extra={"node": "node-2"})
    assert sink.last("node") == "node-2"


async def test_tasks_inherit_and_do_not_leak(sink: Sink) -> None:
    async def work(model: str, gate: asyncio.Event) -> None:
        with about(model=model):
            await gate.wait()
            LOG.info("%s", model)

    gate = asyncio.Event()
    with about(node="node-1"):
        tasks = [asyncio.create_task(work(name, gate)) for name in ("a", "b")]
    gate.set()
    await asyncio.gather(*tasks)
    found = [(record.getMessage(), record.__dict__["model"], record.__dict__["node"]) for record in sink.records]
    assert sorted(found) == [("a", "a", "node-1"), ("b", "b", "node-1")]


@pytest.mark.parametrize("text", ["", "a b", "x" * 65, "a\nb", "ä"])
def test_a_trace_from_the_wire_is_one_word(text: str) -> None:
    assert readable_trace(text) == ""


def test_a_trace_can_be_read_off_the_object() -> None:
    trace = trace_of("1f3c9a2e-7c1d-4f5e-9a3b-0123456789ab", 3)
    assert trace == "1f3c9a2e-3"
    assert readable_trace(trace) == trace
