"""A segment of the soak: one store from its making to the last check, worked on by six processes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

from blobstore.app import make_collector
from blobstore.testing.invariants import find_broken, find_garbage
from tests.kills.content import AheadClock, Alarms, Mix, make_index, make_store, seeded
from tests.kills.processes import Crew, Lines, Worker, scratch
from tests.model.recording import Recorder, check_spilled
from tests.soak.clients import EVENTS

CREW = {
    # 8 pushers and 6 that are late, 3 pullers, 2 mounters, 2 deleters, 2 retaggers, 2 collectors (one beside clients, one alone)
    # and the monitor, on one index.
    "one": ("ask", "ask", "pull", "retag", "late", "late"),
    "two": ("mount", "ask", "pull", "delete", "mounter"),
    "three": ("mount", "send", "pull", "retag", "collect"),
    "four": ("ask", "mount", "delete", "mounter", "late", "late", "late", "late"),
    "collect": ("collect",),
    "watch": ("monitor",),
}
KILL_EVERY_S = 20
LOOK_EVERY_S = 0.25
START_S_MAX = 120
GRACES = 4
"""What lasts for one grace after the other: an image index, its images, their blobs, the quarantine."""


class Segment:
    """Runs the crew on a new store until so many events are done, or so much time is over; then checks everything."""

    def __init__(self, mix: Mix, seed: str, *, kills: bool, is_recorded: bool) -> None:
        self.mix, self.seed, self._is_recorded = mix, seed, is_recorded
        self.counts: Counter[str] = Counter(dict.fromkeys(("unknown_in_promise", "broken", "leaks"), 0))
        self._kills, self._rng = kills, seeded("kill", seed)
        self._reports: list[Lines] = []
        self._starts = 0

    @property
    def events(self) -> int:
        """How many client operations were finished."""
        return sum(self.counts[name] for name in EVENTS)

    def run(self, *, seconds_max: float, events_max: int) -> None:
        """Work, and check.

        Raises:
            AssertionError: something is broken, leaked, or was unknown within its promise; says what.
        """
        began = time.monotonic()
        with scratch("soak") as place, Crew() as crew:
            asyncio.run(self._make(place))
            for name in CREW:
                self._start(crew, name, place)
            self._wait_for_all(crew)
            self._watch(crew, place, time.monotonic() + seconds_max, events_max)
            crew.stop_all()
            self._count()
            self._check_verbs(place)
            asyncio.run(self._check(place))
        self.counts["seconds"] = round(time.monotonic() - began)

    async def _make(self, place: Path) -> None:
        index = make_index(place)
        if self._is_recorded:
            Recorder(spill=place / "0-make.verbs").attach(index)
        store = make_store(place, self.mix, Alarms(), index=index)
        await store.open(create=True)
        await store.aclose()

    def _start(self, crew: Crew, role: str, place: Path) -> None:
        self._starts += 1
        name = f"{self._starts}-{role}"
        self._reports.append(Lines(place / f"{name}.counts"))
        crew.workers[role] = Worker(
            "tests.soak.worker",
            place / f"{name}.errors",
            place=str(place),
            mix=self.mix.name,
            name=name,
            seed=self.seed,
            roles=CREW[role],
            is_recorded=self._is_recorded,
        )

    def _wait_for_all(self, crew: Crew) -> None:
        """Until each process has begun to work, however busy the machine is."""
        until = time.monotonic() + START_S_MAX
        while not all(report.is_begun for report in self._reports):
            assert time.monotonic() < until, f"not all began within {START_S_MAX} s"
            time.sleep(LOOK_EVERY_S)
            crew.check()

    def _watch(self, crew: Crew, place: Path, until: float, events_max: int) -> None:
        kill_at = time.monotonic() + KILL_EVERY_S
        while time.monotonic() < until and self.events < events_max:
            time.sleep(LOOK_EVERY_S)
            crew.check()
            self._count()
            if self._kills and time.monotonic() > kill_at:
                kill_at += KILL_EVERY_S
                victim = self._rng.choice([name for name in crew.workers if name != "watch"])
                crew.workers[victim].kill()
                self.counts["workers_killed"] += 1
                self._start(crew, victim, place)

    def _count(self) -> None:
        for report in self._reports:
            for [counted] in report.new():
                self.counts.update(counted)

    def _check_verbs(self, place: Path) -> None:
        """What the index did, verb by verb, is what the model allows."""
        if self._is_recorded:
            problems = check_spilled(place.glob("*.verbs"))
            self.counts["verbs_against_the_model"] += len(problems)
            assert not problems, problems[:20]

    async def _check(self, place: Path) -> None:
        """At rest: nothing is broken; and when all graces are over, twice collected, nothing is left but what is kept."""
        alarms, clock = Alarms(), AheadClock()
        async with make_store(place, self.mix, alarms, clock=clock) as store:
            broken = await find_broken(store)
            collector = make_collector(store, self.mix.policy, events=alarms)
            for _ in range(GRACES):
                clock.advance(60)
                self.counts["freed"] += (await collector.run()).freed_blobs
                self.counts["freed"] += (await collector.run()).freed_blobs
            broken += await find_broken(store)
            garbage = await find_garbage(store)
            self.counts["kept_at_the_end"] += (await store.totals()).manifests
        self.counts["broken"] += len(broken)
        self.counts["leaks"] += len(garbage)
        assert not broken, broken[:20]
        assert not garbage, garbage[:20]
        assert not alarms, alarms[:20]
