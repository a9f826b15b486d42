"""The three file systems, and a disk with one of them whose content can be set as a whole."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tests.powercut import kernel
from tests.powercut.recording import Write

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class FileSystem:
    """How a file system is made and mounted. `atom_bytes` is what the disk below writes whole or not at all."""

    name: str
    size_bytes: int
    make: tuple[str, ...]
    options: str
    atom_bytes: int


FILE_SYSTEMS = {
    each.name: each
    for each in (
        FileSystem("ext4", 128 * _MIB, ("mkfs.ext4", "-q", "-F", "-J", "size=4"), "", 512),
        FileSystem("xfs", 320 * _MIB, ("mkfs.xfs", "-q", "-f", "-K"), "", 512),
        # Its superblock is 4096 bytes under one checksum: it needs disks that write that whole.
        FileSystem("btrfs", 192 * _MIB, ("mkfs.btrfs", "-q", "-f", "-K", "-m", "single"), "nodiscard", 4096),
    )
}


def make_file_system(system: FileSystem, image: str) -> None:
    """A new image file with an empty file system."""
    with open(image, "wb") as file:
        file.truncate(system.size_bytes)
    subprocess.run([*system.make, image], check=True, capture_output=True, text=True)
    # Zeros that were written out, a log of 64 MiB for one, would be copied for each crash.
    subprocess.run(["fallocate", "--dig-holes", image], check=True, capture_output=True)


class Disk:
    """An image file and the block device over it."""

    def __init__(self, system: FileSystem, image: str, mountpoint: str) -> None:
        self.system, self.image, self.mountpoint = system, image, mountpoint
        self._loop = kernel.Loop(image, system.atom_bytes)
        os.makedirs(mountpoint, exist_ok=True)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[str]:
        """Mount for the length of a `with`: the file system repairs itself here."""
        self._loop.forget_pages()
        kernel.mount(self._loop.device, self.mountpoint, self.system.name, self.system.options)
        try:
            yield self.mountpoint
        finally:
            kernel.unmount(self.mountpoint)
            self._loop.forget_pages()
            if self.system.name == "btrfs":
                kernel.forget_btrfs_devices()

    def close(self) -> None:
        """Let the block device go."""
        self._loop.close()


def copy_sparse(source: str, target: str) -> None:
    """Make a file the copy of another, holes and all; in place, as a block device may lie over it."""
    with open(source, "rb", buffering=0) as reader, open(target, "r+b" if os.path.exists(target) else "wb") as writer:
        size = os.fstat(reader.fileno()).st_size
        writer.truncate(0)
        writer.truncate(size)
        for start, stop in _extents(reader.fileno(), size):
            at = start
            while at < stop:
                at += os.pwrite(writer.fileno(), os.pread(reader.fileno(), min(stop - at, 4 * _MIB), at), at)


def _extents(handle: int, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < size:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError:
            # ENXIO: only a hole is left.
            return
        at = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, at


def apply(image: str, writes: Iterable[Write]) -> None:
    """Write into an image file."""
    handle = os.open(image, os.O_WRONLY | os.O_CLOEXEC)
    try:
        for write in writes:
            os.pwrite(handle, write.data, write.offset)
    finally:
        os.close(handle)
