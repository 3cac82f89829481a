"""Ports on loopback for servers whose address is told before they listen, or kept when they start again.

A server that can say where it listens binds port 0 and needs nothing of this. The others get a port that no connection and
no other process of this project takes in the meantime:

- The kernel gives sockets that ask for none a port from `net.ipv4.ip_local_port_range` (32768 to 60999 unless changed,
  ip(7)), and so takes one that was free a moment ago. A client that tries a server that is down may even be given the very
  port it tries, and then is connected with itself (TCP's simultaneous open, RFC 9293 section 3.5), and the server cannot
  listen any more. So all ports here lie below that range.
- Each process claims a block of ports, by the name of an abstract Unix socket (unix(7)): exclusive like a port, in the
  same network namespace, and gone with the process, however it ends.

A server of somebody else may hold a port of the block: such ports are passed over.
"""

import random
import socket
import threading
from collections.abc import Iterator

RANGE = range(16_000, 32_000)
"""Below what the kernel gives out by itself, above what most services are registered for."""
BLOCK = 64
"""Ports that a process claims at a time: a test process uses a few hundred, and there is room for dozens of them."""


class NoPortError(OSError):
    """Every port is claimed or in use."""


class Ports:
    """Gives each port once. Thread-safe."""

    def __init__(self, among: range = RANGE) -> None:
        self._among = among
        self._claims: list[socket.socket] = []
        self._lock = threading.Lock()
        self._ports = self._claimed()

    def free(self) -> int:
        """A port that is nobody else's as long as this process lives.

        Raises:
            NoPortError: there is none left.
        """
        with self._lock:
            for port in self._ports:
                if is_free(port):
                    return port
        raise NoPortError(f"no free port on loopback in {self._among}: end processes that listen there")

    def _claimed(self) -> Iterator[int]:
        blocks = list(self._among[::BLOCK])
        # So that one whose last owner has just ended, and whose connections may still be there, is not the next taken.
        random.shuffle(blocks)
        for first in blocks:
            claim = socket.socket(socket.AF_UNIX)
            try:
                claim.bind(f"\0modelcache-ports-{first}")
            except OSError:
                claim.close()
                continue
            self._claims.append(claim)
            yield from range(first, first + BLOCK)


_PORTS = Ports()
"""One for the process, because what it keeps apart is processes."""


def free_port() -> int:
    """A port on 127.0.0.1 for a server that this process starts, see `Ports.free`."""
    return _PORTS.free()


def is_free(port: int) -> bool:
    """Whether a server could listen there now; false also for what is no port."""
    with socket.socket() as probe:
        # As servers do: connections of the last owner that are being closed are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True
