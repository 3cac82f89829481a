"""Makes a thread work only when nobody else wants to: what reads a whole disk must not be felt by what serves models."""

from __future__ import annotations

import ctypes
import os
import platform
import threading

_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
"""ioprio_set(2) has no function in the C library; its number is in the kernel's asm/unistd.h of each machine."""
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_CLASS_IDLE = 3
_IOPRIO_CLASS_SHIFT = 13
"""linux/ioprio.h"""
_LOWEST = 19

_LIBC = ctypes.CDLL(None, use_errno=True)


def become_idle() -> bool:
    """Gives the calling thread the idle I/O class and the lowest CPU priority, for good. False where that is not allowed.

    Both belong to the thread, not the process (ioprio_set(2), setpriority(2) "C library/kernel differences"). The idle
    class is honoured by the BFQ scheduler and ignored by others: a bandwidth limit is needed all the same.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LOWEST)
    except OSError:
        return False
    number = _SYS_IOPRIO_SET.get(platform.machine())
    if number is None:
        return False
    idle = _IOPRIO_CLASS_IDLE << _IOPRIO_CLASS_SHIFT
    return bool(_LIBC.syscall(number, _IOPRIO_WHO_PROCESS, 0, idle) == 0)
