"""Whether a directory lies on a file system that may hold a memory map shared by processes."""

from __future__ import annotations

import ctypes
import os

# statfs(2) and linux/magic.h. LMDB: "Do not use LMDB databases on remote filesystems, even between processes on the same
# host." FUSE says nothing of what is behind it, so it is refused too.
_UNSAFE = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFF534D42: "CIFS",
    0xFE534D42: "SMB2",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x00C36400: "Ceph",
    0x01021997: "9p",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x65735546: "FUSE",
    0x7461636F: "OCFS2",
    0x01161970: "GFS2",
    0x19830326: "BeeGFS",
}
_STATFS_BYTES = 256


def unsafe_filesystem(path: str) -> str | None:
    """The name of the network file system that `path`, or its nearest parent that exists, lies on; None for a local one."""
    while not os.path.exists(path):
        path = os.path.dirname(os.path.abspath(path))
    return name_if_unsafe(_filesystem_type(path))


def name_if_unsafe(filesystem_type: int) -> str | None:
    """The name of a network file system by its `f_type`."""
    return _UNSAFE.get(filesystem_type & 0xFFFFFFFF)


def _filesystem_type(path: str) -> int:
    """`f_type` of statfs(2), its first field; os.statvfs leaves it out."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    if libc.statfs(os.fsencode(path), buffer) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), path)
    return int(buffer[0])
