"""What users get wrong and what sources lie about: a condition with a sentence, a warning, and another try in time."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from local.hub.faults import Listing, Status
from local.hub.repository import Repository
from local.hub.server import HubServer
from tests.integration.controller.conftest import FILES, World
from tests.support.cluster import Model

CANARY = "hf_canary_0123456789abcdef"
RETRY = "modelcache.nvidia.com/retry"


def retry(model: Model, value: str) -> None:
    model.api.patch(model.path, {"metadata": {"annotations": {RETRY: value}}}).expect(200)


@pytest.mark.parametrize(
    ("uri", "reason", "said"),
    [
        ("hf://org/absent", "NotFound", ["org/absent", "secretRef"]),
        ("hf://org/name@no-such-tag", "RevisionNotFound", ["no-such-tag"]),
        ("hf://org/private", "NotFound", ["org/private", "secretRef"]),
        ("hf://org/gated", "Unauthorized", ["org/gated", "secretRef"]),
        ("hf://org/disabled", "NotFound", ["org/disabled"]),
        ("hf://org/empty", "NotFound", ["org/empty"]),
        ("hf://datasets/org/name", "InvalidURI", ["datasets"]),
        ("hf://org", "InvalidURI", ["hf://org"]),
        ("ngc://org/name", "Unsupported", ["ngc"]),
    ],
)
async def test_what_cannot_be_resolved_says_why(world: World, uri: str, reason: str, said: list[str]) -> None:
    for repository in (
        Repository("org/private", dict(FILES), private=True, tokens=["hf_good"]),
        Repository("org/gated", dict(FILES), gated="auto", tokens=["hf_good"]),
        Repository("org/disabled", dict(FILES), disabled=True),
        Repository("org/empty", {".gitattributes": b""}),
    ):
        world.hub.hub.add(repository)
    agent = await world.agent()
    model = world.model(uri=uri)
    resolved = await world.condition(model, "Resolved", "False", reason)
    for words in said:
        assert words in resolved["message"]
    status = model.status()
    assert status["phase"] == "Failed"
    assert (await world.condition(model, "Ready", "False", reason))["message"] == resolved["message"]
    if reason != "InvalidURI":
        assert "Next try at 2" in resolved["message"], "never a silent retry"
    await world.until(lambda: "ResolveFailed" in [event["reason"] for event in model.events()], "a warning is sent")
    await agent.until(lambda: world.key(model) in agent.desired)
    assert agent.desired[world.key(model)].manifest_digest == "", "nothing to fetch, and nothing to remove"
    model.delete()
    await world.gone(model)


# Those that the CRD lets through; what has no scheme, an unknown one, or a blank, is refused by the API server.
MALFORMED = (
    "hf://org", "hf://org/", "hf:///name", "hf://org/name/file", "hf://org/name@", "hf://org/name@a..b", "hf://org/a--b",
    "hf://org/name.git", "hf://org/../name", "hf://datasets/org/name", "hf://spaces/org/name", "hf://org/na%2Fme",
    "s3://B/x", "s3://bucket/a/../b", "s3://bucket//b", "s3:///x", "s3://AKIA:hunter2@bucket/x", "s3://b_/x",
    "https://host", "https://host/a#b", "https:///a", "https://host/a/../b", "https://user:hunter2@host/file",
    "https://ho\\st/a", "file://server/a", "file:///", "file:///a/../../etc", "file:///a//b", "pvc://Claim/x", "pvc:///x",
    "pvc://claim/../x", "ngc://nvidia", "ngc://a/b/c/d", "ngc://a/b:",
)  # fmt: skip


async def test_every_malformed_uri_has_a_clear_condition(world: World) -> None:
    models = {uri: world.model(f"m{number}", uri=uri) for number, uri in enumerate(MALFORMED)}
    for uri, model in models.items():
        resolved = await world.condition(model, "Resolved", "False", "InvalidURI")
        assert resolved["message"].endswith((".", ")")), uri
        assert "hunter2" not in resolved["message"]
        assert "hunter2" not in json.dumps(model.events())


@pytest.mark.parametrize(
    ("append", "said"),
    [
        ("../../etc/passwd", ["../../etc/passwd"]),
        ("/etc/passwd", ["/etc/passwd", "absolute"]),
        ("CONFIG.json", ["CONFIG.json", "differ only in case"]),
        ("config.json/below", ["config.json", "directory"]),
    ],
)
async def test_a_hostile_listing_is_refused(world: World, append: str, said: list[str]) -> None:
    entry = {"type": "file", "path": append, "size": 3, "oid": "1" * 40}
    world.hub.hub.faults.add(Listing(append=[entry]))
    model = world.model()
    resolved = await world.condition(model, "Resolved", "False")
    for words in said:
        assert words in resolved["message"]
    assert world.config_maps() == []
    world.hub.hub.faults.clear()
    retry(model, "1")
    await world.condition(model, "Resolved", "True")


async def test_an_origin_that_is_away_is_asked_again(world: World) -> None:
    port = int(world.hub.url.rpartition(":")[2])
    world.hub.close()
    model = world.model()
    resolved = await world.condition(model, "Resolved", "False", "Unreachable")
    assert world.hub.url in resolved["message"]
    world.hub = HubServer(world.hub.hub, port)
    try:
        world.clock.advance(5)
        await world.condition(model, "Resolved", "True")
    finally:
        world.hub.close()


async def test_a_busy_origin_is_given_the_time_it_asks_for(world: World) -> None:
    fault = world.hub.hub.faults.add(Status(status=429, retry_after=6000))
    model = world.model()
    await world.condition(model, "Resolved", "False", "RateLimited")
    met = world.hub.hub.faults.applied(fault)
    world.clock.advance(5000)
    other = world.model("other", uri="hf://org")
    await world.condition(other, "Resolved", "False", "InvalidURI")
    assert world.hub.hub.faults.applied(fault) == met, "not before its time"
    world.hub.hub.faults.clear()
    world.clock.advance(1100)
    await world.condition(model, "Resolved", "True")


async def test_a_corrected_spec_is_tried_at_once(world: World) -> None:
    await world.agent()
    model = world.model(uri="hf://org/absent")
    await world.condition(model, "Resolved", "False")
    model.patch(source={"uri": "hf://org/name"})
    await world.ready(model)


async def test_a_bad_new_version_leaves_the_old_one_alone(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    old = await world.ready(model)
    model.patch(version="no-such-tag")
    await world.condition(model, "Resolved", "False", "RevisionNotFound")
    status = model.status()
    assert status["resolvedVersion"] == old["resolvedVersion"]
    await world.condition(model, "Ready", "False", "RevisionNotFound")
    await world.condition(model, "Available", "True", "PreviousRevision")
    await agent.until(lambda: agent.desired[world.key(model)].manifest_digest == "")
    assert world.key(model) in agent.held, "keep what you have"
    asked = world.asked()
    world.api.patch(model.path, {"spec": {"version": None}}).expect(200)
    await world.ready(model)
    assert world.asked() == asked, "the revision that was found before is known"


@pytest.mark.parametrize(
    ("data", "ref", "reason", "said"),
    [
        (None, {"name": "hub"}, "SecretNotFound", ["hub", "does not exist"]),
        ({"other": "x"}, {"name": "hub"}, "SecretNotFound", ["'token' or 'HF_TOKEN'"]),
        ({"other": "x"}, {"name": "hub", "key": "mine"}, "SecretNotFound", ["'mine'"]),
        ({"token": "\n"}, {"name": "hub"}, "SecretInvalid", ["'token'", "empty"]),
        ({"token": "hf_wrong"}, {"name": "hub"}, "Unauthorized", ["secretRef"]),
    ],
)
async def test_a_credential_that_does_not_work_is_named(
    world: World, data: dict[str, str] | None, ref: dict[str, str], reason: str, said: list[str]
) -> None:
    if data is not None:
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": data}
        world.api.post(f"/api/v1/namespaces/{world.namespace}/secrets", secret).expect(201)
    world.hub.hub.add(Repository("org/private", dict(FILES), private=True, tokens=["hf_good"]))
    model = world.model(uri="hf://org/private", source={"secretRef": ref})
    resolved = await world.condition(model, "Resolved", "False", reason)
    for words in said:
        assert words in resolved["message"]
    assert "Next try at 2" in resolved["message"]
    assert "hf_wrong" not in json.dumps(model.status())


async def test_a_secret_that_comes_later_is_taken_and_nothing_repeats_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.hub.hub.add(Repository("org/private", dict(FILES), private=True, tokens=[CANARY]))
    agent = await world.agent()
    model = world.model(uri="hf://org/private", source={"secretRef": {"name": "hub"}})
    await world.condition(model, "Resolved", "False", "SecretNotFound")
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"token": CANARY}}
    world.api.post(f"/api/v1/namespaces/{world.namespace}/secrets", secret).expect(201)
    world.clock.advance(16)
    await world.ready(model)
    assert agent.desired[world.key(model)].credential.values["token"] == CANARY
    # Now make the source and the agent fail while the credential is in use.
    world.hub.hub.repositories["org/private"].tokens = frozenset()
    model.patch(version="v2")
    await world.condition(model, "Resolved", "False")
    seen: list[Any] = [world.api.get(path).expect(200) for path in (
        model.path, f"/api/v1/namespaces/{world.namespace}/events", f"/api/v1/namespaces/{world.namespace}/configmaps",
    )]  # fmt: skip
    assert not [text for text in map(json.dumps, seen) if CANARY in text]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("controller", "modelcache"))]
    assert ours
    assert not [line for line in ours if CANARY in line]


async def test_one_bad_model_does_not_keep_others_waiting(world: World) -> None:
    await world.agent()
    bad = [world.model(f"bad-{number}", uri="hf://org/absent") for number in range(5)]
    good = world.model("good")
    await world.ready(good)
    for model in bad:
        await world.condition(model, "Resolved", "False", "NotFound")
