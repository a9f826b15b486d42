"""Worker processes of the kill tests and the soak: started, killed and replaced by one parent, gone when it is gone."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parent.parent.parent
STOP_S_MAX = 120
_PR_SET_PDEATHSIG = 1


class Lines:
    """A file of JSON lines that one process appends to and others read while it grows. A line that was appended outlives a
    kill of the process: it is the kernel's by then."""

    def __init__(self, path: Path) -> None:
        self._path, self._handle, self._read = path, -1, 0

    def append(self, *values: Any) -> None:
        """Add one line, in one write."""
        if self._handle < 0:
            self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(self._handle, json.dumps(values).encode() + b"\n")

    @property
    def is_begun(self) -> bool:
        """Whether there is a line."""
        return self._path.exists()

    def new(self) -> list[list[Any]]:
        """The whole lines that came since this was last asked."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        return [json.loads(line) for line in whole.splitlines()]


class Worker:
    """One process that runs a module with one JSON argument."""

    def __init__(self, module: str, errors: Path, **arguments: Any) -> None:
        self.name = errors.stem
        self._errors = errors
        with errors.open("ab") as sink:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps({**arguments, "parent": os.getpid()})],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait for the end. Repeatable."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to finish what it does and end.

        Raises:
            AssertionError: it ended with an error; with what it said.
        """
        self._process.terminate()
        self._process.wait(STOP_S_MAX)
        self.check(is_ended=True)

    def check(self, *, is_ended: bool = False) -> None:
        """Raise with what it said, if it ended by itself or badly."""
        code = self._process.poll()
        # One so young that it had no handler yet dies of the signal.
        if (code is None and not is_ended) or (code in (0, -signal.SIGTERM) and is_ended):
            return
        raise AssertionError(f"worker {self.name} ended with {code}:\n{self._errors.read_text()[-4000:]}")


class Crew:
    """The workers of a parent, by name; leaving it kills those that still run, and only those."""

    def __init__(self) -> None:
        self.workers: dict[str, Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_all()

    def kill_all(self) -> None:
        """SIGKILL for all at once."""
        for worker in self.workers.values():
            worker.kill()
        self.workers.clear()

    def stop_all(self) -> None:
        """Let all finish what they do."""
        for name in list(self.workers):
            self.workers[name].stop()
            del self.workers[name]

    def check(self) -> None:
        """Raise if one ended without being told to."""
        for worker in self.workers.values():
            worker.check()


def worker_arguments() -> dict[str, Any]:
    """What the parent handed over; from now on this process dies with it."""
    arguments: dict[str, Any] = json.loads(sys.argv[1])
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != arguments.pop("parent"):
        # It died before we asked.
        sys.exit(1)
    return arguments


@contextmanager
def scratch(name: str, parent: Path | None = None) -> Iterator[Path]:
    """A directory that goes when it is left; what a killed run left under the same name goes before. In memory where
    nothing else is said, as kills lose no pages."""
    shared_memory = Path("/dev/shm")
    folder = parent or (shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir()))
    for left in folder.glob(f"blobstore-{name}-*"):
        if not Path(f"/proc/{left.name.split('-')[2]}").exists():
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f"blobstore-{name}-{os.getpid()}-", dir=folder))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def interrupt_on_sigterm() -> None:
    """A long profile that is told to end cleans up as after Ctrl-C."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
