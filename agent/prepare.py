"""Gives the cache's directory to the agent's user: what the init container does, as root and with CAP_CHOWN alone.

The kubelet makes a missing hostPath directory as root, and the agent does not run as root. So somebody has to change the
owner of that one directory, and of nothing in it: what is in it was made by the agent.

A path that was mistyped (`/var/lib`) would be given away as well, and with it whatever the agent's user may then do there.
Therefore only a directory is taken that is empty or is a cache already.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from modelcache.paths import CachePaths

MODE = 0o755
"""Pods mount directories below it, and people look where the space has gone; blobs are private by a directory of theirs."""
_SELINUX = "security.selinux"
_FRESH = frozenset({"lost+found"})
"""What a new file system contains."""


class PrepareError(Exception):
    """The directory cannot be given to the agent; the message says why and what to do."""


def prepare(
    root: Path,
    owner: tuple[int, int],
    label: str = "",
    *,
    chown: Callable[[int, int, int], None] = os.fchown,
    set_attribute: Callable[[int, str, bytes], None] = os.setxattr,
) -> bool:
    """Make `root` a directory that belongs to `owner` (uid, gid); whether anything had to be changed.

    `label` is an SELinux label for the directory, empty for none. Idempotent. Raises PrepareError.
    """
    try:
        root.mkdir(mode=MODE, parents=True, exist_ok=True)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise PrepareError(f"{root} cannot be used as the directory of the cache: {error.strerror}") from error
    try:
        if label:
            # Before the owner changes: afterwards it would need one more capability.
            set_attribute(descriptor, _SELINUX, label.encode() + b"\0")
        found = os.fstat(descriptor)
        if (found.st_uid, found.st_gid) == owner:
            return False
        _refuse_foreign(root)
        if stat.S_IMODE(found.st_mode) != MODE:
            os.fchmod(descriptor, MODE)
        chown(descriptor, *owner)
    except OSError as error:
        raise PrepareError(f"{root} cannot be given to user {owner[0]}: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return True


def _refuse_foreign(root: Path) -> None:
    paths = CachePaths(root)
    names = {entry.name for entry in os.scandir(root)} - _FRESH
    if names and not names & {paths.index.name, paths.lock.name}:
        raise PrepareError(
            f"{root} belongs to another user and holds something that is no cache ({sorted(names)[0]!r} for one); give "
            f"the cache a directory of its own (cacheRoot in the ConfigMap modelcache-agent-settings)"
        )


def parse_owner(text: str) -> tuple[int, int]:
    """`uid:gid`. Raises ValueError."""
    uid, colon, gid = text.partition(":")
    if not colon or not (uid.isascii() and uid.isdecimal() and gid.isascii() and gid.isdecimal()):
        raise ValueError(f"{text!r} is not an owner; write it as uid:gid, for example 65532:65532")
    return int(uid), int(gid)
