"""The credentials in force, exchanged while everything runs.

Whoever opens or accepts a connection takes `current` at that moment, so a renewed certificate is used from the next
connection on and nothing has to be restarted. Connections that live long are ended by those who own them, before the
certificate that they were made with has expired.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import grpc

from modelcache.tls.credentials import Credentials


class NoCredentials(Exception):
    """There is no certificate yet: the controller has not been reached since the start."""


class Wallet:
    """Holds credentials. `replace` is called in one thread, everything else in any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: Credentials | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def held(self) -> Credentials | None:
        """The credentials in force, None before the first."""
        with self._lock:
            return self._current

    @property
    def current(self) -> Credentials:
        """The credentials in force. Raises NoCredentials."""
        held = self.held
        if held is None:
            raise NoCredentials("there is no certificate yet; the controller has not issued one since the start")
        return held

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener`, in the thread that calls `replace`, whenever other credentials are in force."""
        self._listeners.append(listener)

    def replace(self, credentials: Credentials) -> None:
        """From now on these are in force."""
        with self._lock:
            self._current = credentials
        for listener in self._listeners:
            listener()


def server_credentials(
    wallet: Wallet, *, clients: bool, on_connection: Callable[[], None] = lambda: None
) -> grpc.ServerCredentials:
    """For a gRPC server: each new connection gets the credentials that are in force then. Raises NoCredentials.

    `clients`: whether clients have to show a certificate of a trusted authority. `on_connection` is called, in some thread,
    before each handshake.
    """
    given = wallet.current
    lock = threading.Lock()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        # Called by gRPC in threads of its own, before each handshake.
        nonlocal given
        on_connection()
        with lock:
            current = wallet.current
            if current is given:
                return None
            given = current
            return current.server_configuration()

    return grpc.dynamic_ssl_server_credentials(
        given.server_configuration(),
        fetch,  # type: ignore[arg-type]  # None means no change: documented, but missing in the annotations
        require_client_authentication=clients,
    )
