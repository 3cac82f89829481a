"""Reads the body of an answer into a buffer, as it comes.

`HTTPResponse.readinto` blocks until the whole buffer is full: a slow connection would look like a stalled one, and what had
come before it breaks would be lost. Handing on what each `recv` brings is no better on a fast line: TLS brings one record
of 16 KiB, and whoever counts, limits and times every one of them spends a quarter of the processor time on that (1 GiB:
1.3 s, and 0.95). So a body of known length is read from the socket until the buffer is full or a moment has passed, keeping the
answer's `length` right, which `http.client` needs to know when the connection can be used again. A chunked body has to be
decoded, and is read the ordinary way.
"""

from __future__ import annotations

import http.client
import io
import socket

from agent.transfer.clock import Clock

MOMENT_SECONDS = 0.25
"""Bytes that come after this time end a read, however few there are: as often as progress is told. Nobody looks at the clock
while nothing comes, so what came just before a silence is handed on after it, or when the time limit of the socket ends it."""


class Body:
    """The body of one answer. Used by one thread."""

    def __init__(self, response: http.client.HTTPResponse, sock: socket.socket, clock: Clock) -> None:
        """`sock` is where `response` comes from, with a time limit for a read that gets nothing."""
        self._response = response
        self._sock = sock
        self._clock = clock
        # What came in one packet with the head lies in the stream's buffer, and has to be taken out first.
        self._buffered = True
        self._failure: OSError | None = None

    def read_into(self, view: memoryview) -> int:
        """Reads at most len(view) bytes; 0 at the end. Raises OSError and http.client.HTTPException.

        Blocks for the first of them, and then for more (see MOMENT_SECONDS). When the connection breaks meanwhile, that is said
        by the next call.
        """
        response = self._response
        stream = response.fp
        if response.chunked or response.length is None or not isinstance(stream, io.BufferedReader):
            return response.readinto(view)
        if self._failure is not None:
            raise self._failure
        view = view[: response.length]
        if self._buffered:
            # Without blocking when something is buffered, else with one `recv`.
            ready = len(stream.peek())
            view = view[:ready]
            self._buffered = ready > len(view)
            count = stream.readinto(view)
        else:
            count = self._receive(view)
        response.length -= count
        return count

    def finish(self) -> bool:
        """After the last byte that was wanted: ends the answer. False when the server sends even more."""
        response = self._response
        if (response.chunked or response.length is None) and response.read(1):
            return False
        if not response.isclosed():
            response.read()  # of no bytes, but then the connection can be used again
        return True

    def _receive(self, view: memoryview) -> int:
        receive, now = self._sock.recv_into, self._clock.monotonic
        size, got = len(view), 0
        over = now() + MOMENT_SECONDS
        try:
            while got < size:
                count = receive(view[got:], size - got)
                got += count
                if count == 0 or now() >= over:
                    break
        except OSError as error:
            if got == 0:
                raise
            self._failure = error
        return got
