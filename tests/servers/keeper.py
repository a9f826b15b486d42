"""Keeps what a test starts: it ends when the test is gone, however that ended, and is cleaned up after.

Run as a process of its own, `python keeper.py CLEANUP PROGRAM ARGUMENTS…`, CLEANUP a command as JSON. When standard input ends,
as it does when whoever holds its other end is killed, the program is killed; once that has ended, the cleanup runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_END_S = 30


@contextmanager
def kept(command: Sequence[str], *, cleanup: Sequence[str], cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """A program whose output is read from the process that keeps it, for as long as it is wanted."""
    unwanted, wanted = os.pipe()
    with contextlib.ExitStack() as stack:
        end = stack.enter_context(os.fdopen(wanted, "wb"))
        with os.fdopen(unwanted, "rb") as stdin:
            process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(cleanup), *command],
                cwd=cwd,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        try:
            yield process
        finally:
            end.close()
            process.communicate(timeout=_END_S)


def keep(command: Sequence[str], cleanup: Sequence[str]) -> int:
    """Run the program to its end; its exit status."""
    # Each of its processes is in this group of its own.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def kill_when_unwanted() -> None:
        sys.stdin.buffer.read()
        with contextlib.suppress(ProcessLookupError):
            # It may have ended by itself.
            os.killpg(process.pid, signal.SIGKILL)

    threading.Thread(target=kill_when_unwanted, daemon=True).start()
    status = process.wait()
    subprocess.run(cleanup, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return status


if __name__ == "__main__":
    # At once, and without the end of the interpreter, which waits for whoever reads standard input.
    os._exit(keep(sys.argv[2:], json.loads(sys.argv[1])) & 0xFF)
