"""Prometheus and promtool (Debian package `prometheus`): where they are, and running them."""

import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.process import Process
from tests.support.waiting import PATIENCE, wait_until

REQUIRED = "MODELCACHE_REQUIRE_TOOLS"
"""Set by .ci/run, which installs them: there a missing tool is a failure, elsewhere the tests that need it are skipped."""


def tool(name: str) -> str:
    """Path of `prometheus` or `promtool`; skips the test where there is none."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get(REQUIRED):
            pytest.fail(f"{name} is missing: apt-get install prometheus")
        pytest.skip(f"{name} is not installed (Debian package prometheus)")
    return found


def promtool(*arguments: str, input: str | None = None, cwd: Path | None = None) -> str:
    """Output of a successful promtool; what it complains about is an assertion."""
    done = subprocess.run(
        [tool("promtool"), *arguments],
        input=input,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """A real Prometheus that scrapes these addresses, by name of the job."""

    def __init__(self, directory: Path, port: int, targets: dict[str, str], rules: Path) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": [address]}]} for job, address in targets.items()
            ],
        }
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{port}"
        self._process = Process(
            [
                tool("prometheus"),
                f"--config.file={file}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of an instant query; empty also while the server is still starting."""
        try:
            result = self._get("/api/v1/query", query=expression)["result"]
        except OSError:
            return []
        return [(each["metric"], float(each["value"][1])) for each in result]

    def wait_for(self, expression: str, timeout: float = 60.0) -> list[tuple[dict[str, str], float]]:
        """Wait until a query has a result."""
        try:
            return wait_until(lambda: self.query(expression) or None, timeout=timeout)
        except TimeoutError:
            raise AssertionError(
                f"no result for {expression}; Prometheus says\n{self._process.logs()[-3000:]}"
            ) from None

    def rules(self) -> list[dict[str, Any]]:
        """All rules with their health."""
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        """End it."""
        self._process.close()

    def _get(self, path: str, **query: str) -> dict[str, Any]:
        url = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            data: dict[str, Any] = json.loads(answer.read())["data"]
        return data
