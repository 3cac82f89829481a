"""How does a swarm of 10 to 1,000 agents behave: all at once, one after the other, with failures and slow links?

A discrete-event simulation. Its agents decide with the very functions of the real one (`agent.peers.ranking`, `asking`,
`errand`, `admission`, `standing`, `turns`); only links, time and the controller's messages are modelled (`benchmarks.swarm`).
For each number of agents there are two runs: *smooth*, in which all begin together and nothing goes wrong, and *rough*:

    they come within `--joins` seconds; some processes are killed in the middle, some nodes have slow links

Each run is compared with one agent alone, whose origin and link are as fast. An agent's time counts from when it came. That of
an agent with a slow link is compared with what such an agent needs alone, and shown by itself: it says whether the swarm costs
the slow ones anything; what they cost the others is in the other columns. `wall_ratio_one` is that of the slowest
agent of the smooth run with the most agents, `rough.wall_ratio_one` the same of the rough one, all agents included, and
`rough.wall_ratio_one_healthy` and `rough.wall_ratio_one_slow` are its parts. `group` is how long it takes until the last agent
of all, slow ones included, is complete. `origin_ratio_per_zone` is what the zone that read most has read from the
origin, in models. The plot shows how many agents are complete, over time.

    python -m benchmarks.swarm_sim [--agents N[,N...]] [--bytes N] [--zones N] [--joins SECONDS] [--plot FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.peers.tuning import DEFAULT_TUNING
from benchmarks import report
from benchmarks.swarm.scenario import Scenario
from benchmarks.swarm.world import World

GIB = 1 << 30


class Outcome(NamedTuple):
    """One run. Ratios to one agent alone; `curve` is (seconds, complete agents).

    `worst` of all, `healthy` of those with a usual link, `slow` of the others (None: there are none), `median` of all.
    """

    name: str
    agents: int
    finished: int
    worst: float
    healthy: float
    slow: float | None
    median: float
    group: float
    origin: float
    alone: float
    curve: tuple[tuple[float, int], ...]
    counts: dict[str, int]
    cpu_seconds: float


def simulate(name: str, scenario: Scenario) -> Outcome:
    """Runs one scenario. Raises RuntimeError when an agent that lives never finishes."""
    began = time.process_time()
    single = World(scenario.alone(), DEFAULT_TUNING)
    world = World(scenario, DEFAULT_TUNING)
    if not (single.run() and world.run()):
        raise RuntimeError(
            f"{name}, {scenario.agents} agents: some never finished, and nothing more was going to happen"
        )
    alone = single.finishes[0].finished
    done = world.finishes
    usual = [(one.finished - one.joined) / alone for one in done if not one.slow]
    slow = [(one.finished - one.joined) / (alone / scenario.slow_factor) for one in done if one.slow]
    ends = sorted(one.finished for one in done)
    return Outcome(
        name,
        scenario.agents,
        len(done),
        max(usual + slow),
        max(usual),
        max(slow, default=None),
        statistics.median(usual + slow),
        ends[-1] / alone,
        max(world.origin_bytes.values()) / scenario.model_bytes,
        alone,
        tuple((seconds, number) for number, seconds in enumerate(ends, 1)),
        dict(world.counts),
        time.process_time() - began,
    )


def plot(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Draws completion over time as a PNG."""
    from matplotlib.figure import Figure  # imports in a second, and only needed here

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for outcome in outcomes:
        times = [0.0, *(seconds for seconds, _ in outcome.curve)]
        shares = [0.0, *(100 * number / outcome.finished for _, number in outcome.curve)]
        style = "-" if outcome.name == "smooth" else "--"
        axes.step(times, shares, style, where="post", label=f"{outcome.agents} agents, {outcome.name}")
        alone = outcome.alone
    axes.axvline(alone, color="grey", linewidth=1, label="one agent alone")
    axes.set_xlabel("seconds")
    axes.set_ylabel("% of the agents complete")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> int:
    """The benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swarm_sim", description=__doc__)
    parser.add_argument("--agents", default="10,100,1000", help="numbers of agents, separated by commas")
    parser.add_argument("--bytes", type=int, default=16 * GIB)
    parser.add_argument("--zones", type=int, default=4)
    parser.add_argument(
        "--rate", type=float, default=1.25e9, help="of a node's link and of the origin for a zone, bytes/s"
    )
    parser.add_argument("--joins", type=float, default=5.0, help="rough: seconds within which the agents come")
    parser.add_argument("--killed", type=float, default=0.01, help="rough: part of the agents")
    parser.add_argument("--dark", type=float, default=0.0, help="rough: part of the nodes that fall silent")
    parser.add_argument("--slow", type=float, default=0.05, help="rough: part of the agents with a link of a fifth")
    parser.add_argument("--lying", type=float, default=0.0, help="rough: part of the agents")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--plot", type=Path, default=Path("swarm_sim.png"))
    options = parser.parse_args(arguments)
    outcomes = []
    for agents in sorted({int(number) for number in options.agents.split(",")}):
        smooth = Scenario(
            agents=agents, zones=min(options.zones, agents), model_bytes=options.bytes, link_rate=options.rate,
            origin_rate=options.rate, seed=options.seed,
        )  # fmt: skip
        rough = smooth.rough(
            joins_seconds=options.joins,
            killed=options.killed,
            dark=options.dark,
            slow=options.slow,
            lying=options.lying,
        )
        outcomes += [simulate("smooth", smooth), simulate("rough", rough)]
    report.show(
        f"{options.bytes / GIB:.3g} GiB, {options.zones} zones, links {options.rate * 8 / 1e9:.3g} Gbit/s, "
        f"one alone {outcomes[0].alone:.1f} s",
        (
            "",
            "agents",
            "complete",
            "slowest x one",
            "slow links",
            "median x one",
            "group x one",
            "origin per zone",
            "CPU s",
        ),
        [
            (
                one.name,
                one.agents,
                one.finished,
                one.healthy,
                one.slow,
                one.median,
                one.group,
                one.origin,
                one.cpu_seconds,
            )
            for one in outcomes
        ],
        [f"{one.agents} {one.name}: " + ", ".join(f"{n} {what}" for what, n in one.counts.items()) for one in outcomes],
    )
    plot(options.plot, outcomes)
    print(f"\nplot: {options.plot}")
    smooth_last, rough_last = outcomes[-2:]
    report.finish(
        {
            "agents": smooth_last.agents,
            "origin_ratio_per_zone": smooth_last.origin,
            "wall_ratio_one": smooth_last.worst,
            "rough": {
                "finished": rough_last.finished,
                "origin_ratio_per_zone": round(rough_last.origin, 4),
                "wall_ratio_one": round(rough_last.worst, 4),
                "wall_ratio_one_healthy": round(rough_last.healthy, 4),
                "wall_ratio_one_slow": round(rough_last.slow, 4) if rough_last.slow is not None else None,
                "wall_ratio_one_median": round(rough_last.median, 4),
                "group_ratio_one": round(rough_last.group, 4),
            },
            "plot": str(options.plot),
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
