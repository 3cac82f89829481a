"""What origins say beside the status: codes in the bodies of errors, and versions in the heads of answers.

S3 and its kin put a code into the body of an error. Two of them change what is to be done: an expired signature comes as
400, which otherwise means a request that makes no sense, and `SlowDown` as 503, which otherwise means a server in trouble. The
code is shown as well, because people search for it; nothing else of the body is.
"""

from __future__ import annotations

import re
from email.message import Message

from modelcache.sources.http import LAST_MODIFIED

EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired", "RequestExpired", "InvalidToken"})
"""Codes with which a signed address is not accepted any more; a new one may be."""

ARCHIVED = "InvalidObjectState"
"""Code for an object of an archive (S3 Glacier), which comes as 403 as if a permission were missing."""

_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")


def refusal_code(content_type: str, body: bytes) -> str:
    """The code in the body of an error; empty without one."""
    if "xml" not in content_type.lower():
        return ""
    match = _CODE.search(body)
    return match[1].decode() if match else ""


def another_version(wanted: str | None, headers: Message, *, digested: bool) -> str:
    """The version that an answer is of, where that is not the `wanted` one; else empty.

    Servers that know nothing of conditional requests answer with whatever they have now. An answer that tells no version is
    good enough for a file whose digest will show what came (`digested`), and else might be mixed with another one's.
    """
    if wanted is None:
        return ""
    name = "Last-Modified" if wanted.startswith(LAST_MODIFIED) else "ETag"
    found = headers.get(name, "").strip()
    if not found:
        return "" if digested else f"no {name}"
    return f"{name} {found}" if _opaque(found) != _opaque(wanted.removeprefix(LAST_MODIFIED)) else ""


def _opaque(etag: str) -> str:
    return etag.strip().removeprefix("W/").strip('"')
