"""The functions of CEL: one table of overloads, each with its signature and its implementation.

The checker chooses overloads by the types it knows; where an argument is `dyn` it keeps all that might fit, and the
evaluator takes the first that fits the values. Errors in an implementation are raised as `CelError`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from local.kube.cel.types import Type


class CelError(Exception):
    """An expression could not be evaluated; the text is the one that cel-go gives."""


@dataclass(frozen=True, eq=False)
class Overload:
    """One signature of a function. For methods the receiver is the first of `params`.

    `implement` is None for what the evaluator does itself because it must not evaluate all arguments.
    """

    id: str
    name: str
    params: tuple[Type, ...]
    result: Type
    implement: Callable[..., Any] | None
    method: bool = False


class FunctionTable:
    """All overloads by name."""

    def __init__(self, *libraries: Iterable[Overload]) -> None:
        self._by_name: dict[str, list[Overload]] = {}
        for library in libraries:
            for overload in library:
                self._by_name.setdefault(overload.name, []).append(overload)

    def find(self, name: str, *, method: bool) -> list[Overload]:
        """The overloads of a function, or of a method, with this name."""
        return [overload for overload in self._by_name.get(name, ()) if overload.method == method]

    def __contains__(self, name: str) -> bool:
        return name in self._by_name


def function(name: str, params: tuple[Type, ...], result: Type, implement: Callable[..., Any]) -> Overload:
    """An overload of a plain function."""
    return Overload(_identifier(name, params), name, params, result, implement)


def method(name: str, params: tuple[Type, ...], result: Type, implement: Callable[..., Any]) -> Overload:
    """An overload of a method; `params[0]` is the receiver."""
    return Overload(_identifier(name, params), name, params, result, implement, method=True)


def _identifier(name: str, params: tuple[Type, ...]) -> str:
    return f"{name}({','.join(param.name or param.kind for param in params)})"
