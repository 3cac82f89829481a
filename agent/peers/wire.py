"""The protocol between agents, as pure text: what is asked, what is answered, what is refused. HTTP/1.1 (RFC 9110).

    GET /v1/blobs/<key>            with `Range: bytes=<first>-<last>`, inside one piece
        206   Content-Range, X-Piece-XXH3 (the xxh3-128 of the whole piece), X-Piece-Via (the nodes that it went through,
              from the one that read the origin to the one that sends it), the bytes
        307   Location: another agent that has the piece; this one has its hands full
        400   not a digest and a range     403   not for this node     404   neither here nor on its way
        416   beyond the end, or across pieces
        503   not yet, or too busy: Retry-After (0: it is under way, ask again), and in X-Origin-Bytes how much was read from
              the origin: it is at work
    GET /v1/blobs/<key>/pieces     which pieces are here: {"size", "piece_bytes", "complete", "bitmap", "reading", "digests"}

`complete` means: checked with the digest of the whole. `bitmap` is hex, piece 0 in the highest bit of the first byte;
`reading` is another one, of the pieces that are just being read from the origin. `digests` are the xxh3-128 of the pieces
that are here, hex, in ascending order, only when `?digests` was asked for: two agents compare them to find out which pieces
of a bad file differ. Who asks is told by the connection (with TLS) or by `X-Modelcache-Node`, and for the models of which
namespace by `X-Modelcache-Namespace`: content that is here for another one is not here. Older agents do not say it; they get an
answer where there can be no doubt. Everything else in a request is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from agent.peers.keys import ContentKey, parse_key
from agent.transfer.pieces import piece_count
from modelcache.manifest import MAX_FILE_BYTES

PREFIX = "/v1/blobs/"
NODE_HEADER = "X-Modelcache-Node"
NAMESPACE_HEADER = "X-Modelcache-Namespace"
DIGEST_HEADER = "X-Piece-XXH3"
VIA_HEADER = "X-Piece-Via"
PROGRESS_HEADER = "X-Origin-Bytes"
DIGEST_BYTES = 16
MIN_PIECE_BYTES = 4096
"""What an answer about pieces may claim at least, so that nobody makes us count a billion of them."""
MAX_ANSWER_BYTES = 48 * 1024 * 1024
"""Of an answer about pieces: 16 TiB in pieces of 16 MiB are a million digests of 32 hex digits."""

_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{1,15})")
_DIGEST = re.compile(r"[0-9a-f]{32}")
_TARGET_MAX = len(PREFIX) + 7 + 64 + len("/pieces?digests")


class BadRequest(Exception):
    """What was sent is no request of this protocol; the message says what is wrong with it."""


class Ask(NamedTuple):
    """A request. `first` and `last` (inclusive) are the range; without one it is about pieces."""

    key: ContentKey
    first: int = -1
    last: int = -1
    digests: bool = False

    @property
    def about_pieces(self) -> bool:
        """Whether the question is which pieces there are."""
        return self.last < 0


def parse_request(target: str, range_header: str | None) -> Ask:
    """The request with this target and Range header. Raises BadRequest."""
    if len(target) > _TARGET_MAX or not target.startswith(PREFIX):
        raise BadRequest("ask for /v1/blobs/<digest>")
    name = target.removeprefix(PREFIX)
    for suffix, digests in (("/pieces", False), ("/pieces?digests", True)):
        if name.endswith(suffix):
            return Ask(_key(name.removesuffix(suffix)), digests=digests)
    key = _key(name)
    match = _RANGE.fullmatch(range_header or "")
    if match is None:
        raise BadRequest("give one range as Range: bytes=<first>-<last>")
    first, last = int(match[1]), int(match[2])
    if not first <= last < MAX_FILE_BYTES:
        raise BadRequest(f"bytes {first} to {last} are no range of a file")
    return Ask(key, first, last)


def _key(text: str) -> ContentKey:
    key = parse_key(text)
    if key is None:
        raise BadRequest(
            "content is named by its digest, sha256:<64 hex digits> or git:<40 hex digits>, and nothing else"
        )
    return key


class Holding(NamedTuple):
    """Which pieces of a content an agent has, and which it is reading from the origin.

    `complete`: the content was checked as a whole. `digests` (16 bytes each, by piece) only where they were asked for.
    """

    size: int
    piece_bytes: int
    pieces: Collection[int]
    reading: Collection[int] = frozenset()
    complete: bool = False
    digests: Mapping[int, bytes] = MappingProxyType({})


class _Answer(msgspec.Struct):
    size: int
    piece_bytes: int
    complete: bool
    bitmap: str
    reading: str = ""
    digests: str = ""


def encode_holding(holding: Holding) -> bytes:
    """The JSON of an answer."""
    count = piece_count(holding.size, holding.piece_bytes)
    digests = "".join(holding.digests[index].hex() for index in sorted(holding.digests))
    answer = _Answer(
        size=holding.size,
        piece_bytes=holding.piece_bytes,
        complete=holding.complete,
        bitmap=_bitmap(holding.pieces, count),
        reading=_bitmap(holding.reading, count) if holding.reading else "",
        digests=digests,
    )
    return msgspec.json.encode(answer)


def decode_holding(data: bytes, size: int) -> Holding | None:
    """What a peer says about a content of `size` bytes; None when that cannot be."""
    try:
        answer = msgspec.json.decode(data, type=_Answer)
        digests = bytes.fromhex(answer.digests)
        if answer.size != size or answer.piece_bytes < MIN_PIECE_BYTES:
            return None
        count = piece_count(size, answer.piece_bytes)
        pieces = _indices(answer.bitmap, count)
        reading = _indices(answer.reading, count) if answer.reading else []
    except (msgspec.DecodeError, ValueError):
        return None
    if digests and len(digests) != len(pieces) * DIGEST_BYTES:
        return None
    parts = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
    by_piece = dict(zip(pieces, parts, strict=False)) if parts else {}
    return Holding(size, answer.piece_bytes, frozenset(pieces), frozenset(reading), answer.complete, by_piece)


def _bitmap(indices: Collection[int], count: int) -> str:
    bits = bytearray(-(-count // 8))
    for index in indices:
        bits[index // 8] |= 0x80 >> index % 8
    return bits.hex()


def _indices(bitmap: str, count: int) -> list[int]:
    """The indices below `count`, ascending. Raises ValueError."""
    bits = bytes.fromhex(bitmap)
    if len(bits) != -(-count // 8):
        raise ValueError(f"a bitmap of {len(bits)} bytes is none of {count} pieces")
    return [index for index in range(count) if bits[index // 8] & 0x80 >> index % 8]


def parse_digest(text: str | None) -> bytes | None:
    """The xxh3-128 in a header, None when it is none."""
    return bytes.fromhex(text) if text is not None and _DIGEST.fullmatch(text) else None


def parse_count(text: str | None) -> int:
    """The number of bytes in a header, 0 when it is none."""
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 19 else 0
