"""The simulated swarm: the decisions of the agent, carried out without files and sockets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.peers.tuning import DEFAULT_TUNING
from benchmarks.swarm.network import Link, Network
from benchmarks.swarm.scenario import Scenario, fates
from benchmarks.swarm.world import World
from benchmarks.swarm_sim import main, simulate

MIB = 1 << 20
SMALL = Scenario(agents=24, zones=2, model_bytes=2048 * MIB)


def test_links_share_fairly_and_leave_the_rest_to_those_who_can_use_it() -> None:
    network = Network()
    ends: dict[str, float] = {}
    source, quick, slow = Link(100.0), Link(1000.0), Link(20.0)
    network.transfer(80.0, source, quick, lambda flow: ends.update(quick=network.now))
    network.transfer(20.0, source, slow, lambda flow: ends.update(slow=network.now))
    assert network.run(lambda: len(ends) == 2)
    assert ends == {"quick": pytest.approx(1.0), "slow": pytest.approx(1.0)}


def test_all_at_once_the_origin_is_read_once_in_about_the_time_of_one() -> None:
    outcome = simulate("smooth", SMALL)
    assert outcome.finished == SMALL.agents
    assert outcome.origin == 1.0
    assert outcome.worst <= 1.5


def test_agents_that_come_during_the_download_cause_no_second_read() -> None:
    outcome = simulate("rough", replace(SMALL, joins_seconds=3.0))
    assert outcome.finished == SMALL.agents
    assert outcome.origin == 1.0


def test_agents_that_come_late_do_not_hold_up_those_who_came_early() -> None:
    world = World(replace(SMALL, joins_seconds=10.0), DEFAULT_TUNING)
    assert world.run()
    first, *_, last = world.finishes
    assert first.finished < last.joined


def test_killed_agents_cost_what_they_owned_at_most() -> None:
    scenario = replace(SMALL, killed=0.15, seed=2)
    outcome = simulate("rough", scenario)
    dead = sum(fate.dies is not None for fate in fates(scenario))
    assert dead > 0
    assert scenario.agents - dead <= outcome.finished < scenario.agents
    assert outcome.origin <= 1 + 2 * dead / scenario.agents


def test_a_slow_agent_does_not_hold_up_the_others_as_much_as_it_is_slow() -> None:
    scenario = replace(SMALL, slow=0.05, slow_factor=0.1, seed=3)
    assert any(fate.slow for fate in fates(scenario))
    world = World(scenario, DEFAULT_TUNING)
    assert world.run()
    quick = max(one.finished for one in world.finishes if not one.slow)
    slow = max(one.finished for one in world.finishes if one.slow)
    assert quick < slow / 1.5


def test_lying_agents_are_caught_and_everybody_finishes() -> None:
    outcome = simulate("rough", replace(SMALL, lying=0.1, seed=4))
    assert outcome.finished == SMALL.agents
    assert outcome.counts["lies caught"] > 0
    assert outcome.origin <= 1.6


def test_the_benchmark_draws_its_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "plot.png"
    assert main(["--agents", "4,8", "--bytes", str(256 * MIB), "--zones", "2", "--plot", str(plot)]) == 0
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert '"wall_ratio_one"' in capsys.readouterr().out.splitlines()[-1]
