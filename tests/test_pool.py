"""Work in threads, and who gives up waiting for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from blobstore.pool import WorkerPool

CANCELS = 3


@asynccontextmanager
async def a_thread_at_work() -> AsyncIterator[tuple[WorkerPool, threading.Event, threading.Event]]:
    """A pool; what its work tells when it has begun, and what it waits for."""
    pool, is_begun, may_end = WorkerPool("test", 1), threading.Event(), threading.Event()
    try:
        yield pool, is_begun, may_end
    finally:
        may_end.set()
        await pool.aclose()


async def cancelled_often(waiting: Awaitable[object], is_begun: threading.Event) -> asyncio.Future[object]:
    """As by a time-out, by whoever asked, and by a server that ends."""
    task = asyncio.ensure_future(waiting)
    await asyncio.to_thread(is_begun.wait)
    for _ in range(CANCELS):
        task.cancel()
        await asyncio.wait([task], timeout=0.01)
    return task


async def test_who_is_cancelled_often_still_waits_for_the_thread() -> None:
    """The memory it writes to, or the descriptor, is used for something else behind this."""
    async with a_thread_at_work() as (pool, is_begun, may_end):

        def work() -> None:
            is_begun.set()
            may_end.wait()

        task = await cancelled_often(pool.finish(work), is_begun)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_what_nobody_waits_for_any_more_is_released() -> None:
    """A lock, say, however often the wait was cancelled: else nobody could ever take it again."""
    released: list[object] = []
    async with a_thread_at_work() as (pool, is_begun, may_end):

        def obtain() -> object:
            is_begun.set()
            may_end.wait()
            return "a lock"

        task = await cancelled_often(pool.obtain(obtain, released.append), is_begun)
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert released == ["a lock"]
