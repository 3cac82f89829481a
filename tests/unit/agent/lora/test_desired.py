"""What the controller says about adapters, and users through it."""

import pytest

from agent.lora.desired import Instructions, Mount, Pod, read_instructions
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

LORA = ObjectKey("team", "lora")


def message(lora_name: str = "org/a", digest: str = "1" * 64, **worker: object) -> pb.DesiredState:
    adapter = pb.Adapter(lora_name=lora_name, base_model_name="base", source_uri="hf://org/a", pod_uids=["u1"])
    model = pb.DesiredModel(
        model=pb.ModelKey(namespace="team", name="lora"), manifest_digest=digest, attempt="1", adapter=adapter
    )
    fields = {"uid": "u1", "ip": "10.0.0.1", "port": 9090, "ready": True, **worker}
    return pb.DesiredState(models=[model], workers=[pb.WorkerPod(**fields)], workers_known=True)  # type: ignore[arg-type]


def test_adapters_and_pods_are_read() -> None:
    mounts = [pb.Mount(host_path="/cache", mount_path="/models")]
    read = read_instructions(message(namespace="team", name="w", container_start="c", engine="vllm", mounts=mounts))
    assert read.pods == {
        "u1": Pod("u1", "team", "w", "10.0.0.1", 9090, True, "c", "vllm", (Mount("/cache", "/models"),))
    }
    adapter = read.adapters[LORA]
    assert (adapter.lora_name, adapter.base_model, adapter.source_uri) == ("org/a", "base", "hf://org/a")
    assert (adapter.manifest_digest, adapter.attempt) == ("1" * 64, "1")
    assert adapter.pods == {"u1"}
    assert read.kept == frozenset()


def test_an_older_controller_knows_no_pods() -> None:
    assert read_instructions(pb.DesiredState()) == Instructions(pods=None)


def test_a_model_of_which_nothing_is_known_keeps_its_adapter() -> None:
    assert read_instructions(message(digest="")).kept == {LORA}


@pytest.mark.parametrize("name", ["", "a//b", "../x", "a/..", ".", "x" * 600, "a\nb"])
def test_a_name_that_cannot_be_part_of_a_path_moves_nothing(name: str) -> None:
    read = read_instructions(message(lora_name=name))
    assert not read.adapters
    assert read.kept == {LORA}


@pytest.mark.parametrize("ip", ["", "nonsense", "169.254.169.254", "0.0.0.0", "224.0.0.1", "fe80::1", "10.0.0.1/admin"])
def test_an_address_that_no_pod_can_have_is_none(ip: str) -> None:
    pods = read_instructions(message(ip=ip)).pods
    assert pods is not None
    assert pods["u1"].ip == ""


@pytest.mark.parametrize("port", [0, 65536])
def test_a_port_that_does_not_exist_is_none(port: int) -> None:
    pods = read_instructions(message(port=port)).pods
    assert pods is not None
    assert pods["u1"].ip == ""
