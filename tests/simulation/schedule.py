"""The scheduler: an event loop on which a seeded choice decides which of the waiting calls goes on."""

from __future__ import annotations

import asyncio
import contextvars
import random  # noqa: TID251 - from a printed seed
import selectors
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from unittest import mock

from tests.simulation.schedule_strategies import Strategy

actor: contextvars.ContextVar[str] = contextvars.ContextVar("actor", default="main")
"""On whose behalf a task runs; the tasks that it starts inherit it."""

STEPS_MAX = 50_000


class Died(BaseException):
    """Thrown into everything a process was doing when it is killed; no code of the engine may act on it."""


class Stuck(AssertionError):
    """Nothing can go on, or nothing ever ends."""


class Life:
    """What has a name in the log and can be killed: a process, or the wire between it and the backend."""

    def __init__(self, name: str) -> None:
        self.name, self.is_dead = name, False

    def check(self) -> None:
        """A dead process has no effects any more."""
        if self.is_dead:
            raise Died(self.name)


home: contextvars.ContextVar[Life] = contextvars.ContextVar("home", default=Life("-"))  # noqa: B039 - it never dies
"""The process that a task runs in, and dies with."""


class Waiting:
    """A call that waits for its turn; `go` lets it go on, `die` ends it with its process."""

    __slots__ = ("args", "die", "go", "life", "what", "who")

    def __init__(
        self,
        life: Life,
        who: str,
        what: str,
        args: tuple[object, ...],
        go: Callable[[], object],
        die: Callable[[], object],
    ) -> None:
        self.life, self.who, self.what, self.args, self.go, self.die = life, who, what, args, go, die

    def __str__(self) -> str:
        told = ", ".join(_short(each) for each in self.args)
        return f"{self.life.name:<12} {self.who:<18} {self.what}({told})"


class Schedule:
    """Everything that waits, and the choice among it. Between two choices the loop runs what became ready, in its order, until
    nothing is: so a seed decides all."""

    def __init__(self, seed: int, *, keeps_log: bool = False) -> None:
        self.random = random.Random(seed)
        self.strategy = Strategy(self.random)
        self.waiting: list[Waiting] = []
        self.steps = 0
        self.switches = 0
        self.signature = 0
        self.log: list[str] = []
        self.at_step: dict[int, list[Callable[[], None]]] = {}
        """Called before the choice of that number: crashes, snapshots, cancellations."""
        self._keeps_log = keeps_log
        self._last = ""
        self.loop = ScheduledLoop(self)

    async def turn(self, life: Life, what: str, *args: object) -> None:
        """Wait until the schedule says that it is this call's turn.

        Raises:
            Died: the process was killed meanwhile, or before.
        """
        life.check()
        future: asyncio.Future[None] = self.loop.create_future()
        self.add(life, what, args, lambda: _wake(future, None), lambda: _wake(future, Died(life.name)))
        await future

    def add(
        self,
        life: Life,
        what: str,
        args: tuple[object, ...],
        go: Callable[[], object],
        die: Callable[[], object] = lambda: None,
        *,
        who: str | None = None,
    ) -> Waiting:
        """Let something wait that is no task: a batch, an answer, a request on the wire."""
        waiting = Waiting(life, who or actor.get(), what, args, go, die)
        self.waiting.append(waiting)
        return waiting

    def kill(self, life: Life) -> None:
        """End all that a process was waiting for."""
        life.is_dead = True
        doomed = [each for each in self.waiting if each.life is life]
        self.waiting = [each for each in self.waiting if each.life is not life]
        self.tell(f"-- {life.name} is killed")
        for each in doomed:
            each.die()

    def tell(self, line: str) -> None:
        """Add a line to the log."""
        if self._keeps_log:
            self.log.append(line)

    def choose(self) -> bool:
        """Let one of all that waits go on; False if nothing waits."""
        for act in self.at_step.pop(self.steps, ()):
            act()
            self.steps += 1
            return True
        if not self.waiting:
            return False
        self.steps += 1
        if self.steps > STEPS_MAX:
            raise Stuck(f"still not done after {STEPS_MAX} steps; waiting: {[str(each) for each in self.waiting]}")
        chosen = self.waiting.pop(self.strategy.choose(self.steps, [each.who for each in self.waiting]))
        if chosen.who != self._last:
            self.switches += 1
        self._last = chosen.who
        self.signature = zlib.crc32(f"{chosen.who} {chosen.what}".encode(), self.signature)
        if self._keeps_log:
            self.log.append(f"{self.steps:>5} {chosen}")
        chosen.go()
        return True

    @contextmanager
    def running(self) -> Iterator[ScheduledLoop]:
        """The loop, and random numbers from the seed wherever the engine draws them."""
        drawn = random.Random(self.random.random())
        with (
            mock.patch("secrets.token_hex", lambda size: drawn.randbytes(size).hex()),
            mock.patch("secrets.randbits", drawn.getrandbits),
        ):
            try:
                yield self.loop
            finally:
                self.loop.close()


