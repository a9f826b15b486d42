"""Keeps a guest: `python keeper.py DIRECTORY PROGRAM ARGUMENTS…`. When standard input ends, as it does when whoever wanted the
guest is killed, the guest is killed; when that has ended, the directory of its disk goes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence


def keep(directory: str, command: Sequence[str]) -> int:
    """Run the guest to its end; its exit status."""
    # Each of its processes is in this group of its own.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)

    def kill_when_unwanted() -> None:
        sys.stdin.buffer.read()
        os.killpg(process.pid, signal.SIGKILL)

    threading.Thread(target=kill_when_unwanted, daemon=True).start()
    status = process.wait()
    shutil.rmtree(directory, ignore_errors=True)
    return status


if __name__ == "__main__":
    # At once, and without the end of the interpreter, which waits for whoever reads standard input.
    os._exit(keep(sys.argv[1], sys.argv[2:]) & 0xFF)
