"""What all benches share: the machine's name, sizes, interleaved rounds, and the table at the end of a session.

A round runs every floor and then the contender, so that a noisy minute falls on both; what is compared are medians.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import platform
import statistics
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

from blobstore.app import open_store
from blobstore.clock import SystemClock
from blobstore.store import Store

IS_QUICK = os.environ.get("BENCH_QUICK", "") not in ("", "0")
SEED = int(os.environ.get("BENCH_SEED", "20250101"))
MIB = 1024 * 1024
OURS = "blobstore"
_SAMPLE_S = 0.01

Result = TypeVar("Result")
Round = Callable[[int], object]


def sized(full: int, quick: int) -> int:
    """A size or a number of rounds: the real one, or that of `BENCH_QUICK=1`."""
    return quick if IS_QUICK else full


# Rounds


@dataclass
class Timed:
    """Seconds of each round of one contestant."""

    name: str
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def race(
    benchmark: Any,
    ours: Round,
    floors: dict[str, Round],
    *,
    rounds: int,
    before: Callable[[int, str], object] | None = None,
    is_floor_last: bool = False,
) -> tuple[Timed, list[Timed]]:
    """Run the floors and `ours` in each round; each gets the number of the round. `before` is not timed; it is told who comes
    next, and after it the disk is made quiet. Floors go first, unless they need what ours left."""
    timed = [Timed(name) for name in floors]
    mine = Timed(OURS)

    def run_floors(number: int) -> None:
        for each, floor in zip(timed, floors.values(), strict=True):
            _settle(before, number, each.name)
            each.seconds.append(stopwatch(floor, number))

    def prepare() -> tuple[tuple[int], dict[str, object]]:
        number = len(mine.seconds)
        if not is_floor_last:
            run_floors(number)
        elif number:
            run_floors(number - 1)
        _settle(before, number, OURS)
        return (number,), {}

    def run_ours(number: int) -> None:
        mine.seconds.append(stopwatch(ours, number))

    benchmark.pedantic(run_ours, setup=prepare, rounds=rounds, iterations=1)
    if is_floor_last:
        run_floors(len(mine.seconds) - 1)
    return mine, timed


def _settle(before: Callable[[int, str], object] | None, number: int, name: str) -> None:
    if before is not None:
        before(number, name)
    quieten()


def quieten() -> None:
    """Let the disk finish: what others left to be written must not be paid for by the next one's fsync."""
    os.sync()


def stopwatch(work: Round, number: int) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work(number)
    return time.perf_counter() - start


# Stores


@contextlib.contextmanager
def opened(path: Path, **options: Any) -> Iterator[tuple[asyncio.Runner, Store]]:
    """An open store on a runner of its own, made if there is none."""
    with asyncio.Runner() as runner:
        context = open_store(str(path), create=True, **options)
        store = runner.run(_enter(context))
        try:
            yield runner, store
        finally:
            runner.run(_leave(context))


async def _enter(context: contextlib.AbstractAsyncContextManager[Store]) -> Store:
    return await context.__aenter__()


async def _leave(context: contextlib.AbstractAsyncContextManager[Store]) -> None:
    await context.__aexit__(None, None, None)


def run(runner: asyncio.Runner, work: Awaitable[Result]) -> Result:
    """What `work` returns. Not the runner's own answer: on its way out `Runner.run` makes a text of its task (looking up
    a signal handler formats it), which for a plan of 100,000 lines takes longer than a tenth of the plan."""
    found: list[Result] = []

    async def keep() -> None:
        found.append(await work)

    runner.run(keep())
    return found[0]


class LaterClock(SystemClock):
    """The machine's clock, some days ahead."""

    def __init__(self, days: float) -> None:
        self._ahead_ms = int(days * 24 * 3600 * 1000)

    def now_ms(self) -> int:
        return super().now_ms() + self._ahead_ms


# Data


def random_pieces(size_bytes: int, salt: str) -> list[bytes]:
    """`size_bytes` of seeded noise in pieces of 1 MiB; beyond 64 MiB the pieces repeat, so that they fit into memory."""
    noise = hashlib.shake_128(f"{SEED} {salt}".encode()).digest(min(size_bytes, 64 * MIB))
    once = [noise[at : at + MIB] for at in range(0, len(noise), MIB)]
    count = -(-size_bytes // MIB)
    return [once[at % len(once)] for at in range(count)]


def stamped(pieces: list[bytes], number: int) -> list[bytes]:
    """The same bytes but for the first sixteen, so that each round's digest is new."""
    return [number.to_bytes(16, "big") + pieces[0][16:], *pieces[1:]]


# Memory


def anonymous_bytes() -> int:
    """Memory of this process that no file backs (the index is a mapped file and doesn't count)."""
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


class PeakMemory:
    """How far anonymous memory grew inside a `with` over what it was at its start, or over `base`; looked at every 10 ms."""

    def __init__(self, base: int | None = None) -> None:
        self._base = base
        self.grown_bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._start = anonymous_bytes() if self._base is None else self._base
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._look()

    def _look(self) -> None:
        self.grown_bytes = max(self.grown_bytes, anonymous_bytes() - self._start)


# The table

_rows: list[tuple[str, ...]] = []
_HEAD = ("bench", "ours: median (min to max)", "floor: median (min to max)", "ratio", "target", "note")


def report(
    case: str,
    ours: Timed,
    floors: list[Timed],
    *,
    target: float | None,
    work: float = 0,
    unit: str = "",
    note: str = "",
) -> None:
    """Add a line: ours beside the slower floor. The ratio is our speed over the floor's, so more is better. With `work`, how
    much of `unit` a round does, speeds are shown instead of seconds."""
    floor = max(floors, key=lambda each: each.median)
    others = ", ".join(f"{each.name} {_speed(each, work, unit)}" for each in floors if each is not floor)
    notes = "; ".join(filter(None, (note, others)))
    ratio = floor.median / ours.median
    wanted = f">= {target:.2f}" if target is not None and not IS_QUICK else "-"
    _rows.append(
        (case, _speed(ours, work, unit), f"{floor.name} {_speed(floor, work, unit)}", f"{ratio:.2f}", wanted, notes)
    )


def report_value(case: str, value: str, *, target: str = "-", note: str = "") -> None:
    """Add a line that has no floor: a number of its own."""
    _rows.append((case, value, "-", "-", "-" if IS_QUICK else target, note))


def _speed(timed: Timed, work: float, unit: str) -> str:
    if not work:
        return f"{_seconds(timed.median)} ({_seconds(min(timed.seconds))} to {_seconds(max(timed.seconds))})"
    fast, slow = work / min(timed.seconds), work / max(timed.seconds)
    return f"{work / timed.median:,.0f} {unit}/s ({slow:,.0f} to {fast:,.0f})"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def table_lines() -> list[str]:
    """All that was reported, in columns."""
    if not _rows:
        return []
    rows = [_HEAD, *_rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(_HEAD) - 1)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def machine_lines() -> list[str]:
    """What ran this: without it no number means anything."""
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return [
        f"machine: {_cpu()}, {os.cpu_count()} cores, {system}",
        f"commit: {_commit()}, seed: {SEED} (BENCH_SEED), {'quick form' if IS_QUICK else 'full form'}",
    ]


def _cpu() -> str:
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(line for line in file if line.startswith("model name")).partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    tree = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=tree, check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        # A tree without git, an unpacked sdist.
        return "unknown"
    return found.stdout.strip()
