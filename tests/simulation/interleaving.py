"""Interleavings: one seed makes one scene of several processes over one store, plays it, and checks what is left."""

from __future__ import annotations

import asyncio
import gc
import random  # noqa: TID251 - from a printed seed
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import msgspec

from blobstore.errors import StorageFailed
from blobstore.gc import GcPolicy
from blobstore.promises import HoldTerms
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image, image_index
from tests.simulation import interleaving_clients as clients
from tests.simulation import interleaving_operators as operators
from tests.simulation.interleaving_clients import Cast, Image, Role
from tests.simulation.interleaving_end import check_end, check_lost_index
from tests.simulation.interleaving_oracle import Oracle
from tests.simulation.interleaving_watch import Watch
from tests.simulation.schedule import Died, InlineExecutor, Life, Schedule, actor, home
from tests.simulation.schedule_index import Tables
from tests.simulation.schedule_strategies import Strategy
from tests.simulation.weather import Sky, Weather

GRACE_S = 3600
IDLE_S = 7200
SMALL = {
    "blobstore.journal.ROWS_MAX": 3,
    "blobstore.journal.TRIM_EVERY_ROWS": 3,
    "blobstore.journal.CHECKPOINT_EVERY_OBJECTS": 4,
    "blobstore.journal._SLICE": 2,
    "blobstore.repository._REMOVAL_BATCH": 1,
    "blobstore.missing.PAGE": 3,
    "blobstore.reconcile.PAGE": 3,
    "blobstore.rebuild.BATCH": 2,
}
"""Limits that are in the thousands else: so that a few rows already take several steps."""


