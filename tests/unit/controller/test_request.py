"""What a spec asks for, and what makes it another question."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from controller.request import Pinned, Problem, Request
from modelcache.api.spec import Spec
from modelcache.manifest import Manifest, ManifestFile, Sha256
from modelcache.sources.errors import InvalidURI

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def request(uri: str = "hf://org/name", version: str | None = None, **source: Any) -> Request:
    spec = msgspec.convert({"modelName": "m", "version": version, "source": {"uri": uri, **source}}, Spec)
    asked = Request.of(spec, "ns")
    assert asked is not None
    return asked


def test_without_a_source_nothing_is_asked() -> None:
    assert Request.of(Spec(model_name="m"), "ns") is None


def test_version_and_uri_are_two_ways_to_say_the_same() -> None:
    assert request("hf://org/name@v1").key == request(version="v1").key == "hf://org/name@v1"
    assert request("hf://org/name:v1", version="v1") == request("hf://org/name@v1")
    with pytest.raises(InvalidURI, match=r"'v1'.*'v2'"):
        request("hf://org/name@v1", version="v2")


def test_only_what_decides_about_files_is_part_of_the_question() -> None:
    assert request(secretRef={"name": "s"}).key == request().key
    assert request(include=["b", "a", "a"]).key == request(include=["a", "b"]).key
    keys = {
        request().key,
        request(include=["a"]).key,
        request(exclude=["a"]).key,
        request(include=["a"], exclude=["b"]).key,
        request(version="a").key,
        request("hf://org/other").key,
    }
    assert len(keys) == 6


def test_the_ref_of_the_hub_view_is_what_was_asked_for() -> None:
    assert request().hub_ref == "main"
    assert request(version="v1").hub_ref == "v1"
    assert request(version=COMMIT).hub_ref == "main"
    assert request("s3://bucket/prefix").hub_ref == ""


def test_origins_are_told_apart() -> None:
    assert request().origin == request("hf://other/name").origin
    assert request("s3://bucket/a").origin == request("s3://bucket/b").origin
    assert request("s3://bucket/a").origin != request("s3://other/a").origin


def test_a_pinned_manifest_answers_the_request_it_was_made_for() -> None:
    asked = request(include=["*.json"])
    file = ManifestFile(path="a", size=3, sha256=Sha256("a" * 64))
    pinned = Pinned.of(Manifest.build(str(asked.uri), COMMIT, [file], asked.filters))
    assert pinned.answers(asked)
    assert pinned.digest == pinned.manifest.digest
    assert (pinned.size, pinned.files, pinned.revision, pinned.complete) == (3, 1, COMMIT, True)
    assert not pinned.answers(request())
    assert not pinned.answers(request("hf://org/other", include=["*.json"]))


def test_a_problem_says_when_it_is_tried_again() -> None:
    assert Problem("R", "What.").sentence == "What."
    assert Problem("R", "What.", "2026-01-01T00:00:00Z").sentence == "What. Next try at 2026-01-01T00:00:00Z."
