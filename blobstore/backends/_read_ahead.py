"""A body that is read in a thread, a little ahead of who takes it."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable

from blobstore.pool import WorkerPool, unstoppable

CHUNKS_AHEAD = 2
"""How many wait for their taker at most. A thread that found so many is let go, as the taker may be slow."""


class ReadAhead:
    """Calls `read`, which blocks, until it returns nothing. `break_off` lets a call that is under way fail."""

    def __init__(self, pool: WorkerPool, read: Callable[[], bytes], break_off: Callable[[], None]) -> None:
        self._pool, self._read, self._break_off = pool, read, break_off
        self._lock = threading.Lock()
        self._found: deque[bytes | BaseException] = deque()
        self._is_reading = False
        self._wake: asyncio.Future[None] | None = None
        self._running: asyncio.Future[None] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """What was read, in order; raises what `read` raised. Cancelled, it breaks off."""
        try:
            while chunk := await self._take():
                yield chunk
        finally:
            await self.stop()

    async def stop(self) -> None:
        """Once this returns no thread reads any more. Repeatable."""
        running, self._running = self._running, None
        if running is None or running.done():
            return
        with self._lock:
            is_reading = self._is_reading
        # Else its thread is on its way out, and what it read from is as good as before.
        if is_reading:
            self._break_off()
        await unstoppable(_ended(running))

    async def _take(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            with self._lock:
                found = self._found.popleft() if self._found else None
                is_over = found == b"" or isinstance(found, BaseException)
                # Not before all are taken: a thread that reads several has fewer turns to wait for.
                is_to_begin = not (self._found or self._is_reading or is_over)
                self._is_reading = self._is_reading or is_to_begin
                wake = self._wake = loop.create_future() if found is None else None
            if is_to_begin:
                self._running = asyncio.ensure_future(self._pool.run(self._fill, loop))
            if isinstance(found, BaseException):
                raise found
            if found is not None:
                return found
            assert wake is not None
            await wake

    def _fill(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: read until enough wait."""
        is_enough = False
        while not is_enough:
            found: bytes | BaseException
            try:
                found = self._read()
            except BaseException as error:  # noqa: BLE001 - it is raised in the taker's task
                found = error
            with self._lock:
                self._found.append(found)
                is_enough = len(self._found) >= CHUNKS_AHEAD or found == b"" or isinstance(found, BaseException)
                self._is_reading = not is_enough
                wake, self._wake = self._wake, None
            if wake is not None:
                loop.call_soon_threadsafe(_woken, wake)


def _woken(wake: asyncio.Future[None]) -> None:
    # Its wait may have been cancelled.
    if not wake.done():
        wake.set_result(None)


async def _ended(running: asyncio.Future[None]) -> None:
    await asyncio.wait([running])
