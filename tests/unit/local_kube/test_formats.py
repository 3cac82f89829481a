"""String formats that the API server checks."""

import pytest

from local.kube.formats import format_check

GOOD = {
    "date-time": ["2026-11-22T05:00:00Z", "2026-11-22t05:00:00.123456789+01:00", "2016-12-31T23:59:60Z"],
    "date": ["2024-02-29"],
    "duration": ["1h30m", "1.5s", "0", "-2ms", "3 days"],
    "uri": ["http://a/b", "/absolute/path", "hf://org/name"],
    "email": ["a@b.c", "A <a@b.c>"],
    "hostname": ["a", "a.example.com", "1.a"],
    "ipv4": ["10.0.0.1"],
    "ipv6": ["::1", "2001:db8::1"],
    "cidr": ["10.0.0.0/8", "10.1.2.3/8", "::/0"],
    "mac": ["00:11:22:aa:BB:cc", "0011.22aa.bbcc"],
    "uuid": ["2a334b70-c266-4d5d-a5b9-944dbb37ed96", "2A334B70C2664D5DA5B9944DBB37ED96"],
    "uuid4": ["2a334b70-c266-4d5d-a5b9-944dbb37ed96"],
    "byte": ["aGk=", "aGVsbG8h"],
    "password": ["", "anything"],
    "k8s-short-name": ["a-1"],
    "k8s-long-name": ["a-1.b"],
}
BAD = {
    "date-time": ["yesterday", "2026-11-22", "2026-13-01T00:00:00Z", "2026-11-22T24:00:00Z", "2026-11-22T05:00:00"],
    "date": ["2023-02-29", "20230101", "2023-1-1"],
    "duration": ["", "1", "h", "1 fortnight"],
    "uri": ["", "relative/path", "http://a b"],
    "email": ["nobody", ""],
    "hostname": ["-a", "a..b", "a" * 64, "a_b"],
    "ipv4": ["10.0.0", "::1", "10.0.0.256"],
    "ipv6": ["10.0.0.1", ":::"],
    "cidr": ["10.0.0.0", "10.0.0.0/33", "x/8"],
    "mac": ["00:11:22:aa:bb", "00-11:22:aa:bb:cc"],
    "uuid": ["2a334b70"],
    "uuid4": ["2a334b70-c266-1d5d-a5b9-944dbb37ed96"],
    "byte": ["a", "a_b="],
    "k8s-short-name": ["a.b", "A", "a" * 64],
    "k8s-long-name": ["a..b", "A"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in GOOD.items() for text in texts])
def test_accepts(name: str, text: str) -> None:
    check = format_check(name)
    assert check is not None
    assert check(text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in BAD.items() for text in texts])
def test_refuses(name: str, text: str) -> None:
    check = format_check(name)
    assert check is not None
    assert not check(text)


@pytest.mark.parametrize("name", ["int32", "int64", "double", "", "no-such-format"])
def test_other_formats_are_ignored(name: str) -> None:
    assert format_check(name) is None
