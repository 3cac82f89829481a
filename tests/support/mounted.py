"""A file system of its own for a test: XFS in memory. Only root can mount, and not in every container."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.prometheus import REQUIRED

IMAGE_BYTES = 400 * 1024 * 1024
"""mkfs.xfs makes nothing below 300 MiB. What is not written to takes no memory."""


@contextmanager
def mounted_xfs(directory: Path) -> Iterator[Path]:
    """A new file system at `directory` on which files can share content. Skips the test, with the reason, if it cannot be."""
    program = shutil.which("mkfs.xfs", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        assert not os.environ.get(REQUIRED), "mkfs.xfs is missing; .ci/run installs xfsprogs"
        pytest.skip("mkfs.xfs is not installed (Debian package xfsprogs)")
    # Not on the disk, whose own syncs the tests would wait for.
    descriptor = os.memfd_create("image")
    try:
        os.ftruncate(descriptor, IMAGE_BYTES)
        image = f"/proc/{os.getpid()}/fd/{descriptor}"
        subprocess.run([program, "-q", "-m", "reflink=1", image], check=True, capture_output=True, timeout=60)
        directory.mkdir()
        done = subprocess.run(
            ["mount", "-t", "xfs", "-o", "loop", image, directory],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(descriptor)
    if done.returncode != 0:
        pytest.skip(f"XFS cannot be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        # Not checked: whoever still has something open there has failed for a reason of its own, which is what is to be seen.
        subprocess.run(["umount", "--lazy", directory], check=False, capture_output=True, timeout=60)
