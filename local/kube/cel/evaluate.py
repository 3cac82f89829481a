"""Evaluation of a checked expression.

Errors are exceptions (`CelError`), except where CEL lets them lose: `&&` and `||` have an answer when either side alone
decides, so `all` and `exists` do, too. An accumulator may therefore hold an error for a while.
"""

from collections.abc import Mapping
from typing import Any

from local.kube.cel.check import TYPE_NAMES, CheckedExpression
from local.kube.cel.functions import CelError, Overload
from local.kube.cel.nodes import Call, Comprehension, Ident, ListNode, Literal, MapNode, Node, Select
from local.kube.cel.types import Type
from local.kube.cel.values import NONE, IntType, Optional, TypeValue, UintType, kind_of


def evaluate(checked: CheckedExpression, variables: Mapping[str, Any]) -> Any:
    """The value of the expression. Raises CelError."""
    try:
        return _Evaluator(checked).visit(checked.root, variables)
    except RecursionError:
        raise CelError("expression is nested too deeply") from None


class _Evaluator:
    def __init__(self, checked: CheckedExpression) -> None:
        self.checked = checked

    def visit(self, node: Node, scope: Mapping[str, Any]) -> Any:
        match node:
            case Literal():
                return _literal(node)
            case Ident():
                return self.ident(node, scope)
            case Select():
                return self.select(node, scope)
            case Call():
                return self.call(node, scope)
            case ListNode():
                return [self.visit(element, scope) for element in node.elements]
            case MapNode():
                return self.map(node, scope)
            case Comprehension():
                return self.comprehension(node, scope)
        raise CelError("unexpected expression")

    def ident(self, node: Ident, scope: Mapping[str, Any]) -> Any:
        if node.name in scope:
            value = scope[node.name]
            if isinstance(value, CelError):
                raise value
            return value
        if node.name in TYPE_NAMES:
            return TypeValue(node.name)
        raise CelError(f"no such attribute(s): {node.name}")

    def select(self, node: Select, scope: Mapping[str, Any]) -> Any:
        target = self.visit(node.operand, scope)
        lifted = isinstance(target, Optional)
        if isinstance(target, Optional):
            if not target.present:
                return False if node.test else NONE
            target = target.value
        if not isinstance(target, dict):
            if node.test and target is None:
                return False
            raise CelError("no such overload" if target is not None else f"no such key: {node.field_name}")
        if node.test:
            return node.field_name in target
        if node.field_name not in target:
            if node.optional or lifted:
                return NONE
            raise CelError(f"no such key: {node.field_name}")
        value = target[node.field_name]
        if isinstance(value, CelError):
            raise value
        return Optional(value) if node.optional or lifted else value

    def map(self, node: MapNode, scope: Mapping[str, Any]) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for key_node, value_node in node.entries:
            key = self.visit(key_node, scope)
            if kind_of(key) not in ("string", "int", "uint", "bool"):
                raise CelError("unsupported key type")
            if key in result:
                raise CelError(f"duplicate key: {key}")
            result[key] = self.visit(value_node, scope)
        return result

    def call(self, node: Call, scope: Mapping[str, Any]) -> Any:
        match node.function:
            case "_&&_":
                return self.decide(node, scope, losing=True)
            case "_||_":
                return self.decide(node, scope, losing=False)
            case "_?_:_":
                condition, first, second = node.args
                return self.visit(first if _bool(self.visit(condition, scope)) else second, scope)
            case "@not_strictly_false":
                try:
                    return self.visit(node.args[0], scope) is not False
                except CelError:
                    return True
            case "orValue" | "or" if node.target is not None:
                target = self.visit(node.target, scope)
                if isinstance(target, Optional) and target.present:
                    return target.value if node.function == "orValue" else target
                return self.visit(node.args[0], scope)
        nodes = (node.target, *node.args) if node.target is not None else node.args
        args = [self.visit(arg, scope) for arg in nodes]
        implement = self.overload(node, args).implement
        if implement is None:
            raise CelError("no such overload")
        try:
            return implement(*args)
        except (AttributeError, TypeError):
            # Overloads are chosen by the outermost type: deeper down a dynamic value may be of any.
            raise CelError("no such overload") from None

    def overload(self, node: Call, args: list[Any]) -> Overload:
        candidates = self.checked.overloads[node]
        for overload in candidates:
            if all(_accepts(param, arg) for param, arg in zip(overload.params, args, strict=True)):
                return overload
        raise CelError("no such overload")

    def decide(self, node: Call, scope: Mapping[str, Any], *, losing: bool) -> bool:
        """`&&` (`losing` is True) and `||`: a side that is not `losing` decides, whatever the other does."""
        error: CelError | None = None
        for arg in node.args:
            try:
                if _bool(self.visit(arg, scope)) is not losing:
                    return not losing
            except CelError as raised:
                error = error or raised
        if error is not None:
            raise error
        return losing

    def comprehension(self, node: Comprehension, scope: Mapping[str, Any]) -> Any:
        if not node.variables:
            return self.visit(node.result, {**scope, node.accumulator: self.visit(node.initial, scope)})
        over = self.visit(node.range, scope)
        if not isinstance(over, (list, dict)):
            raise CelError("no such overload")
        inner = {**scope, node.accumulator: self.visit(node.initial, scope)}
        for bindings in _iterations(node.variables, over):
            inner.update(bindings)
            if self.visit(node.condition, inner) is False:
                break
            try:
                inner[node.accumulator] = self.visit(node.step, inner)
            except CelError as error:
                inner[node.accumulator] = error
        # The result sees what the loop has gathered, but not its variables.
        return self.visit(node.result, {**scope, node.accumulator: inner[node.accumulator]})


def _iterations(names: tuple[str, ...], over: list[Any] | dict[Any, Any]) -> list[dict[str, Any]]:
    if len(names) == 1:
        return [{names[0]: item} for item in over]
    pairs = over.items() if isinstance(over, dict) else ((IntType(i), item) for i, item in enumerate(over))
    return [{names[0]: key, names[1]: value} for key, value in pairs]


def _literal(node: Literal) -> Any:
    if node.kind == "int":
        return IntType(node.value)
    return UintType(node.value) if node.kind == "uint" else node.value


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise CelError("no such overload")
    return value


def _accepts(param: Type, value: Any) -> bool:
    """Whether a value may be given to a parameter; only the outermost type is looked at, the checker did the rest."""
    if param.kind in ("var", "dyn"):
        return True
    kind = kind_of(value)
    if kind == "opaque":
        return param.kind == "opaque" and param.name == value.type_name
    if kind == "list" and param.kind == "list" and value:
        return _accepts(param.params[0], value[0])
    return kind == param.kind or (kind == "object" and param.kind == "map")
