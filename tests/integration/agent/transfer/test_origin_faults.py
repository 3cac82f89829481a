"""Origins that fail, lie, stall, redirect and ask for patience."""

import socket
from collections.abc import Callable
from email.utils import formatdate

import pytest

from agent.store import Store
from agent.transfer import Cancelled, IntegrityError, TransferSettings
from agent.transfer.clock import SystemClock
from modelcache.sources.base import Location
from modelcache.sources.errors import (
    MalformedListing,
    NotFound,
    SourceChanged,
    SourceError,
    Unauthorized,
    Unsupported,
)
from tests.support.fetching import PIECE, Fetching, content, listed, manifest_of
from tests.support.instant_clock import InstantClock
from tests.support.origin import (
    Fault,
    Request,
    cut_off,
    flipped,
    hangs_up,
    ignores_range,
    stalls,
    status,
    until_closed,
)

Make = Callable[..., Fetching]


# What is waited out


@pytest.mark.parametrize(
    "fault",
    [status(500), status(502), status(503), status(504), status(429), status(408), hangs_up, cut_off(1000), cut_off(0)],
    ids=["500", "502", "503", "504", "429", "408", "hangs up", "cut off", "cut off at once"],
)
def test_trouble_is_waited_out(fetching: Make, fault: Fault) -> None:
    engine = fetching()
    manifest = engine.serve(("large", content(4 * PIECE)), ("small", content(2000)))
    engine.origin.fail("/large", *([fault] * 5))
    engine.origin.fail("/small", *([fault] * 3))
    engine.fetch(manifest)
    assert engine.told[-1].done_files == 2


def test_it_goes_on_inside_the_piece(fetching: Make) -> None:
    engine = fetching(connections=1)
    manifest = engine.serve(("large", content(2 * PIECE)))
    engine.origin.fail("/large", cut_off(1000), cut_off(500))
    engine.fetch(manifest)
    starts = [seen.start for seen in engine.origin.requests("/large")]
    assert starts == [0, 1000, 1500, PIECE]
    assert engine.origin.bytes_sent == manifest.size


def test_a_small_file_goes_on_where_it_was_cut_off_if_the_server_can(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("small", content(2000)))
    engine.origin.fail("/small", cut_off(1500))
    engine.fetch(manifest)
    assert [seen.start for seen in engine.origin.seen] == [None, 1500]
    assert engine.origin.bytes_sent == 2000


def test_a_small_file_starts_again_if_the_server_cannot(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("small", content(2000)))
    engine.origin.fail("/small", cut_off(1500), ignores_range)
    engine.fetch(manifest)
    assert engine.origin.bytes_sent == 3500
    assert engine.told[-1].received_bytes == 2000


