"""The benchmarks about faults, small: they run, find nothing, and would find something if there was anything."""

from __future__ import annotations

import json
import random
from functools import partial
from math import inf
from pathlib import Path

import pytest

from agent.store import Store
from benchmarks import crash, restart
from tests.support.memory import memory_directory
from tests.support.waiting import PATIENCE


def test_a_few_kills_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with memory_directory(tmp_path) as directory:
        assert crash.main(["--points", "6", "--seed", "3", "--directory", str(directory)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == {"points": 6, "corrupt": 0, "leaked_bytes": 0, "lost": 0, "seed": 3}


def test_the_judge_finds_what_is_wrong(tmp_path: Path) -> None:
    with memory_directory(tmp_path) as directory:
        rng = random.Random(1)
        world = crash.make_world(directory, rng)
        first, second = world.models[:2]
        for model in (first, second):
            for work in (crash.download, crash.publish):
                assert crash.killed_after(inf, partial(work, world, model))
        both = {first.key, second.key}
        assert crash.judge(world, both, None, "") == (0, 0, 0)

        damaged = crash.damage(world, first, rng)
        assert crash.judge(world, both, None, "").corrupt > 0
        assert crash.judge(world, both, None, damaged) == (0, 0, 0)
        assert crash.killed_after(inf, partial(crash.repair, world, first))
        assert crash.judge(world, both, None, "") == (0, 0, 0)

        with Store.open(world.root) as store:
            published = store.paths.snapshot(crash.NAMESPACE, *first.key) / "shared"
            partials = store.paths.partial
        data = published.read_bytes()
        published.unlink()
        published.write_bytes(data)
        published.chmod(0o444)
        assert crash.judge(world, both, None, "").leaked_bytes >= len(data), "a copy takes room of its own"
        (partials / ("f" * 64)).write_bytes(b"x" * 10_000)
        assert crash.judge(world, both, second, "").leaked_bytes >= len(data), "and nothing else: it was tidied up"
        assert crash.victims(world, second) == {first.key}, "the other revision of the model was used earlier"
        assert crash.killed_after(inf, partial(crash.evict, world, second))
        assert crash.judge(world, both, None, "").lost == 1
        assert crash.judge(world, {second.key}, None, "") == (0, 0, 0)


def test_a_small_restart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with memory_directory(tmp_path) as directory:
        arguments = ["--revisions", "9", "--files", "30", "--rounds", "1", "--directory", str(directory)]
        assert restart.main(arguments) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["revisions"], result["files"]) == (9, 30)
    assert (result["bytes_read"], result["labels_lost"]) == (0, 0)
    assert 0 < result["seconds_to_labels"] <= result["slowest_seconds_to_labels"]


def test_files_that_are_opened_are_counted(tmp_path: Path) -> None:
    with memory_directory(tmp_path) as directory:
        restart.fill(directory / "cache", 2, 4, 1000)
        with Store.open(directory / "cache") as store:
            paths = store.paths
        file = next(path for path in paths.models.rglob("file-*"))
        with restart.Opened(paths) as opened:
            file.read_bytes()
            assert opened.changed.wait(PATIENCE)
        assert opened.bytes() == 1000
