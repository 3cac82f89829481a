"""Whether the CEL rules of a schema may be installed: they must compile, and be affordable for the largest object.

The cost of a rule is what one evaluation can cost at most, times how often its value can occur: the product of the
bounds of the lists and maps around it, or, when one of them has no bound, as often as the value fits into a request.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from local.kube.causes import Cause, forbidden, invalid, not_supported, required
from local.kube.cel.compile import CompiledRule, compile_rules, field_path
from local.kube.cel.cost import UNLIMITED
from local.kube.cel.types import Schema, is_resource_root

# k8s.io/apiextensions-apiserver, pkg/apis/apiextensions/validation
EXPRESSION_LIMIT = 10_000_000
DEFINITION_LIMIT = 100_000_000
_MOST_EXPENSIVE = 4
_REASONS = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")


@dataclass
class _Costs:
    """Costs of all rules so far; of those above 1 % of the limit also where they are."""

    total: int = 0
    expensive: list[tuple[int, str]] = field(default_factory=list)

    def add(self, path: str, cost: int) -> None:
        self.total = min(UNLIMITED, self.total + cost)
        if cost >= DEFINITION_LIMIT // 100:
            self.expensive = sorted([*self.expensive, (cost, path)], reverse=True)[:_MOST_EXPENSIVE]


@dataclass(frozen=True)
class _Place:
    """Where a schema node stands: how often its value can occur (None: no bound), and what forbids `oldSelf`."""

    path: str
    root: bool
    occurrences: int | None = 1
    uncorrelated: str = ""


def validate_cel(schema: Schema, path: str) -> list[Cause]:
    """Faults of the rules of a schema that is structural; `path` is where it stands in the definition."""
    costs = _Costs()
    causes = list(_node(schema, _Place(path, root=True), costs))
    if costs.total > DEFINITION_LIMIT:
        detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema"
        causes += [forbidden(where, detail) for _, where in costs.expensive]
        name = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema"
        causes.append(forbidden(path, _over_budget(name, costs.total, DEFINITION_LIMIT)))
    return causes


def _node(schema: Schema, place: _Place, costs: _Costs) -> Iterator[Cause]:
    occurrences = _occurrences(schema, place.occurrences)
    for key, child in schema.get("properties", {}).items():
        yield from _child(child, replace(place, path=f"{place.path}.properties[{key}]", occurrences=occurrences), costs)
    additional, items = schema.get("additionalProperties"), schema.get("items")
    if isinstance(additional, dict):
        below = replace(place, path=f"{place.path}.additionalProperties", occurrences=occurrences)
        yield from _child(additional, below, costs)
    if isinstance(items, dict):
        # Only items with keys can be told apart, so only they have an old value.
        keyed = schema.get("x-kubernetes-list-type") == "map"
        uncorrelated = place.uncorrelated or ("" if keyed else place.path)
        below = replace(place, path=f"{place.path}.items", occurrences=occurrences, uncorrelated=uncorrelated)
        yield from _child(items, below, costs)
    rules = schema.get("x-kubernetes-validations") or []
    malformed = [cause for index, rule in enumerate(rules) for cause in _shape(rule, schema, _rule_path(place, index))]
    yield from malformed
    if not malformed:
        for index, compiled in enumerate(compile_rules(schema, root=place.root)):
            yield from _compiled(compiled, place, _rule_path(place, index), costs)


def _rule_path(place: _Place, index: int) -> str:
    return f"{place.path}.x-kubernetes-validations[{index}]"


def _child(schema: Schema, place: _Place, costs: _Costs) -> Iterator[Cause]:
    return _node(schema, replace(place, root=is_resource_root(schema)), costs)


def _occurrences(schema: Schema, around: int | None) -> int | None:
    """How often values directly below this node can occur."""
    factor: int | None = 1
    if schema.get("type") == "array":
        factor = schema.get("maxItems")
    elif schema.get("type") == "object" and schema.get("additionalProperties"):
        factor = schema.get("maxProperties")
    return None if around is None or factor is None else min(UNLIMITED, around * max(0, factor))


def _shape(rule: dict[str, Any], schema: Schema, path: str) -> Iterator[Cause]:
    """Faults of a rule that show without compiling it."""
    text, message = str(rule.get("rule", "")).strip(), str(rule.get("message", ""))
    if not text:
        yield required(f"{path}.rule", "rule is not specified")
    elif message and not message.strip():
        yield invalid(f"{path}.message", message, "message must be non-empty if specified")
    elif _has_line_break(message.strip()):
        yield invalid(f"{path}.message", message, "message must not contain line breaks")
    elif _has_line_break(text) and not message:
        yield required(f"{path}.message", "message must be specified if rule contains line breaks")
    expression = rule.get("messageExpression", "")
    if expression and not expression.strip():
        yield required(f"{path}.messageExpression", "messageExpression must be non-empty if specified")
    reason = rule.get("reason")
    if reason is not None and reason not in _REASONS:
        yield not_supported(f"{path}.reason", reason, _REASONS)
    where = rule.get("fieldPath", "")
    if where:
        if not where.strip():
            yield invalid(f"{path}.fieldPath", where, "fieldPath must be non-empty if specified")
        if _has_line_break(where):
            yield invalid(f"{path}.fieldPath", where, "fieldPath must not contain line breaks")
        try:
            field_path(schema, where)
        except ValueError:
            yield invalid(f"{path}.fieldPath", where, "fieldPath must be a valid path")


def _has_line_break(text: str) -> bool:
    return "\n" in text or "\r" in text


def _compiled(rule: CompiledRule, place: _Place, path: str, costs: _Costs) -> Iterator[Cause]:
    shown = _shown(rule)
    if rule.error:
        yield invalid(f"{path}.rule", shown, rule.error)
    if rule.program is not None:
        times = rule.cardinality if place.occurrences is None else place.occurrences
        cost = min(UNLIMITED, rule.program.cost * times)
        costs.add(f"{path}.rule", cost)
        if cost > EXPRESSION_LIMIT:
            yield forbidden(f"{path}.rule", _over_budget("estimated rule cost", cost, EXPRESSION_LIMIT))
    if rule.message_error:
        yield invalid(f"{path}.messageExpression", shown, rule.message_error)
    elif rule.message is not None:
        costs.add(f"{path}.messageExpression", rule.message.cost)
        if rule.message.cost > EXPRESSION_LIMIT:
            detail = _over_budget("estimated messageExpression cost", rule.message.cost, EXPRESSION_LIMIT)
            yield forbidden(f"{path}.messageExpression", detail)
    if rule.uses_old_self:
        if place.uncorrelated:
            detail = f"oldSelf cannot be used on the uncorrelatable portion of the schema within {place.uncorrelated}"
            yield invalid(f"{path}.rule", rule.rule["rule"], detail)
    elif "optionalOldSelf" in rule.rule and rule.program is not None:
        detail = "may not be set if oldSelf is not used in rule"
        yield invalid(f"{path}.optionalOldSelf", rule.rule["optionalOldSelf"], detail)


def _shown(rule: CompiledRule) -> dict[str, Any]:
    """The rule as the server shows it as a refused value: the fields of its Go struct."""
    return {
        "Rule": rule.rule.get("rule", ""),
        "Message": rule.rule.get("message", ""),
        "MessageExpression": rule.rule.get("messageExpression", ""),
        "Reason": rule.rule.get("reason"),
        "FieldPath": rule.rule.get("fieldPath", ""),
        "OptionalOldSelf": rule.rule.get("optionalOldSelf"),
    }


def _over_budget(name: str, cost: int, limit: int) -> str:
    factor = cost / limit
    shown = f"{factor:.6f}x" if factor < 1.5 else f"{factor:.1f}x"
    if factor > 100:
        shown = "more than 100x"
    return (
        f"{name} exceeds budget by factor of {shown} (try simplifying the rule, or adding maxItems, maxProperties, "
        "and maxLength where arrays, maps, and strings are declared)"
    )
