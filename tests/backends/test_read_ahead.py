"""Bodies read in threads: in order, a little ahead, and never by a thread that waits for a slow taker."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from blobstore.backends._read_ahead import CHUNKS_AHEAD, ReadAhead
from blobstore.pool import WorkerPool


class Body:
    """A number of chunks, then `error` or the end; counts what was read, and who broke off."""

    def __init__(self, chunks: int, error: Exception | None = None) -> None:
        self._left, self._error = iter(range(chunks)), error
        self.read_chunks = self.broken_off = 0

    def read(self) -> bytes:
        number = next(self._left, None)
        if number is not None:
            self.read_chunks += 1
            return b"%d" % number
        if self._error is not None:
            raise self._error
        return b""

    def break_off(self) -> None:
        self.broken_off += 1


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """One thread alone: who holds it stops all others."""
    pool = WorkerPool("test", 1)
    yield pool
    await asyncio.wait_for(pool.aclose(), 10)


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("pause_s", [None, 0, 0.001])
async def test_chunks_come_in_order(pool: WorkerPool, pause_s: float | None) -> None:
    """All of them, however fast they are taken; the end breaks nothing off, so that the connection can be used again."""
    body = Body(300)
    ahead, found = ReadAhead(pool, body.read, body.break_off), []
    async with asyncio.timeout(20):
        async for chunk in ahead.chunks():
            found.append(int(chunk))
            if pause_s is not None:
                await asyncio.sleep(pause_s)
    assert found == list(range(300))
    assert body.broken_off == 0


async def test_a_slow_taker_holds_no_thread(pool: WorkerPool) -> None:
    """Nor more memory than is named; the other body goes on."""
    slow, other = Body(100), Body(100)
    taken = ReadAhead(pool, slow.read, slow.break_off).chunks()
    assert await anext(taken) == b"0"
    await _until(lambda: slow.read_chunks >= CHUNKS_AHEAD)
    async with asyncio.timeout(10):
        assert len([chunk async for chunk in ReadAhead(pool, other.read, other.break_off).chunks()]) == 100
    assert slow.read_chunks <= 1 + CHUNKS_AHEAD
    assert len([chunk async for chunk in taken]) == 99


@pytest.mark.parametrize("chunks", [0, 1, 7])
async def test_what_was_read_before_an_error_is_taken_first(pool: WorkerPool, chunks: int) -> None:
    """Then the error; it is told once."""
    body, found = Body(chunks, OSError("reset")), []
    with pytest.raises(OSError, match="reset"):  # noqa: PT012 - what comes before is counted
        async for chunk in ReadAhead(pool, body.read, body.break_off).chunks():
            found.append(chunk)  # noqa: PERF401 - what came before the error stays
    assert len(found) == chunks
    assert body.broken_off == 0


@pytest.mark.parametrize("end", ["cancelled", "closed"])
async def test_who_gives_up_breaks_off(pool: WorkerPool, end: str) -> None:
    """And waits until the thread is out of the read: what it reads from may be closed then."""
    is_broken, is_out = threading.Event(), threading.Event()

    def reads() -> Iterator[bytes]:
        yield b"first"
        assert is_broken.wait(10)
        is_out.set()
        raise OSError("broken off")

    chunks = reads()
    ahead = ReadAhead(pool, lambda: next(chunks), is_broken.set)
    taken = ahead.chunks()
    assert await anext(taken) == b"first"
    if end == "cancelled":
        waiting = asyncio.ensure_future(anext(taken))
        await asyncio.sleep(0.01)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    else:
        await ahead.stop()
        await ahead.stop()
    assert is_out.is_set()
