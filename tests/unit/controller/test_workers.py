"""Which pods are workers, and what agents are told about them."""

from __future__ import annotations

from typing import Any

import pytest

from controller.pods import Container, Mount, Pod
from controller.workers import Worker, endpoints_of, to_messages, worker_of
from modelcache.api.labels import (
    BASE_MODEL_ANNOTATION,
    BASE_MODEL_HASH_LABEL,
    LORA_ENGINE_ANNOTATION,
    LORA_PORT_ANNOTATION,
    base_model_hash,
)

BASE = "Qwen/Qwen3-0.6B"
HASH = base_model_hash(BASE)
CACHE = Mount("/var/lib/dynamo-models/models/ns", "/models")


def pod(name: str = "worker-0", **fields: Any) -> Pod:
    values: dict[str, Any] = {
        "namespace": "ns",
        "name": name,
        "uid": f"uid-of-{name}",
        "node": "node-1",
        "ip": "10.0.1.5",
        "phase": "Running",
        "ready": True,
        "labels": {BASE_MODEL_HASH_LABEL: HASH},
        "annotations": {BASE_MODEL_ANNOTATION: BASE},
        "containers": (Container("main", (CACHE,), (("system", 9090),), 1, "containerd://1"),),
        **fields,
    }
    return Pod(**values)


def worker(**fields: Any) -> Worker:
    found = worker_of(pod(**fields))
    assert found is not None
    return found


def test_a_labelled_pod_is_a_worker_with_everything_an_agent_needs() -> None:
    (message,) = to_messages([worker()])
    assert (message.uid, message.namespace, message.name) == ("uid-of-worker-0", "ns", "worker-0")
    assert (message.ip, message.port, message.ready) == ("10.0.1.5", 9090, True)
    assert message.container_start == "containerd://1"
    assert [(mount.host_path, mount.mount_path) for mount in message.mounts] == [(CACHE.host_path, CACHE.mount_path)]
    assert worker().address == "http://10.0.1.5:9090"


@pytest.mark.parametrize("fields", [{"labels": {}}, {"phase": "Succeeded"}, {"phase": "Failed"}, {"node": ""}])
def test_a_pod_without_the_label_or_that_has_ended_is_none(fields: dict[str, Any]) -> None:
    assert worker_of(pod(**fields)) is None


def test_ipv6_addresses_are_bracketed() -> None:
    assert worker(ip="fd00::5").address == "http://[fd00::5]:9090"


def test_the_name_decides_where_two_hashes_are_equal() -> None:
    assert worker().serves(BASE)
    assert worker(annotations={}).serves(BASE), "the operator of an older version writes no annotation"
    assert not worker(annotations={BASE_MODEL_ANNOTATION: "another/model"}).serves(BASE)
    assert not worker().serves("another/model")


@pytest.mark.parametrize(
    ("containers", "expected"),
    [
        ((Container("sidecar"), Container("w", ports=(("system", 7000),))), ("w", 7000)),
        ((Container("sidecar"), Container("w", ports=(("", 9090),))), ("w", 9090)),
        ((Container("sidecar"), Container("main")), ("main", 9090)),
        ((Container("first"), Container("second")), ("first", 9090)),
        ((), ("", 9090)),
    ],
)
def test_the_worker_container_is_found_by_its_port_then_by_its_name(
    containers: tuple[Container, ...], expected: tuple[str, int]
) -> None:
    started = tuple(container._replace(start=container.name) for container in containers)
    found = worker(containers=started)
    assert (found.container_start, found.port) == expected


@pytest.mark.parametrize(
    ("text", "port"), [("8000", 8000), (" 8000 ", 8000), ("0", 9090), ("70000", 9090), ("x", 9090)]
)
def test_annotations_name_port_and_engine_of_a_native_worker(text: str, port: int) -> None:
    found = worker(annotations={LORA_PORT_ANNOTATION: text, LORA_ENGINE_ANNOTATION: " vLLM "})
    assert (found.port, found.engine) == (port, "vllm")


def test_endpoints_are_listed_once_without_those_that_end_or_have_no_address() -> None:
    workers = [
        worker(name="b"),
        worker(name="a"),
        worker(name="b"),
        worker(name="c", ip=""),
        worker(name="d", deleting=True),
    ]
    assert [found.name for found in endpoints_of(workers)] == ["a", "b"]
    assert [message.name for message in to_messages({w.uid: w for w in workers}.values())] == ["a", "b", "c"]
    assert worker(name="d", deleting=True).ending
    assert not worker(name="d", deleting=True).ready


def test_a_mount_whose_place_is_not_certain_is_nobody_s_way_to_the_cache() -> None:
    container = Container("main", (CACHE, CACHE._replace(exact=False)), (("system", 9090),), 1, "containerd://1")
    (message,) = to_messages([worker(containers=(container,))])
    assert [mount.host_path for mount in message.mounts] == [CACHE.host_path, ""]
