"""From a DynamoModel to Ready and through everything that restarts: what is said, what is asked, what is kept."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from typing import Any

import pytest

from controller.manifests import DIGEST_LABEL, OWNER_LABEL
from controller.writer import PROGRESS_INTERVAL
from local.hub.repository import Repository
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import Manifest, ManifestFile
from modelcache.rpc import modelcache_pb2 as pb
from tests.integration.controller.conftest import FILES, TIMEOUT, World
from tests.support.cluster import Model
from tests.support.fake_agent import digest_of


def reasons(model: Model) -> list[str]:
    return [event["reason"] for event in model.events()]


async def test_from_apply_to_ready(world: World) -> None:
    agents = [await world.agent() for _ in range(3)]
    model = world.model()
    status = await world.ready(model)
    commit = world.hub.hub.repositories["org/name"].find("main")
    assert commit is not None
    assert status["phase"] == "Ready"
    assert status["resolvedVersion"] == commit.id
    assert status["resolvedFrom"] == "hf://org/name"
    assert status["nodes"]["summary"] == "3/3"
    assert status["assignedNodes"] == status["readyNodes"] == sorted(world.nodes)
    assert status["files"] == len(FILES)
    assert status["modelSizeBytes"] == sum(map(len, FILES.values()))
    assert status["storageRef"]["path"] == f"/nowhere/models/{world.namespace}/m/current"
    assert status["readyEndpoints"] == status["totalEndpoints"] == 0
    for agent in agents:
        desired = agent.desired[world.key(model)]
        assert f"sha256:{desired.manifest_digest}" == status["manifestDigest"]
        assert desired.hub_ref == "main"
    manifest = agents[0].manifests[agents[0].desired[world.key(model)].manifest_digest]
    assert manifest.complete
    assert {file.path for file in manifest.files} == set(FILES)
    known = {file.path: file.sha256 for file in manifest.files}
    assert known["model.safetensors"] == hashlib.sha256(FILES["model.safetensors"]).hexdigest(), (
        "what the hub publishes"
    )
    assert known["config.json"] == digest_of("config.json"), "what the first agent found"
    assert status["treeDigest"] == f"sha256:{manifest.tree_digest()}"
    assert world.asked() == 2, "the source was asked once: for the revision and for the listing"

    def told() -> bool:
        found = reasons(model)
        return all(word in found for word in ("Resolved", "NodesSelected", "DownloadStarted", "NodeReady", "Ready"))

    await world.until(told, "events of each step")
    assert all(event["type"] == "Normal" for event in model.events())


async def test_the_manifest_is_kept_in_config_maps_that_the_model_owns(world: World) -> None:
    await world.agent()
    model = world.model()
    status = await world.ready(model)
    await world.until(lambda: len(world.config_maps()) == 1, "that of the incomplete manifest was removed")
    (stored,) = world.config_maps()
    assert stored["immutable"] is True
    (owner,) = stored["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("DynamoModel", "m")
    (packed,) = stored["binaryData"].values()
    data = gzip.decompress(base64.b64decode(packed))
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == status["manifestDigest"]
    assert Manifest.decode(data).complete


async def test_what_somebody_labels_like_a_manifest_is_left_alone(world: World) -> None:
    model = world.model()
    uid = world.api.get(model.path).expect(200)["metadata"]["uid"]
    planted = {
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "somebody-s", "labels": {OWNER_LABEL: uid, DIGEST_LABEL: "0" * 32}},
    }  # fmt: skip
    world.api.post(f"/api/v1/namespaces/{world.namespace}/configmaps", planted).expect(201)
    await world.agent()
    await world.ready(model)
    await world.until(lambda: len(world.config_maps()) == 2, "the incomplete manifest was removed, and only that")
    assert "somebody-s" in [found["metadata"]["name"] for found in world.config_maps()]


async def test_a_restarted_controller_asks_nobody_and_says_nothing_new(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    await world.ready(model)
    await world.until(lambda: "Ready" in reasons(model), "the last event is sent")
    await world.stop()
    before = world.api.get(model.path).expect(200)
    asked, told = world.asked(), model.events()
    repository = world.hub.hub.repositories["org/name"]
    repository.commit({"config.json": b"another"})
    world.hub.close()
    await world.start()
    await agent.restart()
    await agent.until(lambda: bool(agent.states))
    assert f"sha256:{agent.desired[world.key(model)].manifest_digest}" == before["status"]["manifestDigest"]
    other = world.model("other", storage={"nodeLocal": {"replicas": 0}})
    await world.condition(other, "Resolved", "False", "Unreachable")
    after = world.api.get(model.path).expect(200)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"], "nothing was written"
    assert world.asked() == asked
    assert model.events() == told


async def test_before_the_agents_are_back_ready_is_what_it_was(world: World) -> None:
    model = world.model()
    await world.agent()
    await world.agent()
    await world.ready(model)
    await world.stop()
    for agent in world.agents:
        await agent.stop()
    before = world.api.get(model.path).expect(200)
    await world.start()
    other = world.model("other", storage={"nodeLocal": {"replicas": 0}})
    await world.ready(other)
    after = world.api.get(model.path).expect(200)
    assert after["status"] == before["status"]
    world.clock.advance(TIMEOUT + 1)
    lost = await world.condition(model, "Ready", "False", "NoNodes")
    assert "no agent is connected" in lost["message"]


@pytest.mark.parametrize("damage", ["deleted", "replaced"])
async def test_a_lost_manifest_is_read_again_at_the_revision_found_then(world: World, damage: str) -> None:
    agent = await world.agent()
    model = world.model()
    before = await world.ready(model)
    await world.until(lambda: len(world.config_maps()) == 1, "one manifest is stored")
    await world.stop()
    path = f"/api/v1/namespaces/{world.namespace}/configmaps"
    (stored,) = world.config_maps()
    world.api.delete(f"{path}/{stored['metadata']['name']}").expect(200)
    if damage == "replaced":
        planted = Manifest.build("hf://org/name", "f" * 40, [ManifestFile(path="a", size=1)]).encode()
        packed = base64.b64encode(gzip.compress(planted)).decode()
        metadata = {key: stored["metadata"][key] for key in ("name", "labels", "annotations")}
        body = {"metadata": metadata, "binaryData": dict.fromkeys(stored["binaryData"], packed)}
        world.api.post(path, {"apiVersion": "v1", "kind": "ConfigMap", **body}).expect(201)
    world.hub.hub.repositories["org/name"].commit({"config.json": b"another"})
    changed = {entry["type"]: entry["lastTransitionTime"] for entry in before["conditions"]}
    await world.start()
    await agent.restart()
    digest = before["manifestDigest"].removeprefix("sha256:")
    await agent.until(lambda: agent.desired.get(world.key(model), pb.DesiredModel()).manifest_digest == digest)
    after = await world.ready(model)
    assert after["resolvedVersion"] == before["resolvedVersion"]
    assert after["treeDigest"] == before["treeDigest"]
    assert {entry["type"]: entry["lastTransitionTime"] for entry in after["conditions"]}["Ready"] == changed["Ready"]


async def test_an_api_server_that_is_killed_disturbs_nobody(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    status = await world.ready(model)
    states = len(agent.states)
    world.kube.restart()
    later = world.model("later")
    await world.ready(later)
    assert agent.ending is None, "the stream has lived on"
    assert len(agent.states) > states
    assert all(
        world.key(model) in {ObjectKey(m.model.namespace, m.model.name) for m in s.models}
        for s in agent.states[states:]
    )
    assert model.status() == status


async def test_a_new_version_switches_and_the_old_manifest_goes(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    old = await world.ready(model)
    new = world.hub.hub.repositories["org/name"].commit({**FILES, "extra.json": b"1"}, branch="v2")

    def hold(report: pb.ModelReport, manifest: Manifest) -> None:
        report.phase = pb.PHASE_DOWNLOADING
        report.current_revision = old["resolvedVersion"]

    agent.behaviour = hold
    model.patch(version="v2")
    updating = await world.condition(model, "Ready", "False", "Updating")
    assert old["resolvedVersion"] in updating["message"]
    await world.condition(model, "Available", "True", "PreviousRevision")
    await agent.until(lambda: agent.desired[world.key(model)].hub_ref == "v2")
    agent.behaviour = lambda report, manifest: None
    for held in agent.held.values():
        held.phase = pb.PHASE_VERIFIED
        incomplete = agent.manifests[held.manifest_digest]
        held.digests.extend(
            pb.FileDigest(path=f.path, sha256=digest_of(f.path)) for f in incomplete.files if not f.sha256
        )
    await agent.report()
    status = await world.ready(model)
    assert status["resolvedVersion"] == new
    await world.until(lambda: len(world.config_maps()) == 1, "the manifests of the old revision are removed")
    await world.until(lambda: "RevisionChanged" in reasons(model), "the change is told")


async def test_only_what_is_asked_for_decides_whether_the_source_is_asked(world: World) -> None:
    await world.agent()
    model = world.model()
    await world.ready(model)
    asked = world.asked()
    model.patch(storage={"nodeLocal": {"replicas": 1}}, verification={"enabled": False})
    await world.ready(model)
    assert world.asked() == asked
    model.patch(source={"include": ["*.json"]})
    status = await world.ready(model)
    assert world.asked() == asked + 2
    assert status["files"] == 2
    back = world.model("same", source={"include": ["*.json"]})
    assert (await world.ready(back))["treeDigest"] == status["treeDigest"]


async def test_an_agent_gets_credential_checksum_and_attempt(world: World) -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"HF_TOKEN": "hf_1\n"}}
    world.api.post(f"/api/v1/namespaces/{world.namespace}/secrets", secret).expect(201)
    world.hub.hub.tokens["hf_1"] = "somebody"
    agent = await world.agent()
    model = world.model(source={"secretRef": {"name": "hub"}}, verification={"checksum": f"sha256:{'c' * 64}"})
    await world.ready(model)
    desired = agent.desired[world.key(model)]
    assert dict(desired.credential.values) == {"token": "hf_1"}
    assert desired.tree_digest == "c" * 64
    model.api.patch(model.path, {"metadata": {"annotations": {"modelcache.nvidia.com/retry": "again"}}}).expect(200)
    await agent.until(lambda: agent.desired[world.key(model)].attempt == "again")
    model.patch(verification={"enabled": False})
    await agent.until(lambda: agent.desired[world.key(model)].tree_digest == "")


async def test_wrong_bytes_are_never_ready(world: World) -> None:
    text = f"model.safetensors: the source sent {'a' * 64}, the manifest says {'b' * 64}"

    def corrupt(report: pb.ModelReport, manifest: Manifest) -> None:
        report.phase = pb.PHASE_FAILED
        report.problem.CopyFrom(pb.Problem(reason="DigestMismatch", message=text))

    await world.agent(behave=lambda agent: setattr(agent, "behaviour", corrupt))
    model = world.model()
    failed = await world.condition(model, "Verified", "False", "DigestMismatch")
    assert text in failed["message"]
    status = model.status()
    assert status["phase"] == "Failed"
    assert status["nodeProblems"][0]["reason"] == "DigestMismatch"
    assert (await world.condition(model, "Ready", "False", "DigestMismatch"))["message"]
    await world.until(lambda: "DownloadFailed" in reasons(model), "a warning is sent")


async def test_progress_is_told(world: World) -> None:
    def slow(report: pb.ModelReport, manifest: Manifest) -> None:
        report.phase, report.bytes_done, report.bytes_per_second = pb.PHASE_DOWNLOADING, manifest.size // 4, 10

    agent = await world.agent(behave=lambda agent: setattr(agent, "behaviour", slow))
    model = world.model()
    await world.until(lambda: model.status().get("progress", {}).get("percent") == 25, "the first progress is written")
    for held in agent.held.values():
        held.bytes_done *= 2
    await world.hears(agent)
    world.clock.advance(PROGRESS_INTERVAL)
    await world.until(lambda: model.status()["progress"]["percent"] == 50, "the next progress is written")
    assert model.status()["progress"]["etaSeconds"] > 0


async def test_a_model_of_two_thousand_files(world: World) -> None:
    files = {f"dir-{number % 40}/sub-{number % 7}/file-{number}.json": b"x" for number in range(2000)}
    world.hub.hub.add(Repository("org/many", files))
    await world.agent()
    model = world.model(uri="hf://org/many")
    status = await world.ready(model)
    assert status["files"] == 2000
    assert all(len(json.dumps(stored)) < 1024 * 1024 * 4 // 3 for stored in world.config_maps())


async def test_a_model_without_source_is_left_to_others(world: World) -> None:
    await world.agent()
    body: dict[str, Any] = {"apiVersion": "nvidia.com/v1alpha1", "kind": "DynamoModel", "metadata": {"name": "plain"}}
    model = Model(world.api, world.namespace, "plain")
    world.api.post(model.collection, {**body, "spec": {"modelName": "org/name"}}).expect(201)
    await world.condition(model, "Ready", "Unknown", "NoSource")
    found = world.api.get(model.path).expect(200)
    assert "finalizers" not in found["metadata"]
    assert "phase" not in found["status"]
    assert found["status"]["readyEndpoints"] == 0


async def test_taking_the_source_away_removes_the_model_from_the_nodes(world: World) -> None:
    agent = await world.agent()
    model = world.model()
    await world.ready(model)
    world.api.patch(model.path, {"spec": {"source": None}}).expect(200)
    await world.condition(model, "Ready", "Unknown", "NoSource")
    await world.until(lambda: "finalizers" not in world.api.get(model.path).expect(200)["metadata"], "it is let go")
    assert agent.held == {}
    world.api.patch(model.path, {"spec": {"source": {"uri": "hf://org/name"}}}).expect(200)
    await world.ready(model)
