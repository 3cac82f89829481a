from email.utils import formatdate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcache.sources.patience import LONGEST_RETRY_AFTER, retry_after

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        ("17", 17),
        (" 2.5 ", 2.5),
        ("999999", LONGEST_RETRY_AFTER),
        ("9" * 400, LONGEST_RETRY_AFTER),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        (formatdate(NOW + 10**7, usegmt=True), LONGEST_RETRY_AFTER),
        ("Sun, 06 Nov 1994 08:49:37 -0000", 0),  # a date without a zone is taken as UTC
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1e9", None),
        ("٣", None),
        ("Mon, 99 Foo 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after_reads_seconds_and_dates(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@settings(deadline=None)
@given(st.text(max_size=40))
def test_retry_after_takes_any_text(header: str) -> None:
    value = retry_after(header, NOW)
    assert value is None or 0 <= value <= LONGEST_RETRY_AFTER
