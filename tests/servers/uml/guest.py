"""A Linux of its own under this one, without KVM: the kernel as a process (user-mode-linux), its root the host's, read-only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

NFS_INIT = Path(__file__).resolve().parent / "nfs-init.sh"
_MEMORY = "1G"
_DISK_BYTES = 2 * 1024**3


def run_guest(init: Path, job: Path, results: Path, disk: Path, settings: Mapping[str, str], timeout_s: float) -> str:
    """Boot with a new disk of ext4, do a job, halt; returns what the kernel said. `results` is the job's to write to.

    Raises:
        TimeoutError: it did not halt in time; it is killed.
    """
    with open(disk, "wb") as file:
        file.truncate(_DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-F", disk], check=True, capture_output=True)
    words = {
        "mem": _MEMORY,
        "ubda": disk,
        "uml_dir": f"{results}/",
        "rootfstype": "hostfs",
        "rootflags": "/",
        "init": init,
    }
    words |= {"con": "null", "con0": "fd:0,fd:1", "JOB": job, "RESULTS": results, **settings}
    process = subprocess.Popen(
        ["linux.uml", "quiet", "ro", *(f"{name}={value}" for name, value in words.items())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Each of its processes is one of ours, in this group.
        start_new_session=True,
    )
    try:
        return process.communicate(timeout=timeout_s)[0]
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"the guest did not halt within {timeout_s} s") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        disk.unlink()


def fast_place(fallback: Path) -> Path:
    """Where a guest's disk needs no real one: memory, if there is room."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2 * _DISK_BYTES else fallback
