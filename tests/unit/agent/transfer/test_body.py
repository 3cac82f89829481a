"""Bodies of answers, read from a real socket as they come in pieces of any size."""

import http.client
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.body import MOMENT_SECONDS, Body
from tests.support.instant_clock import InstantClock

PATIENCE = 20.0
SHORT = 0.05


@contextmanager
def answer(
    *packets: bytes, length: int | None = None, clock: InstantClock | None = None, limit: float = PATIENCE
) -> Iterator[tuple[Body, socket.socket, socket.socket]]:
    """A body, the socket that it is read from, and the server's end, which has sent the head and then `packets`."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(limit)
        size = sum(map(len, packets)) if length is None else length
        theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for packet in packets:
            theirs.sendall(packet)
        response = http.client.HTTPResponse(ours)
        with response:
            response.begin()
            yield Body(response, ours, clock or InstantClock()), ours, theirs


def content(size: int) -> bytes:
    return bytes(number * 31 % 251 for number in range(size))


def first_packet(body: Body, buffer: memoryview) -> int:
    """Reads what lies in the stream's buffer, where the head was."""
    count = body.read_into(buffer)
    assert 0 < count < 10_000
    return count


def read_all(body: Body, size: int, sizes: Sequence[int]) -> bytes:
    """Everything, asked for in portions of `sizes`, over and over."""
    data, number = b"", 0
    while len(data) < size:
        buffer = memoryview(bytearray(sizes[number % len(sizes)]))
        count = body.read_into(buffer)
        assert 0 < count <= len(buffer)
        data += bytes(buffer[:count])
        number += 1
    return data


@settings(max_examples=200, deadline=None)
@given(
    cuts=st.lists(st.integers(1, 30_000), min_size=1, max_size=6),
    sizes=st.lists(st.integers(1, 40_000), min_size=1, max_size=5),
    tick=st.sampled_from([0.0, MOMENT_SECONDS / 3, MOMENT_SECONDS]),
)
def test_every_byte_comes_once_however_it_was_cut(cuts: list[int], sizes: list[int], tick: float) -> None:
    data = content(sum(cuts))
    packets, start = [], 0
    for cut in cuts:
        packets.append(data[start : start + cut])
        start += cut
    with answer(*packets, clock=InstantClock(tick=tick), limit=SHORT) as (body, _, theirs):
        theirs.sendall(b"HTTP/1.1 200 OK\r\n")  # of the next answer: not to be taken for this one's
        assert read_all(body, len(data), sizes) == data
        assert body.finish()


def test_a_buffer_is_filled_although_it_comes_in_packets() -> None:
    data = content(100_000)
    with answer(data[:40_000], length=len(data)) as (body, _, theirs):
        sender = threading.Thread(target=theirs.sendall, args=(data[40_000:],))
        sender.start()
        buffer = memoryview(bytearray(len(data)))
        first = first_packet(body, buffer)
        assert body.read_into(buffer[first:]) == len(data) - first
        sender.join()
    assert bytes(buffer) == data


def test_what_has_come_within_a_moment_is_handed_on() -> None:
    with answer(content(20_000), length=50_000, clock=InstantClock(tick=MOMENT_SECONDS), limit=SHORT) as (
        body,
        _,
        theirs,
    ):
        buffer = memoryview(bytearray(50_000))
        first = first_packet(body, buffer)
        assert body.read_into(buffer[first:]) == 20_000 - first
        theirs.sendall(
            content(20_100)[20_000:]
        )  # whoever waited for more has run into the time limit by now, and says so
        assert body.read_into(buffer[20_000:]) == 100
    assert bytes(buffer[:20_100]) == content(20_100)


def test_what_came_before_the_connection_ended_is_not_lost() -> None:
    with answer(content(20_000), length=50_000) as (body, _, theirs):
        theirs.shutdown(socket.SHUT_WR)
        buffer = memoryview(bytearray(50_000))
        first = first_packet(body, buffer)
        assert body.read_into(buffer[first:]) == 20_000 - first
        assert bytes(buffer[:20_000]) == content(20_000)
        assert body.read_into(buffer) == 0


def test_what_came_before_the_connection_stalled_is_not_lost_and_nobody_waits_twice() -> None:
    with answer(content(20_000), length=50_000, limit=SHORT) as (body, _, theirs):
        buffer = memoryview(bytearray(50_000))
        first = first_packet(body, buffer)
        assert body.read_into(buffer[first:]) == 20_000 - first
        theirs.sendall(b"late")  # whoever read the socket once more would get this
        for _ in range(2):
            with pytest.raises(TimeoutError):
                body.read_into(buffer)


def test_a_connection_that_stalls_at_once_says_so_at_once() -> None:
    with answer(length=50_000, limit=SHORT) as (body, _, _), pytest.raises(TimeoutError):
        body.read_into(memoryview(bytearray(50_000)))


def test_a_body_that_ends_with_the_first_packet_can_be_finished() -> None:
    with answer(content(100)) as (body, _, _):
        buffer = memoryview(bytearray(100))
        assert body.read_into(buffer) == 100
        assert body.finish()
    assert bytes(buffer) == content(100)


def test_a_chunked_body_is_decoded() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(PATIENCE)
        theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        with http.client.HTTPResponse(ours) as response:
            response.begin()
            body = Body(response, ours, InstantClock())
            buffer = memoryview(bytearray(5))
            assert body.read_into(buffer) == 5
            assert body.finish()
    assert bytes(buffer) == b"abcde"
