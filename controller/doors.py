"""Who knocks at a port without saying anything.

gRPC does not tell of TLS handshakes that fail: no certificate, one that has ended, one of another authority, no TLS at all.
What it does tell is that somebody has connected, before the handshake, and who calls, after it. What is between the two is
what was refused (or only looked), so that is counted: the connections of one interval, less those from which a first call
came in this interval or the next. A handshake takes at most half an interval, so nobody is counted who is merely slow.

Newcomers who call right away in the next interval are taken for some of the silent ones, because a connection cannot be
matched with its call: the number is a lower bound, and exact while nobody else comes.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable

from modelcache.loglimit import LogLimit

_log = logging.getLogger(__name__)

INTERVAL = 20.0
"""Seconds between two looks: twice as long as a handshake may take (`controller.server.HANDSHAKE_SECONDS`)."""
CROWD = 3000
"""Connections to one port within a minute; a thousand agents that have lost their controller come twice."""
REMEMBERED = 20_000
"""Connections that are known to have called already: several times what a port accepts at once."""


class Door:
    """One port. `arrived` may be called in any thread, the rest in one."""

    def __init__(
        self, port: str, now: Callable[[], float], on_silent: Callable[[int], None] = lambda count: None
    ) -> None:
        """`port` is its name for people, `now` a monotonic clock in seconds. `on_silent` is told how many said nothing."""
        self._port = port
        self._now = now
        self._on_silent = on_silent
        self._quietly = LogLimit(_log, now)
        self._lock = threading.Lock()
        self._crowd_since, self._crowd = now(), 0
        self._arrivals = [0, 0]
        """Connections of the interval before and of the present one."""
        self._callers = [0, 0]
        self._known: OrderedDict[str, None] = OrderedDict()

    def arrived(self) -> None:
        """Somebody has connected."""
        with self._lock:
            self._arrivals[1] += 1
            now = self._now()
            if now - self._crowd_since >= 60.0:
                self._crowd_since, self._crowd = now, 0
            self._crowd += 1
            crowded = self._crowd == CROWD
        if crowded:
            _log.warning(
                "more than %d connections within a minute at the port for %s; those without a certificate or a token get "
                "nothing, but something in the cluster is wrong or not well-disposed", CROWD, self._port,
            )  # fmt: skip

    def called(self, peer: str) -> None:
        """A call came over the connection from `peer` (address and port, as gRPC names it)."""
        if peer in self._known:
            self._known.move_to_end(peer)
            return
        self._known[peer] = None
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        self._callers[1] += 1

    def look(self) -> None:
        """An interval is over."""
        with self._lock:
            came, self._arrivals = self._arrivals[0], [self._arrivals[1], 0]
        called, self._callers = sum(self._callers), [self._callers[1], 0]
        silent = came - called
        if silent <= 0:
            return
        self._on_silent(silent)
        self._quietly.warning(
            "silent", "%d of %d connections to the port for %s were refused in the handshake, or said nothing: no TLS, no "
            "certificate, one that has ended, or one of another authority", silent, came, self._port,
        )  # fmt: skip
