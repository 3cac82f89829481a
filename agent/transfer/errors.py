"""How a download can end without its files.

    TransferError
    ├── Cancelled              the caller asked for it; partials stay for the next time
    ├── InsufficientStorage    the files do not fit: `needs` and `free` in bytes
    └── IntegrityError         what arrived is not what the manifest says: `path`, `kind`, `expected`, `actual`

and, from where the bytes come from, the tree of `modelcache.sources.errors`: only errors that are not retryable leave a
download (`Unauthorized`, `NotFound`, `SourceChanged`, ...). Retryable ones are waited out, for ever; the reason and the time
of the next try are in the progress.
"""

from __future__ import annotations


class TransferError(Exception):
    """Base of what this package raises itself."""


class Cancelled(TransferError):
    """The cancel token of the download was set."""


class InsufficientStorage(TransferError):
    """The files do not fit on the disk. `needs` and `free` are bytes; `free` is what this download may use.

    `evictable` is what could be freed by removing what nobody wants or uses; None where nobody has looked. `withheld` is why
    that does not happen although it would help, as a clause.
    """

    def __init__(
        self, message: str, *, needs: int, free: int, evictable: int | None = None, withheld: str = ""
    ) -> None:
        could = "" if evictable is None else f"; {evictable} could be freed by evicting what nothing wants"
        could += f", but {withheld}" if withheld else ""
        super().__init__(f"{message}{could}; remove models or the pods that use them, or give the cache more room")
        self.facts = message
        self.needs = needs
        self.free = free
        self.evictable = evictable


class IntegrityError(TransferError):
    """The content of a file has another digest than the manifest says. `kind` is `sha256`, `git blob id` or `checksum`."""

    def __init__(self, path: str, *, kind: str, expected: str, actual: str) -> None:
        super().__init__(
            f"{path}: the {kind} of what the source sent is {actual}, the manifest says {expected}; fetched twice with "
            "the same result, so the source is damaged or was changed: check it there, or pin another revision"
        )
        self.path = path
        self.kind = kind
        self.expected = expected
        self.actual = actual
