"""When a status is written, and what is told with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from controller.status import EMPTY
from controller.tracked import Tracked
from controller.writer import PROGRESS_INTERVAL, StatusWriter
from modelcache.api.model import DynamoModel
from modelcache.api.status import Condition, Progress, Status
from modelcache.kube.client import KubeClient
from modelcache.kube.errors import Conflict
from modelcache.kube.events import EventRecorder
from modelcache.kube.objects import ObjectMeta, ObjectReference
from modelcache.kube.resources import ObjectKey
from tests.support.fake_clock import FakeClock


class Writes(KubeClient):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.failure: Exception | None = None

    async def replace(self, resource: Any, name: str, body: Any, namespace: str = "", **options: Any) -> ObjectMeta:
        if self.failure:
            raise self.failure
        assert options["subresource"] == "status"
        self.bodies.append(msgspec.to_builtins(body))
        return ObjectMeta(resource_version=f"written-{len(self.bodies)}")


class Events(EventRecorder):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def normal(
        self, regarding: ObjectReference, reason: str, message: str, annotations: Mapping[str, str] | None = None
    ) -> None:
        self.told.append(("Normal", reason))

    def warning(
        self, regarding: ObjectReference, reason: str, message: str, annotations: Mapping[str, str] | None = None
    ) -> None:
        self.told.append(("Warning", reason))


class Setup:
    def __init__(self) -> None:
        self.client, self.events, self.clock = Writes(), Events(), FakeClock()
        self.writer = StatusWriter(self.client, self.events, self.clock)
        self.tracked = Tracked(ObjectKey("ns", "m"), "u")

    async def write(self, old: Status, new: Status, version: str = "1") -> float | None:
        return await self.writer.write(model(version), self.tracked, old, new)


@pytest.fixture
def setup() -> Setup:
    return Setup()


def model(version: str) -> DynamoModel:
    body = {
        "metadata": {"name": "m", "namespace": "ns", "uid": "u", "resourceVersion": version},
        "spec": {"modelName": "m"},
    }
    return msgspec.convert(body, DynamoModel)


def at(percent: int, **fields: Any) -> Status:
    progress = Progress(bytes_done=percent, bytes_total=100, percent=percent, summary=f"{percent}%")
    return msgspec.structs.replace(EMPTY, phase="Downloading", progress=progress, **fields)


async def test_what_has_not_changed_is_not_written(setup: Setup) -> None:
    assert await setup.write(EMPTY, EMPTY) is None
    assert setup.client.bodies == []


async def test_a_write_carries_the_version_that_it_was_computed_from(setup: Setup) -> None:
    await setup.write(EMPTY, at(1), "7")
    (body,) = setup.client.bodies
    assert body["metadata"]["resourceVersion"] == "7"
    assert body["metadata"]["uid"] == "u"
    assert body["status"]["readyEndpoints"] == 0
    assert setup.writer.is_stale(model("7"), setup.tracked)
    assert not setup.writer.is_stale(model("written-1"), setup.tracked)


async def test_progress_alone_is_written_every_few_seconds(setup: Setup) -> None:
    await setup.write(EMPTY, at(1))
    setup.clock.advance(2)
    assert await setup.write(at(1), at(2)) == PROGRESS_INTERVAL - 2
    setup.clock.advance(PROGRESS_INTERVAL - 2)
    assert await setup.write(at(1), at(3)) is None
    assert [body["status"]["progress"]["percent"] for body in setup.client.bodies] == [1, 3]


async def test_whatever_else_changes_is_written_at_once(setup: Setup) -> None:
    await setup.write(EMPTY, at(1))
    await setup.write(at(1), at(2, ready_nodes=("a",)))
    assert len(setup.client.bodies) == 2


async def test_events_follow_a_write_that_succeeded(setup: Setup) -> None:
    condition = Condition(type="Resolved", status="False", last_transition_time="t", reason="NotFound", message="m")
    new = at(1, conditions=(condition,))
    setup.client.failure = Conflict("stale")
    with pytest.raises(Conflict):
        await setup.write(EMPTY, new)
    assert setup.events.told == []
    assert not setup.writer.is_stale(model("1"), setup.tracked)
    setup.client.failure = None
    await setup.write(EMPTY, new)
    assert setup.events.told == [("Warning", "ResolveFailed")]
