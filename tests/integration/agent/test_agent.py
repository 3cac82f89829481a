"""One agent process, from a desired state to files and labels and back."""

from __future__ import annotations

from pathlib import Path

from local.hub.repository import Repository
from local.hub.server import HubServer
from modelcache.rpc.modelcache_pb2 import PHASE_READY
from tests.integration.agent.conftest import StartAgent, TestNode, manifest_of
from tests.support.controller import ScriptedController, wish

FILES = {"config.json": b'{"model_type": "test"}', "sub/tokenizer.json": b"{}", "model.safetensors": b"w" * 3_000_000}


async def test_a_model_arrives_and_leaves(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, node: TestNode, cache: Path
) -> None:
    repository = hub.hub.add(Repository("acme/small", FILES))
    manifest = manifest_of(repository)
    controller.know(manifest)
    await controller.want(wish("team-a", "small", manifest, hub_ref="main"))
    agent = start_agent()
    ready = await controller.until_model("team-a", "small", lambda model: model.phase == PHASE_READY)
    assert ready.current_revision == manifest.revision
    nonce = await controller.want()
    await controller.until_gone("team-a", "small", nonce)
    assert agent.terminate() == 0
