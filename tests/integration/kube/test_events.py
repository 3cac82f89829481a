"""Events as the server receives them, and as it does not."""

import asyncio
from functools import partial
from typing import Any

import pytest

from modelcache.kube.client import KubeClient
from modelcache.kube.correlator import Correlator
from modelcache.kube.events import EventRecorder
from modelcache.kube.objects import ObjectReference
from tests.support.fake_clock import FakeClock
from tests.support.faulty_api import FaultyApi, after, any_request, drop, hang, status

POD = ObjectReference("v1", "Pod", "web-0", "team-a", "uid-1")
NODE = ObjectReference("v1", "Node", "worker-1", uid="uid-2")


class Wall:
    """Wall time by hand."""

    def __init__(self) -> None:
        self.seconds = 1_770_000_000.0

    def __call__(self) -> float:
        return self.seconds


def events(faulty: FaultyApi, namespace: str = "team-a") -> list[dict[str, Any]]:
    prefix = f"/api/v1/namespaces/{namespace}/events/"
    return [obj for path, obj in faulty.objects.items() if path.startswith(prefix)]


def has_seen(faulty: FaultyApi, requests: int) -> bool:
    return len(faulty.seen) == requests


async def test_event_has_all_that_kubectl_shows(faulty: FaultyApi, client: KubeClient) -> None:
    async with EventRecorder(client, "controller", instance="pod-7", wall=Wall()) as recorder:
        recorder.warning(POD, "Failed", "no such revision")
    (event,) = events(faulty)
    name = event["metadata"]["name"]
    assert name.startswith("web-0.")
    event.pop("metadata")
    assert event == {
        "apiVersion": "v1",
        "kind": "Event",
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": "web-0",
            "namespace": "team-a",
            "uid": "uid-1",
        },
        "type": "Warning",
        "reason": "Failed",
        "message": "no such revision",
        "source": {"component": "controller"},
        "reportingComponent": "controller",
        "reportingInstance": "pod-7",
        "firstTimestamp": "2026-02-02T02:40:00Z",
        "lastTimestamp": "2026-02-02T02:40:00Z",
        "count": 1,
    }


async def test_cluster_scoped_objects_have_their_events_in_default(faulty: FaultyApi, client: KubeClient) -> None:
    async with EventRecorder(client, "agent") as recorder:
        recorder.normal(NODE, "Cached", "model is there")
    (event,) = events(faulty, "default")
    assert event["involvedObject"] == {"apiVersion": "v1", "kind": "Node", "name": "worker-1", "uid": "uid-2"}


async def test_repetition_updates_the_same_object(faulty: FaultyApi, client: KubeClient) -> None:
    wall = Wall()
    async with EventRecorder(client, "controller", wall=wall) as recorder:
        for _ in range(3):
            recorder.normal(POD, "Waiting", "for a node")
            wall.seconds += 60
    (event,) = events(faulty)
    assert (event["count"], event["firstTimestamp"], event["lastTimestamp"]) == (
        3,
        "2026-02-02T02:40:00Z",
        "2026-02-02T02:42:00Z",
    )
    assert [seen.method for seen in faulty.seen] == ["POST", "PATCH", "PATCH"]


async def test_event_that_the_server_has_forgotten_is_made_again(faulty: FaultyApi, client: KubeClient) -> None:
    async with EventRecorder(client, "controller") as recorder:
        recorder.normal(POD, "Waiting", "for a node")
        await faulty.until(lambda: len(events(faulty)) == 1)
        (path,) = faulty.objects
        await faulty.remove(path)
        recorder.normal(POD, "Waiting", "for a node")
        await faulty.until(lambda: len(events(faulty)) == 1)
        recorder.normal(POD, "Waiting", "for a node")
    (event,) = events(faulty)
    assert event["count"] == 2


