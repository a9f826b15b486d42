"""Locks between the processes of one host, in a file on one of its own disks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct

from blobstore.durable import make_directories, storage_errors

_FLOCK = struct.Struct("hhqqi4x")
"""`struct flock` of fcntl(2) on 64-bit Linux: type, whence, start, length, pid."""
_OFFSETS = 2**62


class LocalLocks:
    """Any number of named locks on one file: each is one byte of it, which need not exist.

    A lock goes with its descriptor, so a process that dies leaves none behind, and there is nothing to clean up. Two names share
    a byte with a chance of 2⁻⁶²; the second is then found taken.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def take(self, name: str) -> int | None:
        """The descriptor that holds the lock `name`, to be closed; None if somebody holds it, in this process or another. Blocks
        for no lock."""
        with storage_errors(f"use the locks in {self._path}"):
            return self._take(name)

    def _take(self, name: str) -> int | None:
        try:
            handle = self._open()
        except FileNotFoundError:
            make_directories(os.path.dirname(self._path))
            handle = self._open()
        at = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % _OFFSETS
        try:
            # Of the open file description, not of the process: two sessions of one process keep each other out, too.
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, at, 1, 0))
        except OSError as error:
            os.close(handle)
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return None
        return handle

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
