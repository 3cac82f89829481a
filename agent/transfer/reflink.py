"""Shares the bytes of two files instead of copying them, where their file system can: XFS, Btrfs, bcachefs, NFS 4.2.

The kernel is simply asked, and says no at once: whether two paths are on one file system that can share cannot be told from
outside (subvolumes have device numbers of their own, and there is no flag for it). What is shared belongs to both files
until one of them is written to, so that a source which changes afterwards changes nothing here. It is atomic for one call,
not for a file: a change between two calls has to be found by who calls.
"""

from __future__ import annotations

import fcntl
import struct

_FICLONERANGE = 0x4020940D
"""ioctl_ficlonerange(2): _IOW(0x94, 13, struct file_clone_range)."""
_RANGE = struct.Struct("=qQQQ")
"""src_fd, src_offset, src_length, dest_offset."""


def clone_range(source: int, target: int, offset: int, count: int) -> bool:
    """Make `count` bytes at `offset` of `target` those of `source` at the same place; whether the file system did that.

    Both are descriptors of open files. False changes nothing: other file systems, one that cannot, a range that does not
    end at a block or at the end of `source`.
    """
    try:
        fcntl.ioctl(target, _FICLONERANGE, _RANGE.pack(source, offset, count, offset))
    except OSError:
        # Whatever the reason is, if it matters, the copy that follows meets it as well and can name it.
        return False
    return True
