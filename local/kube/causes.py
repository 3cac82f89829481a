"""One reason why an object is refused, in the words of the real API server.

A `Cause` is one entry of `Status.details.causes`; the server joins their texts into `Status.message`. People and tests
read those texts, so the constructors below render values the way Go does (`%q` for strings, `%v` for numbers and
booleans, JSON for the rest; k8s.io/apimachinery, util/validation/field). One constructor exists per kind of error, and
nobody else writes "Invalid value:".
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

REQUIRED = "FieldValueRequired"
INVALID = "FieldValueInvalid"
TYPE_INVALID = "FieldValueTypeInvalid"
NOT_SUPPORTED = "FieldValueNotSupported"
DUPLICATE = "FieldValueDuplicate"
FORBIDDEN = "FieldValueForbidden"
TOO_LONG = "FieldValueTooLong"
TOO_MANY = "FieldValueTooMany"

# How Go prints a field path that is empty: the object itself, or an error that belongs to no single field.
NO_FIELD = "<nil>"


class _Omitted:
    """The type of `OMITTED`."""


OMITTED = _Omitted()
"""In place of a value that is not shown: the server names no objects and lists of which a CEL rule does not hold."""

_ESCAPES = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


@dataclass(frozen=True)
class Cause:
    """One reason for a refusal.

    `field` is the path (`spec.items[0].name`, or `<nil>`), `reason` one of the constants of this module, `message` the
    sentence without the path. `str(cause)` is the form that `Status.message` uses: `path: sentence`.
    """

    field: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def go_quote(text: str) -> str:
    """`text` as Go's `%q` prints it."""
    out = []
    for char in text:
        if char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif char.isprintable():
            out.append(char)
        elif ord(char) < 0x80:
            out.append(f"\\x{ord(char):02x}")
        elif ord(char) < 0x10000:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(f"\\U{ord(char):08x}")
    return '"' + "".join(out) + '"'


def go_number(value: int | float) -> str:
    """A number as Go's `%v` prints it: whole floats without a fraction, exponents from 1e+21 on."""
    if isinstance(value, int):
        return str(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}".title()
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    return repr(value)


def go_value(value: Any) -> str:
    """A refused value as the server shows it in a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return go_number(value)
    if isinstance(value, str):
        return go_quote(value)
    text = json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False, default=str)
    # Go's encoder makes JSON safe to embed in HTML.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def join_path(base: str, name: str) -> str:
    """The path of field `name` below `base`."""
    return f"{base}.{name}" if base else name


def _with_detail(head: str, detail: str) -> str:
    return f"{head}: {detail}" if detail else head


def _with_value(head: str, value: Any) -> str:
    return head if value is OMITTED else f"{head}: {go_value(value)}"


def required(path: str, detail: str = "") -> Cause:
    """A missing value."""
    return Cause(path or NO_FIELD, REQUIRED, _with_detail("Required value", detail))


def invalid(path: str, value: Any, detail: str) -> Cause:
    """A value of the right type that breaks a rule."""
    return Cause(path or NO_FIELD, INVALID, _with_detail(_with_value("Invalid value", value), detail))


def type_invalid(path: str, value: Any, detail: str) -> Cause:
    """A value of the wrong type."""
    return Cause(path or NO_FIELD, TYPE_INVALID, _with_detail(f"Invalid value: {go_value(value)}", detail))


def not_supported(path: str, value: Any, allowed: Sequence[Any]) -> Cause:
    """A value outside an enumeration."""
    names = ", ".join(go_quote(item if isinstance(item, str) else go_value(item)) for item in allowed)
    head = f"Unsupported value: {go_value(value)}"
    return Cause(path or NO_FIELD, NOT_SUPPORTED, _with_detail(head, f"supported values: {names}" if names else ""))


def duplicate(path: str, value: Any) -> Cause:
    """A second value where values must differ."""
    return Cause(path or NO_FIELD, DUPLICATE, _with_value("Duplicate value", value))


def forbidden(path: str, detail: str) -> Cause:
    """A value that must not be there at all."""
    return Cause(path or NO_FIELD, FORBIDDEN, _with_detail("Forbidden", detail))


def too_long(path: str, limit: int) -> Cause:
    """A string above its limit; the server says bytes whatever it counted."""
    return Cause(path or NO_FIELD, TOO_LONG, f"Too long: may not be more than {limit} byte{'' if limit == 1 else 's'}")


def too_many(path: str, count: int, limit: int) -> Cause:
    """A list or map above its limit."""
    items = "item" if limit == 1 else "items"
    return Cause(path or NO_FIELD, TOO_MANY, f"Too many: {count}: must have at most {limit} {items}")
