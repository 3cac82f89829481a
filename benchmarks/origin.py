"""The origin of a benchmark: random files, made once, and `python -m local.hub` in a process of its own that serves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

REPOSITORY = Path(__file__).resolve().parents[1]
"""Top of the checkout: where `python -m` finds the packages of this project."""
STEP = 1 << 20
LOCAL_ONLY = {"http_proxy", "https_proxy", "all_proxy"}
"""Environment variables, in lower case, that programs which are to talk to loopback must not get."""


def random_files(directory: Path, sizes: Mapping[str, int]) -> int:
    """Makes files of incompressible bytes; returns how many bytes they have together. 200 MiB/s and more."""
    directory.mkdir(parents=True)
    for name, size in sizes.items():
        with (directory / name).open("xb") as file:
            for start in range(0, size, STEP):
                file.write(os.urandom(min(STEP, size - start)))
    # What is left to write would otherwise be written at the cost of the first program that is measured.
    os.sync()
    return sum(sizes.values())


def environment(**more: str) -> dict[str, str]:
    """This process's environment without proxies, plus `more`."""
    return {name: value for name, value in os.environ.items() if name.lower() not in LOCAL_ONLY} | more


class Origin:
    """A hub that serves the repositories below `directory` on loopback. A context manager."""

    def __init__(self, directory: Path) -> None:
        command = [sys.executable, "-m", "local.hub", str(directory)]
        self._process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self.url = _line(self._process.stdout)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.communicate()

    @property
    def file_bytes(self) -> int:
        """Bytes of files handed to the kernel for clients so far."""
        with self._opener.open(f"{self.url}/_stats") as answer:
            return int(json.load(answer)["file_bytes"])

    @property
    def open_bodies(self) -> int:
        """Answers with bytes of files that are under way."""
        with self._opener.open(f"{self.url}/_stats") as answer:
            return int(json.load(answer)["open_bodies"])


def _line(stream: IO[str] | None) -> str:
    line = stream.readline().strip() if stream is not None else ""
    if not line:
        raise RuntimeError("the process ended before it was ready; what it said is above")
    return line
