"""Kubernetes' own functions: lists, sets, URLs and quantities.

k8s.io/apiserver, pkg/cel/library (lists.go, urls.go, quantity.go) and cel-go's `sets` library.
"""

import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from local.kube.cel.functions import CelError, Overload, function, method
from local.kube.cel.types import BOOL, DOUBLE, DURATION, INT, STRING, TIMESTAMP, UINT, Type, list_of, map_of, opaque
from local.kube.cel.values import IntType, Opaque, UintType, equal

A = Type("var", name="A")
URL = opaque("kubernetes.URL")
QUANTITY = opaque("kubernetes.Quantity")


# --- lists and sets -----------------------------------------------------------------------------------------------


def _lists() -> Iterator[Overload]:
    for kind in (INT, UINT, DOUBLE, BOOL, STRING, TIMESTAMP, DURATION):
        items = list_of(kind)
        yield method("isSorted", (items,), BOOL, _is_sorted)
        yield method("min", (items,), kind, _extreme(min))
        yield method("max", (items,), kind, _extreme(max))
    yield method("sum", (list_of(INT),), INT, lambda items: _sum(items, IntType(0)))
    yield method("sum", (list_of(UINT),), UINT, lambda items: _sum(items, UintType(0)))
    yield method("sum", (list_of(DOUBLE),), DOUBLE, lambda items: _sum(items, 0.0))
    yield method(
        "sum", (list_of(DURATION),), DURATION, lambda items: _sum(items[1:], items[0]) if items else timedelta(0)
    )
    yield method("indexOf", (list_of(A), A), INT, lambda items, item: _index(items, item, range(len(items))))
    yield method(
        "lastIndexOf", (list_of(A), A), INT, lambda items, item: _index(items, item, range(len(items) - 1, -1, -1))
    )
    yield function("sets.contains", (list_of(A), list_of(A)), BOOL, _contains)
    yield function("sets.equivalent", (list_of(A), list_of(A)), BOOL, lambda a, b: _contains(a, b) and _contains(b, a))
    yield function("sets.intersects", (list_of(A), list_of(A)), BOOL, lambda a, b: any(_holds(b, item) for item in a))


def _is_sorted(items: list[Any]) -> bool:
    return all(first <= second for first, second in pairwise(items))


def _extreme(choose: Callable[[list[Any]], Any]) -> Callable[[list[Any]], Any]:
    def apply(items: list[Any]) -> Any:
        if not items:
            raise CelError(f"{choose.__name__} called on empty list")
        return choose(items)

    return apply


def _sum(items: list[Any], start: Any) -> Any:
    total = start
    try:
        for item in items:
            total = total + item
    except (ValueError, OverflowError):
        raise CelError("integer overflow") from None
    return total


def _index(items: list[Any], item: Any, places: range) -> IntType:
    return IntType(next((index for index in places if equal(items[index], item)), -1))


def _holds(items: list[Any], item: Any) -> bool:
    return any(equal(item, other) for other in items)


def _contains(items: list[Any], wanted: list[Any]) -> bool:
    return all(_holds(items, item) for item in wanted)


# --- URLs ---------------------------------------------------------------------------------------------------------


class Url(Opaque):
    """An absolute URL or an absolute path, as Go's url.ParseRequestURI accepts them."""

    type_name = URL.name

    def __init__(self, text: str) -> None:
        self.parts = urlsplit(text)
        # Ports beyond digits are refused by Go when it parses, by Python when it reads.
        if self.parts.netloc:
            _ = self.parts.port

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other.parts == self.parts

    def __hash__(self) -> int:
        return hash(self.parts)

    @property
    def host(self) -> str:
        """Host and port, with the brackets of an IPv6 address."""
        return self.parts.netloc.rpartition("@")[2]


_URL_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


def _url(text: str) -> Url:
    if not text or any(ord(char) <= 0x20 or ord(char) == 0x7F for char in text):
        raise CelError(f"URL parse error during conversion from string: invalid URI {text!r}")
    absolute = _URL_SCHEME.match(text) is not None
    if not (absolute or text.startswith("/")):
        raise CelError(f"URL parse error during conversion from string: parse {text!r}: invalid URI for request")
    try:
        return Url(text)
    except ValueError as error:
        raise CelError(f"URL parse error during conversion from string: {error}") from None


