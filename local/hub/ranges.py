"""HTTP ranges (RFC 9110 section 14), as far as a client of one file needs them: one range, in bytes."""

import re

_ONE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.IGNORECASE)


class Unsatisfiable(ValueError):
    """The range lies outside the file: 416."""


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """Return the first byte and the byte after the last that are asked for; None if the whole file is.

    What is malformed, in another unit or of several ranges is ignored, as the RFC allows. Raises Unsatisfiable.
    """
    match = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last = match[1], match[2]
    if not first and not last:
        return None
    if not first:
        length = int(last)
        if length == 0 or size == 0:
            raise Unsatisfiable
        return max(0, size - length), size
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise Unsatisfiable
    return start, min(int(last) + 1, size) if last else size
