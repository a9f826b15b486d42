"""The guest's NFS server and its two clients (tests/servers/uml/nfs-init.sh): where they are, and what can befall them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

EXPORT = Path("/srv/export")
VERSIONS = (3, 4)
IS_LONG = os.environ.get("PROFILE") == "long"
"""Whether the guest may take as long as it wants."""
_CLIENT_TWO = "10.9.0.2"
_MIB = 1024 * 1024
_LEFT_BYTES = 4 * _MIB


def place_of(client: str, version: int) -> Path:
    """Where a client has mounted the export."""
    return Path(f"/mnt/{client}-v{version}")


def new_place() -> str:
    """The name of a new directory of the export, made by whoever uses it."""
    return uuid.uuid4().hex


def local_place() -> Path:
    """A directory on a disk of the guest's own, not yet made."""
    return Path("/run/local") / uuid.uuid4().hex


class _Shell:
    """Runs commands in a process that was started before any file was open on the share: one that is forked later closes what it
    inherits, and so writes it out, and so waits for the very server that it is to start."""

    def __init__(self) -> None:
        self._bash = subprocess.Popen(["bash"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, command: str) -> None:
        """Run a command to its end; it must succeed."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{command} >&2; echo $?\n")
        self._bash.stdin.flush()
        assert self._bash.stdout.readline() == "0\n", command


_shell = _Shell()


def stop() -> None:
    """Stop the server's threads: connections break, and what it remembers of its answers is gone."""
    _shell.run("rpc.nfsd 0")


def start() -> None:
    """Start it again."""
    _shell.run("rpc.nfsd 4")


@contextlib.contextmanager
def answers_lost() -> Iterator[None]:
    """Nothing the server says reaches the second client, while it hears and does what that asks."""
    _shell.run(f"ip route add blackhole {_CLIENT_TWO}/32")
    try:
        yield
    finally:
        _shell.run(f"ip route del blackhole {_CLIENT_TWO}/32")


@contextlib.contextmanager
def full() -> Iterator[None]:
    """The disk of the export has a few MiB left."""
    filler = EXPORT / "filler"
    try:
        with open(filler, "wb") as file:
            size = 0
            for step in (64 * _MIB, _MIB):
                with contextlib.suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), size, step)
                        size += step
            file.truncate(size - _LEFT_BYTES)
        yield
    finally:
        filler.unlink()


def forget_pages() -> None:
    """Have the clients forget the bytes they keep."""
    _shell.run("sync; echo 3 >/proc/sys/vm/drop_caches")