class Process:
    """One process: a store over an index and a way to the backend of its own."""

    def __init__(self, scene: Scene, name: str) -> None:
        self.life = Life(name)
        self.index = scene.tables.make_index(scene.schedule, self.life, scene.watch)
        scene.watch.recorder.attach(self.index)
        self.backend = Weather(scene.sky, self.life)
        self.store = Store(self.backend, self.index, clock=scene.clock, terms=HoldTerms(grace_s=GRACE_S))
        self.store.parts.hash_pool._executor = InlineExecutor(scene.schedule, self.life)  # type: ignore[assignment]
        self._opening: asyncio.Task[None] | None = None

    async def ready(self, *, create: bool = False) -> Store:
        """The store, opened by whoever asks first."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(create=create))
        await asyncio.shield(self._opening)
        return self.store

    async def _open(self, *, create: bool) -> None:
        self.backend.is_calm = True
        await self.store.open(create=create)
        self.backend.is_calm = False

    async def close(self) -> None:
        """End it in order."""
        if self._opening is None:
            return
        await asyncio.wait([self._opening])
        try:
            await self.store.aclose()
        except StorageFailed:
            # What ran behind the answers failed earlier; a collection does it again.
            return

    def kill(self, schedule: Schedule) -> None:
        """End it as kill -9 does."""
        schedule.kill(self.life)
        self.index.stop()
        self.backend.release()


class Outcome(msgspec.Struct):
    """What playing a seed came to."""

    seed: int
    steps: int = 0
    switches: int = 0
    signature: int = 0
    late: int = 0
    figures: dict[str, int] = {}
    log: list[str] = []


class Scene:
    """The stage of one seed."""

    def __init__(self, seed: int, tables: Tables, *, keeps_log: bool) -> None:
        self.schedule = Schedule(seed, keeps_log=keeps_log)
        self.chance = chance = self.schedule.random
        self.tables, self.clock = tables, FakeClock()
        tables.clear()
        self.policies = _policies(chance)
        owes = all(policy.grace_s == GRACE_S for policy in self.policies)
        self.oracle = Oracle(self.clock, GRACE_S, owes=owes)
        self.watch = Watch(tables, self.oracle)
        self.sky = self.watch.sky = Sky(self.schedule, self.watch)
        images = _images(chance)
        self.cast = Cast(chance, self.clock, self.oracle, images, images[: len(images) // 2])
        self.processes: list[Process] = []
        self.born = 0

    def new_process(self) -> Process:
        """One more process."""
        self.born += 1
        return Process(self, f"process {self.born}")

    async def play(self) -> Outcome:
        """From an empty store to the checks at the end."""
        token = actor.set("calm")
        founder = self.new_process()
        store = await founder.ready(create=True)
        self.sky.is_calm = True
        await self._lay_ground(store)
        self.sky.is_calm = False
        if self.chance.random() < 0.7:
            self.advance(8000)
        actor.reset(token)
        self.schedule.strategy = Strategy(self.chance, self.schedule.steps)
        self.processes = [founder] + [self.new_process() for _ in range(self.chance.randint(1, 3))]
        lost = self._plan_losses()
        self._plan_crashes()
        await self._play_roles()
        self.watch.check()
        actor.set("calm")
        self.sky.is_calm = True
        self.sky.settle()
        self.schedule.at_step.clear()
        for process in self.processes:
            await process.close()
        self.schedule.tell("-- the end")
        self.watch.check_verbs()
        await check_end(self)
        self.watch.check_verbs()
        for objects, kept in lost:
            await check_lost_index(self, objects, kept)
        schedule = self.schedule
        return Outcome(
            0,
            schedule.steps,
            schedule.switches,
            schedule.signature,
            self.sky.late,
            self.cast.figures,
            list(schedule.log),
        )

    async def _lay_ground(self, store: Store) -> None:
        """What is there before: images with a tag and without, and blobs that only a promise keeps."""
        for repository in ("alpha", "alpha", "beta", "gamma"):
            before, tags = self.chance.choice(self.cast.doomed), self.chance.choice([["latest"], []])
            await clients.pusher(self.cast, before, repository, "upload", tags, is_kept=False)(store)
        for loose in self.chance.sample(self.cast.images, 2):
            for data in loose.blobs:
                async with store.repository("alpha").open_upload() as upload:
                    await upload.write(data)
                    await upload.commit()

    async def _play_roles(self) -> None:
        parts = _roles(self)
        async with asyncio.TaskGroup() as group:
            for number, (name, role) in enumerate(parts):
                group.create_task(self._play_role(f"{name}-{number}", role, self.chance.randrange(len(self.processes))))

    async def _play_role(self, name: str, role: Role, at: int) -> None:
        """Play a role; where its process is killed, its successor begins it again."""
        actor.set(name)
        while True:
            task = asyncio.create_task(self._play_on(self.processes[at], role))
            if self.chance.random() < 0.1:
                self._at(self.chance.randrange(1, 200), lambda task=task: self._cancel(name, task))  # type: ignore[misc]
            await asyncio.wait([task])
            self.watch.check()
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                return
            if not _is_death(error):
                raise error

    async def _play_on(self, process: Process, role: Role) -> None:
        home.set(process.life)
        await role(await process.ready())

    def _cancel(self, name: str, task: asyncio.Task[None]) -> None:
        if task.cancel():
            self.cast.count("cancelled")
            self.schedule.tell(f"-- {name} is cancelled")

    def _at(self, step: int, act: Callable[[], None]) -> None:
        """Do something so many steps from now."""
        self.schedule.at_step.setdefault(self.schedule.steps + step, []).append(act)

    def _plan_crashes(self) -> None:
        for _ in range(self.chance.choice([0, 0, 1, 1, 2, 3])):
            at = self.chance.randrange(len(self.processes))
            self._at(self.chance.randrange(5, 500), lambda at=at: self._crash(at))  # type: ignore[misc]

    def _crash(self, at: int) -> None:
        self.processes[at].kill(self.schedule)
        self.processes[at] = self.new_process()
        self.cast.count("killed")

    def _plan_losses(self) -> list[tuple[dict[str, bytes], dict[tuple[str, str], Any]]]:
        """At some moments, what would be left if every process died and the index were lost."""
        found: list[tuple[dict[str, bytes], dict[tuple[str, str], Any]]] = []

        def look() -> None:
            found.append((dict(self.sky.objects._objects), dict(self.oracle.kept)))

        for _ in range(2):
            self._at(self.chance.randrange(5, 500), look)
        return found

    def advance(self, seconds: int) -> None:
        """Let time pass; what adds bytes late does so before."""
        self.sky.settle()
        self.schedule.tell(f"-- {seconds} s pass")
        self.clock.advance(seconds * 1000)


def play(seed: int, tables: Tables, *, keeps_log: bool = False) -> Outcome:
    """Play one seed.

    Raises:
        AssertionError: an invariant, a promise or an acknowledged push was broken; its `log` says what happened.
    """
    with ExitStack() as stack:
        stack.enter_context(_no_garbage_collection())
        for name, value in SMALL.items():
            stack.enter_context(mock.patch(name, value))
        scene = Scene(seed, tables, keeps_log=keeps_log)
        loop = stack.enter_context(scene.schedule.running())
        loop.set_exception_handler(lambda _loop, _context: None)
        try:
            outcome = loop.run_until_complete(loop.create_task(scene.play()))
        except BaseException as error:
            error.log = list(scene.schedule.log)  # type: ignore[attr-defined]
            raise
        finally:
            _end(scene, loop)
        outcome.seed = seed
        return outcome


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """It would end forgotten generators at moments that no seed decides."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _end(scene: Scene, loop: asyncio.AbstractEventLoop) -> None:
    """Kill what still runs, and let it end: a coroutine that the garbage collector closes can't wait for what it has to undo."""
    scene.schedule.at_step.clear()
    for process in scene.processes:
        process.kill(scene.schedule)
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
    loop.run_until_complete(loop.shutdown_asyncgens())