def _succeeds(operation: Callable[[str], Any]) -> Callable[[str], bool]:
    def apply(text: str) -> bool:
        try:
            operation(text)
        except CelError:
            return False
        return True

    return apply


def _urls() -> Iterator[Overload]:
    yield function("url", (STRING,), URL, _url)
    yield function("isURL", (STRING,), BOOL, _succeeds(_url))
    yield method("getScheme", (URL,), STRING, lambda url: url.parts.scheme)
    yield method("getHost", (URL,), STRING, lambda url: url.host)
    yield method("getHostname", (URL,), STRING, lambda url: _hostname(url.host))
    yield method("getPort", (URL,), STRING, lambda url: str(url.parts.port or ""))
    yield method("getEscapedPath", (URL,), STRING, lambda url: url.parts.path)
    yield method("getPath", (URL,), STRING, lambda url: unquote(url.parts.path))
    query = map_of(STRING, list_of(STRING))
    yield method("getQuery", (URL,), query, lambda url: parse_qs(url.parts.query, keep_blank_values=True))


def _hostname(host: str) -> str:
    return host[1 : host.index("]")] if host.startswith("[") and "]" in host else host.partition(":")[0]


# --- quantities ---------------------------------------------------------------------------------------------------

_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(|[KMGTPE]i|[numkMGTPE]|[eE][+-]?\d+)$")
_SUFFIXES: dict[str, Decimal] = {
    "": Decimal(1),
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
    **{letter: Decimal(1000) ** power for power, letter in enumerate("numbkMGTPE", start=-3) if letter != "b"},
}


class Quantity(Opaque):
    """A number with a unit suffix, exactly."""

    type_name = QUANTITY.name

    def __init__(self, value: Decimal) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantity) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


def parse_quantity(text: str) -> Quantity:
    """`1.5Gi`, `100m`, `2e3`. Raises CelError."""
    match = _QUANTITY.match(text)
    if match is None:
        raise CelError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    number, suffix = match.groups()
    factor = _SUFFIXES.get(suffix)
    return Quantity(Decimal(number) * (factor if factor is not None else Decimal(10) ** int(suffix[1:])))


def _quantities() -> Iterator[Overload]:
    yield function("quantity", (STRING,), QUANTITY, parse_quantity)
    yield function("isQuantity", (STRING,), BOOL, _succeeds(parse_quantity))
    yield method("sign", (QUANTITY,), INT, lambda value: IntType(_sign(value.value)))
    yield method("isInteger", (QUANTITY,), BOOL, _is_integer)
    yield method("asInteger", (QUANTITY,), INT, _as_integer)
    yield method("asApproximateFloat", (QUANTITY,), DOUBLE, lambda value: float(value.value))
    yield method("isGreaterThan", (QUANTITY, QUANTITY), BOOL, lambda a, b: a.value > b.value)
    yield method("isLessThan", (QUANTITY, QUANTITY), BOOL, lambda a, b: a.value < b.value)
    yield method("compareTo", (QUANTITY, QUANTITY), INT, lambda a, b: IntType(_sign(a.value - b.value)))
    for other, value in ((QUANTITY, lambda item: item.value), (INT, lambda item: Decimal(int(item)))):
        yield method("add", (QUANTITY, other), QUANTITY, lambda a, b, value=value: Quantity(a.value + value(b)))
        yield method("sub", (QUANTITY, other), QUANTITY, lambda a, b, value=value: Quantity(a.value - value(b)))


def _sign(value: Decimal) -> int:
    return (value > 0) - (value < 0)


def _is_integer(quantity: Quantity) -> bool:
    return quantity.value == quantity.value.to_integral_value() and abs(quantity.value) < 2**63


def _as_integer(quantity: Quantity) -> IntType:
    if not _is_integer(quantity):
        raise CelError("cannot convert value to integer")
    return IntType(int(quantity.value))


KUBERNETES: tuple[Overload, ...] = (*_lists(), *_urls(), *_quantities())
