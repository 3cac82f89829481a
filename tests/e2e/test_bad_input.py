"""What users get wrong, and what sources lie about: a condition with a sentence to act on, and nothing on the disk."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model, write_repository
from tests.support.s3 import Listed, OwnS3
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

CANARY = "hf_" + os.urandom(16).hex()
LATER = "hf_" + os.urandom(16).hex()


@pytest.fixture(autouse=True)
def repository(repositories: Path) -> None:
    write_repository(repositories, "org/name", {"config.json": b"{}"})
    write_repository(repositories, "org/private", {"config.json": b"{}", "model.safetensors": os.urandom(2_000_000)})
    write_repository(repositories, "org/other", {"config.json": b"{}", "model.safetensors": os.urandom(200_000)})
    for name in ("private", "other"):
        settings = {"private": True, "tokens": [CANARY]}
        (repositories / "org" / f"{name}.hub.json").write_text(json.dumps(settings))
    write_repository(repositories, "org/gated", {"config.json": b"{}"})
    (repositories / "org" / "gated.hub.json").write_text(json.dumps({"gated": "auto", "tokens": [CANARY]}))
    for name, path in {"climbs": "../../etc/passwd", "absolute": "/etc/passwd", "case": "CONFIG.json"}.items():
        write_repository(repositories, f"org/{name}", {"config.json": b"{}"})
        (repositories / "org" / f"{name}.hub.json").write_text(json.dumps({"files": {path: "text"}}))


UNRESOLVABLE = {
    "hf://org/absent": ["org/absent", "secretRef"],
    "hf://org/name@no-such-tag": ["no-such-tag"],
    "hf://org/private": ["org/private", "secretRef"],
    "hf://org/gated": ["org/gated", "secretRef"],
    "hf://datasets/org/name": ["datasets"],
    "hf://org": ["hf://org"],
    "hf://org/climbs": ["../../etc/passwd"],
    "hf://org/absolute": ["/etc/passwd"],
    "hf://org/case": ["CONFIG.json", "differ only in case"],
    "ngc://org/name": ["ngc"],
}
"""URIs, and what the message has to say."""


def test_what_cannot_be_resolved_says_why(cluster: CacheCluster, model: Callable[[str], Model]) -> None:
    models = {uri: model(f"bad-{number}") for number, uri in enumerate(UNRESOLVABLE)}
    for uri, bad in models.items():
        bad.create(uri)
    for uri, bad in models.items():
        resolved = bad.wait_condition("Resolved", "False")
        assert [words for words in UNRESOLVABLE[uri] if words not in resolved["message"]] == [], uri
        assert bad.status()["phase"] == "Failed", uri
        assert bad.condition("Ready")["status"] == "False", uri
    for node in cluster.nodes:
        assert not [path for path in cluster.paths(node).models.rglob("*") if path.is_file()]


def test_the_same_controller_goes_on_after_every_kind_of_bad_input(
    cluster: CacheCluster, model: Callable[[str], Model]
) -> None:
    bad = [model(f"bad-{index}") for index in range(3)]
    for one, uri in zip(bad, ["hf://org/absent", "hf://org/climbs", "hf://org/name@nowhere"], strict=True):
        one.create(uri)
    for one in bad:
        one.wait_condition("Resolved", "False")
    good = model("good")
    good.create("hf://org/name")
    good.wait_ready()
    bad[0].patch(source={"uri": "hf://org/name"})
    bad[0].wait_ready()


def test_an_origin_that_is_away_is_named_and_asked_again(
    cluster: CacheCluster, hub: HubProcess, model: Callable[[str], Model]
) -> None:
    hub.close()
    waiting = model("waiting")
    waiting.create("hf://org/name")
    resolved = waiting.wait_condition("Resolved", "False")
    assert f"127.0.0.1:{hub.port}" in resolved["message"]
    hub.restart()
    waiting.wait_ready(timeout=PATIENCE)


@pytest.fixture
def s3() -> Iterator[OwnS3]:
    """A bucket with one object, of which the size alone is told."""
    server = OwnS3([Listed("m/weights", 1000, content=os.urandom(1000))])
    yield server
    server.close()


def test_secrets_that_come_late_or_end_early_are_taken_again_and_never_leak(
    cluster: CacheCluster, hub: HubProcess, s3: OwnS3, api: Api, namespace: str, model: Callable[[str], Model],
    repositories: Path, tmp_path: Path,
) -> None:  # fmt: skip
    cluster.start_controller(module="tests.support.impatient")
    private = model("private")
    private.create("hf://org/private", source={"secretRef": {"name": "huggingface-token", "key": "token"}})
    missing = private.wait_condition("Resolved", "False")
    assert "huggingface-token" in missing["message"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "huggingface-token"}}
    api.post(f"/api/v1/namespaces/{namespace}/secrets", {**secret, "stringData": {"token": CANARY}}).expect(201)
    private.api.patch(private.path, {"metadata": {"annotations": {"modelcache.nvidia.com/retry": "now"}}}).expect(200)
    private.wait_ready(timeout=PATIENCE)

    # Both sources end what they have given out between resolving and reading.
    def s3_keys(session: str) -> dict[str, str]:
        return {**s3.s3.secret_values, "AWS_SESSION_TOKEN": session}

    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3-keys"}, "stringData": s3_keys(CANARY)}
    api.post(secrets, body).expect(201)
    ended = {"hub": ("hf://org/other", "huggingface-token"), "s3": ("s3://bucket/m", "s3-keys")}
    made = {name: model(name) for name in ended}
    for name, (uri, of) in ended.items():
        made[name].create(uri, source={"secretRef": {"name": of}}, storage=node_selector({"nobody": "has-it"}))
    for one in made.values():
        one.wait_condition("Resolved", "True")
    s3.refuse = lambda method, path: None if f"Security-Token={LATER}" in path else (400, "ExpiredToken", {})
    for settings in (repositories / "org").glob("*.hub.json"):
        settings.write_text(settings.read_text().replace(CANARY, LATER))
    hub.restart()
    for one in made.values():
        one.patch(storage=node_selector({"nobody": None}))
    for name, one in made.items():
        failed = one.wait_condition("Ready", "False", "Unauthorized")
        assert "check the credential in spec.source.secretRef" in failed["message"], name
        assert cluster.ready_nodes(namespace, name) == []
    # Nobody touches the DynamoModels.
    for name, values in {"huggingface-token": {"token": LATER}, "s3-keys": s3_keys(LATER)}.items():
        api.patch(f"{secrets}/{name}", {"stringData": values}).expect(200)
    for one in made.values():
        one.wait_ready()

    seen = [cluster.all_logs()]
    for path in (private.path, f"/api/v1/namespaces/{namespace}/events", f"/api/v1/namespaces/{namespace}/configmaps"):
        seen.append(json.dumps(api.get(path).expect(200)))
    seen += [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in cluster.pids()]
    for canary in (CANARY, LATER, s3.s3.key_id):
        assert not [text for text in seen if canary in text]
        for file in tmp_path.joinpath("nodes").rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # agents tidy up meanwhile
                assert not file.is_file() or canary.encode() not in file.read_bytes(), file


def node_selector(labels: dict[str, str | None]) -> dict[str, object]:
    """For a merge patch: None takes a label out."""
    return {"nodeLocal": {"nodeSelector": labels}}
