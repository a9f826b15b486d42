"""The shim from Python: compiled once, installed in a process, told which call is to fail, asked which calls were made."""

from __future__ import annotations

import ctypes
import enum
import errno
import mmap
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.tools import require_tool

_PATH_BYTES = 512
_CALLS_MAX = 16384
_SOURCE = Path(__file__).with_name("shim.c")

# x86-64, the only machine the shim knows (asm/unistd_64.h).
NAMES = {
    0: "read", 1: "write", 2: "open", 3: "close", 4: "stat", 5: "fstat", 6: "lstat", 17: "pread64", 18: "pwrite64",
    19: "readv", 20: "writev", 21: "access", 72: "fcntl", 73: "flock", 74: "fsync", 75: "fdatasync", 76: "truncate",
    77: "ftruncate", 82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 137: "statfs", 138: "fstatfs",
    217: "getdents64", 257: "openat", 258: "mkdirat", 262: "newfstatat", 263: "unlinkat", 264: "renameat", 265: "linkat",
    269: "faccessat", 277: "sync_file_range", 285: "fallocate", 295: "preadv", 296: "pwritev", 316: "renameat2",
    332: "statx", 439: "faccessat2",
}  # fmt: skip


class Hits(enum.IntEnum):
    """Which calls a fault may hit, as in shim.c."""

    NONE = 0
    ANY = 1
    TAKES_SPACE = 2
    TRANSFER = 3
    ANY_AND_KILLS = 4


class Fault(NamedTuple):
    """What happens to a call: it fails with an error, moves only half, or is not made since the process is killed before.

    Where the flow `has_threads`, as it has in life, other calls are under way meanwhile; where it has none, the n-th call is the
    same each time.
    """

    hits: Hits
    error: int = 0
    has_threads: bool = False


NO_FAULT = Fault(Hits.NONE)
FAULTS = {
    "EIO": Fault(Hits.ANY, errno.EIO, has_threads=True),
    "EINTR": Fault(Hits.ANY, errno.EINTR),
    "ENOSPC": Fault(Hits.TAKES_SPACE, errno.ENOSPC),
    "EDQUOT": Fault(Hits.TAKES_SPACE, errno.EDQUOT),
    "short": Fault(Hits.TRANSFER),
    "kill": Fault(Hits.ANY_AND_KILLS),
}


class Call(NamedTuple):
    """A system call that concerned the directory, by its name; `result` is negative where it failed."""

    name: str
    descriptor: int
    path: str
    result: int
    is_hit: bool


class _Call(ctypes.Structure):
    _fields_ = (
        ("number", ctypes.c_int32),
        ("descriptor", ctypes.c_int32),
        ("is_hit", ctypes.c_int32),
        ("thread", ctypes.c_int32),
        ("result", ctypes.c_int64),
        ("path", ctypes.c_char * (_PATH_BYTES - 24)),
    )


class _Layout(ctypes.Structure):
    _fields_ = (
        ("is_armed", ctypes.c_int32),
        ("fault", ctypes.c_int32),
        ("error", ctypes.c_int32),
        ("at", ctypes.c_int32),
        ("only", ctypes.c_int32),
        ("counted", ctypes.c_int32),
        ("hits", ctypes.c_int32),
        ("logged", ctypes.c_int32),
        ("root", ctypes.c_char * _PATH_BYTES),
        ("part", ctypes.c_char * _PATH_BYTES),
        ("calls", _Call * _CALLS_MAX),
    )


class Board:
    """What test and process under test share: the order to fail one call, and the calls made, also those of a process that
    was killed. With `path` it lies in a file, for programs that are started."""

    def __init__(self, path: Path | None = None) -> None:
        size = ctypes.sizeof(_Layout)
        if path is None:
            self._memory = mmap.mmap(-1, size)
        else:
            with path.open("w+b") as file:
                file.truncate(size)
                self._memory = mmap.mmap(file.fileno(), size)
        self._layout = _Layout.from_buffer(self._memory)

    def prepare(self, root: Path, fault: Fault = NO_FAULT, at: int = 0, only: str = "", part: str = "") -> None:
        """Forget what was, and order `fault` for the call number `at` on `root` of those it can hit; `only` narrows them to
        one name, `part` to paths that hold it."""
        layout = self._layout
        layout.is_armed = layout.counted = layout.hits = layout.logged = 0
        layout.root, layout.part = str(root).encode(), part.encode()
        layout.fault, layout.error, layout.at = fault.hits, fault.error, at
        layout.only = next((number for number, name in NAMES.items() if name == only), 0)

    def arm(self) -> None:
        """Calls count from now on."""
        self._layout.is_armed = 1

    def disarm(self) -> None:
        """Calls count no more."""
        self._layout.is_armed = 0

    @property
    def counted(self) -> int:
        """How many calls the fault could have hit."""
        return self._layout.counted

    @property
    def hit(self) -> Call | None:
        """The call that the fault has hit."""
        return next((call for call in self.calls() if call.is_hit), None) if self._layout.hits else None

    def calls(self) -> list[Call]:
        """All calls on the root while armed, in order."""
        logged = self._layout.logged
        assert logged <= _CALLS_MAX, "more calls than the board has room for"
        return [
            Call(
                NAMES[each.number], each.descriptor, each.path.decode(errors="replace"), each.result, bool(each.is_hit)
            )
            for each in self._layout.calls[:logged]
        ]

    def install(self, library: Path) -> None:
        """Trap the calls of this process from now on; there is no way back, so do it in a child."""
        failed = ctypes.CDLL(str(library)).faults_install(ctypes.byref(self._layout))
        assert failed == 0, f"no seccomp filter: {errno.errorcode.get(failed, failed)}"


def compile_shim(directory: Path) -> Path:
    """Build the shim into a directory."""
    library = directory / "shim.so"
    command = [require_tool("gcc"), "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", str(library), str(_SOURCE)]
    subprocess.run(command, check=True)
    return library
