"""The benchmarks of one node run, at sizes that say nothing about speed, and end with their line of JSON."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.process import REPOSITORY
from tests.support.waiting import PATIENCE

KIB = 1024


def run(name: str, directory: Path, **options: int) -> dict[str, Any]:
    """The last line that a benchmark prints."""
    given = [f"--{option.replace('_', '-')}={value}" for option, value in options.items()]
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--directory={directory}", *given]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert list(directory.iterdir()) == [], "the benchmark has left something behind"
    line: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return line


def test_single(tmp_path: Path) -> None:
    line = run("single", tmp_path, bytes=300 * KIB, files=2, file_bytes=KIB, rounds=1)
    for key in ("wall_ratio_hf", "many_wall_ratio_hf", "peak_rss_mib", "cpu_s_per_gib"):
        assert line[key] > 0, key
    assert (line["wall_ratio_aria2"] is not None) == (shutil.which("aria2c") is not None)


def test_resume(tmp_path: Path) -> None:
    line = run("resume", tmp_path, kills=2, bytes=1500 * KIB, files=1, file_bytes=KIB, piece_bytes=256 * KIB)
    assert line["kills"] == 2
    assert line["corrupt"] == 0
    assert line["piece_bytes"] == 256 * KIB
    assert line["connections"] > 0
    assert line["refetched_bytes_per_kill"] >= 0


def test_verify(tmp_path: Path) -> None:
    line = run("verify", tmp_path, bytes=1500 * KIB, rounds=1)
    assert line["xxh3_ratio_read"] > 0
    assert line["sha256_ratio_cpu"] > 0
