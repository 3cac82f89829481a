"""Sets of fields: what `managedFields` is made of.

A field is a path of elements in the notation of FieldsV1: `f:<name>` a field, `k:{"name":"x"}` the item of a keyed list
with these keys, `v:"x"` a value of a set. A set of fields is a frozenset of such paths, so union, difference and
intersection are Python's own. Which parts of an object have paths of their own, and which are one atomic value, is up to
the schema:

    object                      its fields, unless x-kubernetes-map-type: atomic
    list                        one value, unless x-kubernetes-list-type: map (its items by key) or set (its values)
    everything else             one value

The algorithms follow sigs.k8s.io/structured-merge-diff (typed/tofieldset.go, typed/compare.go).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str, ...]
FieldSet = frozenset[Path]
Schema = Mapping[str, Any]

EMPTY: FieldSet = frozenset()
_NO_SCHEMA: Schema = {}


class _Absent:
    """Stands for "no value", which is not the same as null."""


ABSENT = _Absent()


class FieldError(ValueError):
    """A list cannot be addressed by its items' keys or values; the message names the place."""


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def child_schema(schema: Schema, name: str) -> Schema:
    """The schema of a field; an empty one where the schema says nothing, which makes its objects granular."""
    found = (schema.get("properties") or {}).get(name)
    if found is None and isinstance(schema.get("additionalProperties"), Mapping):
        found = schema["additionalProperties"]
    return found if found is not None else _NO_SCHEMA


def item_schema(schema: Schema) -> Schema:
    """The schema of a list's items."""
    items = schema.get("items")
    return items if isinstance(items, Mapping) else _NO_SCHEMA


def is_granular(schema: Schema, value: Any) -> bool:
    """Whether the parts of the value have paths of their own."""
    if isinstance(value, dict):
        return schema.get("x-kubernetes-map-type") != "atomic"
    if isinstance(value, list):
        return schema.get("x-kubernetes-list-type") in ("map", "set")
    return False


def is_declared(schema: Schema, name: str) -> bool:
    """Whether the schema names this field (it is not merely a key of a map)."""
    return name in (schema.get("properties") or {})


def children(schema: Schema, value: Any, path: Path = ()) -> Iterator[tuple[str, Schema, Any]]:
    """(element, schema, value) of every part of a granular value. Raises FieldError."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"f:{name}", child_schema(schema, name), item
        return
    items = item_schema(schema)
    seen: set[str] = set()
    for item in value:
        element = _list_element(schema, items, item, path)
        if element in seen:
            raise FieldError(f"{show_path(path)}: duplicate entries for key {show_element(element)}")
        seen.add(element)
        yield element, items, item


def _list_element(schema: Schema, items: Schema, item: Any, path: Path) -> str:
    if schema.get("x-kubernetes-list-type") == "set":
        if isinstance(item, (dict, list)):
            raise FieldError(f"{show_path(path)}: associative list without keys has an element that's a map type")
        return f"v:{_compact(item)}"
    names = schema.get("x-kubernetes-list-map-keys") or ()
    if not isinstance(item, dict):
        raise FieldError(f"{show_path(path)}: associative list with keys may not have non-map elements")
    keys = {}
    for name in names:
        value = item.get(name)
        if value is None:
            value = child_schema(items, name).get("default")
        if value is not None:
            keys[name] = value
    if not keys:
        listed = ", ".join(f'"{name}"' for name in names)
        raise FieldError(
            f"{show_path(path)}: associative list with keys has an element that omits key field {listed} "
            "(and doesn't have default value)"
        )
    return f"k:{_compact(keys)}"


def fields_of(schema: Schema, value: Any, path: Path = ()) -> FieldSet:
    """The fields that an applied configuration claims. Raises FieldError."""
    found: set[Path] = set()
    _collect(schema, value, path, found)
    return frozenset(found)


def _collect(schema: Schema, value: Any, path: Path, found: set[Path]) -> None:
    if not is_granular(schema, value):
        if path and value is not None:
            found.add(path)
        return
    for element, below, item in children(schema, value, path):
        place = (*path, element)
        _collect(below, item, place, found)
        # Items of lists and keys of free maps exist as such; declared fields only as far as they have content.
        if not isinstance(value, dict) or item in (None, {}) or not is_declared(schema, element[2:]):
            found.add(place)


@dataclass(frozen=True)
class Comparison:
    """What became of the fields of an object."""

    added: FieldSet
    modified: FieldSet
    removed: FieldSet


def compare(schema: Schema, old: Any, new: Any) -> Comparison:
    """The fields that differ between two objects. Raises FieldError."""
    added: set[Path] = set()
    modified: set[Path] = set()
    removed: set[Path] = set()

    def visit(schema: Schema, old: Any, new: Any, path: Path) -> None:
        if old is ABSENT or new is ABSENT:
            present, bucket = (new, added) if old is ABSENT else (old, removed)
            bucket.add(path)
            if is_granular(schema, present):
                for element, below, item in children(schema, present, path):
                    pair = (ABSENT, item) if old is ABSENT else (item, ABSENT)
                    visit(below, *pair, (*path, element))
        elif is_granular(schema, old) and is_granular(schema, new) and type(old) is type(new) and (old or new):
            before = {element: (below, item) for element, below, item in children(schema, old, path)}
            after = {element: (below, item) for element, below, item in children(schema, new, path)}
            for element in before.keys() | after.keys():
                below = (before.get(element) or after[element])[0]
                left = before[element][1] if element in before else ABSENT
                right = after[element][1] if element in after else ABSENT
                visit(below, left, right, (*path, element))
        elif not _same(old, new):
            modified.add(path)

    visit(schema, old, new, ())
    return Comparison(frozenset(added), frozenset(modified), frozenset(removed))


def _same(left: Any, right: Any) -> bool:
    """Equality of JSON values: true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


