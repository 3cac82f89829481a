"""Hubs to talk to: in this process (with a handle on their insides), or as the command that users start."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.hub import Serve, hubs, minilm_files
from tests.support.process import Process, python_module


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve repositories in this process until the test is over."""
    with hubs() as serve:
        yield serve


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The files of a real model."""
    return minilm_files()


@pytest.fixture
def command() -> Iterator[Callable[..., tuple[Process, str]]]:
    """Start `python -m local.hub` with arguments; returns the process and the address that it printed."""
    processes: list[Process] = []

    def start(*arguments: str | os.PathLike[str]) -> tuple[Process, str]:
        processes.append(python_module("local.hub", "--port", "0", *arguments))
        return processes[-1], processes[-1].first_line()

    yield start
    for process in processes:
        process.close()


@pytest.fixture
def hf(tmp_path: Path) -> Callable[..., Process]:
    """Run the unmodified `hf` command against a hub, with a home of its own; returns the ended process."""

    def run(endpoint: str, *arguments: str, **environ: str) -> Process:
        program = Path(sys.executable).parent / "hf"
        environment = {
            "HF_HOME": str(tmp_path / "hf-home"),
            "HOME": str(tmp_path),
            "HF_ENDPOINT": endpoint,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PATH": os.environ["PATH"],
            **environ,
        }
        process = Process([program, *arguments], env=environment, cwd=tmp_path)
        try:
            process.wait()
        finally:
            process.close()
        return process

    return run
