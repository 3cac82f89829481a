from pathlib import Path

import pytest

from agent.transfer.limit import NO_LIMIT, Limit


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", NO_LIMIT),
        ("1000", Limit(amount=1000)),
        ("200Gi", Limit(amount=200 * 1024**3)),
        ("1.5Ti", Limit(amount=1536 * 1024**3)),
        ("1500M", Limit(amount=1_500_000_000)),
        ("80%", Limit(percent=80.0)),
        ("12.5%", Limit(percent=12.5)),
    ],
)
def test_amounts_and_percentages(text: str, limit: Limit) -> None:
    assert Limit.parse(text) == limit


@pytest.mark.parametrize("text", ["0", "0%", "101%", "-1Gi", "200 Gi", "200GB", "Gi", "%", "1e9", "nan", "0.1"])
def test_what_is_no_amount_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        Limit.parse(text)


def test_a_percentage_is_of_the_file_system(tmp_path: Path) -> None:
    whole = Limit(percent=100).bytes_of(tmp_path)
    half = Limit(percent=50).bytes_of(tmp_path)
    assert whole is not None
    assert half == whole // 2
    assert Limit(amount=5).bytes_of(tmp_path) == 5
    assert NO_LIMIT.bytes_of(tmp_path) is None
