"""Functions on strings: cel-go's `strings` library (version 2) and Kubernetes' regular expressions.

https://pkg.go.dev/github.com/google/cel-go/ext#Strings and k8s.io/apiserver, pkg/cel/library/regex.go.
"""

import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from local.kube.cel.functions import CelError, Overload, function, method
from local.kube.cel.library_standard import duration_text, number_text, pattern, timestamp_text
from local.kube.cel.types import DYN, INT, STRING, list_of
from local.kube.cel.values import IntType, Optional, TypeValue

_STRINGS = list_of(STRING)
_SUPERSCRIPT = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_UPPER = str.maketrans("abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LOWER = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def _searching() -> Iterator[Overload]:
    yield method("charAt", (STRING, INT), STRING, _char_at)
    yield method("indexOf", (STRING, STRING), INT, lambda text, part: IntType(text.find(part)))
    yield method("indexOf", (STRING, STRING, INT), INT, _index_of)
    yield method("lastIndexOf", (STRING, STRING), INT, lambda text, part: IntType(text.rfind(part)))
    yield method("lastIndexOf", (STRING, STRING, INT), INT, _last_index_of)
    yield method("substring", (STRING, INT), STRING, _rest)
    yield method("substring", (STRING, INT, INT), STRING, lambda text, start, end: _substring(text, start, end))
    yield method("find", (STRING, STRING), STRING, _find)
    yield method("findAll", (STRING, STRING), _STRINGS, lambda text, expression: _find_all(text, expression, -1))
    yield method(
        "findAll", (STRING, STRING, INT), _STRINGS, lambda text, expression, most: _find_all(text, expression, most)
    )


def _char_at(text: str, index: int) -> str:
    if not 0 <= index <= len(text):
        raise CelError(f"index out of range: {index}")
    return text[index : index + 1]


def _index_of(text: str, part: str, start: int) -> IntType:
    if not 0 <= start <= len(text):
        raise CelError(f"index out of range: {start}")
    return IntType(text.find(part, start))


def _last_index_of(text: str, part: str, last: int) -> IntType:
    if not 0 <= last <= len(text):
        raise CelError(f"index out of range: {last}")
    return IntType(text.rfind(part, 0, last + len(part)))


def _rest(text: str, start: int) -> str:
    if not 0 <= start <= len(text):
        raise CelError(f"index out of range: {start}")
    return text[start:]


def _substring(text: str, start: int, end: int) -> str:
    if start > end:
        raise CelError(f"invalid substring range. start: {start}, end: {end}")
    if not (0 <= start <= len(text) and end <= len(text)):
        raise CelError(f"index out of range: {start if not 0 <= start <= len(text) else end}")
    return text[start:end]


def _find(text: str, expression: str) -> str:
    found = pattern(expression).search(text)
    return str(found.group()) if found else ""


def _find_all(text: str, expression: str, most: int) -> list[str]:
    found = [str(match.group()) for match in pattern(expression).finditer(text)]
    return found if most < 0 else found[:most]


def _changing() -> Iterator[Overload]:
    yield method("lowerAscii", (STRING,), STRING, lambda text: text.translate(_LOWER))
    yield method("upperAscii", (STRING,), STRING, lambda text: text.translate(_UPPER))
    yield method("trim", (STRING,), STRING, lambda text: text.strip())
    yield method("replace", (STRING, STRING, STRING), STRING, lambda text, old, new: text.replace(old, new))
    yield method(
        "replace", (STRING, STRING, STRING, INT), STRING, lambda text, old, new, most: text.replace(old, new, int(most))
    )
    yield method("split", (STRING, STRING), _STRINGS, lambda text, separator: _split(text, separator, -1))
    yield method("split", (STRING, STRING, INT), _STRINGS, lambda text, separator, most: _split(text, separator, most))
    yield method("join", (_STRINGS,), STRING, lambda parts: "".join(parts))
    yield method("join", (_STRINGS, STRING), STRING, lambda parts, separator: separator.join(parts))
    yield function("strings.quote", (STRING,), STRING, quote)
    yield method("format", (STRING, list_of(DYN)), STRING, format_text)


def _split(text: str, separator: str, most: int) -> list[str]:
    if most == 0:
        return []
    if not separator:
        parts = list(text)
        return parts if most < 0 or len(parts) <= most else [*parts[: most - 1], text[most - 1 :]]
    return text.split(separator, -1 if most < 0 else int(most) - 1)


def quote(text: str) -> str:
    """The string as a CEL literal."""
    escapes = {"\\": "\\\\", '"': '\\"', "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(char, "\\v" if char == "\v" else char) for char in text) + '"'


def format_text(text: str, args: list[Any]) -> str:
    """`'%s is %d'.format([...])`: clauses s d f e b x X o and %%, with a precision for f and e. Raises CelError."""
    out: list[str] = []
    used = position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char != "%":
            out.append(char)
            continue
        if text[position : position + 1] == "%":
            out.append("%")
            position += 1
            continue
        end = position
        while end < len(text) and (text[end] == "." or text[end].isdigit()):
            end += 1
        precision, clause = text[position:end], text[end : end + 1]
        if not clause:
            raise CelError("unexpected end of string")
        if used >= len(args):
            raise CelError(f"index {used} out of range")
        out.append(_clause(clause, precision, args[used]))
        used += 1
        position = end + 1
    return "".join(out)


def _clause(clause: str, precision: str, value: Any) -> str:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    digits = int(precision[1:] or 0) if precision else 6
    match clause:
        case "s":
            return _shown(value)
        case "d" if number:
            return _shown(value)
        case "f" if number:
            return _special(value) or f"{float(value):,.{digits}f}"
        case "e" if number:
            return _special(value) or _scientific(float(value), digits)
        case "b" if whole or isinstance(value, bool):
            return format(int(value), "b")
        case "o" if whole:
            return format(int(value), "o")
        case "x" | "X" if whole:
            return format(int(value), clause)
        case "x" | "X" if isinstance(value, (str, bytes)):
            content = (value.encode() if isinstance(value, str) else value).hex()
            return content.upper() if clause == "X" else content
    if clause in "dfebxXo":
        raise CelError(f"error during formatting: clause %{clause} cannot be used on {_shown(value)}")
    raise CelError(f'could not parse formatting clause: unrecognized formatting clause "{clause}"')


def _scientific(value: float, digits: int) -> str:
    """`3.140000 × 10⁰⁰`: this version of the library formats for people, in American English."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    sign = "⁻" if exponent.startswith("-") else ""
    return f"{mantissa} × 10{sign}{exponent.lstrip('+-').translate(_SUPERSCRIPT)}"


def _special(value: float) -> str:
    if isinstance(value, float) and (math.isnan(value) or math.isinf(value)):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return ""


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _special(value) or number_text(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, dict):
        shown = sorted((_shown(key), _shown(item)) for key, item in value.items())
        return "{" + ", ".join(f"{key}: {item}" for key, item in shown) + "}"
    if isinstance(value, datetime):
        return timestamp_text(value)
    if isinstance(value, timedelta):
        return duration_text(value)
    if isinstance(value, TypeValue):
        return value.name
    if isinstance(value, Optional):
        return f"optional({_shown(value.value)})" if value.present else "optional.none"
    return str(value)


TEXT: tuple[Overload, ...] = (*_searching(), *_changing())
