"""An end to exchanges that would never come to one.

A time limit for each read does not end a server that sends a byte now and then, and a thread that waits for one cannot be
stopped: whoever may name a source could keep all threads that resolve. So its connections are ended from outside.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading


class Limit:
    """Ends a connection after some seconds, whatever is being done with it then; unless it is lifted before."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        """`connection` remains its owner's: it may be closed, or become a part of a TLS connection."""
        # Of its own, because the number may mean something else by then.
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def lift(self) -> None:
        """What was to be done is done."""
        self._timer.cancel()
        self._socket.close()

    def _end(self) -> None:
        with contextlib.suppress(OSError):  # it is over already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
