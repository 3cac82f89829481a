"""X.509: keys, signing requests, and reading the certificates of others.

All keys are ECDSA on P-256: signing costs 30 microseconds, everything speaks it, and FIPS 140 allows it. What others send
is parsed by `cryptography`, within the limits given here, and everything that makes no sense is a `CertificateError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from modelcache.tls.identity import Identity

MAX_REQUEST_BYTES = 4096
"""Of a signing request; ours have 200 to 300."""
MAX_BUNDLE_BYTES = 256 * 1024
"""Of a file of authorities; one has about 600, and there are two at most."""

CURVE = ec.SECP256R1


class CertificateError(ValueError):
    """A certificate, key or request cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Presented:
    """What a certificate says, once its signature has been checked by TLS. Times are in UTC."""

    identity: Identity
    not_before: datetime
    not_after: datetime


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key."""
    return ec.generate_private_key(CURVE())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS #8."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def signing_request(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A PKCS #10 request in DER that says nothing but "this is my key": who we are, a token says."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelcache")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.DER)


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a signing request whose sender has shown to own it. Raises CertificateError."""
    if len(request) > MAX_REQUEST_BYTES:
        raise CertificateError(f"the signing request has {len(request)} bytes, more than {MAX_REQUEST_BYTES}")
    try:
        parsed = x509.load_der_x509_csr(request)
        key = parsed.public_key()
        signed = parsed.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise CertificateError(f"the signing request cannot be read: {str(error)[:200]}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, CURVE):
        raise CertificateError("the key of the signing request is not an EC key on P-256")
    if not signed:
        raise CertificateError("the signing request is not signed with its own key")
    return key


def read_certificate(content: bytes) -> x509.Certificate:
    """A certificate from PEM or DER. Raises CertificateError."""
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            return x509.load_pem_x509_certificate(content)
        return x509.load_der_x509_certificate(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"this is not a certificate: {str(error)[:200]}") from error


def read_authorities(bundle: bytes) -> Sequence[x509.Certificate]:
    """The certificates of a bundle of authorities, in PEM. Raises CertificateError, also when there is none."""
    if len(bundle) > MAX_BUNDLE_BYTES:
        raise CertificateError(f"the bundle has {len(bundle)} bytes, more than {MAX_BUNDLE_BYTES}")
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(f"the bundle holds no certificates in PEM: {str(error)[:200]}") from error
    for certificate in found:
        if not _is_authority(certificate):
            raise CertificateError(f"{certificate.subject.rfc4514_string()[:100]!r} in the bundle is no authority")
    return found


def presented(certificate: bytes | x509.Certificate) -> Presented:
    """What a certificate of ours says. Raises CertificateError when it does not say who its holder is."""
    parsed = certificate if isinstance(certificate, x509.Certificate) else read_certificate(certificate)
    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        raise CertificateError("the certificate names nobody") from None
    except ValueError as error:
        raise CertificateError(f"the names of the certificate cannot be read: {str(error)[:200]}") from error
    identity = Identity.parse(uris[0]) if len(uris) == 1 else None
    if identity is None:
        raise CertificateError(f"the certificate names {', '.join(uris)[:300] or 'nobody'}, which is none of ours")
    return Presented(identity, parsed.not_valid_before_utc, parsed.not_valid_after_utc)


def signed_by(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> bool:
    """Whether one of the authorities has issued the certificate."""
    for authority in authorities:
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def to_pem(certificates: Sequence[x509.Certificate]) -> bytes:
    """Certificates one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False
