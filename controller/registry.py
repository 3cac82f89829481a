"""Which agents there are, what they have, and what they have been told.

One `Session` per stream, one record per node. A record outlives its stream by the agent timeout: an agent that is being
restarted keeps its place, and what it reported last stays true until then. After that, or for a node that has never been
heard of since the timeout after this controller's start, the node counts as gone and its reports are forgotten.

Of two agents that claim the same node the newer stream wins. Usually that is one agent that came back before its old
connection was noticed to be dead; if two really run, both find it in their logs and in ours, and each gets its turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import grpc

from controller.adapter_reports import Unload, read_unloads
from controller.facts import NodeView
from controller.placement import Presence
from controller.reports import NOTHING_SERVED, NodeReport, read_report
from modelcache.kube.clock import Clock, Timer
from modelcache.kube.resources import ObjectKey
from modelcache.rpc import modelcache_pb2 as pb

_log = logging.getLogger(__name__)

_LONGEST_ROOT = 1024
"""Characters; the path below it has to fit into the status as well."""
MAX_TEXT = 300
"""Of what an agent says about itself: a zone is at most 63 characters long, a host name 253."""
MAX_COUNTED = 100_000
"""Models for which changes are counted one by one; agents report any names they like."""
_SHORTEST_WAIT = 0.01
"""Seconds; keeps a clock that is coarser than its timers from spinning."""


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a stream is ended by this side."""

    code: grpc.StatusCode
    message: str


@dataclass(eq=False)
class Session:
    """One stream. `peer` is the address of its connection, `arrival` counts streams since the start of this process."""

    node: str
    instance: str
    peer: str
    arrival: int
    cache_root: str = ""
    """Absolute path of the cache on the host; empty when the agent said nothing usable."""
    zone: str = ""
    serves_at: str = ""
    """Where other agents read content from this one; empty: nowhere."""
    commands: bool = False
    """Whether the agent carries out commands that come on the stream."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the desired state may have changed, or the stream has to end."""
    on_peers: Callable[[], None] = lambda: None
    """Called when the peers of this agent may have changed; unlike `wake`, that has time."""
    ending: Ending | None = None
    connected: bool = True
    reported: bool = False
    reports: dict[ObjectKey, NodeReport] = field(default_factory=dict)
    unloads: tuple[Unload, ...] = ()
    """How the latest attempts to take adapters out of pods ended."""
    sent: int = 0
    """Number of the last desired state."""
    acknowledged: int = 0
    unconfirmed_since: float | None = None
    """Monotonic time of the first desired state that came after the last one that was confirmed."""
    listed: dict[ObjectKey, int] = field(default_factory=dict)
    """For each model, the number of the last desired state that contained it."""

    def end(self, code: grpc.StatusCode, message: str) -> None:
        """End the stream with this status, as soon as its task runs."""
        self.ending = self.ending or Ending(code, message)
        self.wake.set()

    def sending(self, models: Iterable[ObjectKey]) -> int:
        """Note that a desired state with these models goes out; its number."""
        self.sent += 1
        for key in models:
            self.listed[key] = self.sent
        return self.sent

    def is_clear_of(self, key: ObjectKey) -> bool:
        """Whether the agent has said that it has nothing of this model, knowing that it should have nothing."""
        told = self.acknowledged > 0 and self.listed.get(key, 0) < self.acknowledged
        return self.reported and told and key not in self.reports


def usable_root(text: str) -> str:
    """A cache directory as an agent gave it, if it can be shown to users as one; otherwise empty."""
    return text if text.startswith("/") and text.isprintable() and len(text) <= _LONGEST_ROOT else ""


@dataclass(eq=False)
class _Record:
    session: Session
    last_seen: float


