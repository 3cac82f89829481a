"""Expressions as trees: parsing with cel-python's grammar, macros expanded on the way.

The library's grammar does not know optional selection (`a.?b`, `a[?b]`). Both are rewritten, outside of literals, to
marked names that it does know, and recognised again in its tree.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from celpy.celparser import CELParseError, CELParser
from celpy.evaluation import celbytes, celstr

from local.kube.cel.macros import MACROS, Builder, MacroError
from local.kube.cel.nodes import Call, CelSyntaxError, Ident, ListNode, Literal, MapNode, Node, Select, located

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
        macro = MACROS.get((str(token), len(args)))
        if macro is not None:
            try:
                return macro(Builder(*_place(tree)), self.node(operand), args)
            except MacroError as error:
                raise self.error(tree, str(error)) from None
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
