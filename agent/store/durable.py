"""File operations that survive a crash: small, generic, and ignorant of models.

The rules they encode, for any POSIX file system:

- data written to a file is on disk only after `fsync` of that file;
- a new, renamed or removed name is on disk only after `fsync` of its *directory*;
- `rename` is atomic: after a crash the name refers to the old file or to the new one, but whether the new one has its
  bytes depends on an `fsync` of it *before* the rename.

So everything here is built under a temporary name, synced, and moved into place.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

COPY_CHUNK = 1 << 20
_FEW = 2
"""Not worth threads of their own."""
_SYNCS = 8
"""At a time; more do not make the disk faster."""


def fsync_directory(path: Path) -> None:
    """Makes the names in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Collection[Path]) -> None:
    """Makes files and directories durable, several at a time: a journaling file system commits those together.

    Raises OSError, with the path, for one that cannot be synced.
    """
    if len(paths) <= _FEW:
        for path in paths:
            _sync(path)
        return
    with ThreadPoolExecutor(min(len(paths), _SYNCS), thread_name_prefix="sync") as pool:
        list(pool.map(_sync, paths))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(descriptor)


def make_directories(path: Path, top: Path, mode: int) -> None:
    """Creates `path` and what is missing between it and `top` (which exists), each with exactly `mode`, durably."""
    missing = []
    current = path
    while current != top and not current.is_dir():
        missing.append(current)
        current = current.parent
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(mode)  # mkdir's mode is subject to the umask
        # Crash: a file synced into a directory whose own name is not on disk would be unreachable.
        fsync_directory(directory.parent)


def make_all(directories: Iterable[Path], parent: Path, mode: int) -> None:
    """Creates those of `directories`, all directly in `parent`, that are missing, each with exactly `mode`, durably."""
    missing = [directory for directory in directories if not directory.is_dir()]
    for directory in missing:
        directory.mkdir()
        directory.chmod(mode)
    if missing:
        # Crash: see make_directories.
        fsync_directory(parent)


def write_file(target: Path, data: bytes, staging: Path, mode: int) -> None:
    """Replaces `target` by a file with `data`, atomically and durably. Its directory has to exist."""
    temporary = staging / uuid.uuid4().hex
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            # Crash after the rename below: the new name must not show an empty file.
            os.fsync(descriptor)
        temporary.rename(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # Crash after we return: the caller relies on the new content being what is found.
    fsync_directory(target.parent)


def replace_symlink(link: Path, destination: str, staging: Path) -> None:
    """Points `link` at `destination`, atomically: a reader sees the old or the new one, never none."""
    temporary = staging / uuid.uuid4().hex
    temporary.symlink_to(destination)
    temporary.rename(link)
    # Crash after we return: `current` must not fall back to a snapshot that may be removed next.
    fsync_directory(link.parent)


def place_link(source: Path, target: Path, staging: Path) -> None:
    """Puts a hard link to `source` at `target`, replacing what is there atomically: open readers keep the old file.

    The caller syncs the directory of `target`, once for many files.
    """
    temporary = staging / uuid.uuid4().hex
    try:
        link_or_copy(source, temporary)
        temporary.rename(target)
    finally:
        # Also after a good rename: rename(2) of two links to one inode does nothing and leaves both names.
        temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """A hard link to `source`; a copy with the same mode and mtime when the inode has no link left to give.

    ext4 allows 65,000 links to a file. Tiny files that occur everywhere (an empty `__init__.py`) do get there.
    """
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno != errno.EMLINK:
            raise
        with open(source, "rb") as reader, open(target, "xb") as writer:
            shutil.copyfileobj(reader, writer, COPY_CHUNK)
            writer.flush()
            shutil.copystat(source, target)
            # Crash after the copy is published: unlike a link, it has bytes of its own to lose.
            os.fsync(writer.fileno())


def link_tree(files: Iterable[tuple[str, Path]], target: Path) -> None:
    """Builds the directory `target` (which must not exist) from `files`: pairs of relative path and file to link to.

    Directories are 0755. Everything is durable on return but the name of `target` itself. Leaves nothing when it fails.
    """
    try:
        target.mkdir()
        target.chmod(0o755)
        directories = {target}
        for relative, source in files:
            path = target / relative
            for parent in reversed(PurePosixPath(relative).parents[:-1]):
                directory = target / parent
                if directory not in directories:
                    directory.mkdir()
                    directory.chmod(0o755)
                    directories.add(directory)
            link_or_copy(source, path)
        # Crash after `target` is renamed into place: a published directory must not lack names.
        sync_all(directories)
    except BaseException:
        remove_tree(target)
        raise


def files_below(directory: Path) -> list[str]:
    """Relative paths of everything below `directory` that is not a directory itself; symlinks are not followed."""
    found: list[str] = []
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(f"{directory}/{prefix}") as entries:
            for entry in entries:
                path = prefix + entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(path + "/")
                else:
                    found.append(path)
    return found


def remove_tree(path: Path) -> None:
    """Deletes a directory tree or a file, never following symlinks. Nothing is synced: recovery repeats it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(mode):
        path.unlink(missing_ok=True)
        return
    shutil.rmtree(path)


def remove_empty_parents(path: Path, top: Path) -> None:
    """Removes `path` and its parents below `top` as far as they are empty."""
    while path != top:
        try:
            path.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            return
        path = path.parent


def blocks_of(path: Path) -> int:
    """Bytes of the disk that a file, or the files in a directory, take."""
    if not path.is_dir():
        return path.lstat().st_blocks * 512
    return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in os.scandir(path))


def unlink_freeing(path: Path) -> int:
    """Removes a file; how many bytes of the disk that frees."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return 0
    path.unlink()
    return found.st_blocks * 512 if found.st_nlink == 1 else 0
