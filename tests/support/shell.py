"""Lines as a user types them into a shell: the real kubectl, on the PATH, in one namespace, with whatever it is piped into.

Commands of a guide can so be run as they are printed there.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.support.kubectl import Kubectl, Result
from tests.support.waiting import PATIENCE


class Shell:
    """Callable: `shell("kubectl get pods | wc -l")`. Relative names are those of `directory`, which receives its settings."""

    def __init__(self, kubectl: Kubectl, namespace: str, directory: Path) -> None:
        """A kubeconfig of its own, whose context is set to `namespace`."""
        programs = directory / ".bin"
        programs.mkdir(parents=True)
        (programs / "kubectl").symlink_to(shutil.which(kubectl.binary) or kubectl.binary)
        self.directory = directory
        self._environment = {
            "PATH": f"{programs}:{os.environ.get('PATH', os.defpath)}",
            "HOME": os.fspath(kubectl.home),
            "KUBECONFIG": os.fspath(shutil.copy(kubectl.kubeconfig, directory / ".kubeconfig")),
            "LC_ALL": "C.UTF-8",
        }
        self(f"kubectl config set-context --current --namespace={namespace}")

    def __call__(self, line: str, *, env: Mapping[str, str] | None = None) -> Result:
        """Run one line to its end. That any command in it fails is an assertion with what was printed."""
        done = subprocess.run(
            ["bash", "-e", "-u", "-o", "pipefail", "-c", line],
            cwd=self.directory,
            env={**self._environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"$ {line}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
        return Result(done.stdout, done.stderr, done.returncode)
