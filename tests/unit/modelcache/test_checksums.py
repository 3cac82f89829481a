"""Checksums of object stores: the published check values, and the same result however the bytes arrive."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.checksums import ALGORITHMS, Checksum, Running

# The check values of the catalogue of parametrised CRC algorithms, and FIPS 180-4, over "123456789"
CHECK = {
    "crc32": "cbf43926",
    "crc32c": "e3069283",
    "crc64nvme": "ae8b14860a799888",
    "sha1": hashlib.sha1(b"123456789").hexdigest(),
    "sha256": "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225",
}


def result(kind: Running, *parts: bytes) -> str:
    for part in parts:
        kind.update(memoryview(part))
    return kind.hexdigest()


def empty(algorithm: str, part_bytes: int = 0) -> Checksum:
    return Checksum(algorithm, "0" * len(CHECK[algorithm]), part_bytes)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_check_values(algorithm: str) -> None:
    assert result(empty(algorithm).begin(), b"123456789") == CHECK[algorithm]


def test_a_composite_is_the_checksum_of_the_checksums_of_the_parts() -> None:
    parts = [b"a" * 10, b"b" * 10, b"c" * 3]
    expected = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    assert result(empty("sha256", 10).begin(), b"".join(parts)) == expected
    # As S3 publishes it for a multipart upload with SHA256: the base64 of the same bytes
    assert base64.b64encode(bytes.fromhex(expected)).decode().endswith("=")


@given(
    st.sampled_from(ALGORITHMS),
    st.integers(0, 20),
    st.lists(st.binary(max_size=30), max_size=8),
    st.integers(0, 8),
)
def test_how_the_bytes_arrive_makes_no_difference(
    algorithm: str, part_bytes: int, parts: list[bytes], copied_after: int
) -> None:
    checksum = empty(algorithm, part_bytes)
    whole = result(checksum.begin(), b"".join(parts))
    running = checksum.begin()
    for number, part in enumerate(parts):
        if number == copied_after:
            copied = running.copy()
            running.update(memoryview(b"never mind"))
            running = copied
        running.update(memoryview(part))
    assert running.hexdigest() == whole


@given(st.sampled_from(ALGORITHMS), st.integers(0, 10**15))
def test_text_and_back(algorithm: str, part_bytes: int) -> None:
    checksum = Checksum(algorithm, CHECK[algorithm], part_bytes)
    assert Checksum.parse(str(checksum)) == checksum


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not <algorithm>"),
        ("crc32", "not <algorithm>"),
        ("crc32:CBF43926", "not <algorithm>"),
        ("crc32/0:cbf43926", "not <algorithm>"),
        ("crc32:cbf4392600", "10 hex digits instead of 8"),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", "none of"),
        (f"sha256/{'9' * 17}:{'0' * 64}", "not <algorithm>"),
    ],
)
def test_anything_else_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Checksum.parse(text)
