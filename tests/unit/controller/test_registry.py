"""Which agents there are: presence over time, takeovers, acknowledgements."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from controller.placement import Presence
from controller.registry import Registry, Session
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb
from tests.support.fake_clock import FakeClock

KEY = ObjectKey("ns", "m")
DIGEST = "d" * 64
TIMEOUT = 40.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


class Calls:
    """Everything that the registry has announced."""

    def __init__(self, registry: Registry) -> None:
        self.models: list[tuple[set[ObjectKey], bool]] = []
        self.served: list[set[ObjectKey]] = []
        self.nodes: list[str] = []
        self.acknowledged: list[str] = []
        registry.on_models = lambda keys, material: self.models.append((set(keys), material))
        registry.on_served = lambda keys: self.served.append(set(keys))
        registry.on_node = self.nodes.append
        registry.on_acknowledged = self.acknowledged.append


@pytest.fixture
async def registry(clock: FakeClock) -> Registry:
    registry = Registry(clock, timeout=TIMEOUT)
    registry.start()
    return registry


def connect(registry: Registry, node: str = "a", instance: str = "1", peer: str = "p1") -> Session:
    return registry.connect(pb.Hello(node=node, instance=instance), peer)


def report(phase: pb.Phase.ValueType = pb.PHASE_READY, done: int = 1) -> pb.Report:
    entry = pb.ModelReport(
        model=pb.ModelKey(namespace="ns", name="m"), manifest_digest=DIGEST, phase=phase, bytes_done=done
    )
    return pb.Report(models=[entry])


async def test_presence_from_start_to_gone(registry: Registry, clock: FakeClock) -> None:
    calls = Calls(registry)
    assert registry.presence("a") is Presence.AWAITED
    session = connect(registry)
    assert registry.presence("a") is Presence.CONNECTED
    clock.advance(10)
    registry.take_report(session, report(), 0)
    registry.disconnect(session)
    assert registry.presence("a") is Presence.AWAY
    assert registry.view("a", KEY).report is not None, "what it reported last stays true meanwhile"
    clock.advance(TIMEOUT - 1)
    assert registry.presence("a") is Presence.AWAY
    assert registry.presence("never") is Presence.GONE, "the time of those who were awaited is up"
    calls.nodes.clear()
    clock.advance(1)
    assert registry.presence("a") is Presence.GONE
    assert registry.view("a", KEY).report is None
    assert calls.nodes == ["a"], "somebody has to look at what follows from it"


async def test_everything_is_looked_at_when_the_time_of_the_awaited_is_up(registry: Registry, clock: FakeClock) -> None:
    calls = Calls(registry)
    clock.advance(TIMEOUT)
    assert calls.nodes == [""]
    clock.advance(TIMEOUT * 5)
    assert calls.nodes == [""]


async def test_peers_are_told_what_they_can_have_and_not_what_else_has_changed(
    registry: Registry, clock: FakeClock
) -> None:
    calls, one, two = Calls(registry), connect(registry), connect(registry, "b", peer="p2")
    other = ObjectKey("ns", "other")

    def say(session: Session, *models: pb.ModelReport) -> tuple[bool, list[set[ObjectKey]]]:
        """Whether what peers of KEY are told may differ after this report, and for which models somebody was told so."""
        before = registry.changes_of(KEY)
        calls.served.clear()
        registry.take_report(session, pb.Report(models=models), 0)
        return registry.changes_of(KEY) != before, calls.served

    def model(phase: pb.Phase.ValueType, key: ObjectKey = KEY, **fields: Any) -> pb.ModelReport:
        return pb.ModelReport(
            model=pb.ModelKey(namespace=key.namespace, name=key.name), manifest_digest=DIGEST, phase=phase, **fields
        )

    assert say(one, model(pb.PHASE_DOWNLOADING)) == (False, [])
    assert say(one, model(pb.PHASE_READY)) == (True, [{KEY}])
    adapter = pb.AdapterReport(pods=[pb.AdapterInPod(pod_uid="u", state=pb.ADAPTER_STATE_LOADED)])
    assert say(one, model(pb.PHASE_READY, adapter=adapter)) == (False, [])
    assert say(two, model(pb.PHASE_READY, other)) == (False, [{other}]), "of another model"
    assert say(one, model(pb.PHASE_READY, current_revision="a" * 40)) == (True, [{KEY}])
    assert say(one) == (True, [{KEY}]), "it has nothing any more"
    before = registry.changes_of(KEY)
    clock.advance(TIMEOUT + 1)
    assert registry.changes_of(KEY) != before, "agents are gone"


async def test_a_silent_stream_is_ended(registry: Registry, clock: FakeClock) -> None:
    session = connect(registry)
    clock.advance(TIMEOUT - 1)
    registry.take_report(session, pb.Report(), 0)
    clock.advance(TIMEOUT - 1)
    assert registry.presence("a") is Presence.CONNECTED
    assert registry.agents == 1
    clock.advance(1)
    assert session.ending is not None
    assert session.ending.code is grpc.StatusCode.ABORTED
    assert registry.agents == 0


async def test_the_newer_of_two_streams_wins(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    old = connect(registry, instance="1", peer="p1")
    registry.take_report(old, report(), 0)
    new = connect(registry, instance="2", peer="p2")
    assert old.ending is not None
    assert old.ending.code is grpc.StatusCode.ABORTED
    assert registry.session_of("a") is new
    assert registry.session_at("p1") is None
    assert registry.session_at("p2") is new
    assert "takes over" in caplog.text
    registry.disconnect(old)
    assert registry.presence("a") is Presence.CONNECTED, "the end of the old stream is not the end of the new one"
    registry.take_report(old, pb.Report(), 0)
    assert registry.view("a", KEY).report is not None, "nobody listens to the old one any more"


async def test_a_reconnected_agent_has_what_it_had_until_it_speaks(registry: Registry) -> None:
    registry.take_report(connect(registry), report(), 0)
    again = connect(registry, instance="2")
    assert registry.view("a", KEY).reported
    assert registry.view("a", KEY).report is not None
    registry.take_report(again, pb.Report(), 0)
    assert registry.view("a", KEY).report is None


async def test_an_agent_that_was_gone_starts_from_nothing(registry: Registry, clock: FakeClock) -> None:
    first = connect(registry)
    registry.take_report(first, report(), 0)
    registry.disconnect(first)
    clock.advance(TIMEOUT)
    connect(registry, instance="2")
    assert not registry.view("a", KEY).reported


async def test_material_changes_and_progress_are_announced_apart(registry: Registry) -> None:
    session = connect(registry)
    calls = Calls(registry)
    registry.take_report(session, report(pb.PHASE_DOWNLOADING, 1), 0)
    registry.take_report(session, report(pb.PHASE_DOWNLOADING, 2), 0)
    registry.take_report(session, report(pb.PHASE_DOWNLOADING, 2), 0)
    registry.take_report(session, report(pb.PHASE_READY, 2), 0)
    registry.take_report(session, pb.Report(), 0)
    assert calls.models == [({KEY}, True), ({KEY}, False), ({KEY}, True), ({KEY}, True)]


async def test_an_agent_is_clear_of_a_model_when_it_says_so_knowing_the_order(registry: Registry) -> None:
    session = connect(registry)
    calls = Calls(registry)
    assert registry.waiting_for(KEY, ["a", "absent"]) == ("a",), "it has not said anything yet"
    first = session.sending([KEY])
    registry.take_report(session, pb.Report(), first)
    assert registry.waiting_for(KEY, ["a"]) == ("a",), "it may be about to create it"
    second = session.sending([])
    registry.take_report(session, pb.Report(), first)
    assert registry.waiting_for(KEY, ["a"]) == ("a",), "it does not know yet that it should not"
    registry.take_report(session, report(pb.PHASE_REMOVING), second)
    assert registry.waiting_for(KEY, ["a"]) == ("a",)
    registry.take_report(session, pb.Report(), second)
    assert registry.waiting_for(KEY, ["a"]) == ()
    assert registry.waiting_for(KEY, []) == (), "nodes that do not exist are not asked about"
    assert calls.acknowledged == ["a", "a"]
    assert registry.waiting_for(ObjectKey("ns", "never-sent"), ["a"]) == ()


async def test_a_made_up_acknowledgement_counts_no_further_than_what_was_sent(registry: Registry) -> None:
    session = connect(registry)
    session.sending([KEY])
    registry.take_report(session, pb.Report(), 10**6)
    assert session.acknowledged == 1
    session.sending([KEY])
    assert registry.waiting_for(KEY, ["a"]) == ("a",)


async def test_nobody_waits_for_a_node_whose_agent_is_gone(registry: Registry, clock: FakeClock) -> None:
    session = connect(registry)
    registry.take_report(session, report(), 0)
    registry.disconnect(session)
    assert registry.waiting_for(KEY, ["a"]) == ("a",)
    clock.advance(TIMEOUT)
    assert registry.waiting_for(KEY, ["a"]) == ()


async def test_an_agent_on_a_deleted_node_is_sent_away(registry: Registry) -> None:
    session = connect(registry)
    registry.lose_node("a")
    assert session.ending is not None
    assert session.ending.code is grpc.StatusCode.NOT_FOUND
    assert registry.session_of("a") is None
    registry.lose_node("unknown")


async def test_holders_and_other_manifests_are_known(registry: Registry) -> None:
    session = connect(registry)
    registry.take_report(session, report(), 0)
    assert registry.holds("a", KEY)
    assert not registry.holds("b", KEY)
    assert not registry.mentions_other(KEY, DIGEST)
    assert registry.mentions_other(KEY, "e" * 64)


async def test_closing_waits_for_the_streams(registry: Registry) -> None:
    session = connect(registry)
    registry.end_all("bye")
    assert session.wake.is_set()
    registry.disconnect(session)
    await registry.all_disconnected()
    registry.close()


@pytest.mark.parametrize(
    ("said", "kept"), [("/cache", "/cache"), ("", ""), ("relative", ""), ("/a\nb", ""), ("/" + "x" * 2000, "")]
)
async def test_where_an_agent_keeps_its_cache_is_believed_only_if_it_can_be_shown(
    registry: Registry, said: str, kept: str
) -> None:
    registry.connect(pb.Hello(node="b", instance="1", cache_root=said), "peer")
    assert registry.cache_root(["a", "b"]) == kept
