"""One holder's key, certificate and trusted authorities, in the forms in which `ssl` and gRPC want them.

`ssl` loads a certificate with its key from a file and from nothing else. The file here is an anonymous one in memory
(memfd_create(2)): it has no name, is never written to a disk, and is gone when it is closed.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import grpc

from modelcache.tls.certificates import CertificateError, Presented, presented, read_certificate, to_pem
from modelcache.tls.identity import CONTROLLER_NAME


@dataclass(frozen=True)
class Credentials:
    """All PEM. `authorities` are those that are trusted, which may be others than the one that issued `certificate`."""

    key: bytes
    certificate: bytes
    authorities: bytes

    def __repr__(self) -> str:
        return f"Credentials({self.presented})"

    @cached_property
    def presented(self) -> Presented:
        """What the certificate says. Raises CertificateError."""
        return presented(self.certificate)

    def server_context(self) -> ssl.SSLContext:
        """For sockets that accept: every client has to show a certificate of a trusted authority."""
        return self._server_context

    def client_context(self) -> ssl.SSLContext:
        """For sockets that connect. Whom they have reached is for the caller to compare: `presented_node`."""
        return self._client_context

    @cached_property
    def _server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # A resumed session would not look at certificates again: neither at their end nor at the authorities in force.
        context.num_tickets = 0
        return self._loaded(context)

    @cached_property
    def _client_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # certificates name no hosts, see `modelcache.tls.identity`
        return self._loaded(context)

    def _loaded(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        try:
            context.load_verify_locations(cadata=self.authorities.decode())
            with _in_memory(self.certificate + self.key) as path:
                context.load_cert_chain(path)
        except (ssl.SSLError, ValueError) as error:
            raise CertificateError(f"key, certificate and authorities do not fit together: {error}") from error
        return context

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """For a gRPC client, which trusts `authorities` and presents the certificate."""
        return grpc.ssl_channel_credentials(self.authorities, self.key, self.certificate)

    def server_configuration(self) -> grpc.ServerCertificateConfiguration:
        """For a gRPC server, which presents the certificate and, if it asks for one, trusts `authorities`."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.authorities)


TO_CONTROLLER: tuple[str, str] = ("grpc.ssl_target_name_override", CONTROLLER_NAME)
"""Channel option: the name in the certificate that gRPC has to find, whatever the address is."""


def presented_by(connection: ssl.SSLSocket) -> Presented | None:
    """What the certificate of the other end says; None when it is none of ours. The handshake has checked the signature."""
    found = connection.getpeercert(binary_form=True)
    if found is None:
        return None
    try:
        return presented(found)
    except CertificateError:
        return None


def presented_node(connection: ssl.SSLSocket) -> str | None:
    """The node whose agent is at the other end; None when it is no agent."""
    found = presented_by(connection)
    return found.identity.node if found is not None else None


def der_to_pem(certificate: bytes) -> bytes:
    """A certificate in PEM. Raises CertificateError."""
    return to_pem([read_certificate(certificate)])


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """A path under which this process finds `content`, for as long as the context lasts."""
    descriptor = os.memfd_create("credentials", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
