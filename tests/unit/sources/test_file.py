"""`file://` and `pvc://`: what may be read, what is listed, and what is refused, without a cluster."""

from __future__ import annotations

import hashlib
import inspect
import os
import socket
import sys
from pathlib import Path

import pytest

from agent.listing import Listing, answer
from modelcache.sources import errors
from modelcache.sources.answer import Answer
from modelcache.sources.base import Resolution, SourceFile
from modelcache.sources.file import ClaimSource, FileSource
from modelcache.sources.uri import SourceURI, parse_uri

SHA = hashlib.sha256(b"content").hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    (directory / "llama" / "sub dir").mkdir(parents=True)
    (directory / "llama" / "sub dir" / "ünï").write_bytes(b"content")
    (directory / "llama" / "empty").touch()
    (directory / "llama-2").mkdir()
    (directory / "llama-2" / "other").touch()
    return directory


def resolve(
    root: Path, below: str = "llama", *include: str, revision: str | None = None, exclude: tuple[str, ...] = ()
) -> Resolution:
    source = FileSource({"MODELCACHE_FILE_ROOTS": f"/nowhere:{root}"})
    return source.resolve(parse_uri(f"file://{root}/{below}"), revision, None, include, exclude)


def test_a_directory_is_listed_with_sizes_and_times(root: Path) -> None:
    found = resolve(root)
    assert [(file.path, file.size, file.sha256) for file in found.files] == [
        ("empty", 0, None),
        ("sub dir/ünï", 7, None),
    ]
    assert resolve(root, revision=found.revision) == found
    assert [file.path for file in resolve(root, "llama", "e*").files] == ["empty"]
    os.utime(root / "llama" / "empty", (1, 1))
    assert resolve(root).revision != found.revision
    with pytest.raises(errors.SourceChanged, match=found.revision[:12]):
        resolve(root, revision=found.revision)


def test_one_file(root: Path) -> None:
    (file,) = resolve(root, "llama/empty").files
    assert (file.path, file.size) == ("empty", 0)
    source = FileSource({"MODELCACHE_FILE_ROOTS": str(root)})
    location = source.locate(parse_uri(f"file://{root}/llama/empty"), "r", file, None)
    assert location.url == f"file://{root}/llama/empty"
    assert location.within == str(root)


def test_sha256sums_is_honoured_and_times_do_not_matter_then(root: Path) -> None:
    sums = f"{SHA}  sub dir/ünï\n{hashlib.sha256(b'').hexdigest()} *./empty\n"
    (root / "llama" / "SHA256SUMS").write_text(sums)
    found = resolve(root)
    assert {file.path: file.sha256 for file in found.files} == {
        "empty": hashlib.sha256(b"").hexdigest(),
        "sub dir/ünï": SHA,
        "SHA256SUMS": hashlib.sha256(sums.encode()).hexdigest(),
    }
    os.utime(root / "llama" / "empty", (1, 1))
    assert resolve(root) == found
    (root / "llama" / "SHA256SUMS").write_text(f"{SHA}  absent\n")
    with pytest.raises(errors.NotFound, match="absent"):
        resolve(root)


def test_links_may_lead_elsewhere_but_not_out(root: Path, tmp_path: Path) -> None:
    """A snapshot of a Hugging Face cache consists of links to `blobs`."""
    (root / "llama" / "link").symlink_to("../llama-2/other")
    assert "link" in {file.path for file in resolve(root).files}
    (tmp_path / "secret").write_text("secret")
    (root / "llama" / "out").symlink_to("../../secret")
    with pytest.raises(errors.UnsafePath, match="outside"):
        resolve(root)


@pytest.mark.parametrize("kind", ["socket", "fifo", "link to a directory", "loop", "dangling", "not utf-8"])
def test_what_is_no_file_is_named(root: Path, kind: str) -> None:
    path = root / "llama" / "odd"
    match kind:
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(path))
        case "fifo":
            os.mkfifo(path)
        case "link to a directory":
            path.symlink_to(root / "llama-2")
        case "loop":
            path.symlink_to(path)
        case "dangling":
            path.symlink_to("nothing")
        case _:
            (root / "llama" / os.fsdecode(b"odd\xff")).touch()
    with pytest.raises(errors.SourceError, match="odd"):
        resolve(root)
    assert [file.path for file in resolve(root, exclude=("odd*",)).files] == ["empty", "sub dir/ünï"]


