"""Which S3 to ask, as whom: from the keys of a Secret or, without one, from what the installation's own environment says.

A Secret replaces the environment as a whole; the two are never mixed. Otherwise somebody who may only create DynamoModels
could name an endpoint of his own and have it asked with the installation's identity, session token included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, cast

import msgspec

from modelcache.sources.base import Credential
from modelcache.sources.errors import Unauthorized, Unsupported
from modelcache.sources.tls import CA_KEY
from modelcache.sources.uri import is_endpoint

SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL_S3",
    "AWS_ENDPOINT_URL",
    "AWS_S3_ADDRESSING_STYLE",
    "AWS_NO_SIGN_REQUEST",
    CA_KEY,
)
"""Keys of a Secret that are looked at. Two names of settings are ours: the addressing style and the wish to stay anonymous."""

Style = Literal["auto", "path", "virtual"]
_STYLES = ("auto", "path", "virtual")
_REGION = re.compile(r"(?![0-9]+$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
"""A part of a host's name, which is what becomes of it."""
_YES, _NO = ("1", "true", "yes"), ("", "0", "false", "no")


class Access(msgspec.Struct, frozen=True):
    """How to make a client. `key_id` None and `anonymous` False: the credential chain of boto3 decides."""

    endpoint: str | None
    """None: that of AWS for the region, or what the environment of boto3 names."""
    region: str | None
    style: Style
    anonymous: bool
    key_id: str | None
    secret: str | None
    token: str | None
    origin: str
    """Where the credential comes from, in words for a message."""
    authorities: str | None = None
    """By which the endpoint is to be verified, in PEM; None: as the environment says."""

    def __repr__(self) -> str:
        return f"Access(endpoint={self.endpoint!r}, region={self.region!r}, origin={self.origin!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("endpoint", self.endpoint), ("region", self.region), ("origin", self.origin)]


def access_from(environ: Mapping[str, str], credential: Credential | None) -> Access:
    """How to ask. Raises Unauthorized for a Secret that lacks something, Unsupported for settings that cannot work."""
    origin = "the environment" if credential is None else "spec.source.secretRef"
    values = {key: value.strip() for key, value in (environ if credential is None else credential.values).items()}
    endpoint = values.get("AWS_ENDPOINT_URL_S3") or values.get("AWS_ENDPOINT_URL") or None
    region = values.get("AWS_REGION") or values.get("AWS_DEFAULT_REGION") or None
    _check_settings(endpoint, region, origin)
    style = values.get("AWS_S3_ADDRESSING_STYLE", "").lower() or ("path" if endpoint else "auto")
    if style not in _STYLES:
        raise Unsupported(f"AWS_S3_ADDRESSING_STYLE in {origin} must be one of {', '.join(_STYLES)}.")
    unsigned = values.get("AWS_NO_SIGN_REQUEST", "").lower()
    if unsigned not in (*_YES, *_NO):
        raise Unsupported(f"AWS_NO_SIGN_REQUEST in {origin} must be true or false.")
    key_id = secret = token = None
    if credential is not None and unsigned not in _YES:
        key_id, secret = values.get("AWS_ACCESS_KEY_ID"), values.get("AWS_SECRET_ACCESS_KEY")
        token = values.get("AWS_SESSION_TOKEN") or None
        if not key_id or not secret:
            raise Unauthorized(
                f"The Secret of {origin} has {_named(sorted(values))}: it needs AWS_ACCESS_KEY_ID and "
                f"AWS_SECRET_ACCESS_KEY, or AWS_NO_SIGN_REQUEST=true for a public bucket, and no secretRef.key."
            )
        _check_credential(origin, AWS_ACCESS_KEY_ID=key_id, AWS_SECRET_ACCESS_KEY=secret, AWS_SESSION_TOKEN=token)
    return Access(
        endpoint=endpoint.rstrip("/") if endpoint else None,
        region=region,
        style=cast(Style, style),
        anonymous=unsigned in _YES,
        key_id=key_id,
        secret=secret,
        token=token,
        origin=origin,
        authorities=credential.values.get(CA_KEY) if credential is not None else None,
    )


def _check_settings(endpoint: str | None, region: str | None, origin: str) -> None:
    if endpoint is not None and not is_endpoint(endpoint):
        # It is not repeated: somebody may have put a password into it.
        raise Unsupported(f"AWS_ENDPOINT_URL in {origin} must be http(s)://host[:port], without user or query.")
    if region is not None and not _REGION.fullmatch(region):
        raise Unsupported(f"AWS_REGION in {origin} cannot be the name of a region: write it as in eu-west-1.")


def _check_credential(origin: str, **values: str | None) -> None:
    """They become part of a header: what must not be in one would look like a server that cannot be reached."""
    for name, value in values.items():
        if value is not None and not (value.isascii() and value.isprintable() and " " not in value):
            raise Unauthorized(
                f"{name} in {origin} contains blanks, control characters or letters beyond ASCII: store it alone."
            )


def _named(keys: list[str]) -> str:
    return f"the keys {', '.join(keys)}" if keys else "none of the keys for S3"
