"""What agents say about adapters is bounded and sanitized; what is unknown never counts as loaded."""

from __future__ import annotations

from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from controller.adapter_reports import MAX_PODS, AdapterState, read_adapter, read_unloads
from controller.registry import Registry
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb
from tests.support.fake_clock import FakeClock

DIGEST = "d" * 64


def test_a_good_report_is_taken_as_it_is() -> None:
    found = read_adapter(
        pb.AdapterReport(
            config=pb.AdapterConfig(rank=16, target_modules=["q_proj", "v_proj"], base_model="Qwen/Qwen3-0.6B"),
            warning=pb.Problem(reason="BaseModelMismatch", message="Another base model."),
            pods=[
                pb.AdapterInPod(
                    pod_uid="u-1",
                    state=pb.ADAPTER_STATE_LOADED,
                    manifest_digest=DIGEST,
                    container_start="containerd://abc",
                    engine="dynamo",
                    uri="file:///models/a",
                ),
                pb.AdapterInPod(
                    pod_uid="u-2",
                    state=pb.ADAPTER_STATE_FAILED,
                    problem=pb.Problem(reason="LoadFailed", message="500", next_try=Timestamp(seconds=1_000_000_000)),
                ),
            ],
        )
    )
    assert found.config is not None
    assert (found.config.rank, found.config.target_modules) == (16, ("q_proj", "v_proj"))
    assert found.warning is not None
    assert found.warning.reason == "BaseModelMismatch"
    loaded, failed = found.pods["u-1"], found.pods["u-2"]
    assert (loaded.state, loaded.manifest_digest, loaded.container_start) == (
        AdapterState.LOADED, DIGEST, "containerd://abc",
    )  # fmt: skip
    assert failed.problem is not None
    assert failed.problem.next_try == "2001-09-09T01:46:40Z"


def test_nonsense_is_clamped_replaced_or_left_out() -> None:
    pods = [pb.AdapterInPod(pod_uid=f"u-{index}") for index in range(MAX_PODS + 5)]
    unheard_of: Any = {"state": 77}
    uri = "file://\x1b[31m" + "y" * 10_000
    pods[0] = pb.AdapterInPod(pod_uid="u-0", manifest_digest="x", uri=uri, **unheard_of)
    pods[1] = pb.AdapterInPod(pod_uid="no uid at all\n", state=pb.ADAPTER_STATE_LOADED)
    found = read_adapter(
        pb.AdapterReport(pods=pods, config=pb.AdapterConfig(rank=2**32 - 1, target_modules=["m\n" * 500] * 500))
    )
    assert found.config is not None
    assert found.config.rank <= 1_000_000
    assert len(found.config.target_modules) == 64
    assert max(map(len, found.config.target_modules)) <= 253
    assert len(found.pods) == MAX_PODS - 1
    odd = found.pods["u-0"]
    assert (odd.state, odd.manifest_digest) == (AdapterState.WAITING, "")
    assert odd.uri.isprintable()
    assert len(odd.uri) <= 4096


@given(st.binary(max_size=300))
def test_whatever_parses_can_be_read(data: bytes) -> None:
    report = pb.Report()
    try:
        report.ParseFromString(data)
    except Exception:
        return
    for model in report.models:
        read_adapter(model.adapter)
    read_unloads(report)


async def test_outcomes_of_unloading_are_kept_by_model_and_node_from_the_latest_report() -> None:
    registry = Registry(FakeClock(), timeout=40.0)

    def outcome(uid: str, pod: str, reason: str = "") -> pb.AdapterUnload:
        problem = pb.Problem(reason=reason, message="no answer") if reason else None
        key = pb.ModelKey(namespace="ns", name="m")
        return pb.AdapterUnload(model=key, model_uid=uid, lora_name="l", pod_uid=pod, pod_name=pod, problem=problem)

    b = registry.connect(pb.Hello(node="b", instance="1"), "p2")
    a = registry.connect(pb.Hello(node="a", instance="1"), "p1")
    registry.take_report(b, pb.Report(unloads=[outcome("uid", "w-2", "Timeout"), outcome("earlier", "w-9")]), 0)
    registry.take_report(a, pb.Report(unloads=[outcome("uid", "w-1")]), 0)
    found = registry.unloads_of("uid")
    assert [(node, unload.pod_name, unload.problem and unload.problem.reason) for node, unload in found] == [
        ("a", "w-1", None), ("b", "w-2", "Timeout"),
    ]  # fmt: skip
    assert found[0][1].model == ObjectKey("ns", "m")
    registry.take_report(a, pb.Report(), 0)
    assert [node for node, _ in registry.unloads_of("uid")] == ["b"]
