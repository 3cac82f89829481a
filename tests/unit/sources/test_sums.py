"""`SHA256SUMS` as sha256sum writes it, and nothing else."""

import subprocess
from pathlib import Path

import pytest

from modelcache.sources import errors
from modelcache.sources.sums import parse_sums


def test_reads_what_sha256sum_writes(tmp_path: Path) -> None:
    names = ["a", "with blank", "ünï", "-dash", " leading"]
    for name in names:
        (tmp_path / name).write_text(name)
    for options in ([], ["--binary"]):
        text = subprocess.run(
            ["sha256sum", *options, "--", *names], cwd=tmp_path, capture_output=True, check=True
        ).stdout
        assert list(parse_sums(text, "SHA256SUMS")) == names


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"\xff\xfe", errors.MalformedListing, "not text"),
        (b"0123  a\n", errors.MalformedListing, "line 1"),
        (b"0" * 64 + b" a\n", errors.MalformedListing, "line 1"),
        (b"\n" + b"g" * 64 + b"  a\n", errors.MalformedListing, "line 2"),
        (b"0" * 64 + b"  a\n" + b"1" * 64 + b"  a\n", errors.MalformedListing, "two digests"),
        (b"\\" + b"0" * 64 + b"  a\\nb\n", errors.UnsafePath, "line break"),
    ],
)
def test_refuses_anything_else(data: bytes, kind: type[errors.SourceError], says: str) -> None:
    with pytest.raises(kind, match=says):
        parse_sums(data, "SHA256SUMS")
