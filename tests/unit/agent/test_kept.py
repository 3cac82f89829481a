"""Results that are kept while their inputs are equal."""

import pytest

from agent.kept import Kept


class Counting:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def make(self, *inputs: object) -> list[object]:
        self.calls.append(inputs)
        return list(inputs)


def test_equal_inputs_give_the_same_object() -> None:
    counting = Counting()
    kept = Kept(counting.make)
    first = kept.of(1, (2, 3))
    assert first == [1, (2, 3)]
    assert kept.of(1.0, (2, 3)) is first
    assert len(counting.calls) == 1


def test_other_inputs_give_another_one_and_so_do_the_former_again() -> None:
    counting = Counting()
    kept = Kept(counting.make)
    first = kept.of(1)
    assert kept.of(2) == [2]
    again = kept.of(1)
    assert again == first
    assert again is not first


def test_a_failure_is_not_kept() -> None:
    def fails_once(number: int) -> int:
        calls.append(number)
        if len(calls) == 2:
            raise ValueError("for once")
        return number

    calls: list[int] = []
    kept = Kept(fails_once)
    assert kept.of(1) == 1
    with pytest.raises(ValueError, match="for once"):
        kept.of(2)
    assert kept.of(2) == 2
    assert calls == [1, 2, 2]
