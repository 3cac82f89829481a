"""The standard functions of CEL: operators, conversions, sizes, text and time.

Signatures: https://github.com/google/cel-spec/blob/master/doc/langdef.md#list-of-standard-definitions, with the mixed
numeric comparisons that Kubernetes switches on. Texts of errors are cel-go's.
"""

import math
import operator
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from local.kube.cel.functions import CelError, Overload, function, method
from local.kube.cel.types import (
    BOOL,
    BYTES,
    DOUBLE,
    DURATION,
    DYN,
    INT,
    STRING,
    TIMESTAMP,
    TYPE,
    UINT,
    Type,
    list_of,
    map_of,
    optional_of,
)
from local.kube.cel.values import (
    NONE,
    IntType,
    ObjectValue,
    Opaque,
    Optional,
    TypeValue,
    UintType,
    add_lists,
    equal,
    kind_of,
    parse_duration,
    parse_timestamp,
)
from local.kube.value_validation import compile_pattern

A, B = Type("var", name="A"), Type("var", name="B")


def checked(operation: Callable[..., Any], overflow: str) -> Callable[..., Any]:
    """Arithmetic whose range errors become CEL errors."""

    def apply(*args: Any) -> Any:
        try:
            return operation(*args)
        except ZeroDivisionError:
            raise CelError("modulus by zero" if operation is operator.mod else "division by zero") from None
        except (ValueError, OverflowError):
            raise CelError(overflow) from None

    return apply


def _divide(left: float, right: float) -> float:
    if right == 0:
        return math.nan if left == 0 or math.isnan(left) else math.copysign(math.inf, left) * math.copysign(1, right)
    return left / right


def _arithmetic() -> Iterator[Overload]:
    symbols: tuple[tuple[str, Callable[..., Any]], ...] = (
        ("_+_", operator.add),
        ("_-_", operator.sub),
        ("_*_", operator.mul),
        ("_/_", operator.truediv),
        ("_%_", operator.mod),
    )
    for name, operation in symbols:
        yield function(name, (INT, INT), INT, checked(operation, "integer overflow"))
        yield function(name, (UINT, UINT), UINT, checked(operation, "unsigned integer overflow"))
        if name != "_%_":
            on_floats = _divide if name == "_/_" else operation
            yield function(name, (DOUBLE, DOUBLE), DOUBLE, checked(on_floats, "double overflow"))
    yield function("-_", (INT,), INT, checked(operator.neg, "integer overflow"))
    yield function("-_", (DOUBLE,), DOUBLE, operator.neg)
    yield function("_+_", (STRING, STRING), STRING, operator.add)
    yield function("_+_", (BYTES, BYTES), BYTES, operator.add)
    yield function("_+_", (list_of(A), list_of(A)), list_of(A), add_lists)
    times = checked(operator.add, "timestamp overflow")
    yield function("_+_", (TIMESTAMP, DURATION), TIMESTAMP, times)
    yield function("_+_", (DURATION, TIMESTAMP), TIMESTAMP, times)
    yield function("_+_", (DURATION, DURATION), DURATION, checked(operator.add, "duration overflow"))
    yield function("_-_", (TIMESTAMP, TIMESTAMP), DURATION, operator.sub)
    yield function("_-_", (TIMESTAMP, DURATION), TIMESTAMP, checked(operator.sub, "timestamp overflow"))
    yield function("_-_", (DURATION, DURATION), DURATION, checked(operator.sub, "duration overflow"))


def _comparisons() -> Iterator[Overload]:
    numbers = (INT, UINT, DOUBLE)
    for name, compare in (("_<_", operator.lt), ("_<=_", operator.le), ("_>_", operator.gt), ("_>=_", operator.ge)):
        for kind in (BOOL, STRING, BYTES, TIMESTAMP, DURATION):
            yield function(name, (kind, kind), BOOL, compare)
        for left in numbers:
            for right in numbers:
                yield function(name, (left, right), BOOL, _comparing_numbers(compare))
    yield function("_==_", (A, A), BOOL, equal)
    yield function("_!=_", (A, A), BOOL, lambda left, right: not equal(left, right))


