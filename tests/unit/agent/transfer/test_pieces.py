import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.transfer.pieces import piece_at, piece_count


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 10**5))
def test_pieces_cover_a_file_exactly_once(size: int, piece_bytes: int) -> None:
    count = piece_count(size, piece_bytes)
    sample = [number for number in (0, 1, count // 2, count - 2, count - 1) if 0 <= number < count]
    assert (count == 0) == (size == 0)
    for number in sample:
        piece = piece_at(number, size, piece_bytes)
        assert piece.number == number
        assert 0 <= piece.start < piece.end <= size
        assert piece.start == number * piece_bytes
        assert piece.end - piece.start == piece_bytes or piece.end == size
    if count:
        assert piece_at(count - 1, size, piece_bytes).end == size


@pytest.mark.parametrize("number", [-1, 3])
def test_there_are_no_pieces_outside_of_the_file(number: int) -> None:
    with pytest.raises(IndexError, match="no piece"):
        piece_at(number, 30, 10)
