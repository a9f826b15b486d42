"""Events of the engine, shown while it works: bars on a terminal, warnings after the work."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from blobstore.cli._common import Common
from blobstore.cli._output import warn
from blobstore.events import Alarm, Event, Progress
from blobstore.units import format_size

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_PHASES_OF_BYTES = frozenset({"import", "read", "put", "get"})


class Reporter:
    """An event sink. Alarms wait until the work is done: the error that ends a command often says the same."""

    def __init__(self, bars: Bars | None) -> None:
        self.alarms: list[str] = []
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, event: Event, /) -> None:
        """One event."""
        if isinstance(event, Alarm):
            self.alarms.append(event.text)
        elif isinstance(event, Progress) and self._bars is not None:
            self._show(self._bars, event)

    def _show(self, bars: Bars, event: Progress) -> None:
        if event.phase not in self._tasks:
            self._tasks[event.phase] = bars.add_task(event.phase, total=None, amount="")
        is_bytes = event.phase in _PHASES_OF_BYTES
        amount = format_size(event.done) if is_bytes else str(event.done)
        if event.total:
            amount += f" of {format_size(event.total) if is_bytes else event.total}"
        bars.update(self._tasks[event.phase], completed=event.done, total=event.total or None, amount=amount)


@contextmanager
def reporting(common: Common, *, shows_alarms: bool = True) -> Iterator[Reporter]:
    """A sink for the length of a command. `shows_alarms` is False where the command's own report says it all."""
    bars = _bars() if sys.stderr.isatty() and not (common.quiet or common.json) else None
    reporter = Reporter(bars)
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
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeElapsedColumn(),
    )
    return RichProgress(*columns, console=Console(file=sys.stderr), transient=True)
