"""The one layer that repeats requests to an object store.

Only a `TransientError` is repeated. It leaves open whether the request took effect, so what is not the same when done twice is
looked at before its next answer is believed: a value that is there "already" may be ours, an unknown upload may be complete.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from blobstore.abc.backend import ObjectInfo
from blobstore.backends._object_client import Abilities, Limits, ObjectClient, OpenMultipart, Part
from blobstore.backends._pacing import BackgroundPace, RetryBudget, RetryLimits, Sleep, jittered_s
from blobstore.backends._part_pieces import Pieces
from blobstore.clock import Clock, SystemClock
from blobstore.errors import KeyUnknown, SlowDown, StorageFailed, TransientError

Result = TypeVar("Result")
Found = TypeVar("Found", ObjectInfo, OpenMultipart)
_DEFAULT_LIMITS = RetryLimits()


class RetryingClient(ObjectClient):
    """A client whose requests are repeated while that makes sense, and bounded in number.

    `budget` is shared by all clients of a process. Deletes and listings are background: nobody waits for them, and they give way
    first when the server complains.
    """

    def __init__(
        self,
        client: ObjectClient,
        *,
        budget: RetryBudget | None = None,
        limits: RetryLimits = _DEFAULT_LIMITS,
        clock: Clock | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._client, self._limits, self._sleep = client, limits, sleep
        clock = clock or SystemClock()
        self._budget = budget or RetryBudget(clock)
        self._pace = BackgroundPace(limits, clock, sleep)
        self._requests = asyncio.Semaphore(limits.requests_max)
        self._bodies = asyncio.Semaphore(limits.bodies_max)

    @property
    def vendor(self) -> str:
        """See `ObjectClient.vendor`."""
        return self._client.vendor

    @property
    def location(self) -> str:
        """See `ObjectClient.location`."""
        return self._client.location

    @property
    def limits(self) -> Limits:
        """See `ObjectClient.limits`."""
        return self._client.limits

    async def open(self) -> None:
        """See `ObjectClient.open`."""
        await self._client.open()

    async def aclose(self) -> None:
        """See `ObjectClient.aclose`."""
        await self._client.aclose()

    async def probe(self, scratch_key: str) -> Abilities:
        """See `ObjectClient.probe`."""
        return await self._repeat(lambda _: self._client.probe(scratch_key))

    async def put(self, key: str, data: bytes | bytearray, *, is_new: bool, sha256: bytes | None = None) -> bool:
        """See `ObjectClient.put`. Names are used once, so equal bytes under a new one are those of an earlier attempt."""

        async def put(may_have_happened: bool) -> bool:  # noqa: FBT001
            done = await self._client.put(key, data, is_new=is_new, sha256=sha256)
            return done or (may_have_happened and await self._holds(key, data))

        return await self._repeat(put)

    @asynccontextmanager
    async def get(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See `ObjectClient.get`. A body that breaks off is asked for from where it did."""
        async with self._bodies, AsyncExitStack() as connection:
            size_bytes, chunks = await self._repeat(
                lambda _: connection.enter_async_context(self._client.get(key, start, stop))
            )
            body = _Body(self._client, connection, key, start, stop, size_bytes, chunks)
            yield size_bytes, self._chunks(body)

    async def _chunks(self, body: _Body) -> AsyncIterator[bytes]:
        retries = _Retries(self)
        while True:
            try:
                async for chunk in body.rest():
                    retries.restart()
                    yield chunk
            except TransientError as error:
                if body.is_whole:
                    return
                await retries.pause(error)
                await self._repeat(lambda _: body.ask_again())
            else:
                return

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectClient.head`."""
        return await self._repeat(lambda _: self._client.head(key))

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `ObjectClient.delete`. Keys that are left without an error are asked for a few times more."""
        left, gone = tuple(keys), frozenset[str]()
        for _ in range(self._limits.delete_attempts_max if left else 0):
            gone |= await self._repeat(functools.partial(self._delete, left), is_background=True)
            left = tuple(key for key in left if key not in gone)
            if not left:
                break
        return gone

    async def _delete(self, keys: Sequence[str], _: bool) -> frozenset[str]:  # noqa: FBT001
        return await self._client.delete(keys)

    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `ObjectClient.list`. Goes on behind the last key it told."""
        return self._listed(lambda last: self._client.list(prefix, last.key if last is not None else after))

    async def start_multipart(self, key: str) -> str:
        """See `ObjectClient.start_multipart`. A key has one upload: what an earlier attempt may have begun is dropped."""
        is_alone = True

        async def start(may_have_happened: bool) -> str:  # noqa: FBT001
            nonlocal is_alone
            is_alone = not may_have_happened
            return await self._client.start_multipart(key)

        multipart_id = await self._repeat(start)
        if not is_alone:
            # What stays in spite of this is found by the next listing of uploads.
            with contextlib.suppress(StorageFailed):
                await self._abort_others(key, multipart_id)
        return multipart_id

    async def _abort_others(self, key: str, multipart_id: str) -> None:
        async for found in self.list_multiparts(key):
            if found.key == key and found.multipart_id != multipart_id:
                await self.abort(key, found.multipart_id)

    async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
        """See `ObjectClient.put_part`."""
        return await self._repeat(lambda _: self._client.put_part(key, multipart_id, number, data))

    @property
    def takes_pieces(self) -> bool:
        """See `ObjectClient.takes_pieces`."""
        return self._client.takes_pieces

    async def put_part_in_pieces(self, key: str, multipart_id: str, number: int, pieces: Pieces) -> Part:
        """See `ObjectClient.put_part_in_pieces`."""
        return await self._repeat(lambda _: self._client.put_part_in_pieces(key, multipart_id, number, pieces))

    async def list_parts(self, key: str, multipart_id: str) -> Sequence[Part]:
        """See `ObjectClient.list_parts`."""
        return await self._repeat(lambda _: self._client.list_parts(key, multipart_id))

    async def complete(self, key: str, multipart_id: str, parts: Sequence[Part], *, is_new: bool = False) -> bool:
        """See `ObjectClient.complete`. An upload that an earlier attempt completed is unknown, or its name taken, and its object
        there."""

        async def complete(may_have_happened: bool) -> bool:  # noqa: FBT001
            try:
                done = await self._client.complete(key, multipart_id, parts, is_new=is_new)
            except KeyUnknown:
                if may_have_happened and await self._client.is_made_of(key, parts):
                    return True
                raise
            return done or (may_have_happened and await self._client.is_made_of(key, parts))

        return await self._repeat(complete)

    async def is_made_of(self, key: str, parts: Sequence[Part]) -> bool:
        """See `ObjectClient.is_made_of`."""
        return await self._repeat(lambda _: self._client.is_made_of(key, parts))

    async def abort(self, key: str, multipart_id: str) -> None:
        """See `ObjectClient.abort`."""
        await self._repeat(lambda _: self._client.abort(key, multipart_id))

    def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """See `ObjectClient.list_multiparts`. Begins anew when it breaks off; each is told once."""
        told = set[OpenMultipart]()

        async def untold(last: OpenMultipart | None) -> AsyncIterator[OpenMultipart]:
            if last is not None:
                told.add(last)
            async for found in self._client.list_multiparts(prefix):
                if found not in told:
                    told.add(found)
                    yield found

        return self._listed(untold)

    async def _listed(self, ask: Callable[[Found | None], AsyncIterator[Found]]) -> AsyncIterator[Found]:
        """What `ask` lists behind the last one told; one request for each page of it."""
        retries, last, told = _Retries(self), None, 0
        while True:
            try:
                found_here = ask(last)
                while True:
                    if told % self._limits.listed_page_keys == 0:
                        await self._pace.wait()
                    async with self._requests:
                        last = await anext(found_here)
                    retries.restart()
                    told += 1
                    yield last
            except StopAsyncIteration:
                return
            except TransientError as error:
                await retries.pause(error)
                await self._pace.wait()

    async def presign(self, key: str, valid_s: int) -> str:
        """See `ObjectClient.presign`."""
        return await self._client.presign(key, valid_s)

    async def _holds(self, key: str, data: bytes | bytearray) -> bool:
        """Whether these bytes lie under a key; one request more if they may."""
        if not await self._has_size(key, len(data)):
            return False
        async with self._client.get(key) as (_, chunks):
            return b"".join([chunk async for chunk in chunks]) == data

    async def _has_size(self, key: str, size_bytes: int) -> bool:
        try:
            return (await self._client.head(key)).size_bytes == size_bytes
        except KeyUnknown:
            return False

    async def _repeat(self, ask: Callable[[bool], Awaitable[Result]], *, is_background: bool = False) -> Result:
        """Send a request until it is answered. `ask` is told whether an attempt before may have taken effect."""
        retries, may_have_happened = _Retries(self), False
        while True:
            if is_background:
                await self._pace.wait()
            try:
                async with self._requests:
                    result = await ask(may_have_happened)
            except TransientError as error:
                may_have_happened = may_have_happened or not isinstance(error, SlowDown)
                # Not inside: who waits lets others ask.
                await retries.pause(error)
            else:
                self._budget.earn()
                return result


class _Retries:
    """The attempts of one request."""

    def __init__(self, client: RetryingClient) -> None:
        self._client, self._attempts = client, 1

    def restart(self) -> None:
        """There was progress."""
        self._attempts = 1

    async def pause(self, error: TransientError) -> None:
        """Wait before the next attempt; raises `error` if there shall be none."""
        if isinstance(error, SlowDown):
            self._client._pace.slow_down()  # noqa: SLF001 - its own other half
        limits, budget = self._client._limits, self._client._budget  # noqa: SLF001
        if self._attempts >= limits.attempts_max:
            raise type(error)(f"{error} (asked {self._attempts} times)") from error
        if not budget.take():
            raise type(error)(f"{error} (not asked again: too many requests of this process failed)") from error
        await self._client._sleep(jittered_s(limits, self._attempts))  # noqa: SLF001
        self._attempts += 1


class _Body:
    """One download, over as many connections as it takes."""

    def __init__(
        self,
        client: ObjectClient,
        connection: AsyncExitStack,
        key: str,
        start: int,
        stop: int | None,
        size_bytes: int,
        chunks: AsyncIterator[bytes],
    ) -> None:
        self._client, self._connection, self._chunks = client, connection, chunks
        self._key, self._at, self._stop, self._size_bytes = key, start, stop, size_bytes

    @property
    def is_whole(self) -> bool:
        """Whether all bytes were told."""
        return self._at >= (self._size_bytes if self._stop is None else min(self._stop, self._size_bytes))

    async def rest(self) -> AsyncIterator[bytes]:
        """What this connection brings."""
        async for chunk in self._chunks:
            self._at += len(chunk)
            yield chunk

    async def ask_again(self) -> None:
        """Ask for what is left, letting go of the connection before."""
        with contextlib.suppress(TransientError):
            # It broke off; that it did is known.
            await self._connection.aclose()
        size_bytes, self._chunks = await self._connection.enter_async_context(
            self._client.get(self._key, self._at, self._stop)
        )
        if size_bytes != self._size_bytes:
            raise StorageFailed(f"{self._key} changed while it was read: {self._size_bytes} bytes, now {size_bytes}")
