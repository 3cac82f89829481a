"""What agents report, read from the wire: bounded, sanitized, immutable.

An agent is trusted for its own node, but its messages pass through other people's hands (file names of a source, error
texts of a server), and a bug in one agent must not take the controller down. So every number is clamped, every text is
shortened and made printable, and what cannot be read is left out; a report never raises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from xxhash import xxh3_128_digest

from controller.adapter_reports import AdapterView, read_adapter
from controller.problems import (
    AgentProblem,
    Finding,
    PeerProblem,
    read_finding,
    read_peer_problem,
    read_problem,
    read_time,
)
from modelcache.kube.resources import ObjectKey
from modelcache.manifest import MAX_FILE_BYTES, MAX_FILES
from modelcache.rpc import modelcache_pb2 as pb

MAX_MODELS = 20_000
"""Models of one report that are read; far above what fits on a node."""
MAX_PEER_PROBLEMS = 100
MAX_FINDINGS = 20

_HEX64 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MAX_BYTES = MAX_FILE_BYTES * 1024


class Phase(Enum):
    """As on the wire (see modelcache.proto)."""

    PENDING = pb.PHASE_PENDING
    DOWNLOADING = pb.PHASE_DOWNLOADING
    VERIFIED = pb.PHASE_VERIFIED
    READY = pb.PHASE_READY
    FAILED = pb.PHASE_FAILED
    REMOVING = pb.PHASE_REMOVING


_COMPLETE = (Phase.VERIFIED, Phase.READY)
NOTHING_SERVED = ("", "")


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One model on one node. Bytes are non-negative; times are RFC 3339; `revision` is what the node's labels say."""

    manifest_digest: str
    phase: Phase
    bytes_done: int = 0
    bytes_per_second: int = 0
    problem: AgentProblem | None = None
    digests: Mapping[str, str] = field(default_factory=dict, repr=False)
    tree_digest: str = ""
    revision: str = ""
    started_at: str | None = None
    ready_at: str | None = None
    origin_bytes: int = 0
    peer_bytes: int = 0
    peer_problems: tuple[PeerProblem, ...] = ()
    findings: tuple[Finding, ...] = ()
    adapter: AdapterView | None = None
    fingerprint: bytes = field(default=b"", repr=False, compare=False)
    """xxh3-128 of the message that this was read from."""

    @property
    def served(self) -> tuple[str, str]:
        """What other agents can have from this one: the manifest that is complete there, and the revision in force."""
        return (self.manifest_digest if self.phase in _COMPLETE else "", self.revision)

    def differs_materially(self, other: NodeReport | None) -> bool:
        """Whether more has changed than the progress of a download."""
        return other is not self and (other is None or self._material() != other._material())

    def _material(self) -> tuple[object, ...]:
        reason = self.problem.reason if self.problem else None
        message = self.problem.message if self.problem else None
        return (
            self.manifest_digest,
            self.phase,
            reason,
            message,
            len(self.digests),
            self.tree_digest,
            self.revision,
            self.adapter,
            self.peer_problems,
            self.findings,
        )


def read_report(report: pb.Report, before: Mapping[ObjectKey, NodeReport]) -> dict[ObjectKey, NodeReport]:
    """Everything in `report` that can be understood.

    `before` is what the same agent's last report said: what is as it was is taken from there. Reports are complete, and of
    a hundred models on a node one has changed.
    """
    models: dict[ObjectKey, NodeReport] = {}
    for entry in report.models[:MAX_MODELS]:
        key = ObjectKey(entry.model.namespace[:253], entry.model.name[:253])
        if not key.namespace or not key.name:
            continue
        fingerprint = xxh3_128_digest(entry.SerializeToString(deterministic=True))
        known = before.get(key)
        models[key] = (
            known if known is not None and known.fingerprint == fingerprint else _read_model(entry, fingerprint)
        )
    return models


def _read_model(entry: pb.ModelReport, fingerprint: bytes) -> NodeReport:
    digest = entry.manifest_digest
    return NodeReport(
        fingerprint=fingerprint,
        manifest_digest=digest if _HEX64.fullmatch(digest) else "",
        phase=_phase(entry.phase),
        bytes_done=min(entry.bytes_done, _MAX_BYTES),
        bytes_per_second=min(entry.bytes_per_second, _MAX_BYTES),
        problem=read_problem(entry.problem) if entry.HasField("problem") else None,
        digests=MappingProxyType(_digests(entry)),
        tree_digest=entry.tree_digest if _HEX64.fullmatch(entry.tree_digest) else "",
        revision=entry.current_revision if _REVISION.fullmatch(entry.current_revision) else "",
        started_at=read_time(entry.started_at) if entry.HasField("started_at") else None,
        ready_at=read_time(entry.ready_at) if entry.HasField("ready_at") else None,
        adapter=read_adapter(entry.adapter) if entry.HasField("adapter") else None,
        origin_bytes=min(entry.origin_bytes, _MAX_BYTES),
        peer_bytes=min(entry.peer_bytes, _MAX_BYTES),
        peer_problems=tuple(read_peer_problem(problem) for problem in entry.peer_problems[:MAX_PEER_PROBLEMS]),
        findings=tuple(read_finding(finding) for finding in entry.findings[:MAX_FINDINGS]),
    )


def _phase(value: int) -> Phase:
    try:
        return Phase(value)
    except ValueError:
        # PHASE_UNSPECIFIED, or a phase of a newer agent: nothing that may be taken for progress.
        return Phase.PENDING


def _digests(entry: pb.ModelReport) -> dict[str, str]:
    # They matter only once all bytes are there; see `completion`.
    if entry.phase != pb.PHASE_VERIFIED or len(entry.digests) > MAX_FILES:
        return {}
    return {digest.path: digest.sha256 for digest in entry.digests if _HEX64.fullmatch(digest.sha256)}
