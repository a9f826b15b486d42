"""A process of the soak: several clients, each a task, on one store. Run by the parent as `python -m tests.soak.worker`."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

from tests.kills.content import Alarms, make_index, make_store
from tests.kills.processes import Lines, worker_arguments
from tests.model.recording import Recorder
from tests.soak.clients import ROLES, repeat
from tests.soak.mixes import MIXES
from tests.soak.monitor import Monitor

REPORT_EVERY_S = 0.25
MONITOR_PAUSE_S = 0.05


async def work(place: str, mix: str, name: str, seed: str, roles: list[str], *, is_recorded: bool) -> None:
    """Do what the roles say until SIGTERM; tell the parent every quarter of a second what was done."""
    stopping, counts, alarms = asyncio.Event(), Counter[str](), Alarms()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    folder = Path(place)
    report = Lines(folder / f"{name}.counts")
    index = make_index(folder)
    if is_recorded:
        Recorder(spill=folder / f"{name}.verbs").attach(index)
    store = make_store(folder, MIXES[mix], alarms, index=index)
    async with store, asyncio.TaskGroup() as group:
        for number, role in enumerate(roles):
            if role == "monitor":
                step, pause_s = Monitor(store, counts).step, MONITOR_PAUSE_S
            else:
                make, pause_s = ROLES[role]
                step = make(store, MIXES[mix], f"{seed} {name} {number} {role}", counts).step
            group.create_task(repeat(step, pause_s, stopping))
        while not stopping.is_set():
            await asyncio.sleep(REPORT_EVERY_S)
            _tell(report, counts)
            assert not alarms, alarms
    _tell(report, counts)


def _tell(report: Lines, counts: Counter[str]) -> None:
    """A kill loses what was done since the last line, and nothing counts twice."""
    report.append(dict(counts))
    counts.clear()


if __name__ == "__main__":
    asyncio.run(work(**worker_arguments()))
