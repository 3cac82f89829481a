"""CEL's macros, expanded into the same comprehensions as in cel-go (parser/macro.go, ext/comprehensions.go).

Checking, cost and evaluation then need no macro of their own, and their results agree with the real server's.
"""

from collections.abc import Callable
from typing import Any

from local.kube.cel.nodes import ACCUMULATOR, Call, Comprehension, Ident, ListNode, Literal, MapNode, Node


class MacroError(ValueError):
    """A macro is used in a way that has no expansion."""


class Builder:
    """Makes the nodes of an expansion, all at the place of the macro."""

    def __init__(self, line: int, column: int) -> None:
        self.line, self.column = line, column

    def literal(self, kind: str, value: Any) -> Literal:
        """A constant."""
        return Literal(kind, value, line=self.line, column=self.column)

    def ident(self, name: str) -> Ident:
        """A reference to a variable."""
        return Ident(name, line=self.line, column=self.column)

    def call(self, function: str, *args: Node, target: Node | None = None) -> Call:
        """A call of a function, or with `target` of a method."""
        return Call(function, args, target, line=self.line, column=self.column)

    def loop(self, variables: tuple[str, ...], over: Node, initial: Node, condition: Node, step: Node) -> Comprehension:
        """A loop whose result is its accumulator."""
        accu = self.ident(ACCUMULATOR)
        return Comprehension(
            variables, over, ACCUMULATOR, initial, condition, step, accu, line=self.line, column=self.column
        )


def _variable(node: Node) -> str:
    if not isinstance(node, Ident):
        raise MacroError("argument must be a simple name")
    return node.name


def _names(nodes: tuple[Node, ...]) -> tuple[str, ...]:
    names = tuple(_variable(node) for node in nodes)
    if len(set(names)) != len(names):
        raise MacroError(f"overlapping bind variable '{names[0]}'")
    return names


Macro = Callable[[Builder, Node, tuple[Node, ...]], Node]


def _quantifier(count: int, *, every: bool) -> Macro:
    """all and exists: stop at the first false (or true) element, and let errors lose against it."""

    def expand(make: Builder, over: Node, args: tuple[Node, ...]) -> Node:
        accu = make.ident(ACCUMULATOR)
        going_on = make.ident(ACCUMULATOR) if every else make.call("!_", accu)
        return make.loop(
            _names(args[:count]),
            over,
            make.literal("bool", every),
            make.call("@not_strictly_false", going_on),
            make.call("_&&_" if every else "_||_", make.ident(ACCUMULATOR), args[count]),
        )

    return expand


def _exists_one(count: int) -> Macro:
    def expand(make: Builder, over: Node, args: tuple[Node, ...]) -> Node:
        one_more = make.call("_+_", make.ident(ACCUMULATOR), make.literal("int", 1))
        loop = make.loop(
            _names(args[:count]),
            over,
            make.literal("int", 0),
            make.literal("bool", True),
            make.call("_?_:_", args[count], one_more, make.ident(ACCUMULATOR)),
        )
        loop.result = make.call("_==_", make.ident(ACCUMULATOR), make.literal("int", 1))
        return loop

    return expand


def _collector(count: int, *, filtered: bool, keep_element: bool = False) -> Macro:
    """map, filter and transformList: gather values, optionally only of elements that pass a test."""

    def expand(make: Builder, over: Node, args: tuple[Node, ...]) -> Node:
        names = _names(args[:count])
        value = make.ident(names[0]) if keep_element else args[-1]
        item = ListNode((value,), line=make.line, column=make.column)
        step: Node = make.call("_+_", make.ident(ACCUMULATOR), item)
        if filtered:
            step = make.call("_?_:_", args[count], step, make.ident(ACCUMULATOR))
        empty = ListNode((), line=make.line, column=make.column)
        return make.loop(names, over, empty, make.literal("bool", True), step)

    return expand


def _transform_map(*, filtered: bool) -> Macro:
    def expand(make: Builder, over: Node, args: tuple[Node, ...]) -> Node:
        names = _names(args[:2])
        step: Node = make.call("@mapInsert", make.ident(ACCUMULATOR), make.ident(names[0]), args[-1])
        if filtered:
            step = make.call("_?_:_", args[2], step, make.ident(ACCUMULATOR))
        empty = MapNode((), line=make.line, column=make.column)
        return make.loop(names, over, empty, make.literal("bool", True), step)

    return expand


def _optional_map(*, flat: bool) -> Macro:
    """`x.optMap(v, f)`: f of the value if there is one."""

    def expand(make: Builder, target: Node, args: tuple[Node, ...]) -> Node:
        name = _variable(args[0])
        bound = Comprehension(
            (),
            ListNode((), line=make.line, column=make.column),
            name,
            make.call("value", target=target),
            make.literal("bool", False),
            make.ident(name),
            args[1],
            line=make.line,
            column=make.column,
        )
        return make.call(
            "_?_:_",
            make.call("hasValue", target=target),
            bound if flat else make.call("optional.of", bound),
            make.call("optional.none"),
        )

    return expand


# By name and number of arguments.
MACROS: dict[tuple[str, int], Macro] = {
    ("all", 2): _quantifier(1, every=True),
    ("all", 3): _quantifier(2, every=True),
    ("exists", 2): _quantifier(1, every=False),
    ("exists", 3): _quantifier(2, every=False),
    ("exists_one", 2): _exists_one(1),
    ("existsOne", 2): _exists_one(1),
    ("existsOne", 3): _exists_one(2),
    ("exists_one", 3): _exists_one(2),
    ("map", 2): _collector(1, filtered=False),
    ("map", 3): _collector(1, filtered=True),
    ("filter", 2): _collector(1, filtered=True, keep_element=True),
    ("transformList", 3): _collector(2, filtered=False),
    ("transformList", 4): _collector(2, filtered=True),
    ("transformMap", 3): _transform_map(filtered=False),
    ("transformMap", 4): _transform_map(filtered=True),
    ("optMap", 2): _optional_map(flat=False),
    ("optFlatMap", 2): _optional_map(flat=True),
}
