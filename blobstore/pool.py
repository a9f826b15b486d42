"""Bounded threads for blocking work, lanes, which are work in them that must keep its order, and groups of tasks."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks whose first error ends the others and is raised by itself: callers are told one of ours, no group."""
    first: BaseException | None = None
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failed:
        first = failed.exceptions[0]
    if first is not None:
        raise first


async def unstoppable(work: Coroutine[Any, Any, Result] | asyncio.Future[Result]) -> Result:
    """What `work` returns, which runs to its end also when this wait is cancelled; then the cancellation goes on. For steps whose
    outcome must be known, so that nothing is left behind: they must end by themselves."""
    running = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is None:
        return running.result()
    if not running.cancelled():
        # Whoever cancelled the wait is told of that alone.
        running.exception()
    raise cancelled


async def for_each(
    work: Callable[[Item], Awaitable[object]], items: Iterable[Item] | AsyncIterator[Item], at_once: int
) -> None:
    """Call `work` for every item, `at_once` at a time, asking for them as they are needed. The first error ends the others."""
    waiting, turn = items if isinstance(items, AsyncIterator) else _one_by_one(items), asyncio.Lock()

    async def worker() -> None:
        while True:
            try:
                async with turn:
                    item = await anext(waiting)
            except StopAsyncIteration:
                return
            await work(item)

    async with task_group() as group:
        for _ in range(at_once):
            group.create_task(worker())


async def _one_by_one(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item


class WorkerPool:
    """A few threads of one owner; started by the first piece of work."""

    def __init__(self, name: str, threads: int) -> None:
        self._name, self._threads = name, threads
        self._executor: ThreadPoolExecutor | None = None

    async def run(
        self, work: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Run `work` in a thread. Cancelling the wait does not stop it: whatever it uses must outlive it."""
        return await self.waiting(
            asyncio.get_running_loop().run_in_executor(self._ready(), lambda: work(*args, **kwargs))
        )

    async def waiting(self, work: Awaitable[Result]) -> Result:
        """Wait for what these threads do; all waiting for `run`, `finish` and `obtain` is done here."""
        return await work

    async def finish(
        self, work: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """As `run`, but a cancelled wait still waits for the thread, however often it is cancelled, before it goes on being
        cancelled: for work after which a descriptor is closed, a file is gone or memory is used again."""
        return await unstoppable(self.run(work, *args, **kwargs))

    async def obtain(self, work: Callable[[], Result], release: Callable[[Result], object]) -> Result:
        """As `finish`, for work whose result must be released: if the wait was cancelled, it is, in a thread too."""
        running = asyncio.ensure_future(self.run(work))
        try:
            return await unstoppable(running)
        except asyncio.CancelledError:
            if running.exception() is None:
                await self.finish(release, running.result())
            raise

    def start(self, work: Callable[[], None]) -> None:
        """Hand over `work` without waiting for it; it must not raise."""
        self._ready().submit(work)

    async def aclose(self) -> None:
        """Wait for what is running, end the threads."""
        executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.get_running_loop().run_in_executor(None, executor.shutdown)

    def _ready(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix=f"blobstore-{self._name}")
        return self._executor


class Lane:
    """Work that runs one piece after the other, in some thread of a pool, `depth` pieces ahead of its giver.

    The first error ends the lane: what was queued behind it doesn't run, and every later call raises it.
    """

    def __init__(self, pool: WorkerPool, depth: int = 2) -> None:
        self._pool, self._depth = pool, depth
        self._queue: deque[Callable[[], object]] = deque()
        self._lock = threading.Lock()
        self._is_active = False
        self._outstanding = 0
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._error: BaseException | None = None

    async def put(self, work: Callable[[], object]) -> None:
        """Queue a piece, waiting while `depth` are under way."""
        await self._wait_below(self._depth)
        self._raise_error()
        self._outstanding += 1
        loop = asyncio.get_running_loop()
        with self._lock:
            self._queue.append(work)
            is_idle, self._is_active = not self._is_active, True
        if is_idle:
            self._pool.start(lambda: self._work(loop))

    async def drain(self) -> None:
        """Wait until all has run; raises the error of a piece that failed."""
        await self._wait_below(1)
        self._raise_error()

    async def settle(self) -> None:
        """Wait until nothing runs any more, also when this wait is cancelled, and whether or not a piece failed: after this a
        descriptor may be closed."""
        cancelled: asyncio.CancelledError | None = None
        while self._outstanding:
            try:
                await self._wait_below(1)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    async def _wait_below(self, bound: int) -> None:
        while self._outstanding >= bound:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((bound, waiter))
            await waiter

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._is_active = False
                    return
                work = self._queue.popleft()
            error = None
            if self._error is None:
                try:
                    work()
                except BaseException as raised:  # noqa: BLE001 - it is raised in the giver's task
                    error = raised
            loop.call_soon_threadsafe(self._finished, error)

    def _finished(self, error: BaseException | None) -> None:
        self._error = self._error or error
        self._outstanding -= 1
        waiting, self._waiters = self._waiters, []
        for bound, waiter in waiting:
            if waiter.done():
                continue
            if self._outstanding < bound:
                waiter.set_result(None)
            else:
                self._waiters.append((bound, waiter))
