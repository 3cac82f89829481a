from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.errors import InsufficientStorage
from agent.transfer.space import SpaceLedger, free_bytes, on_disk


def test_files_take_whole_blocks() -> None:
    assert [on_disk(size) for size in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]


def test_what_does_not_fit_is_refused_with_the_figures() -> None:
    ledger = SpaceLedger(lambda: 1000, reserve_bytes=300)
    with (
        ledger.reserve(500),
        pytest.raises(InsufficientStorage, match="201 bytes are needed and 200 are free") as raised,
    ):
        ledger.reserve(201)
    assert (raised.value.needs, raised.value.free) == (201, 200)
    with ledger.reserve(700):
        pass


def test_a_full_disk_is_not_negative_space() -> None:
    ledger = SpaceLedger(lambda: 100, reserve_bytes=300)
    with pytest.raises(InsufficientStorage) as raised:
        ledger.reserve(1)
    assert raised.value.free == 0
    with ledger.reserve(0):
        pass


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 500)), max_size=20))
def test_all_reservations_together_never_exceed_what_is_free(wishes: list[tuple[int, int]]) -> None:
    """`written` is what a download writes of its reservation; it must not be counted twice, nor forgotten."""
    free = 1000
    ledger = SpaceLedger(lambda: free, reserve_bytes=100)
    promised = 0
    for needs, written in wishes:
        try:
            reservation = ledger.reserve(needs)
        except InsufficientStorage:
            assert needs > free - 100 - promised
            continue
        promised += needs
        assert promised <= free - 100
        used = min(written, needs)
        free -= used
        promised -= used
        reservation.used(used)
        assert ledger.usable() == max(0, free - 100 - promised)


def test_what_was_not_used_goes_back() -> None:
    ledger = SpaceLedger(lambda: 1000, reserve_bytes=0)
    with ledger.reserve(600) as reservation:
        reservation.used(200)
        reservation.used(10_000)  # a file that took more than was thought
        assert ledger.usable() == 1000
    assert ledger.usable() == 1000


def test_free_bytes_are_those_of_the_file_system(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0
