"""An RSA key pair for the service account tokens of a test API server, in plain Python.

The server demands such a pair as PEM files, and neither the standard library nor the lock can make one; asking for an
`openssl` binary would be one more thing that a machine must have. Fit for tests only: nothing here resists timing attacks.
Formats: RFC 8017 appendix A.1.2 (RSAPrivateKey, "RSA PRIVATE KEY") and RFC 5280 4.1.2.7 (SubjectPublicKeyInfo,
"PUBLIC KEY"), both DER (X.690) in PEM (RFC 7468).
"""

import base64
import secrets
from dataclasses import dataclass

PUBLIC_EXPONENT = 65537
MODULUS_BITS = 2048
"""What the API server's JWT signer expects of RS256 keys (RFC 7518 3.3 demands at least this)."""

MILLER_RABIN_ROUNDS = 40
"""Random bases; a composite number passes with probability below 4**-40."""

# rsaEncryption, 1.2.840.113549.1.1.1, with the NULL parameters that RFC 3279 2.3.1 prescribes.
_RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")

_SMALL_PRIMES = [n for n in range(3, 2000, 2) if all(n % divisor for divisor in range(3, int(n**0.5) + 1, 2))]


@dataclass(frozen=True)
class KeyPair:
    """The two files' contents."""

    private_pem: str
    public_pem: str


def generate() -> KeyPair:
    """A fresh key pair; takes well under a second."""
    while True:
        p, q = _prime(MODULUS_BITS // 2), _prime(MODULUS_BITS // 2)
        order = (p - 1) * (q - 1)
        if p != q and order % PUBLIC_EXPONENT:
            break
    d = pow(PUBLIC_EXPONENT, -1, order)
    n = p * q
    private = _sequence(
        *(_integer(i) for i in (0, n, PUBLIC_EXPONENT, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)))
    )
    public_key = _sequence(_integer(n), _integer(PUBLIC_EXPONENT))
    # A BIT STRING starts with its number of unused bits.
    public = _sequence(_RSA_ALGORITHM, _tagged(0x03, b"\x00" + public_key))
    return KeyPair(_pem("RSA PRIVATE KEY", private), _pem("PUBLIC KEY", public))


def _prime(bits: int) -> int:
    while True:
        # The two top bits make the product of two such primes exactly twice as long.
        candidate = secrets.randbits(bits) | (0b11 << (bits - 2)) | 1
        if all(candidate % prime for prime in _SMALL_PRIMES) and _probably_prime(candidate):
            return candidate


def _probably_prime(n: int) -> bool:
    """Miller-Rabin with random bases, for odd n > 3."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(MILLER_RABIN_ROUNDS):
        x = pow(secrets.randbelow(n - 3) + 2, odd, n)
        if x in (1, n - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


def _tagged(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _integer(value: int) -> bytes:
    # One bit more than the value has, because DER integers are signed.
    return _tagged(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def _sequence(*parts: bytes) -> bytes:
    return _tagged(0x30, b"".join(parts))


def _pem(label: str, der: bytes) -> str:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])
