"""A file system that hurts on purpose, as a network does: a directory passed through, its answers lost, late, stale or wrong.

Run as a process of its own: `python -m tests.nas.hurting_mount SOURCE MOUNTPOINT PLAN`. PLAN is a JSON file that may be replaced
at any time: `{"seed": 1, "rates": {"rename-lost": 0.05}}`, or `{"once": [["unlink-lost", "part of the path"]]}` for a fault that
comes once, at the next call it fits.
"""

from __future__ import annotations

import errno
import json
import os
import random  # noqa: TID251 - from a printed seed
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tests.powercut.kernel import die_with_parent

DELAY_S = 0.02
LOST = {
    "create-lost": errno.EEXIST,
    "rename-lost": errno.ENOENT,
    "rename-lost-eio": errno.EIO,
    "link-lost": errno.EEXIST,
    "link-lost-estale": errno.ESTALE,
    "unlink-lost": errno.ENOENT,
    "unlink-lost-estale": errno.ESTALE,
    "unlink-lost-etimedout": errno.ETIMEDOUT,
}
"""The call takes effect, and says that it failed."""
REFUSED = {
    "open-estale": errno.ESTALE,
    "open-estale-twice": errno.ESTALE,
    "read-estale": errno.ESTALE,
    "fsync-eio": errno.EIO,
    "close-edquot": errno.EDQUOT,
    "write-enospc": errno.ENOSPC,
    "rename-eio": errno.EIO,
    "link-eio": errno.EIO,
    "unlink-eio": errno.EIO,
}
"""Nothing happens, and it says so. A stale handle is told twice for each time: the kernel itself asks again after the first."""
OTHERS = ("list-extra", "list-missing", "close-late", "write-short")
"""A listing with a name that went before, or without one that is there; a slow close; a write that takes a part."""
_SOME_INODE = 2**40
STALE_TIMES = {"open-estale": 2, "open-estale-twice": 4}


