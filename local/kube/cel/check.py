"""Type checking: which type every node has and which overloads every call may use.

Follows cel-go's checker as far as expressions over a schema can reach it. Unlike there, the element type of an empty
list or map is one special type that fits all and yields to any other, instead of a type variable to be solved; for
expressions without generic functions of their own that comes to the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from local.kube.cel import types as t
from local.kube.cel.functions import CelError, FunctionTable, Overload
from local.kube.cel.library_standard import pattern
from local.kube.cel.nodes import (
    ACCUMULATOR,
    Call,
    Comprehension,
    Ident,
    ListNode,
    Literal,
    MapNode,
    Node,
    Select,
    located,
)
from local.kube.cel.types import Type, same
from local.kube.cel.values import parse_duration, parse_timestamp

_LITERALS = {
    "bool": t.BOOL,
    "int": t.INT,
    "uint": t.UINT,
    "double": t.DOUBLE,
    "string": t.STRING,
    "bytes": t.BYTES,
    "null": t.NULL,
}
# Identifiers that name types.
TYPE_NAMES = frozenset({"bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"})
# Types whose values may be null.
_NULLABLE = frozenset({"object", "timestamp", "duration", "optional", "opaque"})


@dataclass
class CheckedExpression:
    """The result: types and overloads by node, the variables that occur, and messages when it does not check."""

    root: Node
    types: dict[Node, Type] = field(default_factory=dict)
    overloads: dict[Node, list[Overload]] = field(default_factory=dict)
    variables: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)

    @property
    def result(self) -> Type:
        """The type of the whole expression."""
        return self.types[self.root]


def check(root: Node, variables: Mapping[str, Type], functions: FunctionTable, text: str) -> CheckedExpression:
    """Check the expression whose source is `text`. Mistakes are in `errors` of the result, in cel-go's words."""
    checker = _Checker(variables, functions, text)
    checker.result.root = root
    checker.visit(root)
    return checker.result


class _Checker:
    def __init__(self, variables: Mapping[str, Type], functions: FunctionTable, text: str) -> None:
        self.scopes: list[Mapping[str, Type]] = [variables]
        self.functions = functions
        self.text = text
        # Elements of different types are allowed within calls of `format`, and nowhere else.
        self.mixed_allowed = False
        self.result = CheckedExpression(Literal("null", None))

    def fail(self, node: Node, message: str) -> Type:
        self.result.errors.append(located(self.text, node.line, node.column, message))
        return t.ERROR

    def visit(self, node: Node) -> Type:
        match node:
            case Literal():
                found = _LITERALS[node.kind]
            case Ident():
                found = self.ident(node)
            case Select():
                found = self.select(node)
            case Call():
                found = self.call(node)
            case ListNode():
                found = t.list_of(self.joined(node.elements))
            case MapNode():
                keys = self.joined([key for key, _ in node.entries])
                found = t.map_of(keys, self.joined([value for _, value in node.entries]))
            case Comprehension():
                found = self.comprehension(node)
            case _:
                found = self.fail(node, "unexpected expression")
        self.result.types[node] = found
        return found

    def ident(self, node: Ident) -> Type:
        for index, scope in enumerate(reversed(self.scopes)):
            if node.name in scope:
                if index == len(self.scopes) - 1:
                    self.result.variables.add(node.name)
                return scope[node.name]
        if node.name in TYPE_NAMES:
            return t.TYPE
        return self.fail(node, f"undeclared reference to '{node.name}' (in container '')")

    def select(self, node: Select) -> Type:
        target = self.visit(node.operand)
        inner = target.params[0] if target.kind == "optional" else target
        found = self.field_type(node, inner)
        if node.test:
            return t.BOOL
        if found.kind != "error" and (node.optional or target.kind == "optional"):
            return t.optional_of(found)
        return found

    def field_type(self, node: Select, target: Type) -> Type:
        match target.kind:
            case "map":
                return target.params[1]
            case "object":
                found = target.fields.get(node.field_name)
                return found if found is not None else self.fail(node, f"undefined field '{node.field_name}'")
            case "dyn" | "unbound" | "error":
                return t.DYN if target.kind != "error" else target
        return self.fail(node, f"type '{target}' does not support field selection")

    def joined(self, nodes: list[Node] | tuple[Node, ...]) -> Type:
        """The common type of the elements of a literal."""
        common = t.UNBOUND
        for node in nodes:
            found = self.visit(node)
            if common is t.UNBOUND:
                common = found
            elif common.kind != "dyn" and not (found.kind not in ("dyn", "error") and _assignable(common, found, {})):
                if not self.mixed_allowed and found.kind not in ("dyn", "error"):
                    self.fail(node, f"expected type '{common}' but found '{found}'")
                common = t.DYN
        return common

    def comprehension(self, node: Comprehension) -> Type:
        over = self.visit(node.range)
        initial = self.visit(node.initial)
        scope: dict[str, Type] = {node.accumulator: initial}
        if not node.variables:  # a binding
            self.scopes.append(scope)
            found = self.visit(node.result)
            self.scopes.pop()
            self.result.types[node.step] = initial
            self.result.types[node.condition] = t.BOOL
            return found
        scope.update(self.loop_variables(node, over))
        self.scopes.append(scope)
        self.visit(node.condition)
        step = self.visit(node.step)
        if node.accumulator == ACCUMULATOR and initial.kind in ("list", "map"):
            scope[ACCUMULATOR] = step  # now the element type is known
        elif step.kind not in ("error", "dyn") and not same(step, initial):
            self.fail(node, f"expected type '{initial}' but found '{step}'")
        found = self.visit(node.result)
        self.scopes.pop()
        return found

    def loop_variables(self, node: Comprehension, over: Type) -> dict[str, Type]:
        if over.kind == "list":
            kinds = (over.params[0],) if len(node.variables) == 1 else (t.INT, over.params[0])
        elif over.kind == "map":
            kinds = (over.params[0], over.params[1])
        else:
            if over.kind not in ("dyn", "error", "unbound"):
                message = (
                    f"expression of type '{over}' cannot be range of a comprehension (must be list, map, or dynamic)"
                )
                self.fail(node.range, message)
            kinds = (t.DYN, t.DYN)
        return dict(zip(node.variables, kinds, strict=False))

    def call(self, node: Call) -> Type:
        outside, self.mixed_allowed = self.mixed_allowed, self.mixed_allowed or node.function == "format"
        args = [self.visit(arg) for arg in ((node.target, *node.args) if node.target is not None else node.args)]
        self.mixed_allowed = outside
        self.check_literals(node)
        candidates = self.functions.find(node.function, method=node.target is not None)
        if not candidates:
            return self.fail(node, f"undeclared reference to '{node.function}' (in container '')")
        if any(arg.kind == "error" for arg in args):
            return t.ERROR
        fitting: list[tuple[Overload, Type]] = []
        for overload in candidates:
            bindings: dict[str, Type] = {}
            if len(args) == len(overload.params) and all(
                _assignable(param, arg, bindings) for param, arg in zip(overload.params, args, strict=True)
            ):
                fitting.append((overload, _substitute(overload.result, bindings)))
        if not fitting:
            return self.fail(
                node, f"found no matching overload for '{node.function}' applied to '{_signature(node, args)}'"
            )
        self.result.overloads[node] = [overload for overload, _ in fitting]
        first = fitting[0][1]
        return first if all(same(first, result) for _, result in fitting) else t.DYN

    def check_literals(self, node: Call) -> None:
        """Constant patterns, durations and timestamps must be good ones."""
        literal = node.args[-1] if node.args else None
        parse = _CHECKED_LITERALS.get(node.function)
        if parse is not None and isinstance(literal, Literal) and isinstance(literal.value, str):
            try:
                parse(literal.value)
            except (ValueError, CelError):
                self.fail(literal, f"invalid {node.function} argument")