@pytest.mark.parametrize("code", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_and_told(fetching: Make, code: int, form: str) -> None:
    clock = InstantClock()
    engine = fetching(clock=clock, connections=1)
    manifest = engine.serve(("a", b"a"))
    value = "120" if form == "seconds" else formatdate(clock.unix() + 120, usegmt=True)
    engine.origin.fail("/a", status(code, Retry_After=value))
    engine.fetch(manifest)
    assert 119 <= sum(clock.waits) <= 133
    waiting = [progress.waiting for progress in engine.told if progress.waiting]
    assert waiting
    assert waiting[0].reason == ("RateLimited" if code == 429 else "Unreachable")
    assert f"answered {code}" in waiting[0].message
    assert waiting[0].until == pytest.approx(1_800_000_120, abs=13)
    assert engine.told[-1].waiting is None


def test_one_rejection_makes_all_downloads_from_there_wait(fetching: Make) -> None:
    """No request reaches the origin between a 429 and the time that it named."""
    clock = InstantClock()
    engine = fetching(clock=clock, connections=4)
    manifest = engine.serve(*((f"{number}", content(10, number)) for number in range(40)))
    moments: list[float] = []

    def limited(request: Request, data: bytes) -> None:
        moments.append(clock.monotonic())
        request.status(429, {"Retry-After": "60"})

    engine.origin.fail("/20", limited)
    engine.fetch(manifest)
    assert len(moments) == 1
    assert sum(clock.waits) >= 60
    assert len(engine.origin.requests("/20")) == 2


def test_it_never_gives_up_while_there_is_hope(fetching: Make) -> None:
    clock = InstantClock()
    engine = fetching(clock=clock)
    manifest = engine.serve(("a", b"a"))
    engine.origin.fail("/a", *([status(500)] * 100))
    engine.fetch(manifest)
    assert len(engine.origin.seen) == 101
    assert max(clock.waits) <= 60
    assert clock.monotonic() > 600


def test_an_origin_that_is_not_there_is_waited_for(fetching: Make) -> None:
    engine = fetching(clock=SystemClock(), backoff_base=0.01)
    with socket.socket() as nobody:  # bound, not listening: connections are refused, and nobody else gets the port
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/a"
        fetch = engine.in_thread(manifest_of(listed("a", b"a")), locate=lambda file: Location(url, {}))
        waiting = engine.until(lambda progress: progress.waiting is not None).waiting
        fetch.cancel.cancel()
        fetch.join()
    assert isinstance(fetch.error, Cancelled)
    assert waiting is not None
    assert waiting.reason == "Unreachable"
    assert "Connection refused" in waiting.message


def test_a_stalled_connection_is_replaced_inside_the_piece(fetching: Make) -> None:
    engine = fetching(stall_seconds=1.0, connections=1)
    manifest = engine.serve(("large", content(3 * PIECE)))
    engine.origin.fail("/large", stalls(5000))
    engine.fetch(manifest)
    starts = [seen.start or 0 for seen in engine.origin.requests("/large")]
    assert 5000 in starts  # not from the beginning of the piece
    assert starts == sorted(starts)


def test_a_transfer_far_slower_than_the_others_is_replaced(fetching: Make) -> None:
    clock = InstantClock(tick=0.3)  # longer than the interval of progress: every byte is told
    engine = fetching(clock=clock, connections=1)
    manifest = engine.serve(("large", content(6 * PIECE)))

    def crawling(request: Request, data: bytes) -> None:
        """Sends a little every second; without a new connection it would go on like that."""
        assert request.start is not None
        request.head(
            206,
            {
                "Content-Length": str(PIECE),
                "Content-Range": f"bytes {request.start}-{request.start + PIECE - 1}/{len(data)}",
            },
        )
        for second in range(20):
            clock.advance(1)
            request.body(data[request.start + 10 * second :][:10])
            arrived = request.start + 10 * (second + 1)
            engine.until(lambda progress, arrived=arrived: progress.received_bytes >= arrived)  # type: ignore[misc]  # mypy cannot infer the default

    engine.origin.fail("/large", Request.serve, Request.serve, Request.serve, crawling)
    engine.fetch(manifest)
    starts = [seen.start for seen in engine.origin.requests("/large")]
    assert starts[:3] == [0, PIECE, 2 * PIECE]
    assert starts[3] == 3 * PIECE
    assert starts[4] is not None
    assert 3 * PIECE < starts[4] <= 3 * PIECE + 200
    assert sum(clock.waits) == 0


def test_a_kept_alive_connection_that_the_server_closed_is_no_failure(fetching: Make) -> None:
    clock = InstantClock()
    engine = fetching(clock=clock, connections=1)
    manifest = engine.serve(*((f"{number}", b"%d" % number) for number in range(5)))

    def answers_and_closes(request: Request, data: bytes) -> None:
        request.serve(data)  # without saying that it will close
        request.hang_up()

    engine.origin.always = {f"/{number}": answers_and_closes for number in range(5)}
    engine.fetch(manifest)
    assert clock.waits == []


# What is final


@pytest.mark.parametrize(
    ("code", "error", "hint"),
    [
        (401, Unauthorized, "spec.source.secretRef"),
        (403, Unauthorized, "spec.source.secretRef"),
        (404, NotFound, "was there when the revision was resolved"),
        (410, NotFound, "was there when the revision was resolved"),
        (416, SourceChanged, "shorter than the 1 bytes in the manifest"),
        (400, Unsupported, "cannot be used"),
    ],
)
def test_refusals_are_final_and_named(fetching: Make, code: int, error: type[SourceError], hint: str) -> None:
    engine = fetching()
    manifest = engine.serve(("dir/a", b"a"))
    engine.origin.always["/dir/a"] = status(code)
    with pytest.raises(error, match=hint) as raised:
        engine.fetch(manifest, locate=lambda file: Location(engine.origin.url("/dir/a?token=secret"), {}))
    assert f"dir/a: http://127.0.0.1:{engine.origin.port}/dir/a answered {code}" in raised.value.message
    assert "secret" not in raised.value.message.replace("secretRef", "")
    assert len(engine.origin.seen) == 1


def test_one_refused_file_ends_the_download_and_keeps_what_came(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("large", content(8 * PIECE)), ("small", b"s"))
    engine.origin.always["/small"] = status(404)
    with pytest.raises(NotFound):
        engine.fetch(manifest)
    sent = engine.origin.bytes_sent
    engine.origin.always.clear()
    engine.fetch(manifest)
    # `small`, and of `large` nothing that was complete: only what the other connections were in the middle of.
    assert engine.origin.bytes_sent - sent <= len(b"s") + TransferSettings().connections * PIECE


@pytest.mark.parametrize("large", [True, False])
def test_another_size_is_another_file(fetching: Make, large: bool) -> None:
    engine = fetching()
    data = content(2 * PIECE if large else 100)
    engine.origin.files["/a"] = data + b"more"
    with pytest.raises(SourceChanged, match=f"has {len(data) + 4} bytes, the manifest says {len(data)}"):
        engine.fetch(manifest_of(listed("a", data)))


def test_more_bytes_than_listed_are_noticed_without_a_length(fetching: Make, store: Store) -> None:
    engine = fetching()
    engine.origin.files["/a"] = b"abcd"
    engine.origin.always["/a"] = until_closed
    with pytest.raises(SourceChanged, match="more than the 3 bytes"):
        engine.fetch(manifest_of(listed("a", b"abc")))


@pytest.mark.parametrize("size", [100, 3 * PIECE], ids=["small", "large"])
@pytest.mark.parametrize("digest", ["sha256", "git"])
def test_a_flipped_byte_never_becomes_a_blob(fetching: Make, store: Store, size: int, digest: str) -> None:
    engine = fetching()
    good = content(size)
    manifest = engine.serve(("a", good), digest=digest)
    engine.origin.always["/a"] = flipped(size // 2)
    with pytest.raises(IntegrityError) as raised:
        engine.fetch(manifest)
    bad = bytearray(good)
    bad[size // 2] ^= 0xFF
    expected, actual = listed("a", good, digest=digest), listed("a", bytes(bad), digest=digest)
    assert raised.value.path == "a"
    assert raised.value.expected == (expected.sha256 or expected.git_oid)
    assert raised.value.actual == (actual.sha256 or actual.git_oid)
    assert raised.value.expected in str(raised.value)
    assert raised.value.actual in str(raised.value)
    assert engine.origin.bytes_sent == 2 * size  # twice, not for ever
    assert engine.partials() == []
    assert not [path for path in store.paths.blobs.rglob("*") if path.is_file()]
    engine.origin.always.clear()
    engine.fetch(manifest)


@pytest.mark.parametrize("size", [100, 3 * PIECE], ids=["small", "large"])
def test_a_byte_that_was_flipped_on_the_way_costs_one_more_read(fetching: Make, size: int) -> None:
    engine = fetching()
    manifest = engine.serve(("a", content(size)))
    engine.origin.fail("/a", lambda request, data: flipped(request.start or 0)(request, data))
    engine.fetch(manifest)
    assert engine.origin.bytes_sent == 2 * size
    last = engine.told[-1]
    assert (last.received_bytes, last.verified_bytes, last.fetched_bytes) == (size, size, 2 * size)


def test_an_encoding_that_was_not_asked_for_is_refused(fetching: Make) -> None:
    engine = fetching()
    manifest = engine.serve(("a", b"text"))
    engine.origin.always["/a"] = lambda request, data: request.status(200, {"Content-Encoding": "gzip"}, data)
    with pytest.raises(MalformedListing, match="encoded as 'gzip'"):
        engine.fetch(manifest)


@pytest.mark.parametrize(
    "content_range",
    ["", "bytes 0-9", "bytes 1-65536/{size}", "bytes 0-200000/{size}", "items 0-65535/{size}", "bytes 5-4/{size}"],
)
def test_ranges_that_were_not_asked_for_are_not_written(fetching: Make, content_range: str) -> None:
    engine = fetching(connections=1)
    data = content(3 * PIECE)
    manifest = engine.serve(("a", data))

    def lies(request: Request, body: bytes) -> None:
        request.head(206, {"Content-Length": str(PIECE), "Content-Range": content_range.format(size=len(data))})
        request.body(bytes(PIECE))

    engine.origin.fail("/a", lies, lies)
    engine.fetch(manifest)


def test_a_shorter_range_than_asked_for_is_completed(fetching: Make) -> None:
    engine = fetching(connections=1)
    data = content(2 * PIECE)
    manifest = engine.serve(("a", data))

    def half(request: Request, body: bytes) -> None:
        assert request.start is not None
        request.end = request.start + 1000
        request.serve(body)

    engine.origin.fail("/a", half)
    engine.fetch(manifest)
    assert engine.origin.bytes_sent == len(data)


def test_a_server_without_ranges_streams_the_file_once(fetching: Make) -> None:
    engine = fetching(connections=1)
    manifest = engine.serve(("a", content(5 * PIECE)))
    engine.origin.always["/a"] = ignores_range
    engine.fetch(manifest)
    asked = [(seen.start, seen.end) for seen in engine.origin.seen]
    assert asked == [(0, PIECE), (None, None)]
    assert engine.told[-1].fetched_bytes == manifest.size


def test_a_stream_that_breaks_keeps_its_pieces(fetching: Make) -> None:
    engine = fetching(connections=1)
    manifest = engine.serve(("a", content(5 * PIECE)))
    engine.origin.always["/a"] = ignores_range

    def breaks(request: Request, data: bytes) -> None:
        request.start = request.end = None
        cut_off(3 * PIECE + 100)(request, data)

    engine.origin.fail("/a", ignores_range, breaks)
    engine.fetch(manifest)
    last = engine.told[-1]
    assert last.received_bytes == manifest.size
    assert manifest.size <= last.fetched_bytes < manifest.size + PIECE  # pieces 0 to 2 were not written again


# Cancelling


def test_cancelling_ends_a_blocked_read_at_once(fetching: Make) -> None:
    engine = fetching(clock=SystemClock(), stall_seconds=600)
    manifest = engine.serve(("a", content(8 * PIECE)))
    engine.origin.always["/a"] = stalls(100)
    fetch = engine.in_thread(manifest)
    engine.origin.until(lambda: engine.origin.bytes_sent >= 400)
    fetch.cancel.cancel()
    fetch.join()
    assert isinstance(fetch.error, Cancelled)


def test_cancelling_ends_a_wait_at_once(fetching: Make) -> None:
    engine = fetching(clock=SystemClock())
    manifest = engine.serve(("a", b"a"))
    engine.origin.always["/a"] = status(429, Retry_After="3000")
    fetch = engine.in_thread(manifest)
    engine.origin.until(lambda: len(engine.origin.seen) == 1)
    fetch.cancel.cancel()
    fetch.join()
    assert isinstance(fetch.error, Cancelled)
