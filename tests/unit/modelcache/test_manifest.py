"""The manifest: what it refuses, what it promises."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelcache.manifest import Manifest, ManifestError, ManifestFile, Sha256, filters_text, path_problem

REVISION = "a" * 40


def digest(text: str) -> Sha256:
    return Sha256(hashlib.sha256(text.encode()).hexdigest())


def build(*paths: str) -> Manifest:
    return Manifest.build("hf://org/name", REVISION, [ManifestFile(path=path, size=1) for path in paths])


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("../../etc/passwd", "'..'"),
        ("a/../b", "'..'"),
        ("/etc/passwd", "absolute path"),
        ("a//b", "path segment ''"),
        ("a/", "path segment ''"),
        ("./a", "'.'"),
        ("", "empty name"),
        ("a\\b", "backslash"),
        ("a\nb", "control character"),
        ("a\0b", "control character"),
        ("x" * 256, "longer than 255 bytes"),
        ("é" * 128, "longer than 255 bytes"),
        ("/".join(["d" * 200] * 6), "longer than 1024 bytes"),
        ("\ud800", "UTF-8"),
    ],
)
def test_unusable_paths_are_refused_with_their_name(path: str, said: str) -> None:
    with pytest.raises(ManifestError, match=said) as raised:
        build("config.json", path)
    assert str(raised.value).startswith("hf://org/name lists the file ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "path", ["model.safetensors", "a/b/c/d.json", ".gitattributes", "with space", "ü/名前", "a..b", "..."]
)
def test_ordinary_paths_are_taken(path: str) -> None:
    assert path_problem(path) is None
    assert build(path).files[0].path == path


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("README.md", "readme.md"), "differ only in case"),
        (("a/Model", "A/model"), "differ only in case"),
        (("\u00e9", "e\u0301"), r"'\\xe9', which differ only in how letters are composed"),
        (("\u00c9", "e\u0301/x"), "both as a file and as the directory"),
        (("a", "a"), "twice"),
        (("a", "a/b"), "both as a file and as the directory"),
        (("x/y/z", "X/Y"), "both as a file and as the directory"),
    ],
)
def test_paths_that_cannot_exist_together_are_refused(paths: tuple[str, ...], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        build(*paths)


def test_an_empty_listing_is_refused() -> None:
    with pytest.raises(ManifestError, match="has no files"):
        build()


@pytest.mark.parametrize("revision", ["", "..", "a/b", ".hidden", "x" * 129, "a b"])
def test_a_revision_that_is_no_directory_name_is_refused(revision: str) -> None:
    with pytest.raises(ManifestError, match="not usable as a directory name"):
        Manifest.build("hf://org/name", revision, [ManifestFile(path="a", size=1)])


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (ManifestFile(path="a", size=-1), "impossible"),
        (ManifestFile(path="a", size=2**60), "impossible"),
        (ManifestFile(path="a", size=1, sha256=Sha256("A" * 64)), "sha256"),
        (ManifestFile(path="a", size=1, git_oid="zz"), "git blob id"),  # type: ignore[arg-type]  # what a source may send
    ],
)
def test_unusable_entries_are_refused(file: ManifestFile, said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        Manifest.build("hf://org/name", REVISION, [file])


def test_the_tree_digest_is_what_sha256sum_prints() -> None:
    files = [ManifestFile(path=path, size=1, sha256=digest(path)) for path in ("b", "a/z", "C")]
    manifest = Manifest.build("hf://org/name", REVISION, files)
    lines = "".join(f"{digest(path)}  {path}\n" for path in ("C", "a/z", "b"))
    assert manifest.tree_digest() == hashlib.sha256(lines.encode()).hexdigest()


def test_digests_are_filled_in_and_never_contradicted() -> None:
    manifest = build("a", "b")
    assert manifest.tree_digest() is None
    half = manifest.with_sha256({"a": digest("a")})
    assert not half.complete
    whole = half.with_sha256({"b": digest("b"), "a": digest("a")})
    assert whole.complete
    assert whole.tree_digest() is not None
    with pytest.raises(ManifestError, match=digest("other")):
        whole.with_sha256({"a": digest("other")})
    with pytest.raises(ManifestError, match="not a sha256"):
        manifest.with_sha256({"a": "short"})


def test_the_snapshot_directory_tells_filtered_sets_apart() -> None:
    files = [ManifestFile(path="a", size=1)]
    plain = Manifest.build("hf://org/name", REVISION, files)
    filtered = Manifest.build("hf://org/name", REVISION, files, filters_text(["*.json"], []))
    other = Manifest.build("hf://org/name", REVISION, files, filters_text([], ["*.json"]))
    assert plain.snapshot == REVISION
    assert len({plain.snapshot, filtered.snapshot, other.snapshot}) == 3
    assert filters_text(["b", "a"], []) == filters_text(["a", "b", "a"], [])


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b"\xff\xfe", b'{"source":"s","revision":"r","files":[{"path":"a"}]}']
)
def test_a_stored_manifest_that_is_damaged_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.decode(data)


def test_a_stored_manifest_is_checked_like_a_listing() -> None:
    data = json.dumps({"source": "s", "revision": "r", "files": [{"path": "../x", "size": 1}]}).encode()
    with pytest.raises(ManifestError, match=r"'\.\.'"):
        Manifest.decode(data)


paths = st.lists(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1, max_size=8), min_size=1, max_size=4
).map("/".join)


@given(st.lists(paths, min_size=1, max_size=12))
def test_what_is_accepted_survives_the_wire_and_stays_inside(listing: list[str]) -> None:
    try:
        manifest = build(*listing)
    except ManifestError:
        return
    again = Manifest.decode(manifest.encode())
    assert again == manifest
    assert again.digest == manifest.digest
    for file in again.files:
        assert ".." not in file.path.split("/")
        assert not file.path.startswith("/")
    assert len({file.path.casefold() for file in again.files}) == len(listing)


@given(st.permutations(["a", "b/c", "Z", "b.d"]))
def test_the_order_of_the_listing_does_not_matter(listing: list[str]) -> None:
    assert build(*listing) == build("a", "b/c", "Z", "b.d")
