"""Expressions as trees: parsing with cel-python's grammar, macros expanded.

Macros (`has`, `all`, `exists`, `exists_one`, `map`, `filter`, their two-variable forms, `optMap`, `optFlatMap`) are
expanded here into the same comprehensions as in cel-go. Checking, cost and evaluation then need no macro of their own,
and their results agree with the real server's.

The library's grammar does not know optional selection (`a.?b`, `a[?b]`). Both are rewritten, outside of literals, to
marked names that it does know, and recognised again in its tree.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from celpy.celparser import CELParseError, CELParser
from celpy.evaluation import celbytes, celstr

# The accumulator of expanded macros; "@" cannot occur in an identifier of the user's.
ACCUMULATOR = "@result"
_RESERVED = frozenset(
    [
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "in",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ]
)
_OPTIONAL_FIELD, _OPTIONAL_INDEX = "optional__field__", "optional__index__"
# String literals and comments in front, so that nothing inside them is rewritten.
_TOKEN = re.compile(
    r"""(?P<skip>[bB]?[rR]?(?:\"\"\"(?:\\.|[^\\])*?\"\"\"|'''(?:\\.|[^\\])*?'''|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|//[^\n]*)"""
    r"""|(?P<field>\.\?\s*(?=[A-Za-z_]))|(?P<index>\[\s*\?)|(?P<open>[\[({])|(?P<close>[\])}])|(?P<other>.)""",
    re.DOTALL,
)


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


def parse(text: str) -> Node:
    """The tree of an expression. Raises CelSyntaxError with cel-go's layout: message, source line, caret."""
    rewritten = _rewrite_optionals(text)
    try:
        tree = _parser().parse(rewritten)
    except CELParseError as error:
        line, column = error.line or 1, error.column or len(text) + 1
        raise CelSyntaxError(located(text, line, column, "Syntax error: cannot read the expression here")) from None
    try:
        return _Lowering(text).node(tree)
    except RecursionError:
        raise CelSyntaxError("ERROR: <input>:1:1: expression recursion limit exceeded") from None


def located(text: str, line: int, column: int, message: str) -> str:
    """`message` with the place in `text` that it is about, as cel-go prints it."""
    lines = text.splitlines() or [""]
    source = lines[min(line, len(lines)) - 1]
    return f"ERROR: <input>:{line}:{column}: {message}\n | {source}\n | {'.' * (column - 1)}^"


@cache
def _parser() -> CELParser:
    return CELParser()


def _rewrite_optionals(text: str) -> str:
    if "?" not in text:
        return text
    out: list[str] = []
    closing: list[str] = []  # what to add in front of the bracket that closes each open one
    last = ""
    for match in _TOKEN.finditer(text):
        token, kind = match.group(), match.lastgroup
        if kind == "field":
            out.append(f".{_OPTIONAL_FIELD}")
        elif kind == "index":
            if not (last.isalnum() or last in ("_", ")", "]", "}", "'", '"')):
                raise CelSyntaxError("ERROR: <input>:1:1: optional list elements are not supported here")
            out.append(f"[{_OPTIONAL_INDEX}(")
            closing.append(")")
        elif kind == "open":
            out.append(token)
            closing.append("")
        elif kind == "close":
            out.append((closing.pop() if closing else "") + token)
        else:
            out.append(token)
        if token.strip():
            last = token.strip()[-1]
    return "".join(out)


class _Lowering:
    """From the library's parse tree to nodes. One method per rule of its grammar; rules with one child pass it on."""

    def __init__(self, text: str) -> None:
        self.text = text

    def error(self, tree: Any, message: str) -> CelSyntaxError:
        line, column = _place(tree)
        return CelSyntaxError(located(self.text, line, column, message))

    def node(self, tree: Any) -> Node:
        method: Callable[[Any], Node] | None = getattr(self, f"_{tree.data}", None)
        if method is not None:
            return method(tree)
        if len(tree.children) == 1:
            return self.node(tree.children[0])
        raise self.error(tree, f"Syntax error: unsupported construct {tree.data}")

    def call(self, tree: Any, function: str, *args: Node, target: Node | None = None) -> Call:
        line, column = _place(tree)
        return Call(function, args, target, line=line, column=column)

    def _expr(self, tree: Any) -> Node:
        if len(tree.children) == 1:
            return self.node(tree.children[0])
        return self.call(tree, "_?_:_", *map(self.node, tree.children))

    def _conditionalor(self, tree: Any) -> Node:
        return self._binary(tree, "_||_")

    def _conditionaland(self, tree: Any) -> Node:
        return self._binary(tree, "_&&_")

    def _binary(self, tree: Any, function: str) -> Node:
        if len(tree.children) == 1:
            return self.node(tree.children[0])
        return self.call(tree, function, *map(self.node, tree.children))

    def _operation(self, tree: Any) -> Node:
        """relation, addition, multiplication: the operator is a node around its left side."""
        if len(tree.children) == 1:
            return self.node(tree.children[0])
        operator, right = tree.children
        left = self.node(operator.children[0])
        return self.call(tree, _OPERATORS[operator.data], left, self.node(right))

    _relation = _addition = _multiplication = _operation

    def _unary(self, tree: Any) -> Node:
        if len(tree.children) == 1:
            return self.node(tree.children[0])
        operator, operand = tree.children
        return self.call(tree, "!_" if operator.data == "unary_not" else "-_", self.node(operand))

    def _member_dot(self, tree: Any) -> Node:
        operand, token = tree.children
        line, column = _place(token)
        name = str(token)
        optional = name.startswith(_OPTIONAL_FIELD)
        return Select(
            self.node(operand), name.removeprefix(_OPTIONAL_FIELD), optional=optional, line=line, column=column - 1
        )

    def _member_index(self, tree: Any) -> Node:
        operand, index = tree.children
        key = self.node(index)
        if isinstance(key, Call) and key.function == _OPTIONAL_INDEX:
            return self.call(tree, "_[?_]", self.node(operand), *key.args)
        return self.call(tree, "_[_]", self.node(operand), key)

    def _member_object(self, tree: Any) -> Node:
        raise self.error(tree, "Syntax error: message construction is not supported")

    def _member_dot_arg(self, tree: Any) -> Node:
        operand, token, *rest = tree.children
        args = tuple(map(self.node, rest[0].children)) if rest else ()
        macro = _MACROS.get((str(token), len(args)))
        if macro is not None:
            return macro(self, tree, self.node(operand), args)
        line, column = _place(token)
        if str(token).startswith(_OPTIONAL_FIELD):
            raise self.error(tree, "Syntax error: optional selection of a function")
        # A qualified function such as optional.of: cel-go tries the dotted name first.
        base = _dotted(operand)
        if base and f"{base}.{token}" in QUALIFIED_FUNCTIONS:
            return Call(f"{base}.{token}", args, line=line, column=column + len(token))
        return Call(str(token), args, self.node(operand), line=line, column=column + len(token))

    def _dot_ident(self, tree: Any) -> Node:
        return self._ident(tree)

    def _dot_ident_arg(self, tree: Any) -> Node:
        return self._ident_arg(tree)

    def _ident(self, tree: Any) -> Node:
        name = str(tree.children[0])
        line, column = _place(tree)
        if name in _RESERVED:
            raise self.error(tree, f"reserved identifier: {name}")
        if name.startswith(("optional__field__", "optional__index__")):
            raise self.error(tree, f"reserved identifier: {name}")
        return Ident(name, line=line, column=column)

    def _ident_arg(self, tree: Any) -> Node:
        token, *rest = tree.children
        args = tuple(map(self.node, rest[0].children)) if rest else ()
        if str(token) == "has" and len(args) == 1:
            operand = args[0]
            if not isinstance(operand, Select):
                raise self.error(tree, "invalid argument to has() macro")
            return Select(operand.operand, operand.field_name, test=True, line=operand.line, column=operand.column)
        return self.call(tree, str(token), *args)

    def _paren_expr(self, tree: Any) -> Node:
        return self.node(tree.children[0])

    def _list_lit(self, tree: Any) -> Node:
        elements = tuple(map(self.node, tree.children[0].children)) if tree.children else ()
        line, column = _place(tree)
        return ListNode(elements, line=line, column=column)

    def _map_lit(self, tree: Any) -> Node:
        parts = list(map(self.node, tree.children[0].children)) if tree.children else []
        line, column = _place(tree)
        return MapNode(tuple(zip(parts[::2], parts[1::2], strict=True)), line=line, column=column)

    def _literal(self, tree: Any) -> Node:
        token = tree.children[0]
        line, column = _place(tree)
        try:
            kind, value = _constant(token)
        except (ValueError, OverflowError, IndexError) as error:
            raise self.error(tree, f"invalid literal {token}: {error}") from None
        return Literal(kind, value, line=line, column=column)


_OPERATORS = {
    "relation_lt": "_<_",
    "relation_le": "_<=_",
    "relation_gt": "_>_",
    "relation_ge": "_>=_",
    "relation_eq": "_==_",
    "relation_ne": "_!=_",
    "relation_in": "@in",
    "addition_add": "_+_",
    "addition_sub": "_-_",
    "multiplication_mul": "_*_",
    "multiplication_div": "_/_",
    "multiplication_mod": "_%_",
}

# Functions whose name contains a dot.
QUALIFIED_FUNCTIONS = frozenset(
    {
        "optional.of",
        "optional.none",
        "optional.ofNonZeroValue",
        "sets.contains",
        "sets.equivalent",
        "sets.intersects",
        "strings.quote",
    }
)


def _place(tree: Any) -> tuple[int, int]:
    meta = getattr(tree, "meta", tree)
    return int(getattr(meta, "line", 1) or 1), int(getattr(meta, "column", 1) or 1)


def _dotted(tree: Any) -> str | None:
    """The name when the tree is a bare identifier."""
    while getattr(tree, "data", None) in ("member", "primary"):
        tree = tree.children[0]
    return str(tree.children[0]) if getattr(tree, "data", None) == "ident" else None


def _constant(token: Any) -> tuple[str, Any]:
    text = str(token)
    match token.type:
        case "BOOL_LIT":
            return "bool", text == "true"
        case "NULL_LIT":
            return "null", None
        case "INT_LIT":
            return "int", _bounded(int(text, 0 if "x" in text else 10), -(2**63), 2**63 - 1)
        case "UINT_LIT":
            return "uint", _bounded(int(text[:-1], 0 if "x" in text else 10), 0, 2**64 - 1)
        case "FLOAT_LIT":
            return "double", float(text)
        case "BYTES_LIT":
            return "bytes", bytes(celbytes(token))
    if text[:1] not in "rR":
        # The library drops line breaks in triple-quoted strings; as escapes they survive.
        token = type(token)(token.type, text.replace("\r\n", "\\n").replace("\n", "\\n"))
    return "string", str(celstr(token))


def _bounded(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError("out of range")
    return value


# --- macros -------------------------------------------------------------------------------------------------------


class _Builder:
    """Makes the nodes of an expansion, all at the place of the macro."""

    def __init__(self, tree: Any) -> None:
        self.line, self.column = _place(tree)

    def literal(self, kind: str, value: Any) -> Literal:
        return Literal(kind, value, line=self.line, column=self.column)

    def ident(self, name: str) -> Ident:
        return Ident(name, line=self.line, column=self.column)

    def call(self, function: str, *args: Node, target: Node | None = None) -> Call:
        return Call(function, args, target, line=self.line, column=self.column)

    def loop(self, variables: tuple[str, ...], over: Node, initial: Node, condition: Node, step: Node) -> Comprehension:
        accu = self.ident(ACCUMULATOR)
        return Comprehension(
            variables, over, ACCUMULATOR, initial, condition, step, accu, line=self.line, column=self.column
        )


def _variable(lowering: _Lowering, tree: Any, node: Node) -> str:
    if not isinstance(node, Ident):
        raise lowering.error(tree, "argument must be a simple name")
    return node.name


def _names(lowering: _Lowering, tree: Any, nodes: tuple[Node, ...]) -> tuple[str, ...]:
    names = tuple(_variable(lowering, tree, node) for node in nodes)
    if len(set(names)) != len(names):
        raise lowering.error(tree, f"overlapping bind variable '{names[0]}'")
    return names


Macro = Callable[[_Lowering, Any, Node, tuple[Node, ...]], Node]


def _quantifier(count: int, *, every: bool) -> Macro:
    """all and exists: stop at the first false (or true) element, and let errors lose against it."""

    def expand(lowering: _Lowering, tree: Any, over: Node, args: tuple[Node, ...]) -> Node:
        make = _Builder(tree)
        accu = make.ident(ACCUMULATOR)
        going_on = make.ident(ACCUMULATOR) if every else make.call("!_", accu)
        return make.loop(
            _names(lowering, tree, args[:count]),
            over,
            make.literal("bool", every),
            make.call("@not_strictly_false", going_on),
            make.call("_&&_" if every else "_||_", make.ident(ACCUMULATOR), args[count]),
        )

    return expand


def _exists_one(count: int) -> Macro:
    def expand(lowering: _Lowering, tree: Any, over: Node, args: tuple[Node, ...]) -> Node:
        make = _Builder(tree)
        one_more = make.call("_+_", make.ident(ACCUMULATOR), make.literal("int", 1))
        loop = make.loop(
            _names(lowering, tree, args[:count]),
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

    def expand(lowering: _Lowering, tree: Any, over: Node, args: tuple[Node, ...]) -> Node:
        make = _Builder(tree)
        names = _names(lowering, tree, args[:count])
        value = make.ident(names[0]) if keep_element else args[-1]
        item = ListNode((value,), line=make.line, column=make.column)
        step: Node = make.call("_+_", make.ident(ACCUMULATOR), item)
        if filtered:
            step = make.call("_?_:_", args[count], step, make.ident(ACCUMULATOR))
        empty = ListNode((), line=make.line, column=make.column)
        return make.loop(names, over, empty, make.literal("bool", True), step)

    return expand


def _transform_map(*, filtered: bool) -> Macro:
    def expand(lowering: _Lowering, tree: Any, over: Node, args: tuple[Node, ...]) -> Node:
        make = _Builder(tree)
        names = _names(lowering, tree, args[:2])
        step: Node = make.call("@mapInsert", make.ident(ACCUMULATOR), make.ident(names[0]), args[-1])
        if filtered:
            step = make.call("_?_:_", args[2], step, make.ident(ACCUMULATOR))
        empty = MapNode((), line=make.line, column=make.column)
        return make.loop(names, over, empty, make.literal("bool", True), step)

    return expand


def _optional_map(*, flat: bool) -> Macro:
    """`x.optMap(v, f)`: f of the value if there is one."""

    def expand(lowering: _Lowering, tree: Any, target: Node, args: tuple[Node, ...]) -> Node:
        make = _Builder(tree)
        name = _variable(lowering, tree, args[0])
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


_MACROS: dict[tuple[str, int], Macro] = {
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
