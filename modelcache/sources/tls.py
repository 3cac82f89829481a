"""How servers of sources are verified: one answer for who lists and for who reads.

A Secret with the key `ca.crt` (certificates in PEM, one after the other) decides for its source alone: whoever may write a
DynamoModel then needs nobody to change the installation. It counts instead of everything else, as the variables do:

SSL_CERT_FILE SSL_CERT_DIR           read by OpenSSL itself, instead of the system's bundle
REQUESTS_CA_BUNDLE CURL_CA_BUNDLE    file or directory, instead of the system's bundle; in this order
"""

from __future__ import annotations

import os
import ssl
import weakref
from collections.abc import Mapping
from pathlib import Path

from modelcache.sources.errors import Unsupported

CA_KEY = "ca.crt"
"""Key of a Secret; Kubernetes calls it so in its own."""
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def ca_bundle(environ: Mapping[str, str]) -> str | None:
    """Path of the certificate authorities that the environment names; None for those of the system."""
    return next((environ[name] for name in _BUNDLES if environ.get(name)), None)


def tls_context(environ: Mapping[str, str], authorities: str | None = None) -> ssl.SSLContext:
    """How servers are verified: by `authorities` (PEM) alone where they are given, else by what the environment says.

    Raises Unsupported for authorities that are none, and when the environment names a bundle that cannot be read.
    """
    if authorities is not None:
        try:
            # An empty text would mean those of the system.
            return ssl.create_default_context(cadata=authorities or "nothing")
        except (ssl.SSLError, ValueError):
            # Not the reason: OpenSSL's words for it help nobody.
            raise Unsupported(
                f"The key {CA_KEY!r} of the Secret of spec.source.secretRef has no certificates in PEM: store that of the "
                f"authority there, from -----BEGIN CERTIFICATE----- on."
            ) from None
    name = next((name for name in _BUNDLES if environ.get(name)), None)
    if name is None:
        return ssl.create_default_context()
    bundle = environ[name]
    try:
        # OpenSSL reads SSL_CERT_FILE on its own, but silently ignores a file that does not exist.
        if Path(bundle).is_dir():
            return ssl.create_default_context(capath=bundle)
        return ssl.create_default_context(cafile=bundle)
    except (OSError, ssl.SSLError) as error:
        raise Unsupported(f"{name}={bundle} cannot be read as a bundle of CA certificates: {error}") from error


class BundleFile:
    """Authorities as a file, for libraries that only take a path: in memory, and there as long as this object."""

    def __init__(self, authorities: str) -> None:
        """Raises Unsupported for authorities that are none."""
        tls_context({}, authorities)
        descriptor = os.memfd_create(CA_KEY)
        os.write(descriptor, authorities.encode())
        weakref.finalize(self, os.close, descriptor)
        self.path = f"/proc/self/fd/{descriptor}"
