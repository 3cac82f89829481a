"""Kubernetes' dialect of JSONPath, as printer columns and `kubectl wait` use it.

Supported: `.a.b`, `.a\\.b` (a dot in a name), `['a']`, `[0]`, `[-1]`, `[1:3]`, `[0,2]`, `[*]`, `.*`, `..a` (any depth),
`[?(@.type=="Ready")].status` with `== != < <= > >=` or bare existence, and a leading `$` or `@`. Templates with text,
`range` and `end` are left out: the server never evaluates them.

The dialect differs from RFC 9535 in what this module must reproduce: a missing key is no result, but an index beyond
the end of a list and a filter on something that is not a list are errors.
"""

import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


class JsonPathError(ValueError):
    """The path cannot be parsed, or cannot be evaluated on this value."""


Step = Callable[[list[Any]], list[Any]]

_NAME = re.compile(r"(?:\\.|[^\s.,\[\]$@{}()=!<>'\"\\])+")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_SLICE = re.compile(r"(-?\d+)?(?::(-?\d+)?(?::(-?\d+)?)?)?")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class JsonPath:
    """A parsed path."""

    text: str
    steps: tuple[Step, ...]

    def find(self, value: Any) -> list[Any]:
        """All results in order, none for a missing key. Raises JsonPathError, see the module."""
        return _run(self.steps, [value])


@lru_cache(maxsize=512)
def parse(text: str) -> JsonPath:
    """The parsed path; surrounding braces are allowed. Raises JsonPathError when it has no meaning."""
    body = text[1:-1] if text.startswith("{") and text.endswith("}") else text
    parser = _Parser(body.strip())
    steps = parser.path()
    if parser.position != len(parser.text):
        raise parser.error("unexpected character")
    return JsonPath(text, tuple(steps))


def _run(steps: tuple[Step, ...] | list[Step], values: list[Any]) -> list[Any]:
    for step in steps:
        values = step(values)
    return values


class _Parser:
    """Recursive descent over the text; `position` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def error(self, reason: str) -> JsonPathError:
        return JsonPathError(f"JSONPath {self.text!r}: {reason} at position {self.position}")

    def peek(self, prefix: str) -> bool:
        return self.text.startswith(prefix, self.position)

    def take(self, prefix: str) -> bool:
        if self.peek(prefix):
            self.position += len(prefix)
            return True
        return False

    def match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self.text, self.position)
        if found is None or not found.group():
            return None
        self.position = found.end()
        return found.group()

    def path(self) -> list[Step]:
        steps: list[Step] = []
        if not (self.take("$") or self.take("@")) and not (self.peek(".") or self.peek("[")):
            name = self.match(_NAME)  # the dialect allows a bare name in front
            if name is None:
                raise self.error("expected a path")
            steps.append(_field(_unescape(name)))
        while self.position < len(self.text):
            if self.take(".."):
                steps.append(_descend)
                if not self.peek("["):
                    steps.append(self.name_step())
            elif self.take("."):
                if self.position == len(self.text) or self.peek("["):
                    continue  # "." alone is the whole object
                steps.append(self.name_step())
            elif self.take("["):
                steps.append(self.bracket())
            else:
                break
        return steps

    def name_step(self) -> Step:
        if self.take("*"):
            return _wildcard
        name = self.match(_NAME)
        if name is None:
            raise self.error("expected a field name")
        return _field(_unescape(name))

    def bracket(self) -> Step:
        if self.take("?("):
            return self.filter()
        alternatives = [self.subscript()]
        while self.take(","):
            alternatives.append(self.subscript())
        if not self.take("]"):
            raise self.error("expected ]")
        return alternatives[0] if len(alternatives) == 1 else _union(alternatives)

    def subscript(self) -> Step:
        if self.take("*"):
            return _wildcard
        if self.peek("'") or self.peek('"'):
            return _field(self.quoted())
        text = self.match(_SLICE)
        if text is None:
            raise self.error("expected an index, a slice, a quoted name or *")
        parts = [int(part) if part else None for part in text.split(":")]
        if len(parts) == 1 and parts[0] is not None:
            return _index(parts[0])
        start, stop, stride = (*parts, None, None)[:3]
        if stride is not None and stride <= 0:
            raise self.error("step must be > 0")
        return _slice(slice(start, stop, stride))

    def quoted(self) -> str:
        quote = self.text[self.position]
        end = self.position + 1
        while end < len(self.text) and self.text[end] != quote:
            end += 2 if self.text[end] == "\\" else 1
        if end >= len(self.text):
            raise self.error("unterminated string")
        content = self.text[self.position + 1 : end]
        self.position = end + 1
        return _unescape(content)

    def filter(self) -> Step:
        left = self.operand()
        self.spaces()
        sign = next((sign for sign in _OPERATORS if self.take(sign)), None)
        self.spaces()
        right = self.operand() if sign else None
        self.spaces()
        if not self.take(")]"):
            raise self.error("expected )]")
        if sign is None or right is None:
            return _existing(left)
        return _comparing(left, _OPERATORS[sign], right)

    def operand(self) -> Step:
        self.spaces()
        if self.peek("'") or self.peek('"'):
            return _constant(self.quoted())
        if self.peek("@") or self.peek("$") or self.peek("."):
            steps = self.path()
            return lambda values: _run(steps, values)
        number = self.match(_NUMBER)
        if number is not None:
            return _constant(float(number) if "." in number else int(number))
        word = self.match(_NAME)
        if word in ("true", "false"):
            return _constant(word == "true")
        raise self.error("expected a path, a string or a number")

    def spaces(self) -> None:
        while self.take(" "):
            pass


def _unescape(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text)


def _field(name: str) -> Step:
    return lambda values: [value[name] for value in values if isinstance(value, dict) and name in value]


def _constant(constant: Any) -> Step:
    return lambda values: [constant for _ in values]


def _wildcard(values: list[Any]) -> list[Any]:
    return [item for value in values for item in _items(value)]


def _items(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _descend(values: list[Any]) -> list[Any]:
    found: list[Any] = []
    for value in values:
        if isinstance(value, (dict, list)) and value:
            found.append(value)
            found += _descend(list(_items(value)))
    return found


def _lists(values: list[Any], use: str) -> Iterator[list[Any]]:
    for value in values:
        if value is None:
            continue
        if not isinstance(value, list):
            raise JsonPathError(f"{type(value).__name__} is not a list and cannot be {use}")
        yield value


def _index(index: int) -> Step:
    def step(values: list[Any]) -> list[Any]:
        found = []
        for value in _lists(values, "indexed"):
            if not -len(value) <= index < len(value):
                raise JsonPathError(f"array index out of bounds: index {index}, length {len(value)}")
            found.append(value[index])
        return found

    return step


def _slice(part: slice) -> Step:
    return lambda values: [item for value in _lists(values, "sliced") for item in value[part]]


def _union(alternatives: list[Step]) -> Step:
    return lambda values: [item for alternative in alternatives for item in alternative(values)]


def _existing(operand: Step) -> Step:
    return lambda values: [item for value in _lists(values, "filtered") for item in value if operand([item])]


def _comparing(left: Step, compare: Callable[[Any, Any], bool], right: Step) -> Step:
    def keep(item: Any) -> bool:
        lefts, rights = left([item]), right([item])
        if len(lefts) != 1 or len(rights) != 1:
            raise JsonPathError("can only compare one element at a time")
        try:
            return bool(compare(lefts[0], rights[0]))
        except TypeError:
            raise JsonPathError("incompatible types for comparison") from None

    return lambda values: [item for value in _lists(values, "filtered") for item in value if keep(item)]
