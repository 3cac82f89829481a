"""How much an expression can cost at most, before it ever runs.

The real server refuses a CustomResourceDefinition whose rules might be too expensive for the largest object that the
schema allows. A rule that is accepted here and refused there would make every test on this stand-in worthless, so this
follows cel-go's estimator (checker/cost.go) and Kubernetes' additions (k8s.io/apiserver, pkg/cel/library/cost.go) case
by case. Costs and sizes are ranges of whole numbers up to 2^64 - 1, where they stay.

The size of a value comes from where it comes from: from the expression itself (literals, concatenations), or, by the
*path* from a variable to it (`self`, `hosts`, `@items`), from the schema's bounds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from local.kube.cel.check import CheckedExpression
from local.kube.cel.functions import Overload
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
)
from local.kube.cel.types import Type

UNLIMITED = 2**64 - 1

# cel-go, common/cost.go
_SELECT_COST, _LIST_COST, _MAP_COST = 1, 10, 30
_CHARACTER_COST = 0.1
_REGEX_CHARACTER_COST = 0.25


@dataclass(frozen=True)
class Range:
    """A cost or a size: at least `low`, at most `high`."""

    low: int
    high: int

    def plus(self, other: "Range") -> "Range":
        """The sum."""
        return Range(_capped(self.low + other.low), _capped(self.high + other.high))

    def times(self, other: "Range") -> "Range":
        """The product."""
        return Range(_capped(self.low * other.low), _capped(self.high * other.high))

    def scaled(self, factor: float) -> "Range":
        """Multiplied by a cost factor, rounded up."""
        return Range(_scaled(self.low, factor), _scaled(self.high, factor))

    def union(self, other: "Range") -> "Range":
        """The range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


NOTHING, ONE, UNKNOWN = Range(0, 0), Range(1, 1), Range(0, UNLIMITED)


@dataclass(frozen=True)
class _Entries:
    """Sizes of the keys (for lists: indices) and values of a container."""

    key: Range
    value: Range

    def union(self, other: "_Entries") -> "_Entries":
        return _Entries(self.key.union(other.key), self.value.union(other.value))


@dataclass(frozen=True)
class _Local:
    """What is known of a loop variable or accumulator."""

    path: tuple[str, ...]
    size: Range | None = None
    entries: _Entries | None = None


def _capped(value: int) -> int:
    return min(value, UNLIMITED)


def _scaled(value: int, factor: float) -> int:
    return _capped(math.ceil(value * factor)) if value < UNLIMITED or factor < 1 else UNLIMITED


def estimate(checked: CheckedExpression, variables: Mapping[str, Type]) -> Range:
    """The cost of evaluating the expression once; `variables` are the types that the paths start from."""
    return _Estimator(checked, variables).cost(checked.root)