def test_what_is_left_out_is_not_looked_at(root: Path) -> None:
    (root / "llama" / "old").symlink_to(root / "llama-2")
    (root / "llama" / "SHA256SUMS").write_text(f"{SHA}  sub dir/ünï\n{SHA}  old/absent\n")
    found = resolve(root, exclude=("old/", "SHA*"))
    assert [(file.path, file.sha256) for file in found.files] == [("empty", None), ("sub dir/ünï", SHA)]
    with pytest.raises(errors.NotFound, match="3 files"):
        resolve(root, "llama", "*.bin", exclude=("old/", "SHA*"))


@pytest.mark.parametrize("below", ["out", "out/secret", "out/absent", "out/sub/absent"])
def test_nothing_is_told_about_what_lies_outside(root: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "private" / "sub").mkdir(parents=True)
    (tmp_path / "private" / "secret").touch()
    (root / "out").symlink_to("../private")
    with pytest.raises(errors.UnsafePath) as caught:
        resolve(root, below)
    assert caught.value.message.startswith(f"file://{root}/{below}: {root}/{below} leads outside of what may be read")


def test_names_that_no_file_system_takes(root: Path) -> None:
    with pytest.raises(errors.Unsupported, match="File name too long"):
        resolve(root, "n" * 300)


def test_how_deep_a_directory_is_does_not_matter(root: Path) -> None:
    deep = "/".join(["d"] * 300)
    (root / "deep" / deep).mkdir(parents=True)
    (root / "deep" / deep / "file").touch()
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 150)
    try:
        (listed,) = resolve(root, "deep").files
    finally:
        sys.setrecursionlimit(limit)
    assert listed.path == f"{deep}/file"


def test_nothing_is_allowed_by_default(root: Path) -> None:
    for environ in (
        {},
        {"MODELCACHE_FILE_ROOTS": ""},
        {"MODELCACHE_FILE_ROOTS": "models"},
        {"MODELCACHE_FILE_ROOTS": "/x"},
    ):
        with pytest.raises(errors.Unsupported, match="MODELCACHE_FILE_ROOTS"):
            FileSource(environ).resolve(parse_uri(f"file://{root}/llama"), None, None, (), ())
    with pytest.raises(errors.Unsupported, match="MODELCACHE_FILE_ROOTS"):
        FileSource({"MODELCACHE_FILE_ROOTS": str(root / "llama")}).locate(
            parse_uri(f"file://{root}/llama-2"), "r", SourceFile("other", 0), None
        )


def test_a_claim_is_looked_for_below_its_namespace(root: Path) -> None:
    mounted = root.parent / "claims" / "team-a" / "weights"
    mounted.mkdir(parents=True)
    (mounted / "config.json").write_bytes(b"{}")
    source = ClaimSource({"MODELCACHE_CLAIMS": str(root.parent / "claims")})
    uri = SourceURI("pvc", "team-a", "weights")
    assert [file.path for file in source.resolve(uri, None, None, (), ()).files] == ["config.json"]
    for other in (
        SourceURI("pvc", "team-b", "weights"),
        SourceURI("pvc", "team-a", "other"),
        SourceURI("pvc", "team-a", ""),
    ):
        with pytest.raises(errors.NotFound, match="not mounted"):
            source.resolve(other, None, None, (), ())
    with pytest.raises(errors.Unsupported, match="MODELCACHE_CLAIMS"):
        ClaimSource({}).resolve(uri, None, None, (), ())


def test_an_agent_answers_whatever_it_is_asked() -> None:
    for uri, reason in (("file:///etc", "Unsupported"), ("nonsense", "InvalidURI"), ("hf://org/name", "Unsupported")):
        found = Answer.decode(answer(Listing("1", uri, None, (), ())))
        assert found.refused is not None
        assert found.refused.reason == reason
