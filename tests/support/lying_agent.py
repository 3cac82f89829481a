"""The real agent, gone bad: what it gives to other agents has a wrong byte in every piece, under the digest of the right ones.

python -m tests.support.lying_agent agent ...
"""

from __future__ import annotations

from agent.peers.holdings import Content, Holdings
from agent.peers.keys import TenantKey
from cli.main import app
from tests.support.swarm import garbled

_find = Holdings.find


def _lying(self: Holdings, wanted: TenantKey, size: int) -> Content | None:
    content = _find(self, wanted, size)
    return garbled(content, honest_digest=True) if content is not None else None


if __name__ == "__main__":
    Holdings.find = _lying  # type: ignore[method-assign]  # this agent has gone bad
    app()
