"""Which Events are written: counted, combined, limited, cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.kube.correlator import Correlator, Occurrence, truncated
from modelcache.kube.objects import ObjectReference

POD = ObjectReference("v1", "Pod", "web-0", "team-a", "uid-1")
OTHER = ObjectReference("v1", "Pod", "web-1", "team-a", "uid-2")


def said(message: str = "hello", reason: str = "Hello", regarding: ObjectReference = POD) -> Occurrence:
    return Occurrence(regarding, "Normal", reason, message)


def test_repetitions_are_counted_in_one_event() -> None:
    correlator = Correlator()
    records = [correlator.observe(said(), 100.0 + second) for second in range(3)]
    assert [record and (record.count, record.first, record.last) for record in records] == [
        (1, 100.0, 100.0),
        (2, 100.0, 101.0),
        (3, 100.0, 102.0),
    ]
    assert len({record and record.name for record in records}) == 1


def test_different_things_are_different_events() -> None:
    correlator = Correlator()
    everything = [
        said(),
        said(message="other text"),
        said(reason="Other"),
        said(regarding=OTHER),
        Occurrence(POD, "Warning", "Hello", "hello"),
    ]
    records = [correlator.observe(occurrence, 100.0) for occurrence in everything]
    assert [record and record.count for record in records] == [1] * 5
    assert len({record and record.name for record in records}) == 5, "even in the same nanosecond"


def test_many_similar_messages_become_one_event() -> None:
    correlator = Correlator(max_similar=3, similar_window=600)
    records = [correlator.observe(said(f"{percent} %"), 100.0 + percent) for percent in range(6)]
    assert [record and (record.count, record.occurrence.message) for record in records] == [
        (1, "0 %"),
        (1, "1 %"),
        (1, "2 %"),
        (1, "(combined from similar events): 3 %"),
        (2, "(combined from similar events): 4 %"),
        (3, "(combined from similar events): 5 %"),
    ]
    assert records[3] is not None
    assert records[5] is not None
    assert records[3].name == records[5].name
    later = correlator.observe(said("6 %"), 100.0 + 5 + 601)
    assert later is not None
    assert later.occurrence.message == "6 %", "after the window they are told apart again"


def test_each_reason_of_an_object_has_a_budget() -> None:
    correlator = Correlator(burst=3, refill_seconds=300)
    assert [correlator.observe(said(), 0.0) is not None for _ in range(5)] == [True, True, True, False, False]
    assert correlator.observe(said(regarding=OTHER), 0.0) is not None
    rare = Occurrence(said().regarding, "Normal", "Deleted", "It is gone.")
    assert correlator.observe(rare, 0.0) is not None, "one that is said once is not drowned by one that is said often"
    assert correlator.observe(said(), 299.0) is None
    record = correlator.observe(said(), 300.0)
    assert record is not None
    assert record.count == 7, "what was not written has been counted"
    assert correlator.observe(said(), 301.0) is None


def test_wall_clock_set_back_takes_nothing_away() -> None:
    correlator = Correlator(burst=2, refill_seconds=10)
    assert correlator.observe(said(), 1000.0) is not None
    assert correlator.observe(said(), 10.0) is not None
    assert correlator.observe(said(), 20.0) is not None


def test_forgotten_event_starts_again_under_a_new_name() -> None:
    correlator = Correlator()
    correlator.observe(said(), 100.0)
    second = correlator.observe(said(), 101.0)
    assert second is not None
    again = correlator.renamed(second, 4000.0)
    assert (again.count, again.first) == (1, 4000.0)
    assert again.name != second.name
    third = correlator.observe(said(), 4001.0)
    assert third is not None
    assert (third.name, third.count, third.first) == (again.name, 2, 4000.0)


def test_memory_is_bounded() -> None:
    correlator = Correlator(memory=10)
    for number in range(100):
        correlator.observe(said(regarding=ObjectReference("v1", "Pod", f"p{number}", "x", f"u{number}")), 1.0)
    recent = correlator.observe(said(regarding=ObjectReference("v1", "Pod", "p99", "x", "u99")), 2.0)
    former = correlator.observe(said(regarding=ObjectReference("v1", "Pod", "p0", "x", "u0")), 2.0)
    assert recent is not None
    assert former is not None
    assert (recent.count, former.count) == (2, 1)


@pytest.mark.parametrize("name", ["a" * 253, "a" * 235 + "." + "b" * 17, "x"])
def test_names_are_names(name: str) -> None:
    record = Correlator().observe(said(regarding=ObjectReference("v1", "Node", name)), 1.7e9)
    assert record is not None
    assert len(record.name) <= 253
    assert ".." not in record.name


@settings(deadline=None)
@given(message=st.text(st.characters(), max_size=3000))
def test_messages_fit_and_stay_text(message: str) -> None:
    cut = truncated(message)
    assert len(cut.encode()) <= 1024
    assert cut.isprintable()
    if not cut.endswith("…"):
        assert cut.split() == "".join(c if c.isprintable() else " " for c in message).split()


def test_long_message_is_cut_at_a_character() -> None:
    assert truncated("ä" * 600) == "ä" * 510 + "…"
    assert truncated("x" * 1024) == "x" * 1024
    assert truncated("x" * 1025) == "x" * 1021 + "…"
    assert truncated("two\nlines\x00") == "two lines"


def test_type_and_reason_are_made_acceptable() -> None:
    record = Correlator().observe(Occurrence(POD, "Catastrophe", "R" * 500, "m"), 1.0)
    assert record is not None
    assert record.occurrence.type == "Normal"
    assert len(record.occurrence.reason) == 128
