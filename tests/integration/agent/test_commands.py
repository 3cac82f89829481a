"""`modelcache du`, `gc`, `evict` and `verify`, with a running agent and without."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from agent.store import Store
from cli.main import app
from local.hub.repository import Repository
from local.hub.server import HubServer
from modelcache.rpc.modelcache_pb2 import PHASE_READY, ModelKey, PodUse
from tests.integration.agent.conftest import StartAgent, manifest_of
from tests.support.caching import OLD, publish
from tests.support.controller import ScriptedController, wish


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", *arguments, "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


async def cli(root: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of a command; in a thread, because the controller needs the event loop."""
    done = await asyncio.to_thread(run, root, *arguments, "-o", "json")
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


def results(answer: dict[str, Any]) -> list[tuple[str, str]]:
    return [(line["result"], line["kept"]) for line in answer["revisions"]]


async def test_with_a_running_agent(
    start_agent: StartAgent, controller: ScriptedController, hub: HubServer, cache: Path
) -> None:
    manifest = manifest_of(hub.hub.add(Repository("acme/small", {"config.json": b"{}", "w.bin": b"w" * 100_000})))
    controller.know(manifest)
    start_agent()
    wanted = wish("team", "small", manifest)
    wanted.retain = True
    await controller.want(wanted)
    await controller.until_model("team", "small", lambda model: model.phase == PHASE_READY)

    code, usage = await cli(cache, "du")
    assert (code, results(usage)) == (0, [("", "in force")])
    assert usage["occupiedBytes"] >= 100_000
    assert usage["revisions"][0]["lastVerified"]
    code, answer = await cli(cache, "evict", "small", "-n", "team")
    assert (code, results(answer)) == (3, [("kept", "in force")])

    nonce = await controller.want()
    await controller.until_gone("team", "small", nonce)
    pod = PodUse(pod_uid="u", pod_namespace="team", pod_name="web-0", model=ModelKey(namespace="team"), kind="mount")
    nonce = await controller.want(uses=[pod])
    await controller.until(lambda report: report.nonce == nonce)
    assert results((await cli(cache, "evict", "small", "-n", "team"))[1]) == [("kept", "in use by team/web-0")]
    nonce = await controller.want()
    await controller.until(lambda report: report.nonce == nonce)
    code, answer = await cli(cache, "gc", "--dry-run")
    assert (code, answer["revisions"], answer["freedBytes"]) == (0, [], 0)
    assert results((await cli(cache, "verify"))[1]) == [("sound", "")]

    code, answer = await cli(cache, "evict", "small", "-n", "team")
    assert (code, results(answer)) == (0, [("removed", "")])
    assert answer["freedBytes"] >= 100_000
    assert not (cache / "models" / "team").exists()
    assert (await cli(cache, "evict", "small", "-n", "team"))[0] == 3
    assert [line for line in (cache / "blobs").rglob("*") if line.is_file()] == []


def here(root: Path, *arguments: str) -> Result:
    """The same in this process, which is quicker."""
    return CliRunner().invoke(app, [*arguments, "--root", str(root)])


def test_without_an_agent(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    assert "there is no cache" in here(root, "du").stderr
    with Store.open(root) as store:
        publish(store, "model", {"a": b"content"})
        publish(store, "other", {"b": b"other content"})
    assert "team/model" in here(root, "du").stdout
    for command in (["gc"], ["gc", "--dry-run"], ["evict", "model", "-n", "team"]):
        refused = here(root, *command)
        assert (refused.exit_code, "a running agent" in refused.stderr) == (1, True)
    assert here(root, "verify").exit_code == 0
    assert here(root, "verify", "absent", "-n", "team").exit_code == 1
    assert here(root, "du", "-o", "yaml").exit_code == 2
    published = root / "models" / "team" / "model" / OLD / "a"
    published.chmod(0o644)
    published.write_bytes(b"damaged")
    found = here(root, "verify", "model", "-n", "team")
    assert found.exit_code == 3
    assert str(published) in found.stderr
    assert here(root, "verify", "other", "-n", "team").exit_code == 0
