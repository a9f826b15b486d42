"""Durable steps on files, each blocking: what may fail fails here, translated into our errors.

The order that loses nothing: write, fsync the file, link, fsync the directory (docs/storage.md, Durability). After a failed
fsync the descriptor is not synced again: the kernel marks the pages clean and a second call would lie.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import stat
from collections.abc import Callable, Iterator

from blobstore.durable import storage_failed, sync_directory
from blobstore.errors import KeyUnknown, RangeInvalid

FILE_MODE = 0o600
_SYNC_FILE_RANGE_WRITE = 2


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn OSError into our errors, saying what was being done."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        raise KeyUnknown(f"{doing}: there is no such file") from error
    except OSError as error:
        raise storage_failed(doing, error) from error


def write_at(handle: int, data: bytes, offset: int) -> None:
    """Write all of `data` at an offset, however often the kernel takes only a part."""
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def start_writeback(handle: int, offset: int, size_bytes: int) -> None:
    """Ask the kernel to begin writing a range out, so that the sync at the end is short. Promises nothing."""
    libc = _libc()
    if libc is not None:
        libc.sync_file_range(
            handle, ctypes.c_int64(offset), ctypes.c_int64(size_bytes), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
        )


@functools.cache
def _libc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
        library.sync_file_range  # noqa: B018 - AttributeError where this libc has none
    except (OSError, AttributeError):
        # An optimisation only: without it the last sync takes longer.
        return None
    return library


def publish(handle: int, staged: str, final: str) -> bool:
    """Make a written file durable, then visible under its final name, then that name durable; False, and nothing changed there,
    if that name is taken. Closes `handle`; the staged name goes.

    Raises with nothing visible: if a step fails, the names made are removed.
    """
    made = [staged]
    try:
        try:
            os.fsync(handle)
            # No rename, which replaces what is there: that may be a blob by now, and were to go if our sync failed.
            os.link(staged, final)
            made.append(final)
            os.unlink(staged)
        finally:
            # Not before: with it goes the lock, and another session that finds the staged name would write into a blob.
            os.close(handle)
        sync_directory(os.path.dirname(final))
    except BaseException as error:
        for name in made:
            with contextlib.suppress(OSError):
                # The first error is the one to tell; a file left here is found by reconciliation.
                os.unlink(name)
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def create_whole(path: str, data: bytes) -> bool:
    """Make a file with its content at once, durably; False if the name is taken."""
    directory = os.path.dirname(path)
    try:
        handle = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT) or not os.path.isdir(
            directory
        ):
            raise
        return _create_whole_by_name(path, data)
    try:
        write_at(handle, data, 0)
        os.fsync(handle)
        # With a src_dir_fd Python calls linkat(AT_SYMLINK_FOLLOW); without, link(2), which fails (cpython gh-81793).
        return _link_new(
            lambda: os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle, follow_symlinks=True), path
        )
    finally:
        os.close(handle)


def _create_whole_by_name(path: str, data: bytes) -> bool:
    """For file systems without O_TMPFILE. A crash may leave the temporary name; `check` reports it."""
    staged = f"{path}.new-{os.getpid()}-{os.urandom(8).hex()}"
    handle = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
    try:
        _write_whole(handle, data)
        return _link_new(lambda: os.link(staged, path), path)
    finally:
        os.unlink(staged)


def _link_new(link: Callable[[], None], path: str) -> bool:
    is_new = True
    try:
        link()
    except FileExistsError:
        is_new = False
    # Also where somebody else made it: what we say of it must be durable, and that one may not have come so far.
    sync_directory(os.path.dirname(path))
    return is_new


def replace_whole(path: str, data: bytes) -> None:
    """Make or replace a file with its content at once, durably. If a step fails the old file is still there."""
    staged = f"{path}.new-{os.getpid()}-{os.urandom(8).hex()}"
    handle = os.open(staged, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, FILE_MODE)
    try:
        _write_whole(handle, data)
        os.rename(staged, path)
    except BaseException:
        os.unlink(staged)
        raise
    sync_directory(os.path.dirname(path))


def _write_whole(handle: int, data: bytes) -> None:
    try:
        write_at(handle, data, 0)
        os.fsync(handle)
    finally:
        os.close(handle)


def open_range(path: str, start: int, stop: int | None) -> tuple[int, int]:
    """A descriptor for reading, and where to stop.

    Raises:
        RangeInvalid: see `Backend.read`.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        os.close(handle)
        raise FileNotFoundError(path)
    size = found.st_size
    end = size if stop is None else min(stop, size)
    if not 0 <= start <= size or (stop is not None and stop < start):
        os.close(handle)
        raise RangeInvalid(f"bytes {start} to {'the end' if stop is None else stop} of {size}")
    return handle, end


def size_of(path: str) -> int:
    """Length of a regular file."""
    found = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(path)
    return found.st_size


def delete_files(paths: list[str]) -> list[str]:
    """Unlink files and make that durable; those that are confirmed gone, the absent ones among them."""
    gone: list[str] = []
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            gone.append(path)
        except OSError:
            # Not confirmed: its trash row stays, and the next collection tries again.
            continue
        else:
            gone.append(path)
    for directory in {os.path.dirname(path) for path in gone}:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            sync_directory(directory)
    return gone
