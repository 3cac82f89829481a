"""Is the cache root still the one that this process opened, and can it be written?

A root can go away under a running agent: somebody deletes it, its file system is unmounted or mounted over. The agent
would go on working on files that no pod sees, or fill the disk under the mount point. Its own lock file tells: the name has to
lead to the very inode that is locked. (A deleted lock file alone is as bad: a second agent could start on the same root.)
"""

from __future__ import annotations

import os
from typing import NamedTuple

from modelcache.paths import CachePaths


class Vitals(NamedTuple):
    """`lost` says why the root is not ours any more, `hindered` why it cannot be written; empty when all is well."""

    lost: str = ""
    hindered: str = ""


def vitals(paths: CachePaths, lock: int) -> Vitals:
    """Looks at the root. `lock` is the descriptor that holds its lock."""
    ours = os.fstat(lock)
    for path, inode in ((paths.lock, (ours.st_dev, ours.st_ino)), (paths.models, None), (paths.index, None)):
        try:
            found = path.lstat()
        except OSError as error:
            return Vitals(lost=f"{path} is gone ({error.strerror}): {_ADVICE}")
        if found.st_dev != ours.st_dev or (inode is not None and (found.st_dev, found.st_ino) != inode):
            return Vitals(lost=f"{path} is another file than the one that this agent opened: {_ADVICE}")
    if os.statvfs(paths.root).f_flag & os.ST_RDONLY:
        return Vitals(
            hindered=f"the file system of {paths.root} has become read-only, so nothing can be fetched or removed; look for "
            "disk errors in the kernel's log, and remount it read-write"
        )
    return Vitals()


_ADVICE = (
    "the cache root was deleted, unmounted, or mounted over while the agent ran; mount it again if it should be there"
)
