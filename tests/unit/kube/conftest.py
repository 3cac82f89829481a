"""Time that only passes when a test says so."""

import pytest

from tests.support.fake_clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()
