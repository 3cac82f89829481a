"""What users get wrong, and what sources lie about: a condition with a sentence to act on, and nothing on the disk."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.cluster import CacheCluster, HubProcess, Model, write_repository
from tests.support.waiting import PATIENCE

pytestmark = [pytest.mark.e2e, pytest.mark.conformance]

CANARY = "hf_" + os.urandom(16).hex()


@pytest.fixture(autouse=True)
def repository(repositories: Path) -> None:
    write_repository(repositories, "org/name", {"config.json": b"{}"})
    write_repository(repositories, "org/private", {"config.json": b"{}", "model.safetensors": os.urandom(2_000_000)})
    (repositories / "org" / "private.hub.json").write_text(json.dumps({"private": True, "tokens": [CANARY]}))
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


def test_a_secret_that_comes_later_is_taken_and_never_leaks(
    cluster: CacheCluster, api: Api, namespace: str, model: Callable[[str], Model], tmp_path: Path
) -> None:
    private = model("private")
    private.create("hf://org/private", source={"secretRef": {"name": "huggingface-token", "key": "token"}})
    missing = private.wait_condition("Resolved", "False")
    assert "huggingface-token" in missing["message"]
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "huggingface-token"}}
    api.post(f"/api/v1/namespaces/{namespace}/secrets", {**secret, "stringData": {"token": CANARY}}).expect(201)
    private.api.patch(private.path, {"metadata": {"annotations": {"modelcache.nvidia.com/retry": "now"}}}).expect(200)
    private.wait_ready(timeout=PATIENCE)
    seen = [cluster.all_logs()]
    for path in (private.path, f"/api/v1/namespaces/{namespace}/events", f"/api/v1/namespaces/{namespace}/configmaps"):
        seen.append(json.dumps(api.get(path).expect(200)))
    seen += [Path(f"/proc/{pid}/cmdline").read_bytes().decode() for pid in cluster.pids()]
    assert not [text for text in seen if CANARY in text]
    for file in tmp_path.joinpath("nodes").rglob("*"):
        if file.is_file():
            assert CANARY.encode() not in file.read_bytes(), file
