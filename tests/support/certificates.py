"""Certificates of an authority that a test holds itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from controller.authority import Authority
from modelcache.tls.certificates import key_pem, new_key, to_pem
from modelcache.tls.credentials import Credentials, der_to_pem
from modelcache.tls.identity import Identity
from modelcache.tls.wallet import Wallet

HOUR = timedelta(hours=1)


def credentials(
    authority: Authority,
    identity: Identity,
    *,
    trust: Authority | None = None,
    now: datetime | None = None,
    lifetime: timedelta = HOUR,
) -> Credentials:
    """A key and a certificate for `identity` by `authority`; its holder trusts `trust`, which is the same by default."""
    key = new_key()
    certificate = authority.issue(key.public_key(), identity, now or datetime.now(UTC), lifetime)
    return Credentials(key_pem(key), der_to_pem(certificate), to_pem([(trust or authority).certificate]))


def wallet(held: Credentials) -> Wallet:
    """A wallet with these credentials."""
    full = Wallet()
    full.replace(held)
    return full