class Plan:
    """Which faults come, and when."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._rates: dict[str, float] = {}
        self._once: list[list[str]] = []
        self._again: dict[tuple[str, str], int] = {}
        self._spared: set[tuple[str, str]] = set()
        self._random = random.Random(0)
        self.counts: dict[str, int] = {}

    def comes(self, fault: str, path: str) -> bool:
        """Whether a fault comes now; hardly ever twice in a row for one path, which no client could bear."""
        if ".fuse_hidden" in path:
            # Names of libfuse's own, for files that are deleted while they are open.
            return False
        with self._lock:
            self._load()
            key = (fault, path)
            if self._again.get(key):
                self._again[key] -= 1
                return True
            if key in self._spared:
                self._spared.discard(key)
                return False
            planned = next((each for each in self._once if each[0] == fault and each[1] in path), None)
            if planned is not None:
                self._once.remove(planned)
            elif self._random.random() >= self._rates.get(fault, 0):
                return False
            self._again[key] = STALE_TIMES.get(fault, 1) - 1
            self._spared.add(key)
            self.counts[fault] = self.counts.get(fault, 0) + 1
            with open(f"{self._path}.counts.new", "w", encoding="ascii") as file:
                json.dump(self.counts, file)
            os.replace(f"{self._path}.counts.new", f"{self._path}.counts")
            return True

    def _load(self) -> None:
        found = os.stat(self._path)
        stamp = (found.st_ino, found.st_mtime_ns)
        if stamp == self._stamp:
            return
        with open(self._path, encoding="ascii") as file:
            plan = json.load(file)
        self._stamp, self._rates, self._once = stamp, plan.get("rates", {}), plan.get("once", [])
        self._random.seed(plan.get("seed", 0))
        self._again.clear()
        self._spared.clear()


def serve(source: str, mountpoint: str, plan_path: str) -> None:
    """Serve until the file system is unmounted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mfusepy

    plan = Plan(plan_path)

    def lose(fault: str, path: str) -> None:
        """After the effect."""
        if plan.comes(fault, path):
            raise mfusepy.FuseOSError(LOST[fault])

    def refuse(fault: str, path: str) -> None:
        """Before any effect."""
        if plan.comes(fault, path):
            raise mfusepy.FuseOSError(REFUSED[fault])

    class Hurting(mfusepy.Operations):
        """The directory `source`, as the plan lets it be seen."""

        use_ns = True

        def __init__(self) -> None:
            self._gone: dict[str, list[str]] = {}

        def _here(self, path: str) -> str:
            return source + path

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = os.lstat(self._here(path)) if fh is None else os.fstat(fh)
            told = {
                name: getattr(found, name) for name in ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_ino")
            }
            return told | {name: getattr(found, f"{name}_ns") for name in ("st_atime", "st_mtime", "st_ctime")}

        def readdir(self, path: str, _fh: int) -> Sequence[tuple[str, dict[str, int], int]]:
            with os.scandir(self._here(path)) as entries:
                found = {entry.name: entry.inode() for entry in entries}
            if plan.comes("list-extra", path):
                found |= {name: _SOME_INODE for name in self._gone.get(path, []) if name not in found}
            if found and plan.comes("list-missing", path):
                del found[max(found)]
            # Names without an inode's number are left out by the C library.
            return [(name, {"st_ino": inode}, 0) for name, inode in {".": 1, "..": 1, **found}.items()]

        def open(self, path: str, flags: int) -> int:
            refuse("open-estale", path)
            refuse("open-estale-twice", path)
            return os.open(self._here(path), flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOFOLLOW))

        def create(self, path: str, mode: int, _fi: object = None) -> int:
            handle = os.open(self._here(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            try:
                lose("create-lost", path)
            except OSError:
                os.close(handle)
                raise
            return handle

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            if path.count("/") > 1 and "/uploads/" not in path:
                # What a session wrote itself it reads from its own cache.
                refuse("read-estale", path)
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            refuse("write-enospc", path)
            if len(data) > 1 and plan.comes("write-short", path):
                data = data[: len(data) // 2]
            return os.pwrite(fh, data, offset)

        def flush(self, path: str, _fh: int) -> int:
            if plan.comes("close-late", path):
                time.sleep(DELAY_S)
            refuse("close-edquot", path)
            return 0

        def fsync(self, path: str, _datasync: int, fh: int) -> int:
            refuse("fsync-eio", path)
            os.fsync(fh)
            return 0

        def release(self, _path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            os.truncate(self._here(path) if fh is None else fh, length)
            return 0

        def rename(self, old: str, new: str, _flags: int = 0) -> int:
            refuse("rename-eio", new)
            os.rename(self._here(old), self._here(new))
            self._note_gone(old)
            lose("rename-lost", new)
            lose("rename-lost-eio", new)
            return 0

        def link(self, target: str, source: str) -> int:
            refuse("link-eio", target)
            os.link(self._here(source), self._here(target))
            lose("link-lost", target)
            lose("link-lost-estale", target)
            return 0

        def unlink(self, path: str) -> int:
            refuse("unlink-eio", path)
            os.unlink(self._here(path))
            self._note_gone(path)
            for fault in ("unlink-lost", "unlink-lost-estale", "unlink-lost-etimedout"):
                lose(fault, path)
            return 0

        def mkdir(self, path: str, mode: int) -> int:
            os.mkdir(self._here(path), mode)
            return 0

        def rmdir(self, path: str) -> int:
            os.rmdir(self._here(path))
            return 0

        def _note_gone(self, path: str) -> None:
            directory, _, name = path.rpartition("/")
            self._gone.setdefault(directory or "/", []).append(name)
            del self._gone[directory or "/"][:-5]

    # Inode numbers are those of the directory below; without direct_io the kernel would hide short writes; and it is to remember
    # no sizes: that a name went it would learn from no call that says it failed. What a client remembers is tried over real NFS.
    kernel = {"use_ino": True, "direct_io": True, "attr_timeout": 0}
    mfusepy.FUSE(Hurting(), mountpoint, foreground=True, fsname="hurting", **kernel)


def _main(arguments: Sequence[str], run: Callable[[str, str, str], None] = serve) -> None:
    die_with_parent()
    run(*arguments)


if __name__ == "__main__":
    _main(sys.argv[1:4])
