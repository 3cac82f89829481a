"""The mirror server `olah` (PyPI) in front of a repository that the real git and git-lfs made: a hub that we did not write.

It has an environment of its own, `make olah`, because what it pins must not decide what this project runs on. Its mirror of a
local repository ignores `Range` and answers without a length, which huggingface.co never does, and which mirrors may.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from local.ports import free_port
from tests.support.process import Process
from tests.support.prometheus import REQUIRED

PROGRAM = Path(sys.prefix) / "olah" / "bin" / "olah-cli"

_CONFIG = """
[basic]
host = "127.0.0.1"
port = {port}
hf-scheme = "http"
hf-netloc = "127.0.0.1:9"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
repos-path = "{work}/cache"
mirrors-path = ["{work}/mirrors"]

[accessibility]
offline = true
"""


@dataclass(frozen=True)
class Olah:
    """A running mirror, for HF_ENDPOINT."""

    url: str
    mirrors: Path

    def commit(self, repository: str, files: Mapping[str, bytes]) -> Path:
        """Put files into `org/name` as people do, `*.safetensors` by git-lfs; returns the working directory."""
        directory = self.mirrors / "models" / repository
        if not directory.exists():
            directory.mkdir(parents=True)
            _git(directory, "init", "--quiet", "--initial-branch", "main")
            _git(directory, "lfs", "install", "--local")
            _git(directory, "lfs", "track", "*.safetensors")
        for path, content in files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_bytes(content)
        _git(directory, "add", "--all")
        _git(directory, "commit", "--quiet", "--message", "more files")
        return directory

    def stored(self, repository: str, sha256: str) -> Path:
        """The file in which git-lfs keeps this content."""
        return self.mirrors / "models" / repository / ".git" / "lfs" / "objects" / sha256[:2] / sha256[2:4] / sha256


@contextmanager
def olah(directory: Path) -> Iterator[Olah]:
    """Serve repositories below `directory`, and reach nothing else. In CI its tools are there, elsewhere they may not be."""
    missing = [name for name, found in (("olah (make olah)", PROGRAM.exists()),
                                        ("git-lfs (Debian package)", shutil.which("git-lfs"))) if not found]  # fmt: skip
    if missing:
        if os.environ.get(REQUIRED):
            pytest.fail(f"missing: {', '.join(missing)}")
        pytest.skip(f"not installed: {', '.join(missing)}")
    directory.mkdir()
    port = free_port()
    config = directory / "olah.toml"
    config.write_text(_CONFIG.format(port=port, work=directory))
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [str(PROGRAM), "--config", str(config), "--log-path", str(directory / "logs")]
    with Process(command, env=environment, cwd=directory) as process:
        # It logs everything, what it prints included, to stderr; uvicorn says this once it listens.
        process.stderr.wait_for(lambda line: "Uvicorn running on" in line)
        yield Olah(f"http://127.0.0.1:{port}", directory / "mirrors")


def _git(directory: Path, *arguments: str) -> None:
    # Whatever the person who runs the tests has configured must not decide what is committed.
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory.parent), "GIT_CONFIG_NOSYSTEM": "1",
                   "GIT_AUTHOR_NAME": "tests", "GIT_AUTHOR_EMAIL": "tests@localhost",
                   "GIT_COMMITTER_NAME": "tests", "GIT_COMMITTER_EMAIL": "tests@localhost"}  # fmt: skip
    subprocess.run(
        ["git", *arguments], cwd=directory, env=environment, check=True, capture_output=True, text=True, timeout=60
    )
