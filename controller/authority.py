"""The certificate authority of the cluster: what it signs, and how one authority follows another.

Only the controller has the key. An authority lives for a year, its certificates for hours, so that nothing has to be
revoked: a certificate that is not renewed ends by itself.

One authority follows another *with overlap*, so that nobody is ever shown a certificate that he does not trust:

    created ----- published in the bundle, signs nothing yet -----> signs -----> replaced, still trusted -----> dropped
            PUBLISH: every agent has read the new bundle                  the longest life of a certificate

`plan` computes all of it from the certificates alone, whose beginning is the moment of their creation. So there is no
state beside them that could be lost, and every replica of the controller comes to the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from modelcache.tls.certificates import CURVE, CertificateError, key_pem, new_key, read_certificate, to_pem
from modelcache.tls.identity import CONTROLLER, CONTROLLER_NAME, Identity

LIFETIME = timedelta(days=365)
"""Of an authority."""
SUCCESSION = timedelta(days=240)
"""Age at which the next one is made: four months before the end, so that nobody notices a controller that was away."""
PUBLISH = timedelta(hours=1)
"""From being published to signing. The kubelet brings a changed ConfigMap into pods within its sync period of a minute and the
life of its cache of another one."""
SKEW = timedelta(minutes=5)
"""How far clocks may differ: everything is valid from that much before it was made."""


@dataclass(frozen=True)
class Authority:
    """A certificate that may sign, and its key. Equal when the certificates are: the key belongs to it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(compare=False)

    def __repr__(self) -> str:
        return f"Authority({self.name})"

    @property
    def name(self) -> str:
        """Serial number in hexadecimal: unique, and fit for the key of a Secret."""
        return f"{self.certificate.serial_number:x}"

    @property
    def created(self) -> datetime:
        """When it was made."""
        return self.certificate.not_valid_before_utc + SKEW

    @property
    def expires(self) -> datetime:
        """When it ends."""
        return self.certificate.not_valid_after_utc

    def issue(self, key: ec.EllipticCurvePublicKey, identity: Identity, now: datetime, lifetime: timedelta) -> bytes:
        """A certificate in DER that says `key` is that of `identity`.

        It ends with the authority at the latest. Agents are servers and clients; the controller is a server only.
        """
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
        if identity == CONTROLLER:
            names.append(x509.DNSName(CONTROLLER_NAME))
        else:
            usages.append(ExtendedKeyUsageOID.CLIENT_AUTH)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "modelcache")])
        builder = (
            _builder(key, subject, now)
            .issuer_name(self.certificate.subject)
            .not_valid_after(min(now + lifetime, self.expires))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                    self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
                ),
                critical=False,
            )
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def encoded(self) -> tuple[bytes, bytes]:
        """Certificate and key in PEM."""
        return to_pem([self.certificate]), key_pem(self.key)

    @staticmethod
    def decode(certificate: bytes, key: bytes) -> Authority:
        """The authority that `encoded` gave. Raises CertificateError."""
        parsed = read_certificate(certificate)
        try:
            secret = load_pem_private_key(key, None)
        except (ValueError, TypeError) as error:
            # Not `from error`, and without its text: it is about a secret.
            raise CertificateError(f"its key cannot be read ({type(error).__name__})") from None
        if not isinstance(secret, ec.EllipticCurvePrivateKey) or not isinstance(secret.curve, CURVE):
            raise CertificateError("its key is not an EC key on P-256")
        if secret.public_key() != parsed.public_key():
            raise CertificateError("its key is not that of its certificate")
        return Authority(parsed, secret)


def new_authority(now: datetime, lifetime: timedelta = LIFETIME) -> Authority:
    """An authority that begins now."""
    key = new_key()
    # Each has a name of its own: that is how OpenSSL finds the issuer of a certificate.
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, "modelcache authority"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{x509.random_serial_number():x}"),
        ]
    )
    builder = (
        _builder(key.public_key(), subject, now)
        .issuer_name(subject)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
    )
    return Authority(builder.sign(key, hashes.SHA256()), key)


@dataclass(frozen=True)
class Plan:
    """Which authorities there should be. `signer` is None only where there is none that could sign."""

    kept: tuple[Authority, ...]
    signer: Authority | None
    successor_due: bool

    @property
    def bundle(self) -> bytes:
        """What everybody trusts, in PEM, the oldest first."""
        return to_pem([authority.certificate for authority in self.kept])


def plan(authorities: Sequence[Authority], now: datetime, longest: timedelta) -> Plan:
    """What follows from the authorities that there are; `longest` is the longest life of a certificate.

    Signs: the newest one that has been published long enough, else the oldest. Dropped: those that have ended, and those
    whose successor has been signing for so long that none of their certificates can be in use.
    """
    living = sorted((a for a in authorities if a.expires > now), key=lambda a: (a.created, a.name))
    published = [authority for authority in living if authority.created + PUBLISH <= now]
    signer = published[-1] if published else (living[0] if living else None)
    kept = [
        authority
        for index, authority in enumerate(living)
        if not any(later.created + PUBLISH + longest + SKEW <= now for later in living[index + 1 :])
    ]
    due = not living or now - living[-1].created >= SUCCESSION
    return Plan(tuple(kept), signer, due)


def _builder(key: ec.EllipticCurvePublicKey, subject: x509.Name, now: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
