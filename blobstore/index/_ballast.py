"""A file of reserved space, freed when the disk is full so that LMDB can still delete."""

from __future__ import annotations

import contextlib
import os

BALLAST_BYTES = 16 * 1024 * 1024
_FREE_WANTED = 2


class Ballast:
    """One file beside the index; `__init__` only stores."""

    def __init__(self, path: str, size_bytes: int = BALLAST_BYTES) -> None:
        self._path, self._size_bytes = path, size_bytes
        self._is_there = False

    def release(self) -> None:
        """Give the space back to the file system. Raises nothing: without it the disk is just as full."""
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        self._is_there = False

    def restore(self) -> None:
        """Take the space again, if it isn't held and there is plenty. Cheap when nothing is to be done; raises nothing."""
        if self._is_there:
            return
        try:
            self._is_there = self._take()
        except OSError:
            # A file system that can't reserve, or is full by now: the index works without, only not on a full disk.
            self.release()
            self._is_there = True

    def _take(self) -> bool:
        if os.path.exists(self._path) and os.stat(self._path).st_blocks * 512 >= self._size_bytes:
            return True
        space = os.statvfs(os.path.dirname(self._path))
        if space.f_bavail * space.f_frsize < _FREE_WANTED * self._size_bytes:
            return False
        self._reserve()
        return True

    def _reserve(self) -> None:
        handle = os.open(self._path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, self._size_bytes)
        finally:
            os.close(handle)
