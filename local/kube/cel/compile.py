"""One rule, ready to run: parsed, checked against its schema's type, its cost estimated.

Compiling is pure and results are kept by the text of the schema node, so that a rule is compiled once per definition and
not once per object.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from local.kube.cel.check import CheckedExpression, check
from local.kube.cel.cost import estimate
from local.kube.cel.functions import FunctionTable
from local.kube.cel.library_kubernetes import KUBERNETES
from local.kube.cel.library_standard import STANDARD
from local.kube.cel.library_text import TEXT
from local.kube.cel.nodes import CelSyntaxError
from local.kube.cel.syntax import parse
from local.kube.cel.types import MAX_REQUEST_BYTES, Schema, Type, optional_of, schema_type

FUNCTIONS = FunctionTable(STANDARD, TEXT, KUBERNETES)
SELF, OLD_SELF = "self", "oldSelf"


class CompileError(ValueError):
    """An expression cannot be compiled; the text is the server's."""


@dataclass(frozen=True, eq=False)
class Program:
    """A compiled expression and the most that one evaluation can cost."""

    checked: CheckedExpression
    cost: int


@dataclass(frozen=True, eq=False)
class CompiledRule:
    """One entry of `x-kubernetes-validations`.

    `program` is None when `error` is set, or when the rule is empty. `cardinality` is how many values of the rule's
    schema fit into one request, for rules below lists and maps without a bound.
    """

    rule: Mapping[str, Any]
    program: Program | None
    error: str
    message: Program | None
    message_error: str
    cardinality: int

    @property
    def uses_old_self(self) -> bool:
        """Whether the rule is about changes."""
        return self.program is not None and OLD_SELF in self.program.checked.variables

    @property
    def text(self) -> str:
        """How messages name the rule: its message, or the rule itself."""
        return str(self.rule.get("message") or self.rule.get("rule", "")).strip()


def compile_expression(text: str, variables: Mapping[str, Type]) -> Program:
    """Compile an expression over the given variables. Raises CompileError with all mistakes found."""
    try:
        root = parse(text)
    except CelSyntaxError as error:
        raise CompileError(str(error)) from None
    try:
        checked = check(root, variables, FUNCTIONS, text)
        if checked.errors:
            raise CompileError("\n".join(checked.errors))
        return Program(checked, estimate(checked, variables).high)
    except RecursionError:
        raise CompileError("expression is nested too deeply") from None


def compile_rules(schema: Schema, *, root: bool) -> tuple[CompiledRule, ...]:
    """The rules of one schema node (not of those below it); `root` for the root of a resource."""
    if not schema.get("x-kubernetes-validations"):
        return ()
    return _compile_node(json.dumps(schema, sort_keys=True, default=str), root)


@lru_cache(maxsize=512)
def _compile_node(schema_text: str, root: bool) -> tuple[CompiledRule, ...]:
    schema = json.loads(schema_text)
    kind = schema_type(schema, root=root)
    return tuple(_compile_rule(rule, schema, kind) for rule in schema["x-kubernetes-validations"])


def _compile_rule(rule: Mapping[str, Any], schema: Schema, kind: Type | None) -> CompiledRule:
    if kind is None:
        preserved = str(bool(schema.get("x-kubernetes-preserve-unknown-fields"))).lower()
        error = (
            "rule declared on schema that does not support validation rules type: "
            f"'{schema.get('type', '')}' x-kubernetes-preserve-unknown-fields: '{preserved}'"
        )
        return CompiledRule(rule, None, error, None, "", 1)
    old = optional_of(kind) if rule.get("optionalOldSelf") else kind
    variables = {SELF: kind, OLD_SELF: old}
    program, error = _compile(str(rule.get("rule", "")), variables, "bool")
    if error:
        error = error if error.startswith("cel expression") else f"compilation failed: {error}"
    message, message_error = _compile(str(rule.get("messageExpression", "")), variables, "string")
    if message_error:
        prefix = "" if message_error.startswith("messageExpression") else "messageExpression compilation failed: "
        message_error = prefix + message_error
    return CompiledRule(rule, program, error, message, message_error, MAX_REQUEST_BYTES // (kind.min_size + 1))


def _compile(text: str, variables: Mapping[str, Type], wanted: str) -> tuple[Program | None, str]:
    """The program and no error, or the other way round; neither for an empty expression."""
    if not text.strip():
        return None, ""
    try:
        program = compile_expression(text, variables)
    except CompileError as error:
        return None, str(error)
    if program.checked.result.kind != wanted:
        if wanted == "bool":
            return None, "cel expression must evaluate to a bool"
        return None, "messageExpression must evaluate to a string"
    return program, ""


_PATH_PART = re.compile(r"\.([^.\[\]']+)|\['((?:[^'\\]|\\.)*)'\]")
_PATH_ESCAPE = re.compile(r"\\(.)")


def field_path(schema: Schema, path: str, *, indices: bool = True) -> tuple[str, Schema]:
    """A `fieldPath` such as `.spec.x` or `.labels['a.b']` as the server prints it, and the schema that it leads to.

    Raises ValueError when it does not lead to a field of the schema; `indices` is False where brackets are not allowed.
    """
    shown, position, current = "", 0, schema
    while position < len(path):
        match = _PATH_PART.match(path, position)
        if match is None:
            raise ValueError(f"expected [ or . but got: {path[position:]}")
        quoted = match[2]
        if quoted is not None and not indices:
            raise ValueError("array notation is not allowed")
        name = match[1] if quoted is None else _PATH_ESCAPE.sub(r"\1", quoted)
        if current.get("properties"):
            if name not in current["properties"]:
                raise ValueError("does not refer to a valid field")
            current = current["properties"][name]
            shown = f"{shown}.{name}" if shown else name
        elif isinstance(current.get("additionalProperties"), dict):
            current = current["additionalProperties"]
            shown = f"{shown}[{name}]"
        else:
            raise ValueError("does not refer to a valid field")
        position = match.end()
    if not shown:
        raise ValueError("does not refer to a valid field")
    return shown, current
