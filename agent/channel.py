"""The connection to the controller: the one place that decides how it is secured.

With credentials, the other end has to present the certificate of a controller, whatever its address is called.
Without, the connection is plaintext, and everything on it (source credentials included) can be read on the way.
So plaintext is allowed to loopback only, where there is no way, and refused for every other address.
"""

from __future__ import annotations

import grpc
from grpc import aio

from modelcache.rpc.address import MAX_MESSAGE_BYTES, Address, AddressError
from modelcache.tls.credentials import TO_CONTROLLER

_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # A controller that vanished without a FIN (its node lost power) is noticed after half a minute, not after the kernel's
    # retransmission timeout of a quarter of an hour. The server has to permit pings at this pace
    # (grpc.http2.min_recv_ping_interval_without_data_ms), see gRPC's doc/keepalive.md.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    # Every new stream is a new channel, and waiting between them is our own affair (`agent.sync`): a shared pool of
    # connections would make a new channel inherit the old one's wait.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    # The controller is in the cluster, and found by addresses that no NO_PROXY names; a proxy is there for sources. gRPC would
    # take that of https_proxy or http_proxy (doc/environment_variables.md).
    ("grpc.enable_http_proxy", 0),
    # How long a connection may take to come about, in spite of its name; a dead replica must not cost gRPC's 20 s.
    ("grpc.min_reconnect_backoff_ms", 5_000),
]


def open_channel(address: Address, credentials: grpc.ChannelCredentials | None = None) -> aio.Channel:
    """A channel that connects when it is first used; the caller closes it.

    `credentials` None means plaintext. Raises AddressError for plaintext to anywhere but loopback.
    """
    if credentials is not None:
        return aio.secure_channel(str(address), credentials, options=[*_OPTIONS, TO_CONTROLLER])
    if not address.is_loopback:
        raise AddressError(f"is {address}, another machine, and the connection would not be encrypted")
    return aio.insecure_channel(str(address), options=_OPTIONS)
