"""Pauses between looks at everything."""

from hypothesis import given
from hypothesis import strategies as st

from modelcache.pacing import LONGEST_PAUSE, SHARE, pause_after

seconds = st.floats(min_value=0, max_value=100)


def test_what_costs_nothing_is_not_waited_for() -> None:
    assert pause_after(0) == 0
    assert pause_after(0, least=0.1) == 0.1


@given(took=seconds, least=st.floats(min_value=0, max_value=5))
def test_looking_takes_its_share_and_never_silences_for_long(took: float, least: float) -> None:
    pause = pause_after(took, least=least)
    assert least <= pause <= max(least, LONGEST_PAUSE)
    assert pause >= LONGEST_PAUSE or took <= SHARE * (took + pause) + 1e-9