class Registry:
    """All agents, and four callbacks.

    `on_models(keys, material)` when reports change, `on_served(keys)` when agents can have something else from each other,
    `on_node(node)` when a presence changes (`""`: any), and `on_acknowledged(node)` when an agent has taken over a newer
    desired state.
    """

    def __init__(self, clock: Clock, *, timeout: float, on_lag: Callable[[float], None] = lambda seconds: None) -> None:
        """`timeout` in seconds. `on_lag` is told how long an agent took to take over what it was sent."""
        self._on_lag = on_lag
        self._clock = clock
        self._timeout = timeout
        self._started = clock.now()
        self._records: dict[str, _Record] = {}
        self._arrivals = 0
        self._changes = 0
        self._served: Counter[ObjectKey] = Counter()
        self._timer: Timer | None = None
        self._running = True
        self._awaiting = True
        self._disconnected = asyncio.Event()
        self.on_models: Callable[[Collection[ObjectKey], bool], None] = lambda keys, material: None
        self.on_served: Callable[[Collection[ObjectKey]], None] = lambda keys: None
        self.on_node: Callable[[str], None] = lambda node: None
        self.on_acknowledged: Callable[[str], None] = lambda node: None

    @property
    def arrivals(self) -> int:
        """How many streams there have been; a decision made at `arrivals == n` knows of the first n."""
        return self._arrivals

    @property
    def agents(self) -> int:
        """Agents with a stream."""
        return sum(1 for record in self._records.values() if record.session.connected)

    def sessions(self) -> list[Session]:
        """The streams that are open."""
        return [record.session for record in self._records.values() if record.session.connected]

    def nodes(self) -> list[str]:
        """The nodes whose agents have a stream, or had one not long ago."""
        return list(self._records)

    def session_of(self, node: str) -> Session | None:
        """The open stream of a node."""
        record = self._records.get(node)
        return record.session if record and record.session.connected else None

    def last_session_of(self, node: str) -> Session | None:
        """The stream of a node, or its last one until the agent counts as gone."""
        record = self._records.get(node)
        return record.session if record and self.presence(node) is not Presence.GONE else None

    def session_at(self, peer: str) -> Session | None:
        """The open stream on the connection from `peer`."""
        return next((session for session in self.sessions() if session.peer == peer), None)

    def presence(self, node: str) -> Presence:
        """How the agent of this node is known."""
        record = self._records.get(node)
        now = self._clock.now()
        if record is None:
            return Presence.AWAITED if now - self._started < self._timeout else Presence.GONE
        if now - record.last_seen >= self._timeout:
            return Presence.GONE
        return Presence.CONNECTED if record.session.connected else Presence.AWAY

    def changes_of(self, key: ObjectKey) -> tuple[int, int]:
        """Another one whenever what agents are told about each other may have changed for this model."""
        return self._changes, self._served[key]

    def view(self, node: str, key: ObjectKey) -> NodeView:
        """What is known about one model on one node."""
        presence = self.presence(node)
        record = self._records.get(node)
        if record is None or presence is Presence.GONE:
            return NodeView(presence)
        return NodeView(presence, record.session.reported, record.session.reports.get(key))

    def holds(self, node: str, key: ObjectKey) -> bool:
        """Whether the node has reported files of this model."""
        record = self._records.get(node)
        report = record.session.reports.get(key) if record else None
        return report is not None and (report.bytes_done > 0 or report.revision != "")

    def waiting_for(self, key: ObjectKey, nodes: Collection[str]) -> tuple[str, ...]:
        """Which of `nodes` (those that exist) have, or may have, files of a model that is to be removed."""
        waiting = []
        for node in nodes:
            record = self._records.get(node)
            if record is None or self.presence(node) is Presence.GONE:
                continue
            if not record.session.is_clear_of(key):
                waiting.append(node)
        return tuple(sorted(waiting))

    def mentions_other(self, key: ObjectKey, digest: str) -> bool:
        """Whether an agent reports another manifest of this model than `digest`."""
        reports = (record.session.reports.get(key) for record in self._records.values())
        return any(report and report.manifest_digest not in ("", digest) for report in reports)

    def unloads_of(self, model_uid: str) -> list[tuple[str, Unload]]:
        """What agents have said about taking the adapter of one DynamoModel out of pods: (node, outcome)."""
        return [
            (node, unload)
            for node, record in sorted(self._records.items())
            for unload in record.session.unloads
            if unload.model_uid == model_uid
        ]

    def cache_root(self, nodes: Iterable[str]) -> str:
        """Where the first of these nodes that has said so keeps its cache; empty when none has."""
        records = (self._records.get(node) for node in sorted(nodes))
        return next((record.session.cache_root for record in records if record and record.session.cache_root), "")

    def lag(self) -> float:
        """For how many seconds the slowest agent with a stream has not confirmed what it was sent; 0 when all have."""
        now = self._clock.now()
        since = [session.unconfirmed_since for session in self.sessions()]
        return max((now - moment for moment in since if moment is not None), default=0.0)

    # -- what streams do -----------------------------------------------------------------------------------------

    def connect(self, hello: pb.Hello, peer: str) -> Session:
        """Take over the node's place from whoever had it. The caller has checked that the node exists."""
        self._arrivals += 1
        session = Session(
            hello.node,
            hello.instance[:128],
            peer,
            self._arrivals,
            cache_root=usable_root(hello.cache_root),
            zone=hello.zone[:MAX_TEXT],
            serves_at=hello.peer_address[:MAX_TEXT],
            commands=hello.commands,
        )
        old = self._records.get(session.node)
        if old is not None:
            if self.presence(session.node) is not Presence.GONE:
                # Until it has reported itself, a restarted agent is assumed to have what it had.
                session.reports, session.reported = dict(old.session.reports), old.session.reported
            self._replace(old.session, session)
        self._records[session.node] = _Record(session, self._clock.now())
        self._changes += 1
        self._watch()
        _log.info("agent of node %s connected from %s (version %s)", session.node, peer, hello.version[:64])
        self.on_node(session.node)
        return session

    def _replace(self, old: Session, new: Session) -> None:
        if not old.connected:
            return
        if old.instance != new.instance:
            _log.warning(
                "node %s: agent instance %s takes over from instance %s at %s, which still had a stream",
                new.node, new.instance, old.instance, old.peer,
            )  # fmt: skip
        old.connected = False
        old.end(grpc.StatusCode.ABORTED, f"another agent has connected for node {new.node}; only one may run on a node")

    def disconnect(self, session: Session) -> None:
        """The stream is over, for whatever reason."""
        if not session.connected:
            return
        session.connected = False
        self._disconnected.set()
        _log.info("agent of node %s disconnected", session.node)
        self.on_node(session.node)

    def take_report(self, session: Session, report: pb.Report, acknowledged: int) -> None:
        """Remember a complete report; `acknowledged` is the number that its nonce stands for, 0 for none."""
        record = self._records.get(session.node)
        if record is None or record.session is not session:
            return  # from a stream that has been replaced
        returned = self.presence(session.node) is Presence.GONE
        record.last_seen = self._clock.now()
        fresh = read_report(report, session.reports)
        old, session.reports = session.reports, fresh
        session.unloads = read_unloads(report)
        material, progress = _compare(old, fresh)
        if not session.reported:
            session.reported = True
            material = [*{*old, *fresh}]
        newer = min(acknowledged, session.sent) > session.acknowledged
        if newer:
            session.acknowledged = min(acknowledged, session.sent)
            if session.acknowledged == session.sent and session.unconfirmed_since is not None:
                self._on_lag(record.last_seen - session.unconfirmed_since)
                session.unconfirmed_since = None
            session.listed = {k: n for k, n in session.listed.items() if n >= session.acknowledged or k in fresh}
        served = [key for key in material if _served(old, key) != _served(fresh, key)]
        if returned or len(self._served) > MAX_COUNTED:
            self._changes += 1
            self._served.clear()
        self._served.update(served)
        if returned:
            self.on_node(session.node)
        if material:
            self.on_models(material, True)
        if served:
            self.on_served(served)
        if progress:
            self.on_models(progress, False)
        if newer:
            # A deletion may be waiting for exactly this.
            self.on_acknowledged(session.node)

    def lose_node(self, node: str) -> None:
        """The Node object was deleted. Its agent is sent away, without being told to remove anything."""
        record = self._records.pop(node, None)
        self._changes += 1
        if record is not None and record.session.connected:
            record.session.connected = False
            record.session.end(grpc.StatusCode.NOT_FOUND, f"the Node {node} has been deleted")
            self._disconnected.set()

    def end_all(self, message: str) -> None:
        """End every stream: another controller takes over, or this one comes back."""
        for session in self.sessions():
            session.end(grpc.StatusCode.UNAVAILABLE, message)

    async def all_disconnected(self) -> None:
        """Return when no stream is open."""
        while self.agents:
            self._disconnected.clear()
            await self._disconnected.wait()

    # -- time ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to notice silence."""
        self._watch()

    def close(self) -> None:
        """Stop noticing silence."""
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _watch(self) -> None:
        """One timer, for the earliest moment at which somebody may become gone."""
        if self._timer is not None or not self._running:
            return
        due = [record.last_seen for record in self._records.values()]
        if self._awaiting:
            due.append(self._started)
        if due:
            wait = min(due) + self._timeout - self._clock.now()
            self._timer = self._clock.call_later(max(wait, _SHORTEST_WAIT), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.now()
        for node, record in list(self._records.items()):
            if now - record.last_seen >= self._timeout:
                self._lose(node, record, now - record.last_seen)
        if self._awaiting and now - self._started >= self._timeout:
            # Nodes that were expected after the start and did not come.
            self._awaiting = False
            self._changes += 1
            self.on_node("")
        self._watch()

    def _lose(self, node: str, record: _Record, silence: float) -> None:
        _log.warning("agent of node %s is gone: nothing heard for %.0f s", node, silence)
        if record.session.connected:
            record.session.connected = False
            record.session.end(grpc.StatusCode.ABORTED, f"no report for {silence:.0f} s, longer than the agent timeout")
            self._disconnected.set()
        del self._records[node]
        self._changes += 1
        self.on_node(node)


def _served(reports: Mapping[ObjectKey, NodeReport], key: ObjectKey) -> tuple[str, str]:
    report = reports.get(key)
    return report.served if report is not None else NOTHING_SERVED


def _compare(
    old: Mapping[ObjectKey, NodeReport], new: Mapping[ObjectKey, NodeReport]
) -> tuple[list[ObjectKey], list[ObjectKey]]:
    """Keys whose report changed in a way that matters at once, and keys of which only the progress changed."""
    material = [key for key in old if key not in new]
    progress = []
    for key, report in new.items():
        before = old.get(key)
        if report.differs_materially(before):
            material.append(key)
        elif report != before:
            progress.append(key)
    return material, progress
