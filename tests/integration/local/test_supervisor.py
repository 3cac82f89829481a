"""The supervisor with real processes: restarts, orderly end, nothing left behind."""

import asyncio
import os
import signal
import sys
from pathlib import Path

from local.supervisor import LONGEST_PAUSE, Program, Supervisor, restart_pause
from tests.support.process import Process, alive
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


def program(directory: Path, code: str = SLEEPER, name: str = "sleeper") -> Program:
    return Program(name=name, argv=(sys.executable, "-c", code), log=directory / "logs" / f"{name}.log", env={"X": "1"})


def test_pauses_double_up_to_a_limit() -> None:
    pauses = [restart_pause(deaths) for deaths in range(10)]
    assert pauses[0] == 0
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


async def test_a_killed_program_runs_again_until_stopped(tmp_path: Path) -> None:
    notices: list[str] = []
    supervisor = Supervisor(notices.append)
    supervisor.start(program(tmp_path))

    async def running() -> int | None:
        return supervisor.pid("sleeper")

    first = await wait_until_async(running)
    os.kill(first, signal.SIGKILL)

    async def replaced() -> int | None:
        pid = supervisor.pid("sleeper")
        return pid if pid != first else None

    second = await wait_until_async(replaced)
    assert "SIGKILL" in notices[0]
    assert str(tmp_path / "logs" / "sleeper.log") in notices[0]
    await supervisor.stop()
    assert not alive(second)
    assert supervisor.pid("sleeper") is None


async def test_the_last_started_ends_first(tmp_path: Path) -> None:
    code = (
        "import pathlib, signal, sys\n"
        "def end(*_):\n"
        "    with open(sys.argv[1], 'a') as file: file.write(sys.argv[2] + '\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('up', flush=True)\n"
        "while True: signal.pause()\n"
    )
    ended = tmp_path / "ended"
    supervisor = Supervisor(lambda _: None)
    for name in ("server", "client"):
        argv = (sys.executable, "-c", code, str(ended), name)
        supervisor.start(Program(name=name, argv=argv, log=tmp_path / f"{name}.log"))

    async def both_up() -> bool:
        logs = [tmp_path / "server.log", tmp_path / "client.log"]
        return all(log.exists() and "up" in log.read_text() for log in logs)

    await wait_until_async(both_up)
    await supervisor.stop()
    assert ended.read_text().split() == ["client", "server"]


def test_programs_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, pathlib, sys\n"
        "from local.supervisor import Program, Supervisor\n"
        "async def main():\n"
        "    supervisor = Supervisor(print)\n"
        f"    argv = (sys.executable, '-c', {SLEEPER!r})\n"
        "    supervisor.start(Program('sleeper', argv, pathlib.Path(sys.argv[1])))\n"
        "    while supervisor.pid('sleeper') is None: await asyncio.sleep(0.01)\n"
        "    print(supervisor.pid('sleeper'), flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    with Process([sys.executable, "-c", code, tmp_path / "log"]) as supervisor:
        child = int(supervisor.first_line())
        wait_until(lambda: (tmp_path / "log").read_text() == "up\n")
        supervisor.kill()
        wait_until(lambda: not alive(child), what="the child has ended with its supervisor")


async def test_stop_ends_a_program_between_death_and_restart(tmp_path: Path) -> None:
    notices: list[str] = []
    supervisor = Supervisor(notices.append)
    supervisor.start(program(tmp_path, "raise SystemExit(3)"))

    async def died() -> bool:
        return bool(notices)

    await wait_until_async(died)
    assert "exit code 3" in notices[0]
    async with asyncio.timeout(PATIENCE):
        await supervisor.stop()