async def test_trouble_is_waited_out_in_order(faulty: FaultyApi, client: KubeClient, clock: FakeClock) -> None:
    faulty.inject(any_request, drop)
    faulty.inject(any_request, status(500, "InternalError"))
    faulty.inject(any_request, status(429, "TooManyRequests", headers={"Retry-After": "30"}))
    async with EventRecorder(client, "controller", clock=clock) as recorder:
        recorder.normal(POD, "First", "one")
        recorder.normal(POD, "Second", "two")
        for sent in (1, 2):
            await faulty.until(partial(has_seen, faulty, sent))
            await clock.until_waiting()
            clock.advance(10)
        await faulty.until(lambda: len(faulty.seen) == 3)
        await clock.until_waiting()
        assert clock.pending == [30.0]
        clock.advance(30)
        await faulty.until(lambda: len(events(faulty)) == 2)
    assert [event["reason"] for event in events(faulty)] == ["First", "Second"]
    assert recorder.dropped == 0


async def test_lost_answer_makes_no_second_event(faulty: FaultyApi, client: KubeClient, clock: FakeClock) -> None:
    faulty.inject(any_request, after(drop))
    async with EventRecorder(client, "controller", clock=clock) as recorder:
        recorder.normal(POD, "Once", "only")
        await clock.until_waiting()
        clock.advance(10)
    assert len(events(faulty)) == 1
    assert recorder.dropped == 0


@pytest.mark.parametrize("fault", [status(403, "Forbidden", "no RBAC for events"), status(422, "Invalid", "no RBAC")])
async def test_what_is_refused_is_dropped_and_logged(
    faulty: FaultyApi, client: KubeClient, caplog: pytest.LogCaptureFixture, fault: Any
) -> None:
    faulty.inject(any_request, fault)
    async with EventRecorder(client, "controller") as recorder:
        recorder.normal(POD, "Refused", "one")
        recorder.normal(POD, "Accepted", "two")
    assert [event["reason"] for event in events(faulty)] == ["Accepted"]
    assert recorder.dropped == 1
    assert "event Refused about Pod team-a/web-0 dropped" in caplog.text
    assert "no RBAC" in caplog.text


async def test_server_that_never_comes_back_costs_twelve_tries(
    faulty: FaultyApi, client: KubeClient, clock: FakeClock
) -> None:
    faulty.inject(any_request, status(503, "ServiceUnavailable"), times=12)
    async with EventRecorder(client, "controller", clock=clock) as recorder:
        recorder.normal(POD, "Lost", "one")
        recorder.normal(POD, "Kept", "two")
        for _ in range(11):
            await clock.until_waiting()
            clock.advance(10)
        await faulty.until(lambda: len(events(faulty)) == 1)
    assert [event["reason"] for event in events(faulty)] == ["Kept"]
    assert recorder.dropped == 1


async def test_full_queue_drops_the_newest(faulty: FaultyApi, client: KubeClient) -> None:
    release = asyncio.Event()
    faulty.inject(any_request, hang(release))
    async with EventRecorder(client, "controller", capacity=3) as recorder:
        for number in range(5):
            recorder.normal(POD, f"Number{number}", "x")
        assert recorder.depth == 3
        release.set()
    assert [event["reason"] for event in events(faulty)] == ["Number0", "Number1", "Number2"]
    assert (recorder.depth, recorder.dropped) == (0, 2)


async def test_rate_limit_of_one_reason_spares_other_reasons_and_objects(faulty: FaultyApi, client: KubeClient) -> None:
    async with EventRecorder(client, "controller", correlator=Correlator(burst=2)) as recorder:
        for number in range(5):
            recorder.normal(POD, "Number", f"{number}")
        recorder.normal(POD, "Other", "x")
        recorder.normal(NODE, "Number", "x")
    assert [event["reason"] for event in events(faulty)] == ["Number", "Number", "Other"]
    assert len(events(faulty, "default")) == 1


async def test_hopeless_object_does_not_stop_the_sender(faulty: FaultyApi, client: KubeClient) -> None:
    async with EventRecorder(client, "controller") as recorder:
        recorder.normal(ObjectReference("v1", "Pod", "../..", "a/b"), "Odd", "x")
        recorder.normal(POD, "Fine", "x")
    assert [event["reason"] for event in events(faulty)] == ["Fine"]
    assert recorder.dropped == 1


async def test_closing_waits_for_a_limited_time(
    faulty: FaultyApi, client: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    faulty.inject(any_request, hang(asyncio.Event()))
    async with EventRecorder(client, "controller", flush_seconds=0.05) as recorder:
        recorder.normal(POD, "Late", "x")
    assert "closing without having sent 1 event(s)" in caplog.text
    assert events(faulty) == []
