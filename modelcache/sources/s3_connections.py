"""Connections of boto3 that go nowhere where no source may lead, and take no endless answers.

boto3 looks names up by itself, after `modelcache.sources.destinations` was asked about them: whoever answers for a name could
give another address then. So each new connection is asked whom it has reached, before anything is sent over it.

boto3 also takes whatever a server answers into memory. Whoever may write a DynamoModel may name the server, so how much that is
has a limit here.
"""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable, Iterator
from typing import Any

from urllib3.connection import HTTPConnection

from modelcache.sources import destinations
from modelcache.sources.errors import MalformedListing

LARGEST_ANSWER = 16 * 1024 * 1024
"""Bytes; a page of 1000 keys of 1024 bytes each, all of them quoted, has 4 million."""


class _Guard(HTTPConnection):
    """Put in front of a class of connections, plain or with TLS."""

    def _new_conn(self) -> socket.socket:
        """Raises Unsupported, and what urllib3 raises."""
        reached = super()._new_conn()
        address = destinations.address_of(str(reached.getpeername()[0]))
        # Whom a proxy reaches is for the proxy to judge.
        if self.proxy is None and address is not None and destinations.is_forbidden(address):
            reached.close()
            destinations.check_address(self.host, address)
        return reached

    def getresponse(self) -> Any:
        """Raises what urllib3 raises. Reading the answer raises MalformedListing when it is too long."""
        response: Any = super().getresponse()
        # What botocore reads an answer by.
        response.stream = functools.partial(_limited, response.stream, self.host)
        return response


def _limited(stream: Callable[..., Iterator[bytes]], host: str, *arguments: Any, **options: Any) -> Iterator[bytes]:
    """What `stream` yields, up to LARGEST_ANSWER bytes."""
    taken = 0
    for chunk in stream(*arguments, **options):
        taken += len(chunk)
        if taken > LARGEST_ANSWER:
            raise MalformedListing(
                f"{host} answers more than {LARGEST_ANSWER} bytes to one question, which S3 does not: check AWS_ENDPOINT_URL."
            )
        yield chunk


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
