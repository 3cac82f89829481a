"""The CEL rules of a schema, run against an object: which of them it breaks.

A rule on a schema node runs for every value of that node, with `self` bound to the value and, on updates, `oldSelf` to
what was there before. Values without a counterpart before (new entries, items of lists without keys) do not run rules
about changes, unless these take `oldSelf` as an optional. Rules that a part broke before and that did not change since
are forgiven (ratcheting), except rules about changes; a rule that cannot be evaluated is forgiven to nobody.
"""

from collections.abc import Iterator
from typing import Any

from local.kube.causes import NO_FIELD, OMITTED, Cause, duplicate, forbidden, invalid, join_path, required
from local.kube.cel.compile import OLD_SELF, SELF, CompiledRule, compile_rules, field_path
from local.kube.cel.evaluate import evaluate
from local.kube.cel.functions import CelError
from local.kube.cel.types import Schema, is_resource_root
from local.kube.cel.values import NONE, Optional, to_cel
from local.kube.value_validation import ABSENT, correlated_items, same_json

# k8s.io/apiserver, pkg/apis/cel: longer results of messageExpression are not used.
_MESSAGE_LIMIT = 5 * 1024


def validate_rules(schema: Schema, obj: dict[str, Any], old: dict[str, Any] | None) -> list[Cause]:
    """The rules that `obj` breaks. `old` is the object before an update, None on create."""
    return list(_node(schema, obj, ABSENT if old is None else old, "", root=True, unchanged=False))


def _node(schema: Schema, value: Any, old: Any, path: str, *, root: bool, unchanged: bool) -> Iterator[Cause]:
    """Causes at a value and below; `unchanged` says that the nearest comparable parent is as it was."""
    if value is None:
        return
    same = same_json(value, old) if old is not ABSENT else unchanged
    yield from _rules_of(schema, value, old, path, root=root, forgive=same)
    for conjunct in schema.get("allOf", ()):
        merged = {**schema, "x-kubernetes-validations": conjunct.get("x-kubernetes-validations", ()), "allOf": ()}
        yield from _rules_of(merged, value, old, path, root=root, forgive=unchanged)
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        items = schema["items"]
        for index, (item, before) in enumerate(zip(value, correlated_items(schema, value, old), strict=True)):
            yield from _child(items, item, before, f"{path}[{index}]", unchanged=same)
    elif isinstance(value, dict):
        previous = old if isinstance(old, dict) else {}
        additional = schema.get("additionalProperties")
        for key, item in value.items():
            before = previous.get(key, ABSENT)
            if isinstance(additional, dict):
                yield from _child(additional, item, before, f"{path}[{key}]", unchanged=same)
            elif key in schema.get("properties", {}):
                below = schema["properties"][key]
                yield from _child(below, item, before, join_path(path, key), unchanged=same)


def _child(schema: Schema, value: Any, old: Any, path: str, *, unchanged: bool) -> Iterator[Cause]:
    return _node(schema, value, old, path, root=is_resource_root(schema), unchanged=unchanged)


def _rules_of(schema: Schema, value: Any, old: Any, path: str, *, root: bool, forgive: bool) -> Iterator[Cause]:
    rules = compile_rules(schema, root=root)
    if not rules:
        return
    kind = schema.get("type", "")
    try:
        new_value = to_cel(schema, value, root=root)
        old_value = None if old is ABSENT or old is None else to_cel(schema, old, root=root)
    except CelError as error:
        yield invalid(path, kind, str(error))
        return
    has_old = old is not ABSENT and old is not None
    for rule in rules:
        optional = bool(rule.rule.get("optionalOldSelf"))
        if rule.error:
            yield invalid(path, kind, f"rule compile error: {rule.error}")
        elif rule.program is not None and (has_old or optional or not rule.uses_old_self):
            before = (Optional(old_value) if has_old else NONE) if optional else old_value
            variables = {SELF: new_value, OLD_SELF: before}
            try:
                holds = evaluate(rule.program.checked, variables) is True
            except CelError as error:
                yield _failed(rule, error, kind, path)
                continue
            if not holds and not (forgive and not rule.uses_old_self):
                yield _broken(rule, variables, schema, value, path)


def _failed(rule: CompiledRule, error: CelError, kind: str, path: str) -> Cause:
    """A rule that cannot be evaluated. The server forgives that to no value, changed or not."""
    if str(error).startswith("no such overload"):
        detail = (
            f"'{error}': call arguments did not match a supported operator, function or macro signature for rule: "
            f"{rule.text}"
        )
    else:
        detail = f"{error} evaluating rule: {rule.text}"
    return invalid(path, kind, detail)


def _broken(rule: CompiledRule, variables: dict[str, Any], schema: Schema, value: Any, path: str) -> Cause:
    """A rule that does not hold. A plain value is named, of all others not even the type."""
    kind = schema.get("type", "")
    where = path
    if rule.rule.get("fieldPath"):
        try:
            where = join_path(path, field_path(schema, rule.rule["fieldPath"])[0])
        except ValueError:
            where = path  # refused when the definition was created
    detail = _message(rule, variables)
    shown = OMITTED if kind in ("object", "array") else value
    match rule.rule.get("reason"):
        case "FieldValueForbidden":
            return forbidden(where or NO_FIELD, detail)
        case "FieldValueRequired":
            return required(where or NO_FIELD, detail)
        case "FieldValueDuplicate":
            return duplicate(where or NO_FIELD, shown)
    return invalid(where, shown, detail)


def _message(rule: CompiledRule, variables: dict[str, Any]) -> str:
    """The text of a broken rule: messageExpression if it gives a usable line, else message, else the rule itself."""
    if rule.message is not None:
        try:
            text = str(evaluate(rule.message.checked, variables)).strip()
        except CelError:
            text = ""
        if text and "\n" not in text and len(text.encode()) <= _MESSAGE_LIMIT:
            return text
    message = str(rule.rule.get("message", "")).strip()
    return message or f"failed rule: {rule.text}"