_CHECKED_LITERALS: dict[str, Callable[[str], Any]] = {
    "duration": parse_duration,
    "matches": pattern,
    "timestamp": parse_timestamp,
}


def _signature(node: Call, args: list[Type]) -> str:
    if node.target is not None:
        return f"{args[0]}.({', '.join(map(str, args[1:]))})"
    return f"({', '.join(map(str, args))})"


def _assignable(param: Type, arg: Type, bindings: dict[str, Type]) -> bool:
    """Whether a value of type `arg` fits `param`; binds the type variables of `param`."""
    if param.kind == "var":
        bound = bindings.get(param.name)
        if bound is None or _yields(bound):
            bindings[param.name] = arg
            return bound is None or arg.kind != "error"
        if bound.kind == "null" and arg.kind in _NULLABLE:
            bindings[param.name] = arg
            return True
        if arg.kind == "dyn":
            # What is compared with dyn is dyn, too: `dyn(1) == 1.0`.
            bindings[param.name] = arg
            return True
        if not _assignable(bound, arg, {}):
            return False
        if _yields(bound.params[0]) if bound.params else False:
            bindings[param.name] = arg
        return True
    if param.kind in ("dyn", "unbound") or arg.kind in ("dyn", "unbound", "error"):
        return True
    if arg.kind == "null":
        return param.kind in ("null", *_NULLABLE)
    if param.kind == "null":
        return arg.kind in _NULLABLE
    if param.kind != arg.kind or (param.kind == "object" and param is not arg) or param.name != arg.name:
        return False
    if param.kind == "type":
        return True
    return all(_assignable(a, b, bindings) for a, b in zip(param.params, arg.params, strict=True))


def _yields(bound: Type) -> bool:
    return bound.kind == "unbound"


def _substitute(result: Type, bindings: dict[str, Type]) -> Type:
    if result.kind == "var":
        return bindings.get(result.name, t.UNBOUND)
    if not result.params:
        return result
    return Type(result.kind, tuple(_substitute(param, bindings) for param in result.params), result.name)
