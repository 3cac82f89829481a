"""From an exception to what the user is told and when it is tried again: one table for the whole agent.

*Permanent* means that trying again changes nothing until somebody changes the DynamoModel, its Secret or the source. Even
that is tried again from time to time, because the source may be what changes; everything else with exponential backoff.
"""

from __future__ import annotations

import traceback
from typing import NamedTuple

from agent.store import (
    BlobMissing,
    IndexFailed,
    NotAdmitted,
    PublishConflict,
    RecordError,
    StoreError,
    StoreFull,
)
from agent.transfer.errors import InsufficientStorage, IntegrityError
from modelcache.manifest import ManifestError
from modelcache.sources.base import Credential
from modelcache.sources.errors import SourceError

MANIFEST_UNAVAILABLE = "ManifestUnavailable"
"""Reason of a failure that a new connection to the controller may end."""

RETRY_BASE = 1.0
RETRY_CAP = 60.0
"""Seconds between tries of what may succeed by itself."""
PERMANENT_RETRY = 600.0
"""Seconds until a permanent failure is tried again without a change."""

_SHORTEST_SECRET = 6
"""Characters; a shorter part would blank ordinary words."""


class ManifestUnavailable(Exception):
    """The controller did not give a manifest now; asking again may help. The message says why."""


class Refused(Exception):
    """What is wanted cannot be done as it is (a `Refuse` of the plan)."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Failure(NamedTuple):
    """`reason` is CamelCase, `message` a sentence for the user. `retry_after`: the least number of seconds to wait.

    `needs`: bytes of the disk that it takes to go on, where that is what is missing.
    """

    reason: str
    message: str
    permanent: bool
    retry_after: float | None = None
    needs: int | None = None


def redacted(text: str, credential: Credential | None) -> str:
    """`text` without the values of `credential`.

    The second line of defence: no message of ours contains one, but the standard library quotes a header that it refuses,
    and a token that was pasted with a line break is such a header.
    """
    for value in credential.secrets() if credential is not None else ():
        for part in sorted({value, *value.split()}, key=len, reverse=True):
            if len(part) >= _SHORTEST_SECRET:
                text = text.replace(part, "***")
    return text


def failure_of(error: Exception) -> Failure | None:
    """How `error` is reported; None for one that nobody has thought of."""
    if isinstance(error, Refused):
        return Failure(error.reason, error.message, permanent=True)
    if isinstance(error, IntegrityError):
        return Failure("DigestMismatch", str(error), permanent=True)
    if isinstance(error, SourceError):
        return Failure(error.reason, error.message, not error.retryable, error.retry_after)
    if isinstance(error, InsufficientStorage):
        return Failure("InsufficientStorage", str(error), permanent=False, needs=error.needs)
    if isinstance(error, StoreFull):
        return Failure("InsufficientStorage", str(error), permanent=False)
    if isinstance(error, ManifestUnavailable):
        return Failure(MANIFEST_UNAVAILABLE, f"The manifest could not be fetched: {error}.", permanent=False)
    if isinstance(error, ManifestError):
        return Failure("InvalidManifest", f"The manifest cannot be used: {error}.", permanent=True)
    return _store_failure(error) if isinstance(error, StoreError) else None


def told(error: Exception, credential: Credential | None) -> tuple[Failure, str]:
    """What is told about any error, without the values of `credential`; and the traceback of one that nobody expected."""
    failure, trace = failure_of(error), ""
    if failure is None:
        trace = redacted("".join(traceback.format_exception(error)), credential)
        failure = Failure("InternalError", f"{type(error).__name__} in the agent; see its log.", permanent=False)
    return failure._replace(message=redacted(failure.message, credential)), trace


def _store_failure(error: StoreError) -> Failure:
    if isinstance(error, BlobMissing | NotAdmitted):
        return Failure("ContentMissing", str(error), permanent=False)
    if isinstance(error, PublishConflict):
        return Failure("PublishConflict", str(error), permanent=True)
    if isinstance(error, RecordError):
        return Failure("InvalidReference", str(error), permanent=True)
    if isinstance(error, IndexFailed):
        return Failure("IndexFailed", str(error), permanent=False)
    return Failure("StorageError", str(error), permanent=False)
