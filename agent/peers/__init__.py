"""The swarm: agents of one model read the origin once and exchange the rest among themselves.

Decisions are pure functions without clock and network, shared with `benchmarks.swarm_sim`, which runs a thousand agents
on them: `ranking` (who is responsible for a piece, and in which order an agent walks its pieces), `asking` (whom to ask
now), `errand` (what is known about a piece that is being fetched), `admission` (what to answer when asked), `standing`
(what one agent thinks of another), `tuning` (their parameters).
"""
