"""The answer of a node that was asked what a source has: a listing, or why there is none, as JSON on the wire.

Some sources can be seen from nodes only (`file://`, `pvc://`). The controller still resolves: it asks one node to list, checks
the answer like that of any source, and makes the manifest of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from modelcache.sources.base import Credential, Resolution, Source, source_for
from modelcache.sources.errors import SourceError
from modelcache.sources.uri import SourceURI

LARGEST = 128 * 1024 * 1024
"""Bytes of an encoded answer: 200,000 files with paths of 500 characters."""


class Refused(msgspec.Struct, frozen=True):
    """A SourceError, as far as it matters to somebody else."""

    reason: str
    message: str
    retryable: bool = False
    retry_after: float | None = None


class Answer(msgspec.Struct, frozen=True):
    """Exactly one of the two is there."""

    resolution: Resolution | None = None
    refused: Refused | None = None

    def encode(self) -> bytes:
        """As it travels."""
        return msgspec.json.encode(self)

    @staticmethod
    def decode(data: bytes) -> Answer:
        """The answer in `data`. Raises ValueError with the reason; what is listed is as unchecked as any listing."""
        answer: Answer = msgspec.json.decode(data, type=Answer)
        if (answer.resolution is None) == (answer.refused is None):
            raise ValueError("neither a listing nor a refusal, or both")
        return answer


def ask(
    uri: SourceURI,
    revision: str | None,
    credential: Credential | None,
    include: Sequence[str],
    exclude: Sequence[str],
    find_source: Callable[[SourceURI], Source] = source_for,
) -> Answer:
    """Resolve here and now. Blocks. Raises nothing that a source may raise."""
    try:
        return Answer(find_source(uri).resolve(uri, revision, credential, include, exclude))
    except SourceError as error:
        return Answer(refused=Refused(error.reason, error.message, error.retryable, error.retry_after))
