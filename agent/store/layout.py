"""Takes possession of a cache root: creates the layout, locks it, and proves that the file system can do what we need."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from agent.store.durable import fsync_directory
from agent.store.errors import IndexFailed, IndexLocked, StoreLocked, StoreUnusable
from agent.store.index import Index
from modelcache.paths import CachePaths

PUBLIC = 0o755
PRIVATE = 0o700
"""blobs/, partial/ and the rest are for the agent alone: a pod that is shown the root by mistake reads no other tenant's
files, and only published directories are reachable."""


_PROBE = ".probe"


def acquire_lock(paths: CachePaths) -> int:
    """Locks the root for this process and returns the descriptor that holds the lock.

    flock(2): the kernel lets go when the process ends, however it ends, so that there is nothing stale to clean up.
    Raises StoreLocked when another agent holds it, StoreUnusable when the root cannot be created or written.
    """
    try:
        paths.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreUnusable(_advice(paths.root, error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise StoreUnusable(f"{paths.lock} cannot be locked: {error.strerror}; use a local file system") from error
        by = f" (process {holder})" if holder.isdigit() else ""
        raise StoreLocked(
            f"another agent{by} is working on the cache root {paths.root}; stop it or give this one another root"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def prepare(paths: CachePaths) -> None:
    """Creates the directories that are missing and tries out what the cache relies on. Raises StoreUnusable."""
    try:
        private = (paths.blobs.parent, paths.blobs, paths.partial, paths.manifests, paths.records, paths.staging)
        for directory, mode in [
            *((path, PUBLIC) for path in (paths.models, paths.hub)),
            *((path, PRIVATE) for path in private),
        ]:
            _ensure(directory, mode)
        for directory in (paths.root, paths.blobs):
            # Crash after the first commit or publication: the directories above it have to be there.
            fsync_directory(directory)
    except OSError as error:
        raise StoreUnusable(_advice(paths.root, error)) from error
    _try_links(paths)


def _ensure(directory: Path, mode: int) -> None:
    try:
        directory.mkdir(mode=mode)
    except FileExistsError:
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode):
            raise OSError(errno.ENOTDIR, "is not a directory", str(directory)) from None
        if stat.S_IMODE(found.st_mode) == mode:
            return
    directory.chmod(mode)  # mkdir's mode is subject to the umask


def _try_links(paths: CachePaths) -> None:
    """Links and renames a file through every directory: two of them may look like one file system and still be two mounts."""
    first, *others = (
        paths.partial,
        paths.blobs,
        paths.models,
        paths.hub,
        paths.staging,
        paths.manifests,
        paths.records,
    )
    probes = [directory / _PROBE for directory in (first, *others)]
    try:
        for probe in probes:
            probe.unlink(missing_ok=True)  # of a start that was killed here
        probes[0].write_bytes(b"")
        for probe in probes[1:]:
            os.link(probes[0], probe)
        (paths.staging / _PROBE).rename(paths.models / _PROBE)
        for probe in probes:
            probe.unlink(missing_ok=True)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise StoreUnusable(
                f"{error.filename} and {error.filename2} are on different file systems or mounts; "
                f"everything below {paths.root} has to be on one, because files are published as hard links"
            ) from error
        if error.errno in (errno.EPERM, errno.EOPNOTSUPP):
            raise StoreUnusable(
                f"the file system of {paths.root} does not support hard links; use ext4, xfs, btrfs or another that does"
            ) from error
        raise StoreUnusable(_advice(paths.root, error)) from error


def _advice(root: Path, error: OSError) -> str:
    where = error.filename or root
    reason = error.strerror or str(error)
    hint = {
        errno.EROFS: "mount the file system of the cache root read-write",
        errno.EACCES: "give the agent's user write access to the cache root",
        errno.EPERM: "give the agent's user write access to the cache root",
        errno.ENOSPC: "free space on the file system of the cache root",
        errno.ENOTDIR: "move away what lies there",
        errno.EEXIST: "move away what lies there",
        errno.ELOOP: "the lock file must not be a symlink",
    }.get(error.errno or 0, "check the disk and the mount")
    return f"the cache root {root} cannot be used: {where}: {reason}; {hint}"


def open_index(paths: CachePaths) -> tuple[Index, str | None]:
    """The index, and why it is a new one (None when it is not).

    Raises IndexLocked: an index that is only busy is not replaced by one that knows nothing.
    """
    try:
        index = Index.open(paths.index)
        return index, f"{paths.index} was missing or empty" if index.new else None
    except IndexLocked:
        raise
    except IndexFailed as error:
        # Set aside, not deleted: somebody may want to look at it. Only the latest is kept.
        for suffix in ("", "-wal", "-shm"):
            part = paths.index.with_name(paths.index.name + suffix)
            if part.exists():
                part.rename(paths.index.with_name(f"{paths.index.name}.damaged{suffix}"))
        return Index.open(paths.index), str(error)
