"""Label and field selectors: parsed once per request, then asked about every object.

Grammar and messages follow k8s.io/apimachinery/pkg/labels and pkg/fields. A selector that cannot be parsed is a
`SelectorError`; the caller answers 400 with its text.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from local.kube import names
from local.kube.causes import go_quote
from local.kube.resources import Resource


class SelectorError(ValueError):
    """The text is not a selector (or selects by something that cannot be selected by)."""


_BINARY = ("in", "notin", "=", "==", "!=", "gt", "lt")
_ITEM = re.compile(r"[ \t\r\n]*(==|!=|=|!|\(|\)|,|>|<|[^=!(),<> \t\r\n]+)")
_SYMBOLS = frozenset(("==", "!=", "=", "!", "(", ")", ",", ">", "<"))


@dataclass(frozen=True)
class Requirement:
    """One condition on one label. `operator` is one of in, notin, exists, absent, gt, lt."""

    key: str
    operator: str
    values: frozenset[str]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels meets the condition."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        if value is None or (number := _int64(value)) is None:
            return False
        bound = int(next(iter(self.values)))
        return number > bound if self.operator == "gt" else number < bound


@dataclass(frozen=True)
class LabelSelector:
    """All requirements must hold; without requirements everything matches."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether the object's `metadata.labels` meet every requirement."""
        if not self.requirements:
            return True
        labels = obj["metadata"].get("labels") or {}
        return all(requirement.matches(labels) for requirement in self.requirements)


@dataclass(frozen=True)
class FieldSelector:
    """Pairs of (path, wanted value, equal or not)."""

    terms: tuple[tuple[str, str, bool], ...] = ()

    def matches(self, obj: Mapping[str, Any]) -> bool:
        """Whether every term holds; a missing field counts as the empty string."""
        return all((field_value(obj, path) == wanted) is equal for path, wanted, equal in self.terms)

    @property
    def name(self) -> str | None:
        """The object name that the selector demands, if it demands one."""
        return next((wanted for path, wanted, equal in self.terms if path == "metadata.name" and equal), None)


EVERY_LABEL = LabelSelector()
EVERY_FIELD = FieldSelector()


def parse_label_selector(text: str) -> LabelSelector:
    """Parse `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>5`.

    Raises SelectorError with the real server's message.
    """
    items = _tokenize(text)
    requirements: list[Requirement] = []
    while True:
        item = items.peek()
        if not item:
            return LabelSelector(tuple(requirements))
        if item in _SYMBOLS and item != "!":
            raise SelectorError(f"found '{item}', expected: !, identifier, or 'end of string'")
        try:
            requirements.append(_parse_requirement(items))
        except SelectorError as error:
            raise SelectorError(f"unable to parse requirement: {error}") from None
        item = items.take()
        if not item:
            return LabelSelector(tuple(requirements))
        if item != ",":
            raise SelectorError(f"found '{item}', expected: ',' or 'end of string'")
        following = items.peek()
        if following == "" or (following in _SYMBOLS and following != "!"):
            raise SelectorError(f"found '{following}', expected: identifier after ','")


class _Items:
    def __init__(self, items: list[str]) -> None:
        self._tokens = items
        self._position = 0

    def peek(self) -> str:
        return self._tokens[self._position] if self._position < len(self._tokens) else ""

    def take(self) -> str:
        item = self.peek()
        self._position += 1
        return item


def _tokenize(text: str) -> _Items:
    items, position = [], 0
    while match := _ITEM.match(text, position):
        items.append(match.group(1))
        position = match.end()
    return _Items(items)