def _comparing_numbers(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def apply(left: Any, right: Any) -> bool:
        plain = [int(item) if isinstance(item, int) else float(item) for item in (left, right)]
        return compare(*plain)

    return apply


def _logic() -> Iterator[Overload]:
    # Evaluated by the evaluator: they do not need all of their arguments.
    yield Overload("conditional", "_?_:_", (BOOL, A, A), A, None)
    yield Overload("logical_and", "_&&_", (BOOL, BOOL), BOOL, None)
    yield Overload("logical_or", "_||_", (BOOL, BOOL), BOOL, None)
    yield Overload("not_strictly_false", "@not_strictly_false", (BOOL,), BOOL, None)
    yield function("!_", (BOOL,), BOOL, operator.not_)
    yield function("dyn", (A,), DYN, lambda value: value)
    yield function("type", (A,), TYPE, _type_of)


def _type_of(value: Any) -> TypeValue:
    kind = kind_of(value)
    names = {
        "null": "null_type",
        "timestamp": "google.protobuf.Timestamp",
        "duration": "google.protobuf.Duration",
        "optional": "optional_type",
    }
    return TypeValue(value.type_name if isinstance(value, Opaque) else names.get(kind, kind))


def _containers() -> Iterator[Overload]:
    yield function("@in", (A, list_of(A)), BOOL, lambda item, items: any(equal(item, other) for other in items))
    yield function("@in", (A, map_of(A, B)), BOOL, lambda key, items: _find(items, key) is not NONE)
    yield function("_[_]", (list_of(A), INT), A, _item)
    yield function("_[_]", (map_of(A, B), A), B, _entry)
    yield function("_[?_]", (list_of(A), INT), optional_of(A), _optional_item)
    yield function("_[?_]", (map_of(A, B), A), optional_of(B), _find)
    yield function("_[?_]", (optional_of(list_of(A)), INT), optional_of(A), _through(_optional_item))
    yield function("_[?_]", (optional_of(map_of(A, B)), A), optional_of(B), _through(_find))
    yield function("_[_]", (optional_of(list_of(A)), INT), optional_of(A), _through(_optional_item))
    yield function("_[_]", (optional_of(map_of(A, B)), A), optional_of(B), _through(_find))
    yield function("@mapInsert", (map_of(A, B), A, B), map_of(A, B), lambda entries, key, item: {**entries, key: item})
    for kind in (STRING, BYTES, list_of(A), map_of(A, B)):
        yield function("size", (kind,), INT, lambda value: IntType(len(value)))
        yield method("size", (kind,), INT, lambda value: IntType(len(value)))


def _item(items: list[Any], index: Any) -> Any:
    if not 0 <= index < len(items):
        raise CelError(f"index out of bounds: {index}")
    return items[index]


def _optional_item(items: list[Any], index: Any) -> Optional:
    return Optional(items[index]) if 0 <= index < len(items) else NONE


def _find(entries: dict[Any, Any], key: Any) -> Optional:
    for other, item in entries.items():
        if equal(other, key):
            return Optional(item)
    return NONE


def _entry(entries: dict[Any, Any], key: Any) -> Any:
    found = _find(entries, key)
    if not found.present:
        raise CelError(f"no such key: {key}")
    return found.value


def _through(operation: Callable[..., Optional]) -> Callable[..., Optional]:
    """The operation on the value inside an optional."""
    return lambda target, key: operation(target.value, key) if target.present else NONE


def _conversions() -> Iterator[Overload]:
    to_int = checked(IntType, "integer overflow")
    to_uint = checked(UintType, "unsigned integer overflow")
    yield function("int", (INT,), INT, lambda value: value)
    yield function("int", (UINT,), INT, lambda value: to_int(int(value)))
    yield function("int", (DOUBLE,), INT, lambda value: to_int(_whole(value)))
    yield function("int", (STRING,), INT, lambda text: to_int(_integer(text, "int")))
    yield function("int", (TIMESTAMP,), INT, lambda moment: IntType(math.floor(moment.timestamp())))
    yield function("uint", (UINT,), UINT, lambda value: value)
    yield function("uint", (INT,), UINT, lambda value: to_uint(int(value)))
    yield function("uint", (DOUBLE,), UINT, lambda value: to_uint(_whole(value)))
    yield function("uint", (STRING,), UINT, lambda text: to_uint(_integer(text, "uint")))
    for kind in (INT, UINT, DOUBLE):
        yield function("double", (kind,), DOUBLE, float)
        yield function("string", (kind,), STRING, number_text)
    yield function("double", (STRING,), DOUBLE, _double)
    yield function("string", (STRING,), STRING, lambda value: value)
    yield function("string", (BOOL,), STRING, lambda value: "true" if value else "false")
    yield function("string", (BYTES,), STRING, _decode)
    yield function("string", (TIMESTAMP,), STRING, timestamp_text)
    yield function("string", (DURATION,), STRING, duration_text)
    yield function("bool", (BOOL,), BOOL, lambda value: value)
    yield function("bool", (STRING,), BOOL, _bool)
    yield function("bytes", (BYTES,), BYTES, lambda value: value)
    yield function("bytes", (STRING,), BYTES, lambda text: text.encode())
    yield function("duration", (DURATION,), DURATION, lambda value: value)
    yield function(
        "duration",
        (STRING,),
        DURATION,
        checked(parse_duration, "type conversion error from 'string' to 'google.protobuf.Duration'"),
    )
    yield function("timestamp", (TIMESTAMP,), TIMESTAMP, lambda value: value)
    yield function(
        "timestamp",
        (STRING,),
        TIMESTAMP,
        checked(parse_timestamp, "type conversion error from 'string' to 'google.protobuf.Timestamp'"),
    )
    yield function(
        "timestamp",
        (INT,),
        TIMESTAMP,
        checked(lambda value: datetime.fromtimestamp(int(value), UTC), "timestamp overflow"),
    )


def _whole(value: float) -> int:
    if math.isnan(value) or math.isinf(value):
        raise ValueError(value)
    return math.trunc(value)


def _integer(text: str, kind: str) -> int:
    digits = text.removeprefix("-") if kind == "int" else text
    if not (digits.isascii() and digits.isdigit()):
        raise CelError(f"type conversion error from 'string' to '{kind}'")
    return int(text)


def _double(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CelError("type conversion error from 'string' to 'double'") from None


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise CelError("invalid UTF-8 in bytes, cannot convert to string") from None


def _bool(text: str) -> bool:
    if text in ("true", "TRUE", "True", "t", "1"):
        return True
    if text in ("false", "FALSE", "False", "f", "0"):
        return False
    raise CelError("type conversion error from 'string' to 'bool'")


def number_text(value: int | float) -> str:
    """A number as CEL's string() gives it."""
    if isinstance(value, int):
        return str(int(value))
    return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(float(value))


def timestamp_text(moment: datetime) -> str:
    """RFC 3339 in UTC, without superfluous zeros."""
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment.microsecond:06d}".rstrip("0") + "Z" if moment.microsecond else f"{text}Z"


def duration_text(value: timedelta) -> str:
    """Seconds with a unit, as in protobuf's JSON."""
    return f"{number_text(value.total_seconds())}s"


def _text() -> Iterator[Overload]:
    yield method("contains", (STRING, STRING), BOOL, lambda text, part: part in text)
    yield method("startsWith", (STRING, STRING), BOOL, lambda text, prefix: text.startswith(prefix))
    yield method("endsWith", (STRING, STRING), BOOL, lambda text, suffix: text.endswith(suffix))
    yield method("matches", (STRING, STRING), BOOL, _matches)
    yield function("matches", (STRING, STRING), BOOL, _matches)


def pattern(text: str) -> Any:
    """A compiled regular expression. Raises CelError."""
    try:
        return compile_pattern(text)
    except Exception as error:  # noqa: BLE001 - the RE2 binding raises several unrelated types
        raise CelError(f"error parsing regexp: {error}") from None


def _matches(text: str, expression: str) -> bool:
    return pattern(expression).search(text) is not None


def _times() -> Iterator[Overload]:
    for name, read in _TIMESTAMP_PARTS.items():
        yield method(name, (TIMESTAMP,), INT, lambda moment, read=read: IntType(read(moment.astimezone(UTC))))
        yield method(
            name, (TIMESTAMP, STRING), INT, lambda moment, zone, read=read: IntType(read(_in_zone(moment, zone)))
        )
    for name, seconds in (("getHours", 3600.0), ("getMinutes", 60.0), ("getSeconds", 1.0), ("getMilliseconds", 0.001)):
        yield method(
            name, (DURATION,), INT, lambda value, unit=seconds: IntType(math.trunc(value.total_seconds() / unit))
        )


_TIMESTAMP_PARTS: dict[str, Callable[[datetime], int]] = {
    "getFullYear": lambda moment: moment.year,
    "getMonth": lambda moment: moment.month - 1,
    "getDate": lambda moment: moment.day,
    "getDayOfMonth": lambda moment: moment.day - 1,
    "getDayOfWeek": lambda moment: moment.isoweekday() % 7,
    "getDayOfYear": lambda moment: moment.timetuple().tm_yday - 1,
    "getHours": lambda moment: moment.hour,
    "getMinutes": lambda moment: moment.minute,
    "getSeconds": lambda moment: moment.second,
    "getMilliseconds": lambda moment: moment.microsecond // 1000,
}


def _in_zone(moment: datetime, zone: str) -> datetime:
    sign, rest = (-1 if zone.startswith("-") else 1), zone.lstrip("+-")
    hours, colon, minutes = rest.partition(":")
    if colon and hours.isdigit() and minutes.isdigit():
        return moment.astimezone(timezone(sign * timedelta(hours=int(hours), minutes=int(minutes))))
    try:
        return moment.astimezone(ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError):
        raise CelError(f"unknown time zone {zone}") from None


def _optionals() -> Iterator[Overload]:
    yield function("optional.of", (A,), optional_of(A), Optional)
    yield function("optional.none", (), optional_of(A), lambda: NONE)
    yield function(
        "optional.ofNonZeroValue", (A,), optional_of(A), lambda value: NONE if _is_zero(value) else Optional(value)
    )
    yield method("hasValue", (optional_of(A),), BOOL, lambda value: value.present)
    yield method("value", (optional_of(A),), A, _value)
    yield method("orValue", (optional_of(A), A), A, lambda value, other: value.value if value.present else other)
    yield method(
        "or", (optional_of(A), optional_of(A)), optional_of(A), lambda value, other: value if value.present else other
    )


def _value(value: Optional) -> Any:
    if not value.present:
        raise CelError("optional.none() dereference")
    return value.value


def _is_zero(value: Any) -> bool:
    if isinstance(value, (datetime, ObjectValue)):
        return isinstance(value, ObjectValue) and not value
    return not value


STANDARD: tuple[Overload, ...] = (
    *_logic(),
    *_arithmetic(),
    *_comparisons(),
    *_containers(),
    *_conversions(),
    *_text(),
    *_times(),
    *_optionals(),
)
