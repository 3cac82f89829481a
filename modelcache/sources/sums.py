"""`SHA256SUMS`: the digests of the files of a folder, as `sha256sum` prints them; used where a source has no digests itself.

One line for each file: 64 hex digits, a blank, a blank or `*` (text or binary, which is the same), and the path relative to the
folder. `sha256sum` marks lines whose path it had to escape with a backslash at the beginning: such paths could not be stored.
"""

from __future__ import annotations

import re

from modelcache.sources.errors import MalformedListing, UnsafePath

FILE_NAME = "SHA256SUMS"
LARGEST = 32 * 1024 * 1024
"""Bytes; 200,000 files with paths of 100 characters have 33 million."""

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")


def parse_sums(data: bytes, where: str) -> dict[str, str]:
    """Path -> sha256 in lower case, in the order of the file; `where` is its address for messages.

    Raises MalformedListing for anything else than such lines, and for a path with two digests; UnsafePath for an escaped one.
    """
    try:
        text = data.decode("utf-8-sig")  # as PowerShell writes it
    except UnicodeDecodeError:
        raise MalformedListing(f"{where} is not text: write it with sha256sum.") from None
    sums: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        if line.startswith("\\"):
            raise UnsafePath(f"{where}, line {number}: the file's name contains a line break or backslash; rename it.")
        match = _LINE.fullmatch(line)
        if match is None:
            raise MalformedListing(
                f"{where}, line {number}, is not '<sha256>  <path>': write it with sha256sum, without --tag."
            )
        path, digest = match[2].removeprefix("./"), match[1].lower()
        if sums.setdefault(path, digest) != digest:
            raise MalformedListing(f"{where} has two digests of {path[:200]!r}: write it again with sha256sum.")
    return sums
