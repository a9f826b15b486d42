"""Names in a directory: made durable, looked for; and what is said when the operating system fails."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

from blobstore.errors import StorageFailed, StorageFull

DIRECTORY_MODE = 0o700


def storage_failed(doing: str, error: OSError) -> StorageFailed:
    """Our error for one of the operating system, saying what was being done."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"{doing}: {error.strerror}; free some space or run a collection")
    return StorageFailed(f"{doing}: {error.strerror or error}")


@contextlib.contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn OSError into our error."""
    try:
        yield
    except OSError as error:
        raise storage_failed(doing, error) from error


def is_there(path: str) -> bool:
    """Whether there is anything under a name. Where that can't be told it raises; os.path.exists would say no. Blocks."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def check_still_there(handle: int, path: str) -> None:
    """Look whether an open file is still what its name stands for. Of use once it is locked: before, whoever held the lock may
    have taken the name away, and another may have made it anew.

    Raises:
        FileNotFoundError: it isn't.
    """
    if not os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False)):
        raise FileNotFoundError(errno.ENOENT, "another file has its name", path)


def sync_directory(path: str) -> None:
    """Make the names in a directory durable. Blocks."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directories(path: str) -> None:
    """Make a directory and its parents, durably. What is there already is synced too, as its maker may have died. Blocks."""
    parent = os.path.dirname(path)
    if not os.path.isdir(parent):
        make_directories(parent)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, DIRECTORY_MODE)
    sync_directory(parent)
