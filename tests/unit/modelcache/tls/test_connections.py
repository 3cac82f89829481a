"""Two ends of a socket with certificates: who gets through, and who the other one is."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime

import pytest

from controller.authority import new_authority
from modelcache.tls.certificates import (
    CertificateError,
    new_key,
    read_authorities,
    requested_key,
    signing_request,
    to_pem,
)
from modelcache.tls.credentials import Credentials, presented_node
from modelcache.tls.identity import CONTROLLER, Identity
from modelcache.tls.wallet import NoCredentials, Wallet, server_credentials
from tests.support.certificates import HOUR, credentials

OURS, THEIRS = new_authority(datetime.now(UTC)), new_authority(datetime.now(UTC))
A, B = Identity("node-a"), Identity("node-b")


def meet(server: Credentials, client: Credentials) -> tuple[str | None, str | None]:
    """Shakes hands; the nodes that the server and the client see at the other end. Raises ssl.SSLError of either."""
    left, right = socket.socketpair()
    left.settimeout(30)
    right.settimeout(30)
    seen: list[str | None] = []
    failed: list[OSError] = []

    def serve() -> None:
        try:
            with server.server_context().wrap_socket(left, server_side=True) as secured:
                seen.append(presented_node(secured))
                secured.sendall(b"hello")
        except OSError as error:
            failed.append(error)
            left.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.client_context().wrap_socket(right) as secured:
            # In TLS 1.3 a server's refusal comes after the client's handshake.
            assert secured.recv(5) in (b"hello", b"")
            node = presented_node(secured)
    finally:
        right.close()
        thread.join()
    if failed:
        raise failed[0]
    return seen[0], node


def test_both_learn_from_the_certificates_who_the_other_one_is() -> None:
    assert meet(credentials(OURS, A), credentials(OURS, B)) == ("node-b", "node-a")


def test_the_controller_is_no_node() -> None:
    assert meet(credentials(OURS, CONTROLLER), credentials(OURS, B)) == ("node-b", None)


@pytest.mark.parametrize(
    "client",
    [
        credentials(THEIRS, B, trust=OURS),
        credentials(OURS, B, now=datetime.now(UTC) - 2 * HOUR),
        credentials(OURS, CONTROLLER),
    ],
    ids=["of another authority", "expired", "for servers only"],
)
def test_a_client_without_a_good_certificate_is_refused(client: Credentials) -> None:
    with pytest.raises(OSError, match=r"(?i)certificate|alert|eof"):
        meet(credentials(OURS, A), client)


def test_a_client_without_any_certificate_is_refused() -> None:
    held = credentials(OURS, B)
    anonymous = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anonymous.check_hostname = False
    anonymous.load_verify_locations(cadata=held.authorities.decode())
    held.__dict__["_client_context"] = anonymous
    with pytest.raises(OSError, match=r"(?i)certificate|alert|eof"):
        meet(credentials(OURS, A), held)


def test_a_server_of_another_authority_is_refused() -> None:
    with pytest.raises(ssl.SSLError, match="verify"):
        meet(credentials(THEIRS, A, trust=OURS), credentials(OURS, B))


def test_older_protocols_are_not_spoken() -> None:
    held = credentials(OURS, B)
    held.client_context().minimum_version = ssl.TLSVersion.TLSv1_2
    held.client_context().maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match=r"(?i)protocol|alert|eof"):
        meet(credentials(OURS, A), held)


def test_a_key_that_does_not_belong_to_the_certificate_is_said() -> None:
    one, other = credentials(OURS, A), credentials(OURS, A)
    mixed = Credentials(one.key, other.certificate, one.authorities)
    with pytest.raises(CertificateError, match="do not fit together"):
        mixed.server_context()


def test_secrets_do_not_show_in_texts() -> None:
    held = credentials(OURS, A)
    assert "BEGIN" not in repr(held)
    assert "node-a" in repr(held)


def test_a_signing_request_proves_its_key() -> None:
    key = new_key()
    request = signing_request(key)
    assert requested_key(request) == key.public_key()
    for bad in (b"", b"x", request[:-1], request[:-4] + b"abcd", b"0" * 5000):
        with pytest.raises(CertificateError):
            requested_key(bad)


def test_a_bundle_holds_authorities_only() -> None:
    bundle = to_pem([OURS.certificate, THEIRS.certificate])
    assert read_authorities(bundle) == [OURS.certificate, THEIRS.certificate]
    for bad in (b"", b"text", credentials(OURS, A).certificate, bundle * 500):
        with pytest.raises(CertificateError):
            read_authorities(bad)


def test_an_empty_wallet_is_an_error_of_its_own() -> None:
    empty = Wallet()
    assert empty.held is None
    with pytest.raises(NoCredentials, match="controller"):
        _ = empty.current
    with pytest.raises(NoCredentials):
        server_credentials(empty, clients=True)


def test_those_who_listen_hear_of_a_change() -> None:
    full, heard = Wallet(), []
    full.on_change(lambda: heard.append(full.current))
    first, second = credentials(OURS, A), credentials(OURS, A)
    full.replace(first)
    full.replace(second)
    assert heard == [first, second]
