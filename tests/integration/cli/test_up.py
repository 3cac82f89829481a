"""`modelcache up`: what it says is what can be done."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from typer.testing import CliRunner

from cli.main import app
from tests.support.process import Process
from tests.support.waiting import wait_until


def test_the_nodes_of_a_local_cluster_can_be_asked_as_it_says(tmp_path: Path) -> None:
    process = Process(
        [sys.executable, "-m", "cli.main", "up", "--nodes", "1", "--data", tmp_path / "local"],
        env={**os.environ, "COLUMNS": "400"},
    )
    try:
        wait_until(lambda: "modelcache du" in process.logs(), what="the cluster is up")
        variables = dict(re.findall(r"export (MODELCACHE_\w+)=(\S+)", process.logs()))
        assert len(variables) == 3
        done = CliRunner().invoke(app, ["du", "-o", "json"], env=variables)
        assert done.exit_code == 0, done.output
        answer = json.loads(done.stdout)
        assert (len(answer["nodes"]), answer["failures"]) == (1, [])
        assert process.terminate() == 0
    finally:
        process.close()
