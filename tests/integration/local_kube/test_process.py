"""`python -m local.kube` as a process: what it promises about its start, its end and its data."""

import concurrent.futures
import itertools
import os
import re
import signal
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.api import Api, Json
from tests.support.process import Process, ProcessError, python_module
from tests.support.waiting import PATIENCE

CONFIGMAPS = "/api/v1/namespaces/default/configmaps"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GADGETS = "/apis/process.example.com/v1/namespaces/default/gadgets"
GADGET_CRD: Json = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "gadgets.process.example.com"},
    "spec": {
        "group": "process.example.com",
        "scope": "Namespaced",
        "names": {"plural": "gadgets", "kind": "Gadget"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}

Start = Callable[..., tuple[Process, Api]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a server on `tmp_path/data` (or without data) and wait until it says where it is."""
    processes: list[Process] = []

    def run(*arguments: str, data: Path | None = tmp_path / "data", port: int = 0) -> tuple[Process, Api]:
        kubeconfig = tmp_path / "kubeconfig"
        kept = ["--data", str(data)] if data else []
        process = python_module("local.kube", "--port", str(port), "--kubeconfig", str(kubeconfig), *kept, *arguments)
        processes.append(process)
        line = process.first_line()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", line), line
        # The line promises that the kubeconfig is whole.
        api = Api(kubeconfig)
        assert api.url == line
        return process, api

    yield run
    for process in processes:
        process.close()


def configmap(name: str, **data: str) -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_with_watches_open(start: Start, number: signal.Signals) -> None:
    process, api = start(data=None)
    with api.watch(CONFIGMAPS, resourceVersion="0") as watch:
        assert watch.status == 200
        os.kill(process.pid, number)
        assert watch.rest() == []
        assert process.wait() == 0
    assert len(process.stdout.so_far()) == 1


def test_the_kubeconfig_is_private_and_nothing_else_is_left(start: Start, tmp_path: Path) -> None:
    start(data=None)
    assert stat.S_IMODE((tmp_path / "kubeconfig").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["kubeconfig"]


def test_acknowledged_writes_survive_kill_at_any_moment(start: Start) -> None:
    process, api = start()
    acknowledged: dict[str, str] = {}
    enough = threading.Event()

    def write(thread: int) -> None:
        for number in itertools.count():
            name = f"t{thread}-{number % 7}"
            body = configmap(name, value=str(number))
            try:
                response = api.post(CONFIGMAPS, body) if number < 7 else api.put(f"{CONFIGMAPS}/{name}", body)
            except OSError:
                return  # the server is gone; this write was not acknowledged
            assert response.status in (200, 201), response.body
            acknowledged[name] = str(number)
            if number > 30:
                enough.set()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, thread) for thread in range(4)]
        assert enough.wait(PATIENCE)
        process.kill()
    for writer in writers:
        writer.result()
    _, api = start()
    found = {item["metadata"]["name"]: item["data"]["value"] for item in api.get(CONFIGMAPS).expect(200)["items"]}
    assert found.keys() >= acknowledged.keys()
    # A last write that was not acknowledged may have been kept: then it is the next one of its thread.
    late = {name for name, value in acknowledged.items() if found[name] != value}
    assert all(int(found[name]) == int(acknowledged[name]) + 7 for name in late)
    assert len(late) <= 4


def test_objects_definitions_and_the_counter_go_on_after_a_restart(start: Start) -> None:
    process, api = start()
    api.post(CRDS, GADGET_CRD).expect(201)
    gadget = {
        "apiVersion": "process.example.com/v1",
        "kind": "Gadget",
        "metadata": {"name": "a"},
        "spec": {"deep": [1]},
    }
    kept = api.post(GADGETS, gadget).expect(201)
    api.post(CONFIGMAPS, configmap("gone")).expect(201)
    api.delete(f"{CONFIGMAPS}/gone").expect(200)
    version = int(api.get(CONFIGMAPS).expect(200)["metadata"]["resourceVersion"])
    process.kill()
    _, api = start()
    assert api.get(f"{GADGETS}/a").expect(200) == kept
    assert api.get(f"{CONFIGMAPS}/gone").status == 404
    again = api.post(CONFIGMAPS, configmap("gone")).expect(201)
    assert int(again["metadata"]["resourceVersion"]) > version
    # What was watched before cannot be resumed: the client has to list.
    with api.watch(GADGETS, resourceVersion=kept["metadata"]["resourceVersion"]) as watch:
        event = watch.next()
    assert event is not None
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_a_deletion_under_way_is_finished_after_a_restart(start: Start) -> None:
    process, api = start()
    api.post("/api/v1/namespaces", {"metadata": {"name": "going"}}).expect(201)
    held = configmap("held")
    held["metadata"]["finalizers"] = ["example.com/hold"]
    api.post("/api/v1/namespaces/going/configmaps", held).expect(201)
    api.delete("/api/v1/namespaces/going").expect(200)
    process.kill()
    _, api = start()
    with api.watch("/api/v1/namespaces", fieldSelector="metadata.name=going", resourceVersion="0") as watch:
        api.patch("/api/v1/namespaces/going/configmaps/held", {"metadata": {"finalizers": None}}).expect(200)
        watch.until(lambda event: event["type"] == "DELETED")


def test_without_data_nothing_is_kept(start: Start) -> None:
    process, api = start(data=None)
    api.post(CONFIGMAPS, configmap("a")).expect(201)
    assert process.terminate() == 0
    _, api = start(data=None)
    assert api.get(f"{CONFIGMAPS}/a").status == 404


def test_one_directory_serves_one_process(start: Start, tmp_path: Path) -> None:
    start()
    second = python_module("local.kube", "--kubeconfig", str(tmp_path / "other"), "--data", str(tmp_path / "data"))
    with second:
        assert second.wait() == 1
        assert "another server is using it" in second.logs()
        assert not (tmp_path / "other").exists()


def test_a_port_in_use_is_named(start: Start, tmp_path: Path) -> None:
    _, api = start(data=None)
    port = api.url.rpartition(":")[2]
    second = python_module("local.kube", "--port", port, "--kubeconfig", str(tmp_path / "other"))
    with second:
        assert second.wait() == 1
        assert f"127.0.0.1:{port}" in second.logs()


def test_a_file_of_another_format_is_refused(tmp_path: Path, start: Start) -> None:
    process, _ = start()
    assert process.terminate() == 0
    database = sqlite3.connect(tmp_path / "data" / "kube.sqlite3")
    database.execute("PRAGMA user_version=99")
    database.close()
    with pytest.raises(ProcessError, match="written in format 99"):
        start()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path, start: Start) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "kube.sqlite3").write_text("not a database, but more than enough text to look like one" * 50)
    with pytest.raises(ProcessError, match="move the file away to start empty"):
        start()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kubeconfig", "x", "--port", "70000"], "--port 70000: must be between 0 and 65535"),
        (["--port", "0"], "the following arguments are required: --kubeconfig"),
    ],
)
def test_arguments_are_checked(arguments: list[str], message: str) -> None:
    with python_module("local.kube", *arguments) as process:
        assert process.wait() == 2
        assert message in process.logs()
