"""Network namespaces with limited links: every node of a benchmark a machine of its own, on one switch. Linux, root, iproute2.

Each node has a veth pair to a bridge in a namespace of its own, with a token bucket on both ends: what it sends and what it
receives are limited separately, like a full duplex link. Names carry the process id, so that two runs do not meet, and all is
gone at the end: deleting a namespace deletes its links.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from types import TracebackType
from typing import Self

BURST_BYTES = 256 * 1024
"""Of a token bucket: some ms of the rate, more than one segmentation-offloaded packet of 64 KiB."""
QUEUE_MS = 50


def available() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if os.geteuid() != 0:
        return "this process is not root"
    missing = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if missing:
        return f"{' and '.join(missing)} of iproute2 cannot be found"
    try:
        with Network(()):
            return ""
    except subprocess.CalledProcessError as error:
        return f"{' '.join(error.cmd)}: {error.stderr.strip()}"


class Network:
    """A switch and the nodes `rates` (bytes per second each way, None: no limit), in this order. A context manager."""

    def __init__(self, rates: tuple[float | None, ...]) -> None:
        self._rates = rates
        self._prefix = f"mc{os.getpid()}"

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def address(self, number: int) -> str:
        """The IPv4 address of a node."""
        return f"10.213.{number // 250}.{number % 250 + 2}"

    def inside(self, number: int) -> list[str]:
        """What to put in front of a command so that it runs on a node."""
        return ["ip", "netns", "exec", self._name(number)]

    def _name(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def _make(self) -> None:
        switch = f"{self._prefix}-switch"
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for number, rate in enumerate(self._rates):
            node, port = self._name(number), f"port{number}"
            _run("ip", "netns", "add", node)
            _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", node)
            _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _run("ip", "-n", node, "address", "add", f"{self.address(number)}/16", "dev", "eth0")
            _run("ip", "-n", node, "link", "set", "eth0", "up")
            _run("ip", "-n", node, "link", "set", "lo", "up")
            if rate is not None:
                _limit(node, "eth0", rate)
                _limit(switch, port, rate)

    def _remove(self) -> None:
        for name in (*map(self._name, range(len(self._rates))), f"{self._prefix}-switch"):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _limit(namespace: str, device: str, rate: float) -> None:
    _run(
        "tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "tbf",
        "rate", f"{round(rate * 8)}bit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms",
    )  # fmt: skip


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
