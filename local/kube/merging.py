"""Merging an applied configuration into a live object, and taking fields out of an object.

Both walk the value along its schema (see fieldset.py for what is atomic) and build new values; arguments are not changed.
The rules follow sigs.k8s.io/structured-merge-diff (typed/merge.go, typed/remove.go).
"""

from collections.abc import Mapping
from typing import Any

from local.kube.fieldset import FieldSet, Schema, child_schema, children, is_granular, to_fields_v1


def merged(schema: Schema, live: Any, config: Any) -> Any:
    """`live` with everything that `config` says in place. Raises fieldset.FieldError."""
    # With a live value that is empty there is nothing to keep: null, {} and [] become what is applied.
    if not live or not is_granular(schema, live) or not is_granular(schema, config) or type(live) is not type(config):
        return config
    if isinstance(live, dict):
        result = dict(live)
        for name, value in config.items():
            result[name] = merged(child_schema(schema, name), live[name], value) if name in live else value
        return result
    return _merged_list(schema, live, config)


def _merged_list(schema: Schema, live: list[Any], config: list[Any]) -> list[Any]:
    """Items of both: the configuration decides the order of its own, the rest keeps its place before what followed it."""
    left = {element: (below, item) for element, below, item in children(schema, live)}
    right = {element: item for element, _, item in children(schema, config)}
    waiting = list(left)
    result: list[Any] = []
    for element, item in right.items():
        # Items that only the live object has, and that come before this one there, stay before it.
        while waiting and waiting[0] not in right:
            result.append(left[waiting.pop(0)][1])
        if element in left:
            below, present = left[element]
            result.append(merged(below, present, item))
            waiting.remove(element)
        else:
            result.append(item)
    return result + [left[element][1] for element in waiting]


def without(schema: Schema, value: Any, fields: FieldSet) -> Any:
    """The value without these fields; what becomes empty by that becomes null. Raises fieldset.FieldError."""
    return _without(schema, value, to_fields_v1(fields)) if fields else value


def _without(schema: Schema, value: Any, trie: Mapping[str, Any]) -> Any:
    if not isinstance(value, (dict, list)):
        return value
    if not is_granular(schema, value):
        return None
    kept_map: dict[str, Any] = {}
    kept_list: list[Any] = []
    for element, below, item in children(schema, value):
        node = trie.get(element)
        if node is not None:
            if not node or "." in node:
                continue
            item = _without(below, item, node)
        if isinstance(value, dict):
            kept_map[element[2:]] = item
        else:
            kept_list.append(item)
    return kept_map or kept_list or None
