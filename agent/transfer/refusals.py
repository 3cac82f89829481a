"""What an object store says beside the status: S3 and its kin put a code into the body of an error.

Two of them change what is to be done: an expired signature comes as 400, which otherwise means a request that makes no
sense, and `SlowDown` as 503, which otherwise means a server in trouble. The code is shown as well, because people search
for it; nothing else of the body is.
"""

from __future__ import annotations

import re

EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired", "RequestExpired", "InvalidToken"})
"""Codes with which a signed address is not accepted any more; a new one may be."""

_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,64})</Code>")


def refusal_code(content_type: str, body: bytes) -> str:
    """The code in the body of an error; empty without one."""
    if "xml" not in content_type.lower():
        return ""
    match = _CODE.search(body)
    return match[1].decode() if match else ""