def with_named_parents(schema: Schema, fields: FieldSet) -> FieldSet:
    """The set, plus every declared field that has a field of the set below it."""
    found = set(fields)
    for path in fields:
        below = schema
        for depth, element in enumerate(path[:-1]):
            if element.startswith("f:"):
                if is_declared(below, element[2:]):
                    found.add(path[: depth + 1])
                below = child_schema(below, element[2:])
            else:
                below = item_schema(below)
    return frozenset(found)


# FieldsV1


def to_fields_v1(fields: FieldSet) -> dict[str, Any]:
    """The set as a trie: an element without children is a member, one with children if it also has `.`."""
    root: dict[str, Any] = {}
    for path in sorted(fields):
        node = root
        for element in path[:-1]:
            below = node.setdefault(element, {})
            if not below:
                # Sorted: the parent came first as a member, and now has children.
                below["."] = {}
            node = below
        node.setdefault(path[-1], {})
    _mark_parents(root, fields, ())
    return root


def _mark_parents(node: dict[str, Any], fields: FieldSet, path: Path) -> None:
    """Keep `.` exactly in the nodes that are members themselves."""
    for element, below in node.items():
        if element == ".":
            continue
        place = (*path, element)
        if below and place not in fields:
            below.pop(".", None)
        _mark_parents(below, fields, place)


def from_fields_v1(trie: Mapping[str, Any]) -> FieldSet:
    """The set of a trie. Raises FieldError for what is none."""
    found: set[Path] = set()

    def visit(node: Any, path: Path) -> None:
        if not isinstance(node, Mapping):
            raise FieldError(f"fieldsV1: {show_path(path)}: expected an object")
        if path and (not node or "." in node):
            found.add(path)
        for element, below in node.items():
            if element != ".":
                visit(below, (*path, _normalized(element)))

    visit(trie, ())
    return frozenset(found)


def _normalized(element: str) -> str:
    kind, content = element[:2], element[2:]
    if kind == "f:":
        return element
    if kind not in ("k:", "v:", "i:"):
        raise FieldError(f"fieldsV1: {element!r} is no path element")
    try:
        decoded = json.loads(content)
    except (ValueError, RecursionError):
        raise FieldError(f"fieldsV1: {element!r} is no path element") from None
    if kind == "k:" and not isinstance(decoded, dict):
        raise FieldError(f"fieldsV1: {element!r} is no path element")
    return kind + _compact(decoded)


def show_element(element: str) -> str:
    """An element as messages print it: `.name`, `[name="x"]`, `[="x"]`, `[0]`."""
    kind, content = element[:2], element[2:]
    if kind == "f:":
        return f".{content}"
    if kind == "k:":
        pairs = ",".join(f"{name}={_compact(value)}" for name, value in json.loads(content).items())
        return f"[{pairs}]"
    return f"[={content}]" if kind == "v:" else f"[{content}]"


def show_path(path: Path) -> str:
    """A path as messages print it: `.spec.containers[name="x"].image`."""
    return "".join(map(show_element, path))
