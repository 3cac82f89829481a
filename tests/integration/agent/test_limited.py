"""An agent process with little room: what it evicts, what it refuses, and that it goes on when there is room."""

from __future__ import annotations

import random
from pathlib import Path

from local.hub.repository import Repository
from local.hub.server import HubServer
from modelcache.manifest import Manifest
from modelcache.rpc.modelcache_pb2 import PHASE_READY, DesiredModel, ModelReport
from tests.integration.agent.conftest import StartAgent, manifest_of
from tests.support.controller import ScriptedController, wish


def model(hub: HubServer, name: str, size: int) -> Manifest:
    content = {"config.json": b"{}", "w.bin": random.Random(name).randbytes(size)}
    return manifest_of(hub.hub.add(Repository(f"acme/{name}", content)))


def retained(name: str, manifest: Manifest) -> DesiredModel:
    wanted = wish("team", name, manifest)
    wanted.retain = True
    return wanted


def is_ready(report: ModelReport) -> bool:
    return report.phase == PHASE_READY


async def test_a_limited_cache_evicts_refuses_and_goes_on(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, cache: Path
) -> None:
    old, new, large = model(hub, "old", 300_000), model(hub, "new", 300_000), model(hub, "large", 700_000)
    controller.know(old, new, large)
    start_agent("--capacity", "1M", "--reserve-bytes", "0", "--high-watermark", "1")
    await controller.want(retained("old", old))
    await controller.until_model("team", "old", is_ready)
    nonce = await controller.want()
    await controller.until_gone("team", "old", nonce)
    await controller.want(retained("new", new))
    await controller.until_model("team", "new", is_ready)
    assert (cache / "models" / "team" / "old").exists(), "there is room for both"

    # Both do not leave room for a third: what nothing wants goes, what is wanted stays, and that is not enough.
    await controller.want(retained("new", new), wish("team", "large", large))
    report = await controller.until_model("team", "large", lambda each: each.problem.reason == "InsufficientStorage")
    assert "are needed" in report.problem.message
    assert "could be freed by evicting" in report.problem.message
    assert (cache / "models" / "team" / "new" / "current").exists()

    # Nobody says anything to the refused model: it goes on because the other one is not wanted any more.
    await controller.want(wish("team", "large", large))
    await controller.until_model("team", "large", is_ready)
    assert not (cache / "models" / "team" / "old").exists()
    assert not (cache / "models" / "team" / "new").exists()
