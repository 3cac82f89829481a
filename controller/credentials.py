"""Source credentials: read from the Secret that a DynamoModel names, kept in memory, handed to sources and agents.

Secrets are read one at a time and when they are needed, never listed or watched: the controller then needs only `get`, and
holds no Secret that no DynamoModel points at. The price is that a changed Secret is noticed at the next try, not at once.

Values never appear in messages, logs, events or the status. `scrub` is the last line of defence for texts that come from
libraries and servers: an error that quotes a request could quote a token.
"""

from __future__ import annotations

import base64

import msgspec

from controller.request import Problem
from modelcache.api.spec import SecretRef
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import Forbidden, Invalid, NotFound
from modelcache.kube.resources import SECRETS
from modelcache.sources.base import Credential
from modelcache.sources.http import SECRET_KEYS as HTTP_KEYS
from modelcache.sources.s3_access import SECRET_KEYS as S3_KEYS
from modelcache.sources.tls import CA_KEY

DEFAULT_KEYS = {"hf": ("token", "HF_TOKEN")}
"""Keys of the Secret that are tried when spec.source.secretRef.key is not given, per scheme."""
TOKEN_KEYS = {"hf": "token", "https": "token", "http": "token"}
"""Under which key sources look for what is one token, under whichever key the user keeps it."""
SEVERAL_KEYS = {"s3": S3_KEYS, "https": HTTP_KEYS, "http": HTTP_KEYS}
"""Schemes whose credential has several parts: all of these keys that the Secret has. Of other schemes, all there are."""

OWN_AUTHORITIES = frozenset({"hf", "https", "http", "s3"})
"""Schemes whose servers may be verified by certificate authorities of the Secret: CA_KEY, beside the credential or alone."""

AUTHORITY_TYPE = "modelcache.nvidia.com/certificate-authority"
"""Type of the Secret with the key of our own certificate authority (`controller.trust`), which is never a credential."""

_MIN_SCRUBBED = 4
"""Shorter values are not searched for in texts: they would match by accident, and are no secrets."""


class _Secret(msgspec.Struct, frozen=True):
    data: dict[str, str] | None = None
    type: str = ""

    def __repr__(self) -> str:
        return f"_Secret(keys={sorted(self.data or {})})"


class SecretProblem(Exception):
    """The credential cannot be had; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


async def read_credential(client: KubeClient, namespace: str, ref: SecretRef, scheme: str) -> Credential:
    """The credential that `ref` points at. Raises SecretProblem, and KubeError when the API cannot be asked."""
    where = f"{namespace}/{ref.name}"
    try:
        secret = await client.get(SECRETS, ref.name, namespace, into=_Secret)
    except NotFound:
        message = f"spec.source.secretRef names the Secret {where}, which does not exist; create it in this namespace."
        raise SecretProblem(Problem("SecretNotFound", message)) from None
    except Forbidden:
        message = f"The controller may not read the Secret {where}; allow `get` on secrets to its ServiceAccount."
        raise SecretProblem(Problem("SecretForbidden", message)) from None
    except Invalid as error:
        raise SecretProblem(Problem("SecretNotFound", f"{where} cannot be read: {error.message}")) from None
    if secret.type == AUTHORITY_TYPE:
        # Credentials go to nodes, and this key is all that tells one node from another.
        message = (
            f"The Secret {where} belongs to the model cache itself; name the one with the credential of the source."
        )
        raise SecretProblem(Problem("SecretForbidden", message))
    return Credential(_values(secret.data or {}, where, ref, scheme))


def _values(data: dict[str, str], where: str, ref: SecretRef, scheme: str) -> dict[str, str]:
    defaults = DEFAULT_KEYS.get(scheme)
    if ref.key is None and defaults is None:
        read = SEVERAL_KEYS.get(scheme)
        return {key: _text(data, key, where) for key in data if read is None or key in read}
    wanted = (ref.key,) if ref.key is not None else defaults or ()
    # It has a name of its own beside whichever key the token has.
    authorities = (CA_KEY,) if CA_KEY in data and scheme in OWN_AUTHORITIES and ref.key != CA_KEY else ()
    for key in wanted:
        if key in data:
            token = {TOKEN_KEYS.get(scheme, key): _text(data, key, where)}
            return token | {key: _text(data, key, where) for key in authorities}
    if authorities and ref.key is None and data.keys() == {CA_KEY}:
        return {CA_KEY: _text(data, CA_KEY, where)}
    keys = " or ".join(f"{key!r}" for key in wanted)
    message = f"The Secret {where} has no key {keys}; add it, or name another one in spec.source.secretRef.key."
    raise SecretProblem(Problem("SecretNotFound", message))


def _text(data: dict[str, str], key: str, where: str) -> str:
    try:
        # A newline at the end comes from `--from-file` and would make an invalid header.
        value = base64.b64decode(data[key], validate=True).decode().strip()
    except ValueError:
        message = f"Key {key!r} of the Secret {where} is not text; store the token itself."
        raise SecretProblem(Problem("SecretInvalid", message)) from None
    readable = value.replace("\r", "").replace("\n", "") if key == CA_KEY else value
    if not value or not readable.isprintable():
        message = f"Key {key!r} of the Secret {where} is empty or contains control characters; store the token itself."
        raise SecretProblem(Problem("SecretInvalid", message))
    return value


def scrub(text: str, credential: Credential | None) -> str:
    """`text` without any value of `credential`."""
    for value in credential.secrets() if credential else ():
        if len(value) >= _MIN_SCRUBBED:
            text = text.replace(value, "***")
    return text
