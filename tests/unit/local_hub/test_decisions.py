"""The hub's pure decisions: access, ranges, signatures, faults, spans of a body."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.hub.access import Verdict, Wanted, judge
from local.hub.faults import AnyFault, Close, Faults, Flip, IgnoreRange, Listing, Status, Target, falsify
from local.hub.limits import Limits
from local.hub.message import FileBody, Request, header_text, parse_target
from local.hub.ranges import Unsatisfiable, parse_range
from local.hub.repository import HubFile, Repository
from local.hub.server import spans
from local.hub.signing import Signer

OPEN = Repository("o/open", {})
PRIVATE = Repository("o/private", {}, private=True, tokens=["good"])
GATED = Repository("o/gated", {}, gated="manual", tokens=["good"])
DISABLED = Repository("o/disabled", {}, disabled=True)


@pytest.mark.parametrize(
    ("repository", "token", "wanted", "verdict"),
    [
        (OPEN, None, "content", Verdict.ALLOWED),
        (OPEN, "bad", "content", Verdict.INVALID_TOKEN),
        (None, None, "listing", Verdict.UNKNOWN_ANONYMOUS),
        (None, "known", "listing", Verdict.UNKNOWN),
        (PRIVATE, None, "listing", Verdict.UNKNOWN_ANONYMOUS),
        (PRIVATE, "known", "listing", Verdict.UNKNOWN),
        (PRIVATE, "good", "content", Verdict.ALLOWED),
        (GATED, None, "listing", Verdict.ALLOWED),
        (GATED, None, "content", Verdict.GATED_ANONYMOUS),
        (GATED, "known", "content", Verdict.GATED),
        (GATED, "good", "content", Verdict.ALLOWED),
        (DISABLED, None, "listing", Verdict.DISABLED),
    ],
)
def test_access(repository: Repository | None, token: str | None, wanted: Wanted, verdict: Verdict) -> None:
    assert judge(repository, token, {"good", "known"}, wanted) is verdict


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("bytes=0-0", (0, 1)),
        ("bytes=2-5", (2, 6)),
        ("bytes=2-", (2, 10)),
        ("bytes=-3", (7, 10)),
        ("bytes=-30", (0, 10)),
        ("bytes=0-999", (0, 10)),
        ("Bytes=1-2", (1, 3)),
        ("bytes=-", None),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("items=0-1", None),
        ("nonsense", None),
    ],
)
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert parse_range(header, 10) == expected


@pytest.mark.parametrize(
    ("header", "size"), [("bytes=10-", 10), ("bytes=11-12", 10), ("bytes=-0", 10), ("bytes=0-", 0)]
)
def test_ranges_outside_the_file(header: str, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, size)


def test_signed_addresses_expire_and_cannot_be_changed() -> None:
    now = [1000.0]
    signer = Signer(lifetime=60, clock=lambda: now[0])
    _, query = parse_target("/a?" + signer.query("/a"))
    assert signer.refusal("/a", query) is None
    assert signer.refusal("/b", query) == "The signature does not match"
    assert signer.refusal("/a", {**query, "Expires": ["9999999999"]}) == "The signature does not match"
    assert signer.refusal("/a", {}) == "The signature does not match"
    now[0] = 1060.0
    assert signer.refusal("/a", query) == "Request has expired"
    now[0] = 1000.0
    signer.revoke()
    assert signer.refusal("/a", query) is not None


TARGET = Target("cdn", "org/name", "dir/model.safetensors")


def test_faults_apply_where_and_as_often_as_they_say() -> None:
    faults = Faults()
    number = faults.add(Flip(file="*.safetensors", offset=5, times=2))
    faults.add(Flip(repository="other/*", offset=5))
    assert faults.take(Close, TARGET) is None
    assert faults.take(Flip, TARGET, lambda fault: fault.offset > 5) is None
    assert faults.applied(number) == 0
    assert [faults.take(Flip, TARGET) is not None for _ in range(3)] == [True, True, False]
    assert faults.applied(number) == 2
    assert faults.remove(number)
    assert not faults.remove(number)


def test_removing_a_fault_lets_go_of_who_waits() -> None:
    faults = Faults()
    faults.add(IgnoreRange())
    taken = faults.take(IgnoreRange, TARGET)
    assert taken is not None
    assert not taken.removed.is_set()
    faults.clear()
    assert taken.removed.is_set()
    assert faults.describe() == []


@pytest.mark.parametrize(
    "text",
    [
        '{"kind": "nonsense"}',
        '{"kind": "flip"}',
        '{"kind": "flip", "offset": -1}',
        '{"kind": "flip", "offset": 1, "xor": 0}',
        '{"kind": "flip", "offset": 1, "typo": 1}',
        '{"kind": "status", "status": 200}',
        '{"kind": "close", "times": 0}',
    ],
)
def test_faults_that_make_no_sense_are_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=AnyFault)


def test_a_fault_in_json() -> None:
    fault = msgspec.json.decode(
        '{"kind": "status", "status": 429, "retry_after": 5, "on": ["cdn"], "times": 2}', type=AnyFault
    )
    assert fault == Status(status=429, retry_after=5, on=["cdn"], times=2)


def test_falsified_listings() -> None:
    entries = [
        {"type": "file", "path": "a", "size": 1, "oid": "x"},
        {"type": "file", "path": "b", "size": 2, "oid": "y"},
    ]
    listing = Listing(override={"a": {"size": None, "oid": "z"}}, append=[{"type": "file", "path": "../c"}])
    assert falsify(entries, listing) == [
        {"type": "file", "path": "a", "oid": "z"},
        {"type": "file", "path": "b", "size": 2, "oid": "y"},
        {"type": "file", "path": "../c"},
    ]
    assert entries[0]["size"] == 1


def body(start: int, stop: int, flips: list[int], close_at: int | None, stall_at: int | None) -> FileBody:
    file = HubFile("f", 100, b"", "0" * 40, None, None)
    return FileBody("o/n", file, start, stop, dict.fromkeys(flips, 1), close_at, stall_at)


@st.composite
def bodies(draw: st.DrawFn) -> FileBody:
    start = draw(st.integers(0, 99))
    stop = draw(st.integers(start, 100))
    offset = st.integers(0, 100)
    return body(start, stop, draw(st.lists(offset, max_size=4)), draw(st.none() | offset), draw(st.none() | offset))


@given(bodies())
def test_spans_cover_the_body_and_begin_where_faults_are(body: FileBody) -> None:
    cut = list(spans(body))
    assert [offset for start, stop in cut for offset in range(start, stop)] == list(range(body.start, body.stop))
    starts = {start for start, _ in cut}
    for offset in (*body.flips, body.close_at, body.stall_at):
        if offset is not None and body.start <= offset < body.stop:
            assert offset in starts
    for start, stop in cut:
        assert start not in body.flips or stop == start + 1


@given(st.text(st.characters()))  # lone surrogates too
def test_no_text_can_add_a_header(text: str) -> None:
    encoded = header_text(text)
    assert encoded.isascii()
    assert encoded.isprintable()


@pytest.mark.parametrize(
    ("target", "segments"),
    [
        ("/", ("",)),
        ("//a/b", ("", "a", "b")),
        ("/a/tree/refs%2Fpr%2F1?x=%20&y", ("a", "tree", "refs/pr/1")),
        ("/a/b%0Ac%00", ("a", "b\nc\0")),
        ("http://host", ("",)),
    ],
)
def test_targets(target: str, segments: tuple[str, ...]) -> None:
    path, query = parse_target(target)
    assert Request("GET", path, query, {}).segments == segments


def test_the_limit_spreads_bytes_over_time() -> None:
    now = [50.0]
    limits = Limits(clock=lambda: now[0])
    assert limits.reserve(10**9) == 0.0
    limits.bytes_per_second = 1000.0
    # The first 50 ms are free, and so is as much time as a connection needed for writing its last step.
    assert [limits.reserve(500) for _ in range(3)] == pytest.approx([0.45, 0.95, 1.45])
    now[0] = 51.0
    assert limits.reserve(500) == pytest.approx(0.95)
    # Longer pauses are not saved up.
    now[0] = 100.0
    assert limits.reserve(500) == pytest.approx(0.45)
    assert limits.reserve(10) == pytest.approx(0.46)


def test_steps_follow_the_limit() -> None:
    limits = Limits()
    unlimited = limits.step()
    limits.bytes_per_second = 20_000_000.0
    assert limits.step() == 1_000_000
    limits.bytes_per_second = 1.0
    assert 0 < limits.step() < 1_000_000 < unlimited


def test_nobody_waits_any_more_once_stopped() -> None:
    limits = Limits()
    limits.bytes_per_second, limits.latency = 1e-9, 1e9
    limits.stop()
    limits.wait_for(1)
    limits.delay_answer()
