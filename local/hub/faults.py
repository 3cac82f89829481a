"""Misbehaving on purpose: what a hub, a proxy or a hostile repository can do to a client.

A fault is data (JSON for `POST /_faults`, a struct in Python) that says where it applies and how often. It stays, used up
or not, until it is removed, so that a test can ask whether it has been met (`applied`) instead of guessing.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import count
from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec

Stage = Literal["api", "resolve", "cdn"]
"""Which kind of address is asked: the model API, `/{id}/resolve/...`, or the signed address that it redirects to."""

_Natural = Annotated[int, msgspec.Meta(ge=0)]
_Positive = Annotated[int, msgspec.Meta(ge=1)]


class Target(msgspec.Struct, frozen=True):
    """What a request asks for."""

    stage: Stage
    repository: str = ""
    file: str = ""
    """Path in the repository; empty for the API."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True):
    """Base: applies to requests whose repository and file match the globs, `times` times (None: always)."""

    repository: str = "*"
    file: str = "*"
    times: _Positive | None = None


class Status(Fault, tag="status", kw_only=True, frozen=True):
    """Answer with an error status instead; 429 and 503 usually with `retry_after` seconds (or an HTTP date)."""

    status: Annotated[int, msgspec.Meta(ge=400, le=599)]
    retry_after: int | str | None = None
    on: Sequence[Stage] = ("api", "resolve", "cdn")


class Flip(Fault, tag="flip", kw_only=True, frozen=True):
    """Change the byte at `offset` of the file wherever a response includes it: same size, other content."""

    offset: _Natural
    xor: Annotated[int, msgspec.Meta(ge=1, le=255)] = 1


class Truncate(Fault, tag="truncate", kw_only=True, frozen=True):
    """Send at most `length` bytes and claim that this was all: a complete response with too few bytes."""

    length: _Natural


class Close(Fault, tag="close", kw_only=True, frozen=True):
    """Promise the whole body and close the connection after `after` bytes of it."""

    after: _Natural = 0


class Stall(Fault, tag="stall", kw_only=True, frozen=True):
    """Send `after` bytes of the body, then nothing until the fault is removed."""

    after: _Natural = 0


class IgnoreRange(Fault, tag="ignore_range", kw_only=True, frozen=True):
    """Answer a request for a range with 200 and the whole file."""


class Gzip(Fault, tag="gzip", kw_only=True, frozen=True):
    """Do what the hub's CDN does to text: compress for clients that accept it, without Content-Length, ignoring ranges."""


class Listing(Fault, tag="listing", kw_only=True, frozen=True):
    """Falsify what the tree and model APIs list; `append` and `override` are in the form of the tree API's entries."""

    append: Sequence[Mapping[str, Any]] = ()
    override: Mapping[str, Mapping[str, Any]] = {}
    """By path: fields to replace; a field that is null is left out."""


AnyFault = Status | Flip | Truncate | Close | Stall | IgnoreRange | Gzip | Listing

F = TypeVar("F", bound=Fault)


class Applied(Generic[F]):
    """A fault that has been added, and how often it was met."""

    def __init__(self, fault: F) -> None:
        self.fault = fault
        self.applied = 0
        self.removed = threading.Event()


class Faults:
    """The faults of one server."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids = count(1)
        self._added: dict[int, Applied[Fault]] = {}

    def add(self, fault: AnyFault) -> int:
        """Let `fault` happen from now on; return a number by which it can be removed."""
        with self._lock:
            number = next(self._ids)
            self._added[number] = Applied(fault)
            return number

    def remove(self, number: int) -> bool:
        """End one fault, and let go of who is stalled by it; return whether it existed."""
        with self._lock:
            applied = self._added.pop(number, None)
        if applied is not None:
            applied.removed.set()
        return applied is not None

    def clear(self) -> None:
        """End all faults."""
        for number in self.numbers():
            self.remove(number)

    def numbers(self) -> list[int]:
        """Return the numbers of all faults that were added and not removed."""
        with self._lock:
            return list(self._added)

    def applied(self, number: int) -> int:
        """Return how often a fault was met. Raises KeyError if it has been removed."""
        with self._lock:
            return self._added[number].applied

    def describe(self) -> list[dict[str, Any]]:
        """Return all faults for `GET /_faults`."""
        with self._lock:
            return [
                {"id": number, "applied": added.applied, "fault": msgspec.to_builtins(added.fault)}
                for number, added in self._added.items()
            ]

    def take(self, kind: type[F], target: Target, wanted: Callable[[F], bool] = lambda _: True) -> Applied[F] | None:
        """Return the oldest fault of a kind that applies to `target` and is not used up, and count it as met."""
        found = self._take(kind, target, wanted, limit=1)
        return found[0] if found else None

    def take_all(self, kind: type[F], target: Target, wanted: Callable[[F], bool] = lambda _: True) -> list[Applied[F]]:
        """Return all faults of a kind that apply to `target` and are not used up, and count them as met."""
        return self._take(kind, target, wanted, limit=None)

    def _take(self, kind: type[F], target: Target, wanted: Callable[[F], bool], limit: int | None) -> list[Applied[F]]:
        found: list[Applied[F]] = []
        with self._lock:
            for added in self._added.values():
                if limit is not None and len(found) == limit:
                    break
                fault = added.fault
                if not isinstance(fault, kind) or (fault.times is not None and added.applied >= fault.times):
                    continue
                if _matches(fault, target) and wanted(fault):
                    added.applied += 1
                    found.append(added)  # type: ignore[arg-type]  # isinstance above is not seen through Applied[Fault]
        return found


def falsify(entries: Sequence[Mapping[str, Any]], listing: Listing) -> list[dict[str, Any]]:
    """Return the entries as a hostile or broken hub would list them."""
    result: list[dict[str, Any]] = []
    for entry in entries:
        merged = {**entry, **listing.override.get(str(entry.get("path")), {})}
        result.append({key: value for key, value in merged.items() if value is not None})
    return [*result, *(dict(entry) for entry in listing.append)]


def _matches(fault: Fault, target: Target) -> bool:
    return fnmatchcase(target.repository, fault.repository) and fnmatchcase(target.file, fault.file)