class ScheduledLoop(asyncio.SelectorEventLoop):
    """Runs what is ready in its order; when nothing is, asks the schedule. Work for threads runs here, when its turn comes;
    its result arrives at a later turn. Time is what the timers say."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(_NoSelector())
        self._schedule = schedule
        self._now_s = 0.0
        self.caught: list[Callable[[], object]] | None = None
        """While a list, what a writer wants to be called here is put into it: whoever lets a writer run picks it up."""

    def time(self) -> float:
        return self._now_s

    def _run_once(self) -> None:
        if not self._ready and not self._schedule.choose():  # type: ignore[attr-defined]
            self._skip_to_timer()
        if self._scheduled:  # type: ignore[attr-defined]
            super()._run_once()  # type: ignore[misc]
            return
        # The same without timers and descriptors, as there hardly ever are any.
        for _ in range(len(self._ready)):  # type: ignore[attr-defined]
            handle = self._ready.popleft()  # type: ignore[attr-defined]
            if not handle._cancelled:
                handle._run()

    def _skip_to_timer(self) -> None:
        if self._stopping:  # type: ignore[attr-defined]
            return
        if not self._scheduled:  # type: ignore[attr-defined]
            raise Stuck("nothing can go on: " + ", ".join(sorted(map(_place, asyncio.all_tasks(self)))))
        self._now_s = max(self._now_s, self._scheduled[0]._when)  # type: ignore[attr-defined]

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        if self.caught is None:
            return self.call_soon(callback, *args, context=context)
        self.caught.append(lambda: callback(*args))
        return asyncio.Handle(callback, args, self, context)

    def run_in_executor(self, executor: Any, work: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self.create_future()
        life = executor.life if isinstance(executor, InlineExecutor) else home.get()

        def run() -> None:
            try:
                result, error = work(*args), None
            except Exception as raised:  # noqa: BLE001 - it is raised in the waiting task
                result, error = None, raised
            self._schedule.add(
                life,
                "thread answers",
                (),
                lambda: _wake(future, error, result),
                lambda: _wake(future, Died()),
                who=who,
            )

        who = actor.get()
        self._schedule.add(life, "thread runs", (), run, lambda: _wake(future, Died()))
        return future


class InlineExecutor:
    """Stands for the threads of a `WorkerPool`: work handed over runs when its turn comes."""

    def __init__(self, schedule: Schedule, life: Life) -> None:
        self._schedule, self.life = schedule, life

    def submit(self, work: Callable[[], None]) -> Future[None]:
        # A killed process's lane runs too: it changes nothing but that process's own memory, and nobody waits for ever.
        self._schedule.add(self.life, "lane runs", (), work, work)
        return Future()

    def shutdown(self) -> None:
        """There is no thread to wait for."""


class _NoSelector(selectors.SelectSelector):
    """No descriptor is ever waited for; a system call for each step would be the most of the work."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


def _wake(future: asyncio.Future[Any], error: BaseException | None, result: object = None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task waits: the innermost coroutines of what it awaits."""
    places: list[str] = []
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_name}:{frame.f_lineno}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "ag_await", None)
    return " > ".join(places[-4:])


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:40]}…{text[-16:]}"
