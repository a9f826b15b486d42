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

from blobstore.backends._file_calls import FileCalls, OpenFile
from blobstore.durable import storage_failed
from blobstore.errors import KeyUnknown, RangeInvalid

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
        if not written:
            raise OSError(errno.EIO, "the file system takes no more bytes, and doesn't say why")
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


def publish(calls: FileCalls, handle: int, staged: str, final: str) -> bool:
    """Make a written file durable, then visible under its final name, then that name durable; False, and nothing changed there,
    if that name is taken. Closes `handle`; the staged name goes.

    Raises with nothing visible: if a step fails, the names made are removed.
    """
    made = [staged]
    try:
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, handle)
            os.fsync(handle)
            if calls.close_tells_errors:
                closing.close()
            # No rename, which replaces what is there: that may be a blob by now, and were to go if our sync failed.
            calls.link(staged, final)
            made.append(final)
            calls.unlink(staged)
            # Else only here: with the handle goes the lock, and another session that finds the staged name would write to a blob.
        calls.sync_directory(os.path.dirname(final))
    except BaseException as error:
        for name in made:
            with contextlib.suppress(OSError):
                # The first error is the one to tell; a file left here is found by reconciliation.
                calls.unlink(name)
        if isinstance(error, FileExistsError):
            return False
        raise
    return True


def sync_and_keep(calls: FileCalls, handle: int, staged: str) -> None:
    """Make an upload durable as far as it came, so that it can be taken up again. Closes `handle`."""
    _sync_and_close(handle)
    calls.sync_directory(os.path.dirname(staged))


def drop(calls: FileCalls, handle: int, staged: str) -> None:
    """Close and remove a file whose bytes nobody wants."""
    with contextlib.suppress(OSError):
        # What a network file system could not write it tells here, and the descriptor is gone all the same.
        os.close(handle)
    with contextlib.suppress(FileNotFoundError):
        calls.unlink(staged)


def _sync_and_close(handle: int) -> None:
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def create_whole(calls: FileCalls, path: str, data: bytes) -> bool:
    """Make a file with its content at once, durably; False if the name is taken."""
    handle = calls.create_unnamed(os.path.dirname(path))
    if handle is None:
        return _create_whole_by_name(calls, path, data)
    try:
        write_at(handle, data, 0)
        os.fsync(handle)
        # With a src_dir_fd Python calls linkat(AT_SYMLINK_FOLLOW); without, link(2), which fails (cpython gh-81793).
        return _link_new(
            calls, lambda: os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=handle, follow_symlinks=True), path
        )
    finally:
        os.close(handle)


def _create_whole_by_name(calls: FileCalls, path: str, data: bytes) -> bool:
    """For file systems without O_TMPFILE. A crash may leave the temporary name: see `FileCalls.staging_name`."""
    staged = calls.staging_name(path)
    handle = calls.create(staged)
    try:
        _write_whole(handle, data)
        return _link_new(calls, lambda: calls.link(staged, path), path)
    finally:
        calls.discard(staged)


def _link_new(calls: FileCalls, link: Callable[[], None], path: str) -> bool:
    is_new = True
    try:
        link()
    except FileExistsError:
        is_new = False
    # Also where somebody else made it: what we say of it must be durable, and that one may not have come so far.
    calls.sync_directory(os.path.dirname(path))
    return is_new


def replace_whole(calls: FileCalls, path: str, data: bytes) -> None:
    """Make or replace a file with its content at once, durably. If a step fails the old file is still there."""
    staged = calls.staging_name(path)
    handle = calls.create(staged)
    try:
        _write_whole(handle, data)
        calls.rename(staged, path)
    except BaseException:
        calls.discard(staged)
        raise
    calls.sync_directory(os.path.dirname(path))


def _write_whole(handle: int, data: bytes) -> None:
    try:
        write_at(handle, data, 0)
        os.fsync(handle)
    finally:
        os.close(handle)


def open_range(calls: FileCalls, path: str, start: int, stop: int | None) -> tuple[OpenFile, int]:
    """A file opened for reading, and where to stop.

    Raises:
        RangeInvalid: see `Backend.read`.
    """
    file = calls.open_file(path)
    if not stat.S_ISREG(file.found.st_mode):
        file.close()
        raise FileNotFoundError(path)
    size = file.found.st_size
    end = size if stop is None else min(stop, size)
    if not 0 <= start <= size or (stop is not None and stop < start):
        file.close()
        raise RangeInvalid(f"bytes {start} to {'the end' if stop is None else stop} of {size}")
    return file, end


def size_of(calls: FileCalls, path: str) -> int:
    """Length of a regular file."""
    found = calls.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError(path)
    return found.st_size


def delete_files(calls: FileCalls, paths: list[str]) -> list[str]:
    """Unlink files and make that durable; those that are confirmed gone, the absent ones among them."""
    gone: list[str] = []
    for path in paths:
        try:
            calls.unlink(path)
        except FileNotFoundError:
            gone.append(path)
        except OSError:
            # Not confirmed: its trash row stays, and the next collection tries again.
            continue
        else:
            gone.append(path)
    for directory in {os.path.dirname(path) for path in gone}:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            calls.sync_directory(directory)
    return gone


def list_directory(calls: FileCalls, path: str) -> list[tuple[str, int]]:
    """The names in a directory with their sizes, sorted as keys are: those of directories end in a slash. None where there is
    no such directory."""
    found: list[tuple[str, int]] = []
    try:
        for entry in calls.entries(path):
            if entry.is_dir(follow_symlinks=False):
                found.append((f"{entry.name}/", 0))
                continue
            try:
                found.append((entry.name, calls.size_of_entry(entry)))
            except FileNotFoundError:
                # Deleted while we looked: a listing owes only what was there before and after.
                continue
    except (FileNotFoundError, NotADirectoryError):
        return []
    found.sort()
    return found


def list_directories(calls: FileCalls, paths: list[str], names_max: int) -> list[list[tuple[str, int]]]:
    """As `list_directory`, for the first of some directories: as many as it takes to have `names_max` names."""
    listed: list[list[tuple[str, int]]] = []
    names = 0
    for path in paths:
        listed.append(list_directory(calls, path))
        names += len(listed[-1])
        if names >= names_max:
            break
    return listed
