"""Loading, unloading, updating and healing, against stand-in engines of each kind."""

import hashlib
from typing import Any

import pytest

from local.workers.container import Container, EngineName
from local.workers.switches import Switches
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb
from tests.integration.agent.lora.conftest import LORA, Node
from tests.support.waiting import wait_until_async

LOADED = pb.ADAPTER_STATE_LOADED
OTHER = ObjectKey("team", "other")


def has(container: Container) -> dict[str, str]:
    """What an engine has: name -> sha256 of the weights that it read."""
    return {name: loaded.sha256 for name, loaded in container.engine.adapters.items()}


def sha(weights: bytes) -> str:
    return hashlib.sha256(weights).hexdigest()


async def until_has(container: Container, expected: dict[str, str]) -> None:
    async def reached() -> bool:
        return has(container) == expected

    await wait_until_async(reached, what=f"{container.spec.name} has {sorted(expected)}")


async def until_told(node: Node, reason: str) -> None:
    async def told() -> bool:
        return node.adapters.reports().get(LORA) is not None and node.in_pod().problem.reason == reason

    await wait_until_async(told, what=reason)


@pytest.mark.parametrize("engine", ["dynamo", "vllm", "sglang"])
async def test_an_adapter_is_loaded_confirmed_updated_and_taken_out(node: Node, engine: EngineName) -> None:
    worker = await node.worker(engine=engine)
    node.publish(LORA, "1", b"first")
    node.want(node.pod(worker), name="org/a")
    loaded = await node.until(LOADED)
    assert has(worker) == {"org/a": sha(b"first")}
    assert (loaded.uri, loaded.engine, loaded.manifest_digest) == ("file:///models/lora/1", engine, "1" * 64)
    assert loaded.container_start == worker.state.container_id
    assert bool(loaded.engine_id) == (engine == "dynamo")
    assert node.adapters.snapshots(LORA) == {"1"}

    # An update: as long as the new files are not there, the old adapter serves, and does not count.
    node.want(node.pod(worker), name="org/a", digest="2" * 64)
    assert node.in_pod().state == pb.ADAPTER_STATE_WAITING
    assert has(worker) == {"org/a": sha(b"first")}
    node.publish(LORA, "2", b"second")
    assert (await node.until(LOADED)).uri == "file:///models/lora/2"
    assert has(worker) == {"org/a": sha(b"second")}
    assert worker.engine.counts.unloads == 1
    assert node.adapters.snapshots(LORA) == {"2"}

    # Deletion: out of the engine first, then nothing is left.
    node.unlist()
    await until_has(worker, {})
    await wait_until_async(lambda: _gone(node))
    (unload,) = node.adapters.unloads()
    assert (unload.model.name, unload.lora_name, unload.pod_name) == ("lora", "org/a", "worker-0")
    assert not unload.HasField("problem")


async def _gone(node: Node) -> bool:
    return node.adapters.reports().get(LORA) is None and not node.adapters.snapshots(LORA)


async def test_facts_about_the_adapter_are_reported(node: Node) -> None:
    node.publish(LORA, "1", rank=16, base_model="other/base")
    node.want()

    async def reported() -> pb.AdapterReport | None:
        report = node.adapters.reports().get(LORA)
        return report if report is not None and report.HasField("config") else None

    report = await wait_until_async(reported)
    assert report.config == pb.AdapterConfig(rank=16, target_modules=["q_proj", "v_proj"], base_model="other/base")
    assert report.warning.reason == "BaseModelMismatch"


async def test_what_is_no_adapter_is_not_handed_to_an_engine(node: Node) -> None:
    worker = await node.worker()
    files = node.publish(LORA, "1")
    (node.root / "models/team/lora/1/adapter_config.json").write_bytes(b"{" * 100_000)
    node.want(node.pod(worker), digest=files.manifest_digest)

    async def refused() -> bool:
        report = node.adapters.reports().get(LORA)
        return report is not None and report.problem.reason == "InvalidAdapter"

    await wait_until_async(refused)
    assert worker.engine.counts.loads == 0


