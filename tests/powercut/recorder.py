"""A file system of one file, the disk, that notes in order what reaches it: each write with its bytes, and each flush.

Run as a process of its own: `python -m tests.powercut.recorder MOUNTPOINT IMAGE RECORDING`.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import warnings
from typing import Any

from tests.powercut.kernel import die_with_parent
from tests.powercut.recording import Writer

DISK = "disk"


def serve(mountpoint: str, image: str, recording: str) -> None:
    """Serve until the file system is unmounted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mfusepy

    class Disk(mfusepy.Operations):
        """One file."""

        use_ns = True

        def __init__(self) -> None:
            self._image = os.open(image, os.O_RDWR | os.O_CLOEXEC)
            self._writer = Writer(recording)

        def getattr(self, path: str, _fh: int | None = None) -> dict[str, Any]:
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
            if path == f"/{DISK}":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": os.fstat(self._image).st_size}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def open(self, _path: str, _flags: int) -> int:
            return 0

        def read(self, _path: str, size: int, offset: int, _fh: int) -> bytes:
            return os.pread(self._image, size, offset)

        def write(self, _path: str, data: bytes, offset: int, _fh: int) -> int:
            self._writer.wrote(offset, data)
            return os.pwrite(self._image, data, offset)

        def fsync(self, _path: str, _datasync: int, _fh: int) -> int:
            self._writer.flushed()
            return 0

    # One request after the other: the order in the recording is the order in which they took effect.
    mfusepy.FUSE(Disk(), mountpoint, foreground=True, nothreads=True, fsname="powercut")


if __name__ == "__main__":
    die_with_parent()
    serve(*sys.argv[1:4])
