"""Runs an action in a process of its own that is killed at the n-th change of the file system.

Python announces every call that changes names or opens files to audit hooks (PEP 578). A hook that counts them and kills
its own process with SIGKILL before the n-th takes place reaches every state that a crash can leave on disk, without luck:
run with n = 0, 1, 2, ... until the action gets through.
"""

import os
import signal
import sys
from collections.abc import Callable

_CHANGES = frozenset(
    {"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.chmod", "os.truncate", "open"}
)


def survives(action: Callable[[Callable[[], None]], None], changes: int) -> bool:
    """Runs `action` in a fork that is killed before change number `changes`; whether it got through.

    Counting begins when the action calls the function that it is given. An exception in the action is printed and ends in
    an AssertionError.
    """
    child = os.fork()
    if child == 0:
        try:
            left = changes

            def hook(event: str, arguments: tuple[object, ...]) -> None:
                nonlocal left
                if event in _CHANGES:
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
                    left -= 1

            action(lambda: sys.addaudithook(hook))
            os._exit(0)
        except BaseException:  # the fork must never return into the test
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, "the action failed; see its output"
    return not os.WIFSIGNALED(status)
