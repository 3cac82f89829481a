"""Which hub to ask, as whom, and at which address: what resolving and locating have in common.

No network here, and no `huggingface_hub`. What the environment decides is described in `modelcache.sources.hf`.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import msgspec

from modelcache.sources.base import Credential
from modelcache.sources.errors import Unauthorized, UnsafePath, Unsupported
from modelcache.sources.tls import CA_KEY
from modelcache.sources.uri import SourceURI, is_endpoint

DEFAULT_ENDPOINT = "https://huggingface.co"

# In the order of preference: the usual key of a Secret, then the variables that people make Secrets of.
_TOKEN_KEYS = ("token", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class Access(msgspec.Struct, frozen=True):
    """Which hub to ask, and as whom."""

    endpoint: str
    """Without slash at the end."""
    token: str | None
    origin: str
    """Where the token comes from, in words for a message."""
    authorities: str | None = None
    """By which the hub is to be verified, in PEM; None: as the environment says."""

    def __repr__(self) -> str:
        return f"Access(endpoint={self.endpoint!r}, token={'...' if self.token else None}, origin={self.origin!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("endpoint", self.endpoint), ("origin", self.origin)]

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries the token, if there is one."""
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def access_from(environ: Mapping[str, str], credential: Credential | None) -> Access:
    """Return which hub to ask and as whom. Raises Unsupported for a bad HF_ENDPOINT, Unauthorized for a bad token."""
    token, origin = _token_from(environ, credential)
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token):
        raise Unauthorized(
            f"The token from {origin} contains spaces or control characters: it cannot be a Hugging Face token."
        )
    authorities = credential.values.get(CA_KEY) if credential is not None else None
    return Access(endpoint=_endpoint_from(environ), token=token, origin=origin, authorities=authorities)


def file_url(endpoint: str, uri: SourceURI, revision: str, path: str) -> str:
    """Return where the hub serves a file. Raises UnsafePath for a path that would mean another address."""
    if any(segment in ("", ".", "..") for segment in path.split("/")):
        raise UnsafePath(f"{uri} lists the file {path!r}, which is no path inside a repository: it will not be read.")
    encoded = quote(path, errors="surrogatepass")
    return f"{endpoint}/{uri.authority}/{uri.path}/resolve/{quote(revision, safe='')}/{encoded}"


def _endpoint_from(environ: Mapping[str, str]) -> str:
    endpoint = environ.get("HF_ENDPOINT", "").strip() or DEFAULT_ENDPOINT
    if not is_endpoint(endpoint):
        # It is not repeated: somebody may have put a password into it.
        raise Unsupported("HF_ENDPOINT must be http(s)://host[:port][/path], without user, password or query.")
    return endpoint.rstrip("/")


def _token_from(environ: Mapping[str, str], credential: Credential | None) -> tuple[str | None, str]:
    if credential is None:
        return environ.get("HF_TOKEN", "").strip() or None, "the environment variable HF_TOKEN"
    origin = "spec.source.secretRef"
    values = {key: value for key, value in credential.values.items() if key != CA_KEY}
    if not values and credential.values:
        return None, origin  # a certificate authority alone, for a mirror that asks nobody who he is
    # One key of any name is what `secretRef.key` selects.
    key = next((key for key in _TOKEN_KEYS if key in values), next(iter(values)) if len(values) == 1 else None)
    if key is None:
        raise Unauthorized(
            f"The Secret of {origin} has no key {_TOKEN_KEYS[0]!r} (it has {sorted(values)}): add it, or name another with "
            f"spec.source.secretRef.key."
        )
    token = values[key].strip()
    if not token:
        raise Unauthorized(f"The key {key!r} of the Secret of {origin} is empty: put a Hugging Face token into it.")
    return token, origin
