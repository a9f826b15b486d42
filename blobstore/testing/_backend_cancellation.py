"""The backend suite, cancellation: stopped at any await, a verb leaves nothing or the whole, and lets go of all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from blobstore.abc.backend import CHUNK_BYTES, Backend, BackendUpload, read_all
from blobstore.errors import KeyUnknown
from blobstore.layout import UPLOADS_PREFIX
from blobstore.testing._backend_stage import (
    MIB,
    BackendTests,
    content,
    found_keys,
    key_of,
    possible_names,
    published,
    read_taken,
    upload_id_of,
    write_pieces,
)
from blobstore.testing._cancelling import NOWHERE, cancelled_at, points_of

DATA = b"0123456789abcdef" * (3 * CHUNK_BYTES // 16)
_TURNS_TO_LET_GO = 20


class CancellationTests(BackendTests):
    """Each test repeats a verb and cancels it at another of its awaits every time, see `Point`."""

    async def test_a_cancelled_put_new_is_whole_or_absent(self, backend: Backend) -> None:
        """And what is not there can be put."""

        async def put(number: int) -> None:
            await backend.put_new(key_of(number), DATA)

        async for number in self._cancelled(put):
            assert await content(backend, key_of(number)) in (None, DATA), number
            await put(number)
            assert await content(backend, key_of(number)) == DATA

    async def test_a_cancelled_put_is_old_or_new(self, backend: Backend) -> None:
        """Never anything between, never nothing."""
        key = key_of(0)
        await backend.put(key, b"old")
        async for number in self._cancelled(lambda _: backend.put(key, DATA)):
            assert await content(backend, key) in (b"old", DATA), number
            await backend.put(key, b"old")
        assert await found_keys(backend, "") == [key]

    async def test_a_cancelled_commit_is_whole_or_absent(self, backend: Backend) -> None:
        """In both cases the upload is over, and what it left can be deleted by the names it may have."""
        data = os.urandom(self.SEVERAL_PARTS_BYTES)
        for size in (3, len(data)):
            for is_known in (False, True):
                await self._cancel_commits(backend, data[:size], is_known=is_known)

    async def _cancel_commits(self, backend: Backend, data: bytes, *, is_known: bool) -> None:
        uploads: dict[int, BackendUpload] = {}

        async def prepare(number: int) -> None:
            upload = await backend.open_upload(upload_id_of(number), key=key_of(number) if is_known else None)
            await write_pieces(upload, data, MIB)
            uploads[number] = upload

        async def commit(number: int) -> None:
            await uploads[number].commit(key_of(number))

        async for number in self._cancelled(commit, prepare):
            await uploads[number].abort()
            assert await published(backend, number) in (None, data), number
            assert await found_keys(backend, UPLOADS_PREFIX) == []
            assert set(await found_keys(backend, "")) <= set(possible_names(number))
            await backend.delete(possible_names(number))
            assert await found_keys(backend, "") == []

    async def test_a_cancelled_write_keeps_the_order(self, backend: Backend) -> None:
        """`offset` says what was taken; the upload goes on from there and ends whole."""
        uploads: dict[int, BackendUpload] = {}
        data = os.urandom(self.SEVERAL_PARTS_BYTES)

        async def prepare(number: int) -> None:
            uploads[number] = await backend.open_upload(upload_id_of(number))

        async def write_all(number: int) -> None:
            await write_pieces(uploads[number], data, CHUNK_BYTES // 4)
            await uploads[number].drain()

        async for number in self._cancelled(write_all, prepare):
            await uploads[number].drain()
            await uploads[number].write(data[uploads[number].offset :])
            names = await uploads[number].commit(key_of(number))
            assert await read_all(backend, names[0]) == data, number
            await backend.delete(names)

    async def test_a_cancelled_session_can_be_resumed(self, backend: Backend) -> None:
        """Cancelled while it writes, then closed: the bytes before its offset are there."""
        uploads: dict[int, BackendUpload] = {}
        data = os.urandom(self.SEVERAL_PARTS_BYTES)

        async def prepare(number: int) -> None:
            uploads[number] = await backend.open_upload(upload_id_of(number))

        async for number in self._cancelled(lambda each: write_pieces(uploads[each], data, CHUNK_BYTES // 4), prepare):
            offset = uploads[number].offset
            await uploads[number].aclose()
            await self._finish(backend, number, data, offset)

    async def test_a_cancelled_close_can_be_closed_again(self, backend: Backend) -> None:
        """What was taken is there for the next session."""
        uploads: dict[int, BackendUpload] = {}
        data = os.urandom(self.SEVERAL_PARTS_BYTES)

        async def prepare(number: int) -> None:
            uploads[number] = await backend.open_upload(upload_id_of(number))
            await write_pieces(uploads[number], data[:-5], MIB)

        async for number in self._cancelled(lambda each: uploads[each].aclose(), prepare):
            await uploads[number].aclose()
            await self._finish(backend, number, data, None)

    async def _finish(self, backend: Backend, number: int, data: bytes, offset: int | None) -> None:
        resumed = await backend.open_upload(upload_id_of(number), resume=True)
        assert offset is None or resumed.offset == offset, number
        await resumed.write(data[resumed.offset :])
        names = await resumed.commit(key_of(number))
        assert await read_all(backend, names[0]) == data, number
        await backend.delete(names)
        assert await found_keys(backend, UPLOADS_PREFIX) == []

    async def test_a_cancelled_abort_can_be_done_again(self, backend: Backend) -> None:
        """By itself, or by deleting the upload's name; nothing is left."""
        uploads: dict[int, BackendUpload] = {}

        async def prepare(number: int) -> None:
            uploads[number] = await backend.open_upload(upload_id_of(number))
            await write_pieces(uploads[number], os.urandom(self.SEVERAL_PARTS_BYTES), MIB)

        async for number in self._cancelled(lambda each: uploads[each].abort(), prepare):
            await uploads[number].abort()
            await backend.delete([UPLOADS_PREFIX + upload_id_of(number)])
            assert await found_keys(backend, "") == []
            assert await found_keys(backend, UPLOADS_PREFIX) == []

    async def test_a_cancelled_open_lets_go(self, backend: Backend) -> None:
        """An upload whose opening was cancelled is not busy: another session can take it up or begin it."""
        opened: list[BackendUpload] = []

        async def open_it(number: int) -> None:
            opened.append(await backend.open_upload(upload_id_of(number)))

        async for number in self._cancelled(open_it):
            while opened:
                await opened.pop().aclose()
            try:
                upload = await backend.open_upload(upload_id_of(number), resume=True)
            except KeyUnknown:
                upload = await backend.open_upload(upload_id_of(number))
            await upload.abort()
        assert await found_keys(backend, UPLOADS_PREFIX) == []

    async def test_a_cancelled_resumption_lets_go(self, backend: Backend) -> None:
        """Of an upload with bytes: the next one has them."""
        data = os.urandom(self.SEVERAL_PARTS_BYTES)
        opened: list[BackendUpload] = []

        async def prepare(number: int) -> None:
            upload = await backend.open_upload(upload_id_of(number))
            await write_pieces(upload, data[:-9], MIB)
            await upload.aclose()

        async def resume(number: int) -> None:
            opened.append(await backend.open_upload(upload_id_of(number), resume=True))

        async for number in self._cancelled(resume, prepare):
            while opened:
                await opened.pop().aclose()
            await self._finish(backend, number, data, len(data) - 9)

    async def test_a_cancelled_delete_can_be_done_again(self, backend: Backend) -> None:
        """Each key is there whole or gone."""
        keys = {
            number: [f"{key_of(number)}-{each}" for each in range(20)] for number in range(4 * self.CANCELLED_AWAITS)
        }

        async def prepare(number: int) -> None:
            await asyncio.gather(*[backend.put_new(key, b"x" * 10) for key in keys[number]])

        async def delete(number: int) -> None:
            await backend.delete(keys[number])

        async for number in self._cancelled(delete, prepare):
            assert {info.size_bytes async for info in backend.list("")} <= {10}
            assert await backend.delete(keys[number]) == set(keys[number])
            assert await found_keys(backend, "") == []

    async def test_cancelled_verbs_leave_nothing_behind(self, backend: Backend) -> None:
        """Neither a descriptor nor a task, wherever they were stopped."""
        await backend.put_new(key_of(0), DATA)
        await read_all(backend, key_of(0))

        async def upload_and_abort(number: int) -> None:
            upload = await backend.open_upload(upload_id_of(1000 + number))
            try:
                await upload.write(DATA)
            finally:
                await upload.abort()

        async def upload_and_commit(number: int) -> None:
            upload = await backend.open_upload(upload_id_of(2000 + number))
            try:
                await upload.write(DATA)
                await read_taken(upload, 0, 10)
            except BaseException:
                await upload.abort()
                raise
            await upload.commit(key_of(2000 + number))

        verbs: dict[str, Callable[[int], Coroutine[Any, Any, object]]] = {
            "read": lambda _: read_all(backend, key_of(0)),
            "upload and abort": upload_and_abort,
            "upload and commit": upload_and_commit,
            "put": lambda _: backend.put(key_of(999), b"x"),
            "put_new": lambda number: backend.put_new(key_of(number + 1), b"x"),
            "stat": lambda _: backend.stat(key_of(0)),
            "delete": lambda number: backend.delete([key_of(number + 1)]),
            "list": lambda _: found_keys(backend, ""),
        }
        left: dict[str, tuple[int, int]] = {}
        for name, verb in verbs.items():
            before = await _left_behind()
            async for _ in self._cancelled(verb):
                pass
            after = await _left_behind()
            left[name] = max(0, after[0] - before[0] - self.KEPT_DESCRIPTORS), after[1] - before[1]
        assert left == dict.fromkeys(verbs, (0, 0))

    async def test_a_read_may_be_left_early(self, backend: Backend) -> None:
        """Leaving after the first chunk is an ordinary exit; so is leaving a listing."""
        await backend.put_new(key_of(0), DATA)
        await backend.put_new(key_of(1), DATA)
        before = await _left_behind()
        for _ in range(10):
            async with backend.read(key_of(0)) as chunks:
                async for chunk in chunks:
                    assert DATA.startswith(chunk)
                    break
            async for info in backend.list(""):
                assert info.size_bytes == len(DATA)
                break
        after = await _left_behind()
        assert after[0] - before[0] <= self.KEPT_DESCRIPTORS
        assert after[1] == before[1]

    async def _cancelled(
        self,
        verb: Callable[[int], Coroutine[Any, Any, object]],
        prepare: Callable[[int], Awaitable[object]] | None = None,
    ) -> AsyncIterator[int]:
        """Call `verb` with a number of its own, first to its end, then cancelled at one of its awaits; yields each number."""
        number, awaits = 0, 0
        points = [NOWHERE]
        while number < len(points):
            if prepare is not None:
                await prepare(number)
            awaits = max(awaits, await cancelled_at(points[number], verb(number)))
            yield number
            number += 1
            if number == 1:
                points += points_of(awaits, self.CANCELLED_AWAITS)


async def _left_behind() -> tuple[int, int]:
    """How many descriptors are open and tasks alive, once what was ended could let go."""
    for _ in range(_TURNS_TO_LET_GO):
        await asyncio.sleep(0)
    return len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
