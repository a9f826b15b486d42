"""What these tests start goes with them, also when they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.nas.test_nfs import PROJECT, require_nfs
from tests.tools import require_tool

WAIT_S = 60
MOUNTING = """
import sys, time
from pathlib import Path
from tests.nas.conftest import hurting_mount
with hurting_mount(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(600)
"""
BOOTING = """
import sys
from pathlib import Path
from tests.servers.uml.guest import run_guest
results = Path(sys.argv[1])
run_guest(results / "init.sh", results / "job.sh", results, {}, 600)
"""
INIT = """\
#!/bin/bash
mount -t proc proc /proc
mount -t tmpfs tmpfs /mnt
results=$(sed 's/.*RESULTS=\\([^ ]*\\).*/\\1/' /proc/cmdline)
mount -t hostfs none /mnt -o "$results"
touch /mnt/booted
sleep 600
"""


def test_a_killed_test_leaves_no_mount(tmp_path: Path) -> None:
    """Nor the process that served it."""
    require_tool("fusermount3", how="Debian: apt-get install fuse3")
    with _python(MOUNTING, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert os.path.ismount(tmp_path / "mount")
        assert _processes_of(tmp_path)
        process.kill()
    _wait(lambda: not _processes_of(tmp_path) and str(tmp_path) not in Path("/proc/self/mountinfo").read_text())


def test_a_killed_test_leaves_no_guest(tmp_path: Path) -> None:
    """Nor its disk."""
    require_nfs()
    init = tmp_path / "init.sh"
    init.write_text(INIT, encoding="ascii")
    init.chmod(0o755)
    with _python(BOOTING, tmp_path) as process:
        _wait((tmp_path / "booted").exists)
        (disk,) = {
            word.removeprefix("ubda=") for line in _processes_of(tmp_path) for word in line if word.startswith("ubda=")
        }
        assert os.path.exists(disk)
        process.kill()
    _wait(lambda: not _processes_of(tmp_path) and not os.path.exists(os.path.dirname(disk)))


def _python(code: str, directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code, directory], cwd=PROJECT, stdout=subprocess.PIPE)


def _processes_of(directory: Path) -> list[list[str]]:
    """The command lines that name a directory; a test has one of its own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(str(directory) in word for word in words):
            found.append(words)
    return found


def _wait(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, "it takes too long"
        time.sleep(0.02)
