"""The real program under faults: one line, status 1, and a store that a new process opens whole; by the shim and by strace."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from blobstore.app import open_store
from blobstore.digest import Digest
from blobstore.testing.invariants import find_broken
from tests.faults.crew import ROOT, scratch
from tests.faults.shim import FAULTS, Board, compile_shim
from tests.tools import require_tool

pytestmark = pytest.mark.timeout(300)

DATA = b"what a person puts in" * 100
POINTS = [
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("linkat", "EIO"),
    ("fdatasync", "EIO"),
    ("fdatasync", "EDQUOT"),
    ("pwrite64", "EIO"),
    ("flock", "EIO"),
    ("getdents64", "EIO"),
]


class Program:
    """`python -m blobstore` on a store of its own."""

    def __init__(self, base: Path) -> None:
        self.base, self.store = base, base / "store"
        self.library = compile_shim(base)
        (base / "data").write_bytes(DATA)

    def run(self, *argv: str, prefix: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        command = [*prefix, sys.executable, "-B", "-m", "blobstore", *argv, "--store", str(self.store)]
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            text=True,
            capture_output=True,
            check=False,
            timeout=120,
        )

    def put(self, prefix: Sequence[str] = (), **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("put", str(self.base / "data"), "--repository", "app", prefix=prefix, **environment)


async def _check(program: Program, failed: subprocess.CompletedProcess[str]) -> None:
    assert failed.returncode == 1, failed
    assert failed.stderr.startswith("blobstore: error: "), failed.stderr
    assert failed.stderr.count("\n") == 1, failed.stderr
    assert "bug in blobstore" not in failed.stderr
    async with open_store(str(program.store)) as store:
        assert await find_broken(store) == []
    again = program.put()
    assert again.returncode == 0, again.stderr
    async with open_store(str(program.store)) as store:
        assert (await store.stat_blob(Digest.of(DATA))).size_bytes == len(DATA)
        assert await find_broken(store) == []


@pytest.mark.parametrize(("call", "fault"), POINTS)
async def test_a_failing_call_is_one_line_and_status_1(call: str, fault: str) -> None:
    """The first such call on the store fails; the index is poisoned for that process alone."""
    with scratch() as base:
        program = Program(base)
        assert program.run("init").returncode == 0
        board = Board(base / "board")
        board.prepare(program.store, FAULTS[fault], 1, only=call)
        board.arm()
        failed = program.put(LD_PRELOAD=str(program.library), FAULTS_BOARD=str(base / "board"))
        hit = board.hit
        assert hit is not None
        assert hit.name == call
        await _check(program, failed)


@pytest.mark.parametrize("call", ["fsync", "linkat", "fdatasync"])
async def test_strace_finds_the_same(call: str) -> None:
    """Another injector, the same behaviour: these calls are made on nothing but the store."""
    strace = require_tool("strace")
    with scratch() as base:
        program = Program(base)
        assert program.run("init").returncode == 0
        injected = [
            strace,
            "-f",
            "-qq",
            "-o",
            str(base / "log"),
            "-e",
            f"trace={call}",
            "-e",
            f"inject={call}:error=EIO:when=1",
        ]
        failed = program.put(prefix=injected)
        assert "(INJECTED)" in (base / "log").read_text()
        await _check(program, failed)
