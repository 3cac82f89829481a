"""Reads the body of an answer into a buffer, as it comes.

`HTTPResponse.readinto` blocks until the whole buffer is full: a slow connection would look like a stalled one, and what had
come before it breaks would be lost. So a body of known length is read from the stream below it, at most one `recv` at a
time, keeping the answer's `length` right, which `http.client` needs to know when the connection can be used again. A
chunked body has to be decoded, and is read the ordinary way.
"""

from __future__ import annotations

import http.client
import io


class Body:
    """The body of one answer."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        # What came in one packet with the head lies in the stream's buffer. `readinto1` would copy it and then still
        # wait for more when there is room, so it has to be taken out first.
        self._buffered = True

    def read_into(self, view: memoryview) -> int:
        """Reads what is there, at most len(view) bytes; 0 at the end. Raises OSError and http.client.HTTPException."""
        response = self._response
        stream = response.fp
        if response.chunked or response.length is None or not isinstance(stream, io.BufferedReader):
            return response.readinto(view)
        view = view[: response.length]
        if self._buffered or len(view) <= io.DEFAULT_BUFFER_SIZE:
            # Without blocking when something is buffered, else with one `recv`.
            ready = len(stream.peek())
            view = view[:ready]
            self._buffered = ready > len(view)
            count = stream.readinto(view)
        else:
            count = stream.readinto1(view)
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
