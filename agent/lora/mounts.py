"""Where a pod sees a directory of the host: a pure function of its mounts."""

from __future__ import annotations

from functools import lru_cache
from pathlib import PurePosixPath

from agent.lora.desired import Mount


@lru_cache(maxsize=16_384)
def path_in_pod(host_path: str, mounts: tuple[Mount, ...]) -> str | None:
    """The path of a host directory inside the container; None when it cannot be seen there.

    A volume of the host covers what lies below it. Of several, the one with the shortest path in the container is taken,
    then the first in order, so that the answer never changes while the pod lives. A mount that lies deeper in the container
    hides what the outer one shows there. All paths are absolute; those with `..` are nobody's.

    Asked again for every adapter in every pod whenever anything changes, so answers are kept.
    """
    wanted = PurePosixPath(host_path)
    seen = []
    for mount in mounts:
        host, inside = PurePosixPath(mount.host_path), PurePosixPath(mount.mount_path)
        if (
            not mount.host_path
            or not host.is_absolute()
            or not inside.is_absolute()
            or ".." in (*host.parts, *inside.parts)
        ):
            continue
        if wanted.is_relative_to(host):
            path = inside / wanted.relative_to(host)
            if not any(_hides(PurePosixPath(other.mount_path), inside, path) for other in mounts):
                seen.append(path)
    return str(min(seen, key=lambda path: (len(path.parts), str(path)))) if seen else None


def _hides(other: PurePosixPath, inside: PurePosixPath, path: PurePosixPath) -> bool:
    """Whether a mount at `other` covers `path`, which is shown by a mount at `inside`."""
    return other != inside and other.is_relative_to(inside) and path.is_relative_to(other)
