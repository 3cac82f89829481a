"""The last result of a pure function, kept for as long as what it was made from is the same.

With a hundred models on a node, everything that happens to one of them makes somebody look at all: the report, the labels, the
grants. So looking at a model that nothing has happened to must cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Kept(Generic[T]):
    """`of(*inputs)` is `make(*inputs)`: the same object for equal inputs in a row, so `is` tells results apart."""

    __slots__ = ("_inputs", "_make", "_result")

    def __init__(self, make: Callable[..., T]) -> None:
        self._make = make
        self._inputs: tuple[Any, ...] | None = None
        self._result: T

    def of(self, *inputs: Any) -> T:
        """Immutable `inputs`, whose equality says everything. Raises what `make` raises, and keeps nothing then."""
        if inputs != self._inputs:
            self._inputs = None
            self._result = self._make(*inputs)
        # Also when they are only equal: comparing with the same objects the next time stops at once.
        self._inputs = inputs
        return self._result
