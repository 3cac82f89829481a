"""Signed addresses that expire, as the hub's CDN has them: whoever has the address may read, for a while.

The signature covers path and expiry. Like S3 and CloudFront, the CDN wants no other credential: a client that sends its
token along has leaked it, and is told so.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable, Mapping


class Signer:
    """Signs paths, and checks what it has signed."""

    def __init__(self, lifetime: float = 3600.0, clock: Callable[[], float] = time.time) -> None:
        """`lifetime` in seconds, an hour as on the hub; `clock` gives Unix seconds."""
        self.lifetime = lifetime
        self._clock = clock
        self._key = secrets.token_bytes(32)

    def query(self, path: str) -> str:
        """Return the query string that makes `path` readable from now until the lifetime is over."""
        expires = str(int(self._clock() + self.lifetime))
        return f"Expires={expires}&Signature={self._signature(path, expires)}"

    def refusal(self, path: str, query: Mapping[str, list[str]]) -> str | None:
        """Return why an address is not (or no longer) good; None if it is."""
        expires = query.get("Expires", [""])[-1]
        signature = query.get("Signature", [""])[-1]
        if not hmac.compare_digest(signature.encode(), self._signature(path, expires).encode()):
            return "The signature does not match"
        if self._clock() >= int(expires):
            return "Request has expired"
        return None

    def revoke(self) -> None:
        """Make every address signed so far worthless, as if it had expired."""
        self._key = secrets.token_bytes(32)

    def _signature(self, path: str, expires: str) -> str:
        return hmac.new(self._key, f"{expires} {path}".encode(), hashlib.sha256).hexdigest()
