"""The helpers that other tests stand on: processes, waiting, and the key pair for a test API server."""

import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.kube import EnvtestKube
from tests.support.process import TIED, Process, ProcessError, alive
from tests.support.waiting import wait_until, wait_until_async


def script(text: str) -> Process:
    return Process([sys.executable, "-c", text])


def test_lines_come_while_the_process_runs() -> None:
    with script("import time; print('ready', flush=True); time.sleep(600)") as process:
        assert process.first_line() == "ready"
        assert process.returncode is None
    assert process.returncode == -9


def test_a_process_that_ends_early_shows_its_output() -> None:
    with script("import sys; print('one'); sys.exit('broken')") as process:
        assert process.wait() == 1
        with pytest.raises(ProcessError, match=r"(?s)exit code 1.*one.*broken"):
            process.wait_for_line("ready")


def test_kill_ends_one_process_and_close_the_rest() -> None:
    child = "import subprocess, sys, time; c = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])"
    process = script(f"{child}; print(c.pid, flush=True); time.sleep(600)")
    grandchild = int(process.first_line())
    process.kill()
    assert process.returncode == -9
    assert alive(grandchild)
    process.close()
    wait_until(lambda: not alive(grandchild), what="the child of the killed process is gone")


@pytest.mark.skipif(not TIED, reason="no setpriv (util-linux)")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_processes_end_with_tests_that_are_killed(number: signal.Signals) -> None:
    code = (
        "import signal, sys; from tests.support.process import Process;"
        "child = Process([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(600)']);"
        "child.first_line(); print(child.pid, flush=True); signal.pause()"
    )
    with script(code) as tests:
        child = int(tests.first_line())
        assert alive(child)
        os.kill(tests.pid, number)
        wait_until(lambda: not alive(child), what="the child has ended with who started it")


async def test_waiting_returns_what_it_waited_for_or_names_it() -> None:
    values = iter([None, 0, "found"])
    assert wait_until(lambda: next(values)) == "found"
    with pytest.raises(TimeoutError, match="the moon is blue: not true after 0 s; last value: False"):
        wait_until(lambda: False, timeout=0, what="the moon is blue")

    async def now() -> str:
        return "now"

    assert await wait_until_async(now) == "now"


def test_missing_binaries_are_named(tmp_path: Path) -> None:
    (tmp_path / "etcd").touch()
    os.chmod(tmp_path / "etcd", 0o755)
    with pytest.raises(FileNotFoundError, match="holds no executable kube-apiserver"):
        EnvtestKube(tmp_path, tmp_path / "files")
