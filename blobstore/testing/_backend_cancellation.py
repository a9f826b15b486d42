"""The backend suite, cancellation: stopped at any await, a verb leaves nothing or the whole, and lets go of all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

from blobstore.abc.backend import CHUNK_BYTES, Backend, BackendUpload, read_all
from blobstore.errors import KeyUnknown
from blobstore.testing._backend_stage import BackendTests, found_keys, key_of

STEPS = 40
DATA = b"0123456789abcdef" * (3 * CHUNK_BYTES // 16)


class CancellationTests(BackendTests):
    """Each test repeats a verb and cancels it one step of the event loop later every time."""

    async def test_a_cancelled_put_new_is_whole_or_absent(self, backend: Backend) -> None:
        """And what is not there can be put."""
        for steps in range(STEPS):
            key = key_of(steps)
            await _cancelled_after(steps, backend.put_new(key, DATA))
            assert await _content(backend, key) in (None, DATA), steps
            await backend.put_new(key, DATA)
            assert await _content(backend, key) == DATA

    async def test_a_cancelled_put_is_old_or_new(self, backend: Backend) -> None:
        """Never anything between, never nothing."""
        key = key_of(0)
        await backend.put(key, b"old")
        for steps in range(STEPS):
            await _cancelled_after(steps, backend.put(key, DATA))
            assert await _content(backend, key) in (b"old", DATA), steps
            await backend.put(key, b"old")

    async def test_a_cancelled_commit_is_whole_or_absent(self, backend: Backend) -> None:
        """In both cases the upload is over, and what is left of it can be deleted."""
        for steps in range(STEPS):
            key = key_of(steps)
            upload = await backend.open_upload(_id(steps))
            await upload.write(DATA)
            await _cancelled_after(steps, upload.commit(key))
            await upload.abort()
            assert await _content(backend, key) in (None, DATA), steps
        assert await found_keys(backend, "uploads/") == []

    async def test_a_cancelled_write_keeps_the_order(self, backend: Backend) -> None:
        """`offset` says what was taken; the upload goes on from there and ends whole."""
        for steps in range(STEPS // 2):
            upload = await backend.open_upload(_id(steps))
            await _cancelled_after(steps, _write_all(upload))
            await upload.drain()
            await upload.write(DATA[upload.offset :])
            await upload.commit(key_of(steps))
            assert await _content(backend, key_of(steps)) == DATA, steps

    async def test_a_cancelled_session_can_be_resumed(self, backend: Backend) -> None:
        """Cancelled while it writes, then closed: the bytes before its offset are there."""
        for steps in range(STEPS // 2):
            upload = await backend.open_upload(_id(steps))
            await _cancelled_after(steps, _write_all(upload))
            offset = upload.offset
            await upload.aclose()
            resumed = await backend.open_upload(_id(steps), resume=True)
            assert resumed.offset == offset
            assert b"".join([chunk async for chunk in resumed.read(0, offset)]) == DATA[:offset]
            await resumed.abort()

    async def test_a_cancelled_open_lets_go(self, backend: Backend) -> None:
        """An upload whose opening was cancelled is not busy: another session can take it up or begin it."""
        for steps in range(STEPS // 2):
            opened: list[BackendUpload] = []

            async def open_it(into: list[BackendUpload], upload_id: str) -> None:
                into.append(await backend.open_upload(upload_id))

            await _cancelled_after(steps, open_it(opened, _id(steps)))
            for upload in opened:
                await upload.aclose()
            try:
                upload = await backend.open_upload(_id(steps), resume=True)
            except KeyUnknown:
                upload = await backend.open_upload(_id(steps))
            await upload.abort()

    async def test_cancelled_verbs_leak_no_descriptors(self, backend: Backend) -> None:
        """Neither a read nor an opened upload nor a commit, wherever it was stopped."""
        await backend.put_new(key_of(0), DATA)
        await read_all(backend, key_of(0))

        async def open_and_abort(steps: int) -> None:
            await (await backend.open_upload(_id(steps))).abort()

        verbs: dict[str, Callable[[int], Coroutine[Any, Any, object]]] = {
            "read": lambda _: read_all(backend, key_of(0)),
            "open_upload": open_and_abort,
            "put_new": lambda steps: backend.put_new(key_of(steps + 1), b"x"),
            "stat": lambda _: backend.stat(key_of(0)),
            "list": lambda _: found_keys(backend, ""),
        }
        leaks: dict[str, int] = {}
        for name, verb in verbs.items():
            before = _descriptors()
            for steps in range(STEPS):
                await _cancelled_after(steps, verb(steps))
            leaks[name] = _descriptors() - before
        assert leaks == dict.fromkeys(verbs, 0)

    async def test_a_read_may_be_left_early(self, backend: Backend) -> None:
        """Leaving after the first chunk is an ordinary exit."""
        await backend.put_new(key_of(0), DATA)
        before = _descriptors()
        for _ in range(10):
            async with backend.read(key_of(0)) as chunks:
                async for chunk in chunks:
                    assert DATA.startswith(chunk)
                    break
        assert _descriptors() == before


async def _cancelled_after(steps: int, verb: Coroutine[Any, Any, object]) -> None:
    """Run a verb, and cancel it after some turns of the event loop, each long enough for a thread to get further."""
    task = asyncio.ensure_future(verb)
    for _ in range(steps):
        await asyncio.sleep(0)
        os.sched_yield()
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()


async def _write_all(upload: BackendUpload) -> None:
    for at in range(0, len(DATA), CHUNK_BYTES // 4):
        await upload.write(DATA[at : at + CHUNK_BYTES // 4])


async def _content(backend: Backend, key: str) -> bytes | None:
    try:
        return await read_all(backend, key)
    except KeyUnknown:
        return None


def _id(steps: int) -> str:
    return f"{steps:032x}"


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
