"""System calls that Python 3.11 has no name for: namespaces, mounts, loop devices, death with the parent."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct

_LIBC = ctypes.CDLL(None, use_errno=True)

# linux/sched.h, sys/mount.h, sys/prctl.h
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1

# linux/loop.h, linux/fs.h, linux/btrfs.h
_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CLR_FD = 0x4C01
_LO_FLAGS_AUTOCLEAR = 4
_LOOP_INFO = struct.Struct("=5Q4I64s64s32s2Q")
_LOOP_CONFIG = struct.Struct(f"=2I{_LOOP_INFO.size}s8Q")
_BLKFLSBUF = 0x1261
_BTRFS_IOC_FORGET_DEV = 0x50009405
_TRIES = 100


def own_mounts() -> None:
    """Give this process a table of mounts of its own: whatever it mounts goes when its last process ends, however it ends."""
    _check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE, "")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _check(_LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """Put a file system into the tree of files."""
    _mount(source, target, kind, 0, options)


def unmount(target: str, *, lazily: bool = False) -> None:
    """Take it out again."""
    _check(_LIBC.umount2(os.fsencode(target), _MNT_DETACH if lazily else 0), f"unmount {target}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str) -> None:
    encoded = [None if each is None else os.fsencode(each) for each in (source, target, kind, options)]
    done = _LIBC.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3])
    _check(done, f"mount {source} on {target}")


def _check(result: int, doing: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{doing}: {os.strerror(number)}")


class Loop:
    """A block device over a file. The kernel frees it when its last user is gone."""

    def __init__(self, path: str, block_bytes: int) -> None:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self.device, self._handle = _configure(file, block_bytes)
        finally:
            os.close(file)

    def forget_pages(self) -> None:
        """Drop what the kernel keeps of the device, as the file below was written past it."""
        fcntl.ioctl(self._handle, _BLKFLSBUF, 0)

    def close(self) -> None:
        """Let the device go; it must not be mounted."""
        fcntl.ioctl(self._handle, _LOOP_CLR_FD, 0)
        os.close(self._handle)


def _configure(file: int, block_bytes: int) -> tuple[str, int]:
    info = _LOOP_INFO.pack(0, 0, 0, 0, 0, 0, 0, 0, _LO_FLAGS_AUTOCLEAR, b"", b"", b"", 0, 0)
    config = bytearray(_LOOP_CONFIG.pack(file, block_bytes, info, *[0] * 8))
    for _ in range(_TRIES):
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            device = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        finally:
            os.close(control)
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(handle, _LOOP_CONFIGURE, config)
        except OSError as error:
            os.close(handle)
            # Somebody else took it between the two calls.
            if error.errno != errno.EBUSY:
                raise
        else:
            return device, handle
    raise OSError(errno.EBUSY, "no loop device is free")


def forget_btrfs_devices() -> None:
    """Have btrfs forget the devices that are not mounted: it remembers how far each one was, and refuses an older one."""
    with open("/dev/btrfs-control", "rb") as control:
        fcntl.ioctl(control, _BTRFS_IOC_FORGET_DEV, bytearray(4096))