class _Estimator:
    def __init__(self, checked: CheckedExpression, variables: Mapping[str, Type]) -> None:
        self.checked = checked
        self.variables = variables
        self.paths: dict[Node, tuple[str, ...]] = {}
        self.sizes: dict[Node, Range] = {}
        self.entries: dict[Node, _Entries] = {}
        self.locals: dict[str, list[_Local]] = {}

    # --- cost of a node -------------------------------------------------------------------------------------------

    def cost(self, node: Node) -> Range:
        """The cost of a node with all that it contains."""
        match node:
            case Ident():
                local = self.local(node.name)
                self.paths[node] = local.path if local else (node.name,)
                return Range(_SELECT_COST, _SELECT_COST)
            case Select():
                return self.select(node)
            case Call():
                return self.call(node)
            case ListNode():
                return self.list_literal(node)
            case MapNode():
                return self.map_literal(node)
            case Comprehension():
                return self.comprehension(node) if node.variables else self.binding(node)
        return NOTHING  # literals

    def select(self, node: Select) -> Range:
        total = self.cost(node.operand)
        if node.test:
            return total  # Kubernetes does not charge for has()
        if self.type_of(node.operand).kind in ("map", "object", "dyn"):
            total = total.plus(Range(_SELECT_COST, _SELECT_COST))
        self.paths[node] = (*self.path(node.operand), node.field_name)
        return total

    def list_literal(self, node: ListNode) -> Range:
        total = Range(_LIST_COST, _LIST_COST)
        for element in node.elements:
            total = total.plus(self.cost(element))
        self.entries[node] = _Entries(ONE, self.joint_size(node.elements))
        return total

    def map_literal(self, node: MapNode) -> Range:
        total = Range(_MAP_COST, _MAP_COST)
        for key, value in node.entries:
            total = total.plus(self.cost(key)).plus(self.cost(value))
        keys, values = [key for key, _ in node.entries], [value for _, value in node.entries]
        self.entries[node] = _Entries(self.joint_size(keys), self.joint_size(values))
        return total

    def joint_size(self, nodes: Sequence[Node]) -> Range:
        if not nodes:
            return NOTHING
        sizes = [self.size(node) for node in nodes]
        return Range(min(size.low for size in sizes), max(size.high for size in sizes))

    def binding(self, node: Comprehension) -> Range:
        total = self.cost(node.range).plus(self.cost(node.initial))
        self.push(
            node.accumulator, _Local(self.path(node.initial), self.known_size(node.initial), self.entry(node.initial))
        )
        total = total.plus(self.cost(node.result))
        self.locals[node.accumulator].pop()
        self.copy_sizes(node, node.result)
        return total

    def comprehension(self, node: Comprehension) -> Range:
        total = self.cost(node.range).plus(self.cost(node.initial))
        self.push(
            node.accumulator, _Local(self.path(node.initial), self.known_size(node.initial), self.entry(node.initial))
        )
        for name, local in zip(node.variables, self.loop_locals(node), strict=True):
            self.push(name, local)
        once = self.cost(node.condition).plus(self.cost(node.step))
        for name in node.variables:
            self.locals[name].pop()
        total = total.plus(self.cost(node.result))
        self.locals[node.accumulator].pop()
        rounds = self.size(node.range)
        if isinstance(node.initial, Literal):
            size = self.known_size(node.initial)
            if size is not None:
                self.sizes[node] = size
        else:
            self.sizes[node] = rounds
            step_entries = self.entry(node.step)
            if step_entries is not None:
                self.entries[node] = step_entries
        return total.plus(rounds.times(once))

    def loop_locals(self, node: Comprehension) -> list[_Local]:
        entries, path = self.entry(node.range), self.path(node.range)
        is_list = self.type_of(node.range).kind == "list"
        key_size, value_size = (entries.key, entries.value) if entries else (None, None)
        key = _Local((*path, "@indices" if is_list else "@keys"), key_size)
        value = _Local((*path, "@items" if is_list else "@values"), value_size)
        if len(node.variables) == 2:
            return [key, value]
        return [value if is_list else key]

    def call(self, node: Call) -> Range:
        if node.function == "dyn" and node.target is None:
            inner = self.cost(node.args[0])
            self.copy_sizes(node, node.args[0])
            return ONE.plus(inner)
        arg_costs = [self.cost(arg) for arg in node.args]
        target_cost = self.cost(node.target) if node.target is not None else NOTHING
        overloads = self.checked.overloads.get(node, [])
        if not overloads:
            return NOTHING
        total: Range | None = None
        size: Range | None = None
        for overload in overloads:
            cost, result_size = self.function(node, overload, arg_costs)
            total = cost if total is None else total.union(cost)
            if result_size is not None:
                size = result_size if size is None else size.union(result_size)
            if node.function in ("_[_]", "_[?_]"):
                kind = overload.params[0].kind
                if kind in ("list", "map"):
                    self.paths[node] = (*self.path(node.args[0]), "@items" if kind == "list" else "@values")
                    entries = self.entry(node.args[0])
                    size = entries.value if entries else None
            if size is None:
                size = self.known_size(node)
        if size is not None:
            self.sizes[node] = size
        return target_cost.plus(total or NOTHING)

    # --- cost of a function ---------------------------------------------------------------------------------------

    def function(self, node: Call, overload: Overload, arg_costs: list[Range]) -> tuple[Range, Range | None]:
        """Cost of one overload including its arguments, and the size of its result when the call determines it."""
        args = NOTHING
        for cost in arg_costs:
            args = args.plus(cost)
        special = self.kubernetes_function(node, overload)
        if special is None:
            special = self.standard_function(node, overload, arg_costs)
        if special is None:
            return ONE.plus(args), None
        cost, size = special
        if node.function in ("_&&_", "_||_", "_?_:_"):
            return cost, size  # their cost is that of the arguments that may run
        return cost.plus(args), size

    def standard_function(
        self, node: Call, overload: Overload, arg_costs: list[Range]
    ) -> tuple[Range, Range | None] | None:
        name, args, target = node.function, node.args, node.target
        first = overload.params[0].kind if overload.params else ""
        match name:
            case "_&&_" | "_||_":
                return Range(arg_costs[0].low, arg_costs[0].plus(arg_costs[1]).high), None
            case "_?_:_":
                either = arg_costs[1].union(arg_costs[2])
                first_entries, second_entries = self.entry(args[1]), self.entry(args[2])
                if first_entries and second_entries:
                    self.entries[node] = first_entries.union(second_entries)
                return arg_costs[0].plus(either), self.size(args[1]).union(self.size(args[2]))
            case "_+_" if first in ("string", "bytes", "list"):
                size = self.size(args[0]).plus(self.size(args[1]))
                left, right = self.entry(args[0]), self.entry(args[1])
                if left and right:
                    self.entries[node] = left.union(right)
                return (ONE if first == "list" else size.scaled(_CHARACTER_COST)), size
            case "_==_" | "_!=_":
                return self.comparison(args), None
            case "_<_" | "_<=_" | "_>_" | "_>=_" if first in ("string", "bytes"):
                return self.comparison(args), None
            case "@in" if overload.params[1].kind == "list":
                return self.size(args[1]), None
            case "matches" if target is not None:
                text = self.size(target).plus(ONE).scaled(_CHARACTER_COST)
                return text.times(self.size(args[0]).scaled(_REGEX_CHARACTER_COST)), None
            case "contains" if target is not None:
                text = self.size(target).scaled(_CHARACTER_COST)
                return text.times(self.size(args[0]).scaled(_CHARACTER_COST)), None
            case "startsWith" | "endsWith":
                return self.size(args[0]).scaled(_CHARACTER_COST), None
            case "format" if target is not None:
                return self.size(target).scaled(_CHARACTER_COST), self.size(target).plus(self.size(args[0]))
            case "bytes" if first == "string":
                size = self.size(args[0])
                return size.scaled(_CHARACTER_COST), Range(size.low, _capped(size.high * 4))
            case "string" if first == "bytes":
                size = self.size(args[0])
                return size.scaled(_CHARACTER_COST), Range(size.low // 4, size.high)
            case "strings.quote":
                size = self.size(args[0])
                return size.scaled(_CHARACTER_COST), Range(size.low + 2, _capped(size.high * 2 + 2))
        return None

    def comparison(self, args: tuple[Node, ...]) -> Range:
        smaller = min(self.size(args[0]).high, self.size(args[1]).high)
        return Range(1 if smaller else 0, smaller).scaled(_CHARACTER_COST)

    def kubernetes_function(self, node: Call, overload: Overload) -> tuple[Range, Range | None] | None:
        args, target = node.args, node.target
        if node.function == "url" and target is None:
            return self.size(args[0]).scaled(_CHARACTER_COST), None
        if node.function in _CONSTANT_COST:
            return ONE, None
        if target is None:
            return None
        size = self.size(target)
        match node.function:
            case "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf":
                return self.list_traversal(target, size), None
            case "lowerAscii" | "upperAscii" | "substring" | "trim":
                return size.scaled(_CHARACTER_COST), size
            case "replace":
                return size.scaled(2 * _CHARACTER_COST), self.replaced_size(size, args)
            case "split":
                pieces = size.high
                if len(args) > 1 and isinstance(args[1], Literal):
                    pieces = args[1].value if args[1].value >= 0 else UNLIMITED
                return size.scaled(2 * _CHARACTER_COST), Range(0, pieces)
            case "join":
                joined = self.joined_size(target, size, args)
                return joined.scaled(_CHARACTER_COST), joined
            case "find" | "findAll":
                text = size.plus(ONE).scaled(_CHARACTER_COST)
                return text.times(self.size(args[0]).scaled(_REGEX_CHARACTER_COST)), Range(0, size.high)
        return None

    def list_traversal(self, target: Node, size: Range) -> Range:
        kind = self.type_of(target)
        if kind.kind != "list":
            return size.scaled(_CHARACTER_COST)  # indexOf of a string
        each = ONE
        if kind.params[0].kind in ("string", "bytes"):
            each = each.plus(self.element_size(target).scaled(_CHARACTER_COST))
        return size.times(each)

    def element_size(self, container: Node) -> Range:
        path = self.path(container)
        return self.size_at((*path, "@items")) or UNKNOWN if path else UNKNOWN

    def joined_size(self, target: Node, size: Range, args: tuple[Node, ...]) -> Range:
        total = size.times(self.element_size(target))
        if args:
            gaps = Range(max(0, size.low - 1), max(0, size.high - 1))
            total = total.plus(self.size(args[0]).times(gaps))
        return total

    def replaced_size(self, size: Range, args: tuple[Node, ...]) -> Range:
        """The size of a string after `replace`: shortest and longest that any replacement can make it."""
        old, new = self.size(args[0]), self.size(args[1])
        if old.low == 0:
            most, kept_high = _capped(size.high + 1), size.high
        elif new.high <= old.low:
            most, kept_high = 0, size.high
        else:
            most, kept_high = math.ceil(size.high / old.low), 0
        if old.high == 0:
            least, kept_low = _capped(size.low + 1), size.low
        elif old.high <= new.low:
            least, kept_low = 0, size.low
        else:
            least, kept_low = math.ceil(size.low / old.high), 0
        return Range(least, _capped(most)).times(new).plus(Range(kept_low, kept_high))

    # --- sizes and paths ------------------------------------------------------------------------------------------

    def type_of(self, node: Node) -> Type:
        return self.checked.types[node]

    def local(self, name: str) -> _Local | None:
        stack = self.locals.get(name)
        return stack[-1] if stack else None

    def push(self, name: str, local: _Local) -> None:
        self.locals.setdefault(name, []).append(local)

    def path(self, node: Node) -> tuple[str, ...]:
        if isinstance(node, Ident):
            local = self.local(node.name)
            if local is not None:
                return local.path
        return self.paths.get(node, ())

    def entry(self, node: Node) -> _Entries | None:
        if node in self.entries:
            return self.entries[node]
        local = self.local(node.name) if isinstance(node, Ident) else None
        return local.entries if local else None

    def copy_sizes(self, to: Node, source: Node) -> None:
        size, entries = self.known_size(source), self.entry(source)
        if size is not None:
            self.sizes[to] = size
        if entries is not None:
            self.entries[to] = entries

    def size(self, node: Node) -> Range:
        """The size of a value: characters, bytes, items or entries; 1 for scalars."""
        return self.known_size(node) or UNKNOWN

    def known_size(self, node: Node) -> Range | None:
        if node in self.sizes:
            return self.sizes[node]
        literal = _literal_size(node)
        if literal is not None:
            return literal
        path = self.path(node)
        if path and path[0] != ACCUMULATOR:
            found = self.size_at(path)
            if found is not None:
                self.sizes[node] = found
                return found
        if _is_scalar(self.type_of(node)):
            return ONE
        local = self.local(node.name) if isinstance(node, Ident) else None
        return local.size if local else None

    def size_at(self, path: tuple[str, ...]) -> Range | None:
        """The bound that the schema gives to what is found at the end of a path."""
        current = self.variables.get(path[0])
        for name in path[1:]:
            if current is None:
                return None
            if current.kind == "optional":
                current = current.params[0]
            if name in ("@items", "@values"):
                current = current.params[-1] if current.kind in ("list", "map") else None
            elif name == "@keys":
                current = current.params[0] if current.kind == "map" else None
            else:
                current = current.fields.get(name)
        if current is None:
            return None
        if current.kind == "optional":
            current = current.params[0]
        return Range(0, current.max_elements)


# Accessors and comparisons of opaque types.
_CONSTANT_COST = frozenset(
    {
        "add",
        "asApproximateFloat",
        "asInteger",
        "compareTo",
        "isGreaterThan",
        "isInteger",
        "isLessThan",
        "sign",
        "sub",
    }
)


def _literal_size(node: Node) -> Range | None:
    match node:
        case Literal(kind="string" | "bytes"):
            return Range(len(node.value), len(node.value))
        case Literal():
            return ONE
        case ListNode():
            return Range(len(node.elements), len(node.elements))
        case MapNode():
            return Range(len(node.entries), len(node.entries))
    return None


def _is_scalar(kind: Type) -> bool:
    if kind.kind == "optional":
        return _is_scalar(kind.params[0])
    return kind.kind in ("bool", "double", "duration", "int", "timestamp", "uint")
