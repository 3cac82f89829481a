"""Problems and times as agents report them, read from the wire: short, printable, and never a reason to raise."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from modelcache.kube.errors import printable
from modelcache.rpc import modelcache_pb2 as pb

MAX_REASON = 128
MAX_MESSAGE = 2048
"""Limits of NodeProblem in the CRD."""
MAX_NODE_NAME = 253
MAX_FINDING_ID = 64

_REASON = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")  # metav1.Condition.reason
_YEAR_3000 = 32_503_680_000


@dataclass(frozen=True, slots=True)
class AgentProblem:
    """Why an agent cannot get on; `next_try` is RFC 3339."""

    reason: str
    message: str
    next_try: str | None = None


@dataclass(frozen=True, slots=True)
class PeerProblem:
    """A peer that an agent does not ask any more."""

    node: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What an agent's self-check has found or put right. `id` is its own."""

    id: str
    reason: str
    message: str


def read_problem(problem: pb.Problem) -> AgentProblem:
    """What can be understood of it."""
    return AgentProblem(
        reason=_reason(problem.reason, "AgentError"),
        message=printable(problem.message, MAX_MESSAGE) or "the agent gave no details; see its log",
        next_try=read_time(problem.next_try) if problem.HasField("next_try") else None,
    )


def read_peer_problem(problem: pb.PeerProblem) -> PeerProblem:
    """What can be understood of it."""
    return PeerProblem(
        node=printable(problem.node, MAX_NODE_NAME),
        reason=_reason(problem.reason, "PeerError"),
        message=printable(problem.message, MAX_MESSAGE),
    )


def read_finding(finding: pb.Finding) -> Finding:
    """What can be understood of it."""
    return Finding(
        id=finding.id[:MAX_FINDING_ID],
        reason=_reason(finding.reason, "SelfCheck"),
        message=printable(finding.message, MAX_MESSAGE),
    )


def _reason(text: str, otherwise: str) -> str:
    return text if len(text) <= MAX_REASON and _REASON.fullmatch(text) else otherwise


def read_time(value: Timestamp) -> str | None:
    """RFC 3339; None for a moment that cannot be meant."""
    if not 0 < value.seconds < _YEAR_3000:
        return None
    return rfc3339(datetime.fromtimestamp(value.seconds, UTC))


def rfc3339(moment: datetime) -> str:
    """UTC with whole seconds, as Kubernetes writes metav1.Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
