"""How servers of sources are verified: one answer for who lists and for who reads, from the variables that people set.

SSL_CERT_FILE SSL_CERT_DIR           read by OpenSSL itself, instead of the system's bundle
REQUESTS_CA_BUNDLE CURL_CA_BUNDLE    file or directory, instead of the system's bundle; in this order
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from modelcache.sources.errors import Unsupported

_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def ca_bundle(environ: Mapping[str, str]) -> str | None:
    """Path of the certificate authorities that the environment names; None for those of the system."""
    return next((environ[name] for name in _BUNDLES if environ.get(name)), None)


def tls_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    """How servers are verified. Raises Unsupported when the environment names a bundle that cannot be read."""
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
