"""A Linux of its own under this one, without KVM: the kernel as a process (user-mode-linux), its root the host's, read-only."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.servers.keeper import kept

NFS_INIT = Path(__file__).resolve().parent / "nfs-init.sh"
_MEMORY = "1G"
_DISK_BYTES = 2 * 1024**3


def run_guest(init: Path, job: Path, results: Path, settings: Mapping[str, str], timeout_s: float) -> str:
    """Boot with a new disk of ext4, do a job, halt; returns what the kernel said. `results` is the job's to write to. Should this
    process be killed, the guest goes with it, and so does its disk.

    Raises:
        TimeoutError: it did not halt in time; it is killed.
    """
    directory = Path(tempfile.mkdtemp(prefix="blobstore-guest-", dir=_fast_place(results)))
    try:
        with open(directory / "disk", "wb") as file:
            file.truncate(_DISK_BYTES)
        subprocess.run(["mkfs.ext4", "-q", "-F", file.name], check=True, capture_output=True)
        command = _command(init, job, results, directory / "disk", settings)
        with kept(command, cleanup=["rm", "-rf", str(directory)]) as process:
            try:
                return process.communicate(timeout=timeout_s)[0]
            except subprocess.TimeoutExpired as error:
                raise TimeoutError(f"the guest did not halt within {timeout_s} s") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _command(init: Path, job: Path, results: Path, disk: Path, settings: Mapping[str, str]) -> list[str]:
    words = {
        "mem": _MEMORY,
        "ubda": disk,
        "uml_dir": f"{results}/",
        "rootfstype": "hostfs",
        "rootflags": "/",
        "init": init,
    }
    words |= {"con": "null", "con0": "fd:0,fd:1", "JOB": job, "RESULTS": results, **settings}
    return ["linux.uml", "quiet", "ro", *(f"{name}={value}" for name, value in words.items())]


def _fast_place(fallback: Path) -> Path:
    """Where a guest's disk needs no real one: memory, if there is room."""
    memory = Path("/dev/shm")
    return memory if memory.is_dir() and shutil.disk_usage(memory).free > 2 * _DISK_BYTES else fallback