async def test_nothing_is_loaded_before_the_pod_is_ready_and_its_engine_answers(node: Node) -> None:
    worker = await node.worker(start_held=True, ready_early=True)
    node.publish(LORA, "1")
    node.want(node.pod(worker, ready=False))
    await until_told(node, "PodNotReady")
    node.see(node.pod(worker))
    await until_told(node, "EngineNotReady")
    assert worker.engine.counts.loads == 0
    worker.switch(Switches())
    await node.until(LOADED)
    assert worker.engine.counts.loads == 1


async def test_a_restarted_container_gets_its_adapters_again(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    await worker.restart()
    node.see(node.pod(worker))
    assert node.in_pod().state != LOADED
    await node.until(LOADED)
    assert has(worker) == {"a": sha(b"weights")}


async def test_a_restarted_agent_believes_its_record_and_confirms_it(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    worker.switch(Switches(hang="list"))
    await node.restart()
    await node.until(pb.ADAPTER_STATE_UNCONFIRMED)
    worker.switch(Switches())
    await node.until(LOADED)
    assert (worker.engine.counts.loads, worker.engine.counts.unloads) == (1, 0)


async def test_without_its_record_an_agent_trusts_no_engine(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    await node.stop()
    node.record.write_bytes(b"not JSON")
    await node.restart()
    await node.until(LOADED)
    assert (worker.engine.counts.loads, worker.engine.counts.unloads) == (2, 1)


async def test_what_was_deleted_while_the_agent_was_away_is_taken_out(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    await node.stop()
    node.unlist()
    await node.restart()
    await until_has(worker, {})


async def test_a_pod_that_does_not_mount_the_cache_gets_the_source(node: Node) -> None:
    worker = await node.worker(mounted=False, remote_seconds=0.1)
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    assert (await node.until(LOADED)).uri == "hf://org/lora"


async def test_a_native_engine_that_cannot_load_the_source_itself_says_what_to_do(node: Node) -> None:
    worker = await node.worker(engine="vllm", mounted=False)
    node.publish(LORA, "1")
    node.want(node.pod(worker), source_uri="s3://bucket/lora")
    failed = await node.until(pb.ADAPTER_STATE_FAILED)
    assert failed.problem.reason == "LoadFailed"
    assert "mount the cache" in failed.problem.message


@pytest.mark.parametrize(
    ("switches", "reason"),
    [
        ({"lora_enabled": False}, "LoRADisabled"),
        ({"load_status": 500}, "LoadFailed"),
        ({"load_status": 500, "errors_in_body": True}, "LoadFailed"),
        ({"no_effect": True}, "NotRoutable"),
    ],
)
async def test_why_an_adapter_is_not_loaded_is_told(node: Node, switches: dict[str, Any], reason: str) -> None:
    worker = await node.worker(**switches)
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    failed = await node.until(pb.ADAPTER_STATE_FAILED)
    assert failed.problem.reason == reason
    assert failed.problem.next_try.seconds > 0
    # What helps is done by the user; what he asks for then is tried at once.
    worker.switch(Switches())
    node.see(node.pod(worker, ready=False))
    node.see(node.pod(worker))
    await node.until(LOADED)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_native_engines_without_loras_are_told_as_such(node: Node, engine: EngineName) -> None:
    worker = await node.worker(engine=engine, lora_enabled=False)
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    assert (await node.until(pb.ADAPTER_STATE_FAILED)).problem.reason == "LoRADisabled"


async def test_another_attempt_of_the_user_is_made_at_once(node: Node) -> None:
    worker = await node.worker(load_status=500)
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(pb.ADAPTER_STATE_FAILED)
    worker.switch(Switches())
    node.want(node.pod(worker), attempt="again")
    await node.until(LOADED)


async def test_pods_that_hang_delay_nobody_else(node: Node) -> None:
    hanging = [await node.worker(f"hangs-{index}", hang="load") for index in range(6)]
    node.publish(LORA, "1")
    for index in range(4):
        node.publish(ObjectKey("team", f"m{index}"), "1")
        node.want(*map(node.pod, hanging), key=ObjectKey("team", f"m{index}"), name=f"m{index}")

    async def all_hang() -> bool:
        return all(worker.engine.counts.peak_loads == 2 for worker in hanging)

    await wait_until_async(all_hang)
    good = await node.worker("good")
    node.want(node.pod(good), *map(node.pod, hanging))
    # Each request to a hanging pod takes 15 s: had it to wait for one of them, the test would see it in the count.
    await node.until(LOADED, "uid-good")
    assert all(worker.engine.counts.loads == 2 for worker in hanging)


async def test_a_pod_that_is_gone_delays_nothing(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    await worker.stop()
    node.unlist()
    node.instructions.pods.clear()  # type: ignore[union-attr]  # they are known
    node.see()
    await wait_until_async(lambda: _gone(node))
    assert node.adapters.unloads() == []


async def test_a_pod_that_does_not_answer_is_given_up_and_told(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    pod = node.pod(worker)
    await worker.stop()
    node.unlist()
    node.see(pod)

    async def free() -> bool:
        return not node.adapters.snapshots(LORA)

    await wait_until_async(free)
    (unload,) = node.adapters.unloads()
    assert unload.problem.reason in ("Unreachable", "UnloadFailed")


async def test_two_models_with_one_name_do_not_take_turns(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1", b"mine")
    node.want(node.pod(worker))
    await node.until(LOADED)
    node.publish(OTHER, "1", b"other")
    node.want(node.pod(worker), key=OTHER)
    failed = await node.until(pb.ADAPTER_STATE_FAILED, key=OTHER)
    assert failed.problem.reason == "NameConflict"
    assert has(worker) == {"a": sha(b"mine")}
    node.unlist(LORA)
    await node.until(LOADED, key=OTHER)
    assert has(worker) == {"a": sha(b"other")}


async def test_a_renamed_adapter_and_a_pod_that_lost_its_claim(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    node.want(node.pod(worker), name="b")
    await until_has(worker, {"b": sha(b"weights")})
    node.want(name="b")
    await until_has(worker, {})


async def test_while_nobody_knows_the_pods_or_the_model_nothing_moves(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    node.want(node.pod(worker), digest=None)
    node.want(node.pod(worker), digest="1" * 64)
    await node.until(LOADED)
    assert worker.engine.counts.unloads == 0


async def test_files_that_have_to_go_for_new_ones_are_let_go_of(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    # Other content under the same revision: it cannot be published beside the old one.
    node.want(node.pod(worker), digest="f" * 64)
    node.leaving[LORA] = frozenset({"1"})
    node.adapters.poke()
    await until_has(worker, {})
    await wait_until_async(lambda: _let_go(node))


async def _let_go(node: Node) -> bool:
    return not node.adapters.snapshots(LORA)


async def test_which_models_are_adapters_is_known_until_they_are_gone_from_the_disk(node: Node) -> None:
    worker = await node.worker()
    node.publish(LORA, "1")
    node.want(node.pod(worker))
    await node.until(LOADED)
    node.unlist()
    await node.restart()
    await until_has(worker, {})
    assert node.adapters.is_adapter(LORA)
    del node.published[LORA]
    node.adapters.poke()

    async def forgotten() -> bool:
        return not node.adapters.is_adapter(LORA)

    await wait_until_async(forgotten)


async def test_every_line_about_an_adapter_can_be_followed(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "agent.lora")
    worker = await node.worker()
    files = node.publish(LORA, "1")
    node.want(node.pod(worker), digest=files.manifest_digest, trace="0f8fad5b-1")
    await node.until(LOADED)
    node.unlist()
    await until_has(worker, {})
    await wait_until_async(lambda: _gone(node))
    lines = [record for record in caplog.records if hasattr(record, "model")]
    assert [record.getMessage().rpartition(": ")[2] for record in lines] == [
        "a is loaded from file:///models/lora/1",
        "takes a out",
        "a is out",
    ]
    for line in lines:
        fields = (line.__dict__[each] for each in ("model", "revision", "trace", "node", "pod"))
        assert tuple(fields) == ("team/lora", "1", "0f8fad5b-1", "node-0", "team/worker-0")
