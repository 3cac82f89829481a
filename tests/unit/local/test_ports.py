"""Ports that nobody else takes: not another process of ours, not a connection of anybody."""

import socket
import sys
from pathlib import Path

import pytest

from local.ports import BLOCK, RANGE, NoPortError, Ports, is_free
from tests.support.process import Process

KERNELS = Path("/proc/sys/net/ipv4/ip_local_port_range")


def test_each_port_once_and_never_one_that_the_kernel_gives_out() -> None:
    ports = Ports()
    given = [ports.free() for _ in range(3 * BLOCK)]
    assert len(set(given)) == len(given)
    low, high = map(int, KERNELS.read_text().split())
    assert set(given) <= set(RANGE)
    if low >= RANGE.stop:  # unless an administrator has widened it
        assert not set(given) & set(range(low, high + 1))


def test_no_two_processes_get_the_same() -> None:
    code = (
        "from local.ports import Ports, BLOCK; ports = Ports(); print(*(ports.free() for _ in range(BLOCK)), flush=True);"
        "import signal; signal.pause()"
    )
    ours = Ports()
    with Process([sys.executable, "-c", code]) as one, Process([sys.executable, "-c", code]) as other:
        theirs = [int(port) for process in (one, other) for port in process.first_line().split()]
        mine = [ours.free() for _ in range(2 * BLOCK)]
        assert len({*theirs, *mine}) == 4 * BLOCK


def test_a_port_on_which_somebody_listens_is_passed_over() -> None:
    ports = Ports()
    # The rest of the block follows in order.
    taken = ports.free() + 1
    with socket.create_server(("127.0.0.1", taken)):
        assert not is_free(taken)
        assert taken not in [ports.free() for _ in range(BLOCK)]
    assert is_free(taken)


def test_when_none_is_left_it_says_so() -> None:
    with pytest.raises(NoPortError, match="no free port on loopback"):
        Ports(range(0)).free()


@pytest.mark.parametrize("number", [-1, 65536, 10**12])
def test_what_is_no_port_is_not_free(number: int) -> None:
    assert not is_free(number)
