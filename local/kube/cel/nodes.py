"""The nodes of an expression's tree. Compared by identity: the checker keeps what it finds out by node."""

from dataclasses import dataclass, field
from typing import Any

# The accumulator of expanded macros; "@" cannot occur in an identifier of the user's.
ACCUMULATOR = "@result"


class CelSyntaxError(ValueError):
    """The text is not a CEL expression that this implementation can read."""


@dataclass(eq=False)
class Node:
    """A part of an expression; `line` and `column` (from 1) say where it is in the text."""

    line: int = field(default=1, kw_only=True)
    column: int = field(default=1, kw_only=True)


@dataclass(eq=False)
class Literal(Node):
    """A constant. `kind` is bool, int, uint, double, string, bytes or null."""

    kind: str
    value: Any


@dataclass(eq=False)
class Ident(Node):
    """A variable, or the name of a type."""

    name: str


@dataclass(eq=False)
class Select(Node):
    """`operand.field`; `test` for has(), `optional` for `operand.?field`."""

    operand: Node
    field_name: str
    test: bool = False
    optional: bool = False


@dataclass(eq=False)
class Call(Node):
    """A function or operator (`_+_`, `_[_]`, `size`); `target` is what stands before the dot of a method."""

    function: str
    args: tuple[Node, ...]
    target: Node | None = None


@dataclass(eq=False)
class ListNode(Node):
    """A list literal."""

    elements: tuple[Node, ...]


@dataclass(eq=False)
class MapNode(Node):
    """A map literal."""

    entries: tuple[tuple[Node, Node], ...]


@dataclass(eq=False)
class Comprehension(Node):
    """A loop: fold `step` over `range` into `accumulator` while `condition` is not false, then `result`.

    `variables` are the one or two names of the loop. With an empty `variables` the loop never runs and the node only
    binds `accumulator` to `initial` (what cel.bind is in cel-go; optMap needs it).
    """

    variables: tuple[str, ...]
    range: Node
    accumulator: str
    initial: Node
    condition: Node
    step: Node
    result: Node


def located(text: str, line: int, column: int, message: str) -> str:
    """`message` with the place in `text` that it is about, as cel-go prints it."""
    lines = text.splitlines() or [""]
    source = lines[min(line, len(lines)) - 1]
    return f"ERROR: <input>:{line}:{column}: {message}\n | {source}\n | {'.' * (column - 1)}^"
