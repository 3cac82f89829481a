"""Real processes in tests: start one, read what it prints as it prints it, and end it the hard way.

Programs here announce themselves by lines (`local.kube` prints its address when it is ready), so a thread per stream reads
lines as they come and wakes whoever waits for one: no polling, no full pipe that blocks the program, and the whole output
is at hand when something fails. Every process is the leader of its own session: `kill` ends exactly that process (what a
crash does), `close` ends whatever of its children is left as well, so that no test leaves anything running. When the tests
themselves are killed, the kernel ends the processes (PR_SET_PDEATHSIG).
"""

import concurrent.futures
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.support.waiting import PATIENCE

REPOSITORY = Path(__file__).resolve().parents[2]
"""Top of the checkout: the working directory of every process started here, so that `python -m <package>` finds it."""


class ProcessError(Exception):
    """A process ended, or stayed silent, where the test needed a line; the message carries its output."""


_SETPRIV = shutil.which("setpriv")
"""Of util-linux, which every Debian has. A `preexec_fn` would do the same with ctypes, but run Python after a fork of a process
with gRPC's threads in it."""
TIED = (_SETPRIV, "--pdeathsig", "KILL") if _SETPRIV else ()
"""Goes before a command that is to end with the thread that starts it."""
_STARTER = concurrent.futures.ThreadPoolExecutor(1, "starter of processes")
"""The thread that starts them, because it lives as long as this process: a test's own threads do not."""


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # before it is opened, and between that and the read
        return False


class Lines:
    """The lines of one output stream, in order, readable while the process runs."""

    def __init__(self, stream: IO[str], name: str) -> None:
        self._stream = stream
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def settle(self, timeout: float) -> None:
        """Let the reader catch up with a process that has ended; not for ever, as its children may hold the pipe."""
        self._thread.join(timeout)

    def so_far(self) -> list[str]:
        """Every line read until now, without line ends."""
        with self._changed:
            return list(self._lines)

    def wait_for(self, wanted: Callable[[str], bool], *, after: int = 0, timeout: float = PATIENCE) -> tuple[int, str]:
        """The first line from index `after` on for which `wanted` is true, with its index.

        Raises:
            ProcessError: the stream ended, or `timeout` seconds passed, without such a line.
        """
        deadline = time.monotonic() + timeout
        position = after
        with self._changed:
            while True:
                while position < len(self._lines):
                    if wanted(self._lines[position]):
                        return position, self._lines[position]
                    position += 1
                if self._ended:
                    raise ProcessError("the output ended without the line waited for")
                if not self._changed.wait(deadline - time.monotonic()):
                    raise ProcessError(f"the line waited for did not come within {timeout:g} s")


class Process:
    """One running program with its output; a context manager that leaves nothing behind."""

    def __init__(
        self, argv: Sequence[str | os.PathLike[str]], *, env: Mapping[str, str] | None = None, cwd: Path = REPOSITORY
    ) -> None:
        """Start `argv` now. `env` replaces the environment; without it the program inherits the test's."""
        self.argv = [os.fspath(argument) for argument in argv]
        starting = _STARTER.submit(
            subprocess.Popen[str],
            [*TIED, *self.argv],
            env=dict(env) if env is not None else None,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="backslashreplace",
            start_new_session=True,
        )
        self._popen = starting.result()
        self.pid = self._popen.pid
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self.stdout = Lines(self._popen.stdout, f"stdout of {self.pid}")
        self.stderr = Lines(self._popen.stderr, f"stderr of {self.pid}")

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while the process runs."""
        return self._popen.poll()

    def first_line(self, timeout: float = PATIENCE) -> str:
        """The first line on stdout: how a server says that it is ready and where."""
        return self.wait_for_line(lambda _: True, timeout=timeout)

    def wait_for_line(self, wanted: str | Callable[[str], bool], *, after: int = 0, timeout: float = PATIENCE) -> str:
        """The first line on stdout, from index `after` on, that contains (or satisfies) `wanted`.

        Raises:
            ProcessError: with everything that the process printed, if no such line comes.
        """
        matches = (lambda line: wanted in line) if isinstance(wanted, str) else wanted
        try:
            return self.stdout.wait_for(matches, after=after, timeout=timeout)[1]
        except ProcessError as error:
            raise ProcessError(f"{error}\n{self.logs()}") from None

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for the end by itself and return the exit code.

        Raises:
            ProcessError: it still runs after `timeout` seconds.
        """
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"still running after {timeout:g} s\n{self.logs()}") from None

    def kill(self) -> None:
        """`kill -9` of this process alone; its children, if any, live on as after a crash."""
        self._popen.kill()
        self._popen.wait()

    def terminate(self, timeout: float = PATIENCE) -> int:
        """SIGTERM, then wait; returns the exit code."""
        self._popen.terminate()
        return self.wait(timeout)

    def close(self) -> None:
        """End the process and all that is left of its session, at once."""
        # The session's processes share the group of their leader, whose number no other group can have meanwhile.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def logs(self) -> str:
        """Command line, state and all output, for a failure message."""
        state = "running" if self.returncode is None else f"exit code {self.returncode}"
        parts = [f"$ {' '.join(self.argv)}  (pid {self.pid}, {state})"]
        for name, lines in (("stdout", self.stdout), ("stderr", self.stderr)):
            if self.returncode is not None:
                lines.settle(timeout=1)
            parts += [f"--- {name}", *lines.so_far()]
        return "\n".join(parts)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def python_module(module: str, *arguments: str | os.PathLike[str], env: Mapping[str, str] | None = None) -> Process:
    """Start `python -m <module> <arguments>` with the interpreter that runs the tests."""
    return Process([sys.executable, "-m", module, *arguments], env=env)
