"""Keeps a few processes running on one machine, as the kubelet does for the containers of a pod.

`modelcache up` and the demo run real processes, and promise what a cluster promises: one that dies, whatever the reason, is
started again, after a pause that doubles while it keeps dying. The processes end with their supervisor even when that is
killed, because the kernel signals them (PR_SET_PDEATHSIG); nothing is left behind that holds a port or a lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_PDEATHSIG = 1
"""linux/prctl.h"""
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
HEALTHY_AFTER = 10.0
"""Seconds. A process that ran that long starts again without the pauses of its earlier deaths."""
STOP_GRACE = 10.0
"""Seconds from SIGTERM to SIGKILL."""


@dataclass(frozen=True)
class Program:
    """What to run: `argv`, additions to the environment, and the file that takes stdout and stderr."""

    name: str
    argv: Sequence[str]
    log: Path
    env: Mapping[str, str] = field(default_factory=dict)


def restart_pause(deaths: int) -> float:
    """Seconds to wait before start number `deaths` + 1 of a process that died `deaths` times in short order."""
    return float(min(FIRST_PAUSE * 2 ** (deaths - 1), LONGEST_PAUSE)) if deaths > 0 else 0.0


def log_tail(path: Path, lines: int = 8) -> str:
    """The last lines of a log file, for a message; empty when there is none."""
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


class Supervisor:
    """Runs programs until `stop`. `notice` gets a sentence for each death and restart."""

    def __init__(self, notice: Callable[[str], None]) -> None:
        self._notice = notice
        self._guards: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, asyncio.subprocess.Process] = {}

    def start(self, program: Program) -> None:
        """Run `program` from now on. Names are unique."""
        if program.name in self._guards:
            raise ValueError(f"a program named {program.name} is running already")
        self._guards[program.name] = asyncio.create_task(self._guard(program), name=f"guard of {program.name}")

    def pid(self, name: str) -> int | None:
        """Process id of a running program; None between death and restart."""
        process = self._running.get(name)
        return process.pid if process is not None else None

    async def stop(self) -> None:
        """End everything, the last started first, and wait until it has ended."""
        for name in reversed(list(self._guards)):
            guard = self._guards.pop(name)
            guard.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await guard

    async def _guard(self, program: Program) -> None:
        clock = asyncio.get_running_loop().time
        deaths = 0
        while True:
            started = clock()
            code = await self._run(program)
            deaths = 1 if clock() - started > HEALTHY_AFTER else deaths + 1
            pause = restart_pause(deaths)
            self._notice(f"{program.name} {_how(code)}; starting it again in {pause:.1f} s (log: {program.log})")
            await asyncio.sleep(pause)

    async def _run(self, program: Program) -> int:
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *program.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **program.env},
                preexec_fn=_end_with_parent,
                # Ctrl-C in the terminal goes to the supervisor alone, which then ends the others in order.
                start_new_session=True,
            )
        self._running[program.name] = process
        try:
            return await process.wait()
        finally:
            self._running.pop(program.name, None)
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_GRACE):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _end_with_parent() -> None:
    """In the child, before it becomes the program: SIGTERM when the supervisor's process is gone."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _how(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"
