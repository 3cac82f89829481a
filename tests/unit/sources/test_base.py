"""The interface's own promises: nothing leaks by repr, schemes are found lazily, the error tree is what it says."""

import io
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.pretty import Pretty

from modelcache.sources import errors
from modelcache.sources.base import (
    ENTRY_POINT_GROUP,
    Credential,
    Location,
    Resolution,
    SourceFile,
    installed_schemes,
    source_for,
)
from modelcache.sources.hf import HuggingFaceSource
from modelcache.sources.uri import SourceURI, parse_uri
from tests.support.waiting import PATIENCE

SECRET = "hf_" + "s3cr3t"


def rendered(value: object) -> str:
    """Everything that a log line or a traceback might show."""
    out = io.StringIO()
    Console(file=out, width=400).print(Pretty(value))
    return f"{value!r} {value!s} {value} {[value]!r} {out.getvalue()}"


def test_credentials_never_show_their_values() -> None:
    text = rendered(Credential({"token": SECRET}))
    assert SECRET not in text
    assert "token" in text


def test_locations_never_show_headers_or_signatures() -> None:
    text = rendered(Location("https://host/file?Signature=" + SECRET, {"Authorization": f"Bearer {SECRET}"}))
    assert SECRET not in text
    assert "https://host/file" in text


def test_a_resolution_survives_json() -> None:
    resolution = Resolution(
        "hf://a/b", "0" * 40, (SourceFile("x", 1, git_oid="0" * 40), SourceFile("y", 2, sha256="1" * 64))
    )
    assert msgspec.json.decode(msgspec.json.encode(resolution), type=Resolution) == resolution


def test_every_error_has_one_of_eight_reasons_and_a_place_in_the_tree() -> None:
    tree = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SourceError)]
    assert {kind.reason for kind in tree} == {"SourceError"} | errors.REASONS
    assert len(errors.REASONS) == 8
    assert errors.__doc__ is not None
    for kind in tree:
        assert kind.reason == next(each.__name__ for each in kind.__mro__ if "reason" in vars(each))
        assert f" {kind.__name__} " in errors.__doc__ or f"{kind.__name__}  " in errors.__doc__
        assert kind.retryable == issubclass(kind, errors.Unreachable)


def test_finds_the_source_of_a_scheme() -> None:
    assert isinstance(source_for(parse_uri("hf://a/b")), HuggingFaceSource)
    assert "hf" in installed_schemes()


def test_an_unknown_scheme_is_unsupported_and_says_what_to_do() -> None:
    with pytest.raises(errors.Unsupported, match="hf") as caught:
        source_for(parse_uri("ngc://org/team/model"))
    assert "modelcache.sources" in caught.value.message
    assert not caught.value.retryable


def test_a_package_adds_a_scheme_by_an_entry_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "torrents-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: torrents\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\ntorrent = modelcache.sources.hf:HuggingFaceSource\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "torrent" in installed_schemes()
    assert isinstance(source_for(SourceURI("torrent", "a", "b")), HuggingFaceSource)


def test_locating_files_does_not_pay_for_huggingface_hub() -> None:
    program = (
        "import sys\n"
        "from modelcache.sources.base import SourceFile, source_for\n"
        "from modelcache.sources.uri import parse_uri\n"
        "uri = parse_uri('hf://a/b')\n"
        "print(source_for(uri).locate(uri, '0' * 40, SourceFile('x', 1), None).url)\n"
        "assert 'huggingface_hub' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"https://huggingface.co/a/b/resolve/{'0' * 40}/x"