def _parse_requirement(items: _Items) -> Requirement:
    negated = items.peek() == "!"
    if negated:
        items.take()
    key = items.take()
    if key == "" or key in _SYMBOLS:
        raise SelectorError(f"found '{key}', expected: identifier")
    if problems := names.qualified_name(key):
        raise SelectorError(f"<nil>: Invalid value: {go_quote(key)}: {'; '.join(problems)}")
    if items.peek() in ("", ","):
        return Requirement(key, "absent" if negated else "exists", frozenset())
    operator = items.take()
    if operator in ("in", "notin"):
        values = _parse_values(items)
    elif operator in ("=", "==", "!=", ">", "<"):
        values = _parse_exact_value(items)
    else:
        raise SelectorError(f"found '{operator}', expected: {', '.join(_BINARY)}")
    for value in sorted(values):
        if operator in "<>" and _int64(value) is None:
            raise SelectorError(
                f"values[0]: Invalid value: {go_quote(value)}: for 'Gt', 'Lt' operators, the value must be an integer"
            )
        if problems := names.label_value(value):
            raise SelectorError(f"values[0][{key}]: Invalid value: {go_quote(value)}: {'; '.join(problems)}")
    kind = {"in": "in", "=": "in", "==": "in", "notin": "notin", "!=": "notin", ">": "gt", "<": "lt"}[operator]
    return Requirement(key, kind, frozenset(values))


def _parse_exact_value(items: _Items) -> set[str]:
    if items.peek() in ("", ","):
        return {""}
    value = items.take()
    if value in _SYMBOLS:
        raise SelectorError(f"found '{value}', expected: identifier")
    return {value}


def _parse_values(items: _Items) -> set[str]:
    opening = items.take()
    if opening != "(":
        raise SelectorError(f"found '{opening}' expected: '('")
    values: set[str] = set()
    pending = ""  # "(a,,b)" and "(,)" hold empty strings: a value ends at each comma and at ")"
    filled = False
    while True:
        item = items.take()
        if not item or (item in _SYMBOLS and item not in (",", ")")):
            raise SelectorError(f"found '{item}', expected: ',', or identifier")
        if item in (",", ")"):
            values.add(pending)
            pending, filled = "", False
            if item == ")":
                return values
        elif filled:
            raise SelectorError(f"found '{item}', expected: ',' or ')'")
        else:
            pending, filled = item, True


def _int64(text: str) -> int | None:
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


# Resources whose field selectors the real server converts itself say "field label not supported"; all others get the
# generic sentence.
_GENERIC = 'is not a known field selector: only "metadata.name", "metadata.namespace"'


def parse_field_selector(text: str, resource: Resource) -> FieldSelector:
    r"""Parse `a=b,c!=d,e==f`; `\,`, `\=` and `\\` escape. Raises SelectorError, also for fields that are not selectable."""
    terms = []
    for part in _split_terms(text):
        match = re.match(r"((?:\\.|[^\\=!])*)(!=|==|=)(.*)\Z", part, re.DOTALL)
        if match is None:
            raise SelectorError(f"invalid selector: '{text}'; can't understand '{part}'")
        path, operator, raw = match.groups()
        if path not in ("metadata.name", "metadata.namespace") and path not in resource.selectable_fields:
            if resource.custom or resource.selectable_fields:
                raise SelectorError(f"field label not supported: {path}")
            raise SelectorError(f"{go_quote(path)} {_GENERIC}")
        terms.append((path, _unescape(raw), operator != "!="))
    return FieldSelector(tuple(terms))


def _split_terms(text: str) -> list[str]:
    return [part for part in re.findall(r"(?:\\.|[^\\,])+", text, re.DOTALL) if part]


def _unescape(text: str) -> str:
    if re.search(r"(?<!\\)(?:\\\\)*\\(?![\\,=])", text):
        raise SelectorError(f"invalid field selector: invalid escape sequence in value: {text}")
    if re.search(r"(?<!\\)(?:\\\\)*=", text):
        raise SelectorError(f"invalid field selector: unescaped character in value: {text}")
    return re.sub(r"\\([\\,=])", r"\1", text)


def field_value(obj: Mapping[str, Any], path: str) -> str:
    """The field as the text that selectors compare with: `true`/`false` for booleans, empty when it is missing."""
    value: Any = obj
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        # The typed API has no "unset" for these: the zero value is what is compared.
        return "false" if path in ("spec.unschedulable", "spec.hostNetwork") else ""
    if path == "source" and isinstance(value, Mapping):
        return str(value.get("component") or obj.get("reportingComponent") or "")
    return str(value) if isinstance(value, (str, int, float)) else ""
