"""What the user is told about each failure, and that no secret is in it."""

from __future__ import annotations

import pytest

from agent.failures import ManifestUnavailable, Refused, failure_of, redacted
from agent.store import (
    BlobMissing,
    IndexFailed,
    PublishConflict,
    RecordError,
    StoreFull,
    StoreIOError,
)
from agent.transfer import InsufficientStorage, IntegrityError
from modelcache.manifest import ManifestError
from modelcache.sources.base import Credential
from modelcache.sources.errors import NotFound, RateLimited, Unauthorized, Unreachable


@pytest.mark.parametrize(
    ("error", "reason", "permanent"),
    [
        (IntegrityError("w.bin", kind="sha256", expected="e" * 64, actual="a" * 64), "DigestMismatch", True),
        (Refused("ChecksumMismatch", "two trees"), "ChecksumMismatch", True),
        (NotFound("gone"), "NotFound", True),
        (Unauthorized("no"), "Unauthorized", True),
        (Unreachable("no answer"), "Unreachable", False),
        (RateLimited("slowly", retry_after=7.0), "RateLimited", False),
        (InsufficientStorage("full", needs=2, free=1), "InsufficientStorage", False),
        (StoreFull("full", 28), "InsufficientStorage", False),
        (StoreIOError("broken", 5), "StorageError", False),
        (IndexFailed("locked"), "IndexFailed", False),
        (BlobMissing("gone"), "ContentMissing", False),
        (PublishConflict("taken"), "PublishConflict", True),
        (RecordError("bad ref"), "InvalidReference", True),
        (ManifestUnavailable("UNAVAILABLE"), "ManifestUnavailable", False),
        (ManifestError("bad path"), "InvalidManifest", True),
    ],
)
def test_every_known_failure_has_a_reason_and_a_pace(error: Exception, reason: str, permanent: bool) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert (failure.reason, failure.permanent) == (reason, permanent)
    assert str(error) in failure.message


def test_a_file_with_wrong_content_is_named_with_both_digests() -> None:
    failure = failure_of(IntegrityError("sub/w.bin", kind="sha256", expected="e" * 64, actual="a" * 64))
    assert failure is not None
    assert all(part in failure.message for part in ("sub/w.bin", "e" * 64, "a" * 64))


def test_the_source_may_ask_for_patience() -> None:
    failure = failure_of(RateLimited("slowly", retry_after=7.0))
    assert failure is not None
    assert failure.retry_after == 7.0


def test_what_nobody_has_thought_of_is_not_explained() -> None:
    assert failure_of(ZeroDivisionError()) is None


def test_a_credential_is_blanked_also_in_the_form_of_a_representation() -> None:
    token = "hf_canary\nsecond-line"
    text = f"Invalid header value {('Bearer ' + token)!r}"
    assert "canary" not in redacted(text, Credential({"token": token}))
    assert "second-line" not in redacted(text, Credential({"token": token}))
    assert redacted("hf_canary at the end: hf_canary", Credential({"t": "hf_canary"})) == "*** at the end: ***"


def test_short_values_and_no_credential_leave_the_text_alone() -> None:
    assert redacted("the user is me", Credential({"user": "me"})) == "the user is me"
    assert redacted("as it is", None) == "as it is"
