"""Runs one search: Promela to C by spin, C to a program by gcc, and that program until it finds an error or has seen all."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import msgspec

from tests.model.configurations import Configuration

FOLDER = Path(__file__).parent
_DEPTH = 1_000_000
_STATE = re.compile(r"^\s*(\d+) states, stored", re.MULTILINE)
_TRANSITIONS = re.compile(r"^\s*(\d+) transitions", re.MULTILINE)
_BROKEN = re.compile(r"assertion violated \(broken!=(\d+)\)")


class Found(msgspec.Struct, frozen=True):
    """What a search found: `broken` is the property that doesn't hold, None if all do in all states."""

    broken: int | None
    states: int
    transitions: int
    said: str


class SearchFailed(Exception):
    """A search that ended without an answer: too little memory or depth, or an error that is none of the properties."""


def search(wanted: Configuration, *, memory_mib: int = 1500, timeout_s: float = 120, is_large: bool = False) -> Found:
    """Search the states of a configuration, all of them unless an error turns up.

    Raises:
        SearchFailed: see there.
        subprocess.TimeoutExpired: it took longer than that.
    """
    with tempfile.TemporaryDirectory(prefix="model-") as scratch:
        program = _build(wanted, Path(scratch), memory_mib, is_large=is_large)
        hash_bits = 26 if is_large else 20
        # It ends with us, even if we are killed.
        command = [
            "setpriv",
            "--pdeathsig",
            "KILL",
            str(program),
            f"-m{_DEPTH if is_large else 200_000}",
            f"-w{hash_bits}",
        ]
        ran = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=timeout_s, check=False)
    return _read(wanted, ran.stdout)


def _build(wanted: Configuration, scratch: Path, memory_mib: int, *, is_large: bool) -> Path:
    switches = [f"-D{switch}" for switch in wanted.switches]
    _run(["spin", "-a", *switches, str(FOLDER / f"{wanted.model}.pml")], scratch)
    # A large search is worth the time it takes to compile well, and to keep states small.
    effort = ["-O2", "-DCOLLAPSE"] if is_large else ["-O0"]
    settings = ["-DSAFETY", f"-DMEMLIM={memory_mib}", "-DVECTORSZ=512", "-DNOFAIR"]
    _run(["gcc", "-w", *effort, *settings, "-o", "pan", "pan.c"], scratch)
    return scratch / "pan"


def _run(command: list[str], scratch: Path) -> None:
    ran = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=300, check=False)
    if ran.returncode != 0 or "Error" in ran.stdout:
        raise SearchFailed(f"{' '.join(command)}: {ran.stdout[-2000:]}{ran.stderr[-2000:]}")


def _read(wanted: Configuration, said: str) -> Found:
    states, transitions, broken = _STATE.search(said), _TRANSITIONS.search(said), _BROKEN.search(said)
    is_whole = "errors: 0" in said and "Search not completed" not in said and "max search depth too small" not in said
    if states is None or transitions is None or (broken is None and not is_whole):
        raise SearchFailed(f"{wanted.name}: {said[-3000:]}")
    return Found(int(broken[1]) if broken else None, int(states[1]), int(transitions[1]), said)
