"""A round of kills: one store, a crew of pushers and collectors, SIGKILL at random moments, and the checks between."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from blobstore.app import rebuild_index
from tests.kills.checking import find_left_over, find_lost, find_wrong_at_rest, read_owed
from tests.kills.content import Alarms, Mix, make_store, seeded
from tests.kills.processes import Crew, Lines, Worker, scratch
from tests.kills.pushing import PUSHERS

COLLECTORS = 2
WORK_S_MAX = 0.4
"""How long a process works on, once it was seen to work, until it is killed."""
YOUNG_SHARE = 0.15
"""Of the kills hit at a process that may not even have opened the store."""
WAIT_S_MAX = 30
CHECKED_EVERY = 2
ALL_KILLED_EVERY = 6
"""Then the store is at rest: everything is checked."""
REBUILT_EVERY = 2
"""Of those times, so many for each at which the index is thrown away."""


class Round:
    """So many kills on one store."""

    def __init__(self, mix: Mix, seed: str, place: Path) -> None:
        self.mix, self.seed, self.place = mix, seed, place
        self.counts: Counter[str] = Counter(lost=0)
        self._rng = seeded(seed)
        self._starts = 0
        self._journal_bytes_at_start: dict[str, int] = {}

    def run(self, kills: int) -> None:
        """Kill, check, replace.

        Raises:
            AssertionError: something acknowledged is lost, or broken, or left over; says what, and the seed.
        """
        asyncio.run(self._make())
        with Crew() as crew:
            for number in range(1, kills + 1):
                self._fill(crew)
                name = self._rng.choice(sorted(crew.workers))
                if self._rng.random() >= YOUNG_SHARE:
                    self._wait_for_work(crew, name)
                time.sleep(self._rng.uniform(0, WORK_S_MAX))
                crew.check()
                if number % ALL_KILLED_EVERY == 0 or number == kills:
                    self._kill_all(crew, number)
                else:
                    self._kill_one(crew, name, number)
                self.counts["kills"] += 1
        self._demand(find_left_over(self.place, self.mix))
        self._count()

    def _wait_for_work(self, crew: Crew, name: str) -> None:
        """Until this process has journaled something, however busy the machine is."""
        until = time.monotonic() + WAIT_S_MAX
        while self._journal_bytes(name) == self._journal_bytes_at_start[name] and time.monotonic() < until:
            time.sleep(0.005)
            crew.check()

    def _journal_bytes(self, name: str) -> int:
        role, slot = name.split("-")
        path = self.place / (f"{slot}.acks" if role == "push" else f"{name}.counts")
        return path.stat().st_size if path.exists() else 0

    def _kill_one(self, crew: Crew, name: str, number: int) -> None:
        crew.workers.pop(name).kill()
        role, slot = name.split("-")
        if role == "push" and number % CHECKED_EVERY == 0:
            self._demand(find_lost(self.place, self.mix, [int(slot)]))

    def _kill_all(self, crew: Crew, number: int) -> None:
        """As a power switch would, but for the page cache; counts as one kill."""
        crew.kill_all()
        self._demand(find_wrong_at_rest(self.place, self.mix))
        if number % (ALL_KILLED_EVERY * REBUILT_EVERY) == 0:
            shutil.rmtree(self.place / "index")
            report = asyncio.run(rebuild_index(str(self.place / "store"), index=f"lmdb://{self.place}/index"))
            self.counts["rebuilds"] += 1
            assert not report.problems, (self.seed, report.problems)
            self._demand(find_wrong_at_rest(self.place, self.mix))

    def _fill(self, crew: Crew) -> None:
        wanted = [("push", slot) for slot in range(PUSHERS)] + [("collect", slot) for slot in range(COLLECTORS)]
        for role, slot in wanted:
            name = f"{role}-{slot}"
            if name in crew.workers:
                continue
            self._starts += 1
            self._journal_bytes_at_start[name] = self._journal_bytes(name)
            crew.workers[name] = Worker(
                "tests.kills.worker",
                self.place / f"{name}-{self._starts}.errors",
                place=str(self.place),
                mix=self.mix.name,
                role=role,
                slot=slot,
                seed=f"{self.seed} {self._starts}",
            )

    async def _make(self) -> None:
        store = make_store(self.place, self.mix, Alarms())
        await store.open(create=True)
        await store.aclose()

    def _demand(self, wrong: Coroutine[Any, Any, list[str]]) -> None:
        found = asyncio.run(wrong)
        self.counts["lost"] += len(found)
        assert not found, f"mix {self.mix.name}, seed {self.seed!r}, after {self.counts['kills']} kills: {found[:20]}"
        self.counts["checks"] += 1

    def _count(self) -> None:
        for slot in range(PUSHERS):
            self.counts["acknowledged"] += read_owed(self.place, slot).acknowledged
        for slot in range(COLLECTORS):
            for [counted] in Lines(self.place / f"collect-{slot}.counts").new():
                self.counts.update(counted)


def run_round(mix: Mix, seed: str, kills: int, parent: Path | None = None) -> Counter[str]:
    """A round on a store of its own, in memory or in `parent`; returns what was counted."""
    with scratch("kills", parent) as place:
        done = Round(mix, seed, place)
        done.run(kills)
        return done.counts
