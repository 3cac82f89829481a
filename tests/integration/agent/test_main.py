"""Starting and stopping the agent: what an administrator learns when it cannot run."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from agent.main import _until_stopped, run
from agent.settings import Settings
from agent.store import Store, StoreLocked
from modelcache.kube.errors import ConfigError
from modelcache.settings import SettingsError
from tests.support.faulty_api import FaultyApi


def settings(tmp_path: Path, kubeconfig: Path) -> Settings:
    # Nobody listens on port 1: an agent has to live without a controller.
    return Settings(
        node="node-1", controller="127.0.0.1:1", insecure=True, root=tmp_path / "cache", kubeconfig=kubeconfig
    )


async def test_bad_settings_end_it_before_anything_is_touched(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--kubeconfig"):
        await run(settings(tmp_path, tmp_path / "nothing"), asyncio.Event())
    assert os.listdir(tmp_path) == []


async def test_a_second_agent_on_the_same_cache_is_refused(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.touch()
    with Store.open(tmp_path / "cache"), pytest.raises(StoreLocked, match="cache"):
        await run(settings(tmp_path, kubeconfig), asyncio.Event())


async def test_no_cluster_to_talk_to_is_said_at_start_and_leaves_the_cache_free(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text("not a kubeconfig")
    with pytest.raises(ConfigError, match="kubeconfig"):
        await run(settings(tmp_path, kubeconfig), asyncio.Event())
    Store.open(tmp_path / "cache").close()


async def test_it_stops_when_asked_and_leaves_the_cache_free(tmp_path: Path) -> None:
    async with FaultyApi(tmp_path) as api:
        stop = asyncio.Event()
        running = asyncio.create_task(run(settings(tmp_path, api.kubeconfig), stop))
        await api.until(lambda: api.open_watches > 0)
        assert not running.done()
        stop.set()
        await running
    Store.open(tmp_path / "cache").close()


async def test_a_part_that_fails_ends_the_others_and_is_the_reason() -> None:
    others = asyncio.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            others.set()

    async def failing() -> None:
        raise RuntimeError("a fault in the program")

    with pytest.raises(RuntimeError, match="a fault"):
        await _until_stopped(asyncio.Event(), [endless(), failing()])
    assert others.is_set()