def _is_death(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return error.split(Died)[1] is None
    return isinstance(error, Died)


def _policies(chance: random.Random) -> list[GcPolicy]:
    graces = chance.choice([[GRACE_S], [GRACE_S, GRACE_S], [0, 0], [0, GRACE_S]])
    return [
        GcPolicy(
            grace_s=grace,
            quarantine_s=chance.choice([0, 0, 600]),
            delete_untagged=chance.random() < 0.7,
            upload_idle_s=IDLE_S,
            batch_max=chance.randint(1, 4),
            slice_max=chance.randint(2, 8),
        )
        for grace in graces
    ]


def _images(chance: random.Random) -> list[Image]:
    """Images over few layers, so that they share them; an image index, a referrer, and one layer that is large."""
    layers = [b"layer %d" % number for number in range(4)]
    if chance.random() < 0.2:
        layers[0] = layers[0].ljust(clients.LARGE_BYTES, b".")
    found: list[Image] = []
    for number in range(6):
        config = b"config %d" % (number % 4)
        own = chance.sample(layers, 2)
        subject = chance.choice(found).manifests[-1] if found and chance.random() < 0.25 else None
        manifest = image(config, own, subject=subject)
        manifests = (manifest,)
        if chance.random() < 0.25:
            manifests = (manifest, image_index([manifest]))
        found.append(Image((config, *own), manifests))
    chance.shuffle(found)
    return found


def _roles(scene: Scene) -> list[tuple[str, Role]]:
    cast, chance = scene.cast, scene.chance
    found: list[tuple[str, Role]] = []
    for number in range(chance.randint(2, 4)):
        habit = chance.choice(["upload", "ask", "ask", "mount"])
        pushed = chance.choice(cast.images)
        is_kept = pushed not in cast.doomed
        repository = chance.choice(["alpha", "alpha", "beta", *(() if is_kept else ("gamma", "gamma"))])
        tags = [f"kept-{number}"] if is_kept else chance.choice([[], ["latest"]])
        found.append((f"pusher-{habit}", clients.pusher(cast, pushed, repository, habit, tags, is_kept=is_kept)))
    found += [
        (f"collector-{policy.grace_s}", operators.collector(cast, policy, chance.randint(2, 5)))
        for policy in scene.policies
    ]
    others = [
        ("deleter", clients.deleter(cast, chance.choice(["alpha", "beta"]))),
        ("deleter", clients.deleter(cast, "alpha")),
        ("retagger", clients.retagger(cast, "alpha")),
        ("remover", clients.remover(cast, "gamma")),
        ("undoer", operators.undoer(cast, scene.policies[0])),
        ("reconciler", operators.reconciler(cast)),
        ("abandoner", clients.abandoner(cast, "alpha")),
        ("resumer", clients.resumer(cast)),
        ("pinner", clients.pinner(cast)),
        ("puller", clients.puller(cast)),
        ("checkpointer", operators.checkpointer(cast)),
        ("saboteur", operators.saboteur(cast)),
    ]
    found += chance.sample(others, chance.randint(2, 6))
    earth = Life("earth")

    async def turn() -> None:
        await scene.schedule.turn(earth, "time passes")

    found.append(("timekeeper", operators.timekeeper(cast, scene.advance, turn, chance.randint(1, 8))))
    return found
