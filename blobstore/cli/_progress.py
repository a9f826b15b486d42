"""Events of the engine, shown while it works: bars on a terminal, warnings after the work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.cli._common import Common
from blobstore.cli._output import warn
from blobstore.clock import Clock, SystemClock
from blobstore.events import Alarm, Event, Progress, Waiting
from blobstore.units import format_duration, format_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_PHASES_OF_BYTES = frozenset({"import", "read", "put", "get", "copy"})
_LINE_EVERY_S = 10


class Reporter:
    """An event sink. Alarms wait until the work is done: the error that ends a command often says the same. What it waits for is
    told at once."""

    def __init__(self, bars: Bars | None, lines: ProgressLines | None = None, *, is_quiet: bool = False) -> None:
        self.alarms: list[str] = []
        self._bars, self._lines, self._is_quiet = bars, lines, is_quiet
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event, /) -> None:
        """One event."""
        if isinstance(event, Alarm):
            self.alarms.append(event.text)
        elif isinstance(event, Waiting):
            if not self._is_quiet:
                warn(event.text)
        elif isinstance(event, Progress) and self._bars is not None:
            self._show(self._bars, event)
        elif isinstance(event, Progress) and self._lines is not None:
            self._lines.show(event)

    def _show(self, bars: Bars, event: Progress) -> None:
        if event.phase not in self._tasks:
            self._tasks[event.phase] = bars.add_task(event.phase, total=None, amount="")
        is_bytes = event.phase in _PHASES_OF_BYTES
        amount = _amount(event)
        speed = next(task.speed for task in bars.tasks if task.id == self._tasks[event.phase]) if is_bytes else None
        if speed:
            amount += f", {format_size(int(speed))}/s"
        bars.update(self._tasks[event.phase], completed=event.done, total=event.total or None, amount=amount)


class ProgressLines:
    """Progress of one phase where there is no terminal: a line every ten seconds, for a log."""

    def __init__(self, phase: str, clock: Clock | None = None) -> None:
        self._phase, self._clock = phase, clock or SystemClock()
        self._begun_ms = self._said_ms = self._clock.monotonic_ms()

    def show(self, event: Progress) -> None:
        """Say how far it is, if it is time."""
        now_ms = self._clock.monotonic_ms()
        if event.phase != self._phase or now_ms - self._said_ms < _LINE_EVERY_S * 1000:
            return
        self._said_ms = now_ms
        per_s = event.done / ((now_ms - self._begun_ms) / 1000)
        left = f", {_about((event.total - event.done) / per_s)} left" if per_s and event.total else ""
        print(f"{event.phase}: {_amount(event)}, {format_size(int(per_s))}/s{left}", file=sys.stderr, flush=True)


def _about(seconds: float) -> str:
    """How long something may take: whole minutes, if there are two at least."""
    whole = int(seconds)
    return format_duration(whole if whole < 120 else whole - whole % 60)


def _amount(event: Progress) -> str:
    is_bytes = event.phase in _PHASES_OF_BYTES
    amount = format_size(event.done) if is_bytes else str(event.done)
    return amount + (f" of {format_size(event.total) if is_bytes else event.total}" if event.total else "")


@contextmanager
def reporting(common: Common, *, shows_alarms: bool = True, phase_in_lines: str | None = None) -> Iterator[Reporter]:
    """A sink for the length of a command. `shows_alarms` is False where the command's own report says it all; `phase_in_lines` is
    the phase that is told line by line where there is no terminal."""
    wants_progress = not (common.quiet or common.json)
    bars = _bars() if sys.stderr.isatty() and wants_progress else None
    lines = ProgressLines(phase_in_lines) if phase_in_lines and wants_progress else None
    reporter = Reporter(bars, lines, is_quiet=common.quiet)
    said = ""
    try:
        if bars is None:
            yield reporter
        else:
            with bars:
                yield reporter
    except Exception as error:
        said = str(error)
        raise
    finally:
        if shows_alarms and not common.quiet:
            for text in dict.fromkeys(reporter.alarms):
                if text != said:
                    warn(text)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    return RichProgress(*columns, console=Console(file=sys.stderr), transient=True)
