"""Every way in which a source can fail, as one tree.

::

    SourceError                      base; never raised itself
    ├── InvalidURI                   the text is not a URI that we understand
    ├── Unsupported                  understood, but it cannot be read here, or not be stored
    │   └── MalformedListing         the source answered something that its protocol does not allow
    │       └── UnsafePath           a listed path that must never be written to a disk
    ├── NotFound                     no such repository, bucket, directory (or it is hidden from this credential)
    │   ├── RevisionNotFound         the repository exists, the branch, tag or commit does not
    │   └── EmptyRepository          nothing to cache: no files, or none left after include and exclude
    ├── Unauthorized                 a credential is missing, wrong or not sufficient
    │   └── LicenseNotAccepted       the credential is good, but its owner has to accept terms first
    ├── SourceChanged                a pinned revision no longer has the content that it was pinned with
    └── Unreachable                  no answer, or a server error                                       (retryable)
        └── RateLimited              the source asks for patience, `retry_after` says how long          (retryable)

Users see eight reasons, whatever the source (`REASONS`): what has no `reason` of its own has that of its parent, and differs
in the sentence only. A reason is what a person or an alert decides by, and more of them decide nothing else.

`reason` is CamelCase and stable: the `reason` of a condition, the label of a metric. The message is for the person who
wrote the DynamoModel: one or two sentences with what, why, and what to do next. Neither ever contains a credential.

Not retryable means: asking again changes nothing until somebody changes the DynamoModel, its Secret or the source. A
controller still asks again from time to time, because the source may be what changes; it just need not hurry.
"""

from typing import ClassVar


class SourceError(Exception):
    """Base of everything that a source may raise; see the module docstring for the tree."""

    reason: ClassVar[str] = "SourceError"
    retryable: ClassVar[bool] = False
    """Whether the same call may succeed soon although nobody changes anything."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        """Seconds that the source asked us to wait; None if it did not say."""


class InvalidURI(SourceError):
    """The text is not a URI that we understand."""

    reason = "InvalidURI"


class Unsupported(SourceError):
    """A valid URI, but nothing installed here can read it, or what it leads to cannot be read or stored."""

    reason = "Unsupported"


class NotFound(SourceError):
    """No such repository, bucket or directory; or it exists and is hidden from this credential."""

    reason = "NotFound"


class RevisionNotFound(NotFound):
    """The repository exists, but it has no such branch, tag or commit."""

    reason = "RevisionNotFound"


class Unauthorized(SourceError):
    """A credential is missing, wrong or not sufficient."""

    reason = "Unauthorized"


class LicenseNotAccepted(Unauthorized):
    """Whoever owns the credential has to accept the terms of a gated repository first."""


class EmptyRepository(NotFound):
    """There is nothing to cache: no files at all, or none that `include` and `exclude` leave."""


class MalformedListing(Unsupported):
    """The source answered something that its protocol does not allow, such as a file without a size."""


class UnsafePath(MalformedListing):
    """A listed path that must never be written to a disk, such as `../../etc/passwd`."""


class SourceChanged(SourceError):
    """A pinned revision no longer has the content with which it was pinned."""

    reason = "SourceChanged"


class Unreachable(SourceError):
    """No answer, or an answer that blames the server (5xx)."""

    reason = "Unreachable"
    retryable = True


class RateLimited(Unreachable):
    """The source asks for fewer requests (429); `retry_after` is what it asked for."""

    reason = "RateLimited"


REASONS = frozenset({
    "InvalidURI", "Unsupported", "NotFound", "RevisionNotFound", "Unauthorized", "SourceChanged", "Unreachable", "RateLimited",
})  # fmt: skip
"""All reasons that the sources here give."""
