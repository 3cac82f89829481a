"""Connections of boto3 that go nowhere where no source may lead, and take no endless answers.

boto3 looks names up by itself, after `modelcache.sources.destinations` was asked about them: whoever answers for a name could
give another address then. So each new connection is asked whom it has reached, before anything is sent over it.

boto3 also takes whatever a server answers into memory, and as long as it likes. Whoever may write a DynamoModel may name the
server, so both have limits here.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Iterator
from typing import Any

from urllib3.connection import HTTPConnection

from modelcache.sources import destinations
from modelcache.sources.errors import MalformedListing
from modelcache.sources.limit import Limit

LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes; a page of 1000 keys of 1024 bytes each, all of them quoted, has 4 million."""
LONGEST_ANSWER = 120.0
"""Seconds for connecting, and for one answer."""


class _Guard(HTTPConnection):
    """Put in front of a class of connections, plain or with TLS."""

    _connecting: Limit | None = None
    """Until the first request was sent: a TLS handshake may take for ever as well."""

    def _new_conn(self) -> socket.socket:
        """Raises Unsupported, and what urllib3 raises."""
        reached = super()._new_conn()
        address = destinations.address_of(str(reached.getpeername()[0]))
        # Whom a proxy reaches is for the proxy to judge.
        if self.proxy is None and address is not None and destinations.is_forbidden(address):
            reached.close()
            destinations.check_address(self.host, address)
        self._connecting = Limit(reached, LONGEST_ANSWER)
        return reached

    def close(self) -> None:
        """Also where connecting, or its TLS handshake, has failed."""
        self._connected()
        super().close()

    def _connected(self) -> None:
        if self._connecting is not None:
            self._connecting.lift()
            self._connecting = None

    def getresponse(self) -> Any:
        """Raises what urllib3 raises. Reading the answer raises MalformedListing when it is too long."""
        self._connected()
        limit = Limit(self.sock, LONGEST_ANSWER)
        try:
            response: Any = super().getresponse()
        except BaseException:
            limit.lift()
            raise
        # What botocore reads an answer by.
        response.stream = functools.partial(_limited, response, self.host, limit)
        return response


def _limited(response: Any, host: str, limit: Limit, *arguments: Any, **options: Any) -> Iterator[bytes]:
    """What the response's own `stream` yields, up to LARGEST_ANSWER bytes."""
    taken = 0
    try:
        for chunk in type(response).stream(response, *arguments, **options):
            taken += len(chunk)
            if taken > LARGEST_ANSWER:
                raise MalformedListing(
                    f"{host} answers more than {LARGEST_ANSWER} bytes to one question, which S3 does not: check "
                    f"AWS_ENDPOINT_URL."
                )
            yield chunk
    finally:
        limit.lift()
        del response.stream  # which refers to the response: its connection would stay until the garbage is collected


def guard(client: Any) -> None:
    """Have all connections of this client checked; not those of what finds credentials, which has clients of its own."""
    # There is no setting for it. The dictionary is the one that urllib3 documents for this purpose.
    pools = client._endpoint.http_session._pool_classes_by_scheme
    pools.update({scheme: _guarded(pool) for scheme, pool in pools.items()})


@functools.cache
def _guarded(pool: Any) -> Any:
    """A class of pools like `pool`, of guarded connections."""
    connection = type(pool.ConnectionCls.__name__, (_Guard, pool.ConnectionCls), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": connection})
