"""Get and list: which objects, at which version, in which page.

A paged list shows one moment: the first page fixes the version, the continue token carries it, and the store undoes later
changes. Parameters that contradict each other are refused in the words of
k8s.io/apimachinery/pkg/apis/meta/internalversion/validation.
"""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import msgspec

from local.kube import causes, errors
from local.kube.causes import Cause
from local.kube.conversion import view
from local.kube.resources import Resource
from local.kube.selectors import EVERY_FIELD, EVERY_LABEL, FieldSelector, LabelSelector
from local.kube.store import Expired, Store, Stored, key_of

EXACT, NOT_OLDER = "Exact", "NotOlderThan"

_CONTINUE_EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without the "
    "continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing "
    "with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the "
    "time the first chunk was returned and now may show up in the list."
)


@dataclass(frozen=True)
class Selection:
    """Which objects of a resource a request is about; all namespaces when `namespace` is empty."""

    namespace: str = ""
    labels: LabelSelector = EVERY_LABEL
    fields: FieldSelector = EVERY_FIELD

    @property
    def is_everything(self) -> bool:
        """Whether no selector narrows the collection."""
        return not self.labels.requirements and not self.fields.terms

    def matches(self, resource: Resource, stored: Stored) -> bool:
        """Whether the object, as this version shows it, is selected."""
        if self.namespace and stored.namespace != self.namespace:
            return False
        if self.is_everything:
            return True
        obj = view(resource, stored)
        return self.labels.matches(obj) and self.fields.matches(obj)


@dataclass(frozen=True)
class ListOptions:
    """Query parameters of a list or watch."""

    limit: int = 0
    continue_token: str = ""
    version: str = ""
    version_match: str = ""
    send_initial_events: bool | None = None


@dataclass(frozen=True)
class Page:
    """A part of a collection at one version. `remaining` is None when it is not known."""

    items: list[Stored]
    version: int
    continue_token: str = ""
    remaining: int | None = None


def read_page(store: Store, resource: Resource, selection: Selection, options: ListOptions) -> Page:
    """The page that the options ask for. Raises ApiError 400, 410, 422 or 504."""
    _check(options)
    storage = resource.storage_key
    after, version = "", 0
    if options.continue_token:
        version, after = _parse_token(options.continue_token)
        if options.version not in ("", "0"):
            raise errors.bad_request("specifying resource version is not allowed when using continue")
    elif options.version:
        version = _exact_version(store, options)
    shown_at = version if version > 0 else store.version
    try:
        items = (
            store.items_at(storage, version, selection.namespace, after)
            if version > 0
            else store.items(storage, selection.namespace, after)
        )
    except Expired as expired:
        if not options.continue_token:
            raise errors.expired(str(expired)) from None
        raise errors.expired(_CONTINUE_EXPIRED, _token(-1, after)) from None
    return _paged(resource, selection, options, items, shown_at)


def _paged(
    resource: Resource, selection: Selection, options: ListOptions, items: Iterator[Stored], version: int
) -> Page:
    matching = items if selection.is_everything else (s for s in items if selection.matches(resource, s))
    if options.limit <= 0:
        return Page(list(matching), version)
    page = list(islice(matching, options.limit))
    following = next(matching, None)
    if following is None:
        return Page(page, version)
    remaining = 1 + sum(1 for _ in matching) if selection.is_everything else None
    last = page[-1]
    return Page(page, version, _token(version, key_of(last.namespace, last.name)), remaining)


def parse_version(text: str) -> int:
    """A resourceVersion parameter as a number. Raises ApiError 422."""
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal()) or int(text) >= 2**64:
        detail = f"strconv.ParseUint: parsing {causes.go_quote(text)}: invalid syntax"
        raise errors.invalid_options("ListOptions", [causes.invalid("resourceVersion", text, detail)])
    return int(text)


def _exact_version(store: Store, options: ListOptions) -> int:
    """The version that must be shown exactly; 0 when the present will do."""
    version = parse_version(options.version)
    if version > store.version:
        raise errors.too_large_resource_version(version, store.version)
    # A limit without a match is the oldest form of "exactly this version".
    exact = options.version_match == EXACT or (options.limit > 0 and not options.version_match)
    return version if exact else 0


def _check(options: ListOptions) -> None:
    problems: list[Cause] = []
    match = options.version_match
    if options.send_initial_events is not None:
        problems.append(causes.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    if match:
        path = "resourceVersionMatch"
        if not options.version:
            problems.append(
                causes.forbidden(path, "resourceVersionMatch is forbidden unless resourceVersion is provided")
            )
        if options.continue_token:
            problems.append(causes.forbidden(path, "resourceVersionMatch is forbidden when continue is provided"))
        if match not in (EXACT, NOT_OLDER):
            problems.append(causes.not_supported(path, match, [EXACT, NOT_OLDER, ""]))
        if match == EXACT and options.version == "0":
            problems.append(causes.forbidden(path, 'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'))
    if problems:
        raise errors.invalid_options("ListOptions", problems)


class _Token(msgspec.Struct):
    v: str
    rv: int
    start: str


def _token(version: int, last_key: str) -> str:
    encoded = msgspec.json.encode(_Token("meta.k8s.io/v1", version, last_key + "\0"))
    return base64.urlsafe_b64encode(encoded).decode().rstrip("=")


def _parse_token(text: str) -> tuple[int, str]:
    """(version, key to go on behind); the version is -1 in a token that accepts inconsistency."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        token = msgspec.json.decode(raw, type=_Token)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise errors.bad_request(f"continue key is not valid: {error}") from None
    if token.v != "meta.k8s.io/v1" or token.rv == 0:
        raise errors.bad_request(
            f"continue key is not valid: server does not recognize this encoded version {token.v!r}"
        )
    return token.rv, token.start.rstrip("\0")
