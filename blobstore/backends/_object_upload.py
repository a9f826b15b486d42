"""An upload to an object store: parts on their way, the tail that is no whole part yet, and what joins them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from blobstore.abc.backend import CHUNK_BYTES, BackendUpload
from blobstore.backends._keys import checked_key
from blobstore.backends._multipart import PARTS_AT_ONCE, PartBuffer, PartPlan
from blobstore.backends._object_client import Part
from blobstore.backends._object_tail import Tail, UploadTools
from blobstore.backends._spool import SpoolState, UploadSpool
from blobstore.errors import BlobstoreError, InvalidInput, KeyUnknown
from blobstore.layout import BLOBS_PREFIX, record_key
from blobstore.pool import unstoppable

_ABORTS_MAX = 3


class ObjectUpload(BackendUpload):
    """Bytes that become an object.

    Less than a part is sent at the commit, with one put to its name. More is sent part by part while it arrives, to `target`: the
    blob's own key where that was known, else a name of its own, whose digest a commit record tells. Parts can't be read or cut
    before they are joined; where that is needed all the same they are joined early, and sent again if more follows.
    """

    def __init__(self, tools: UploadTools, spool: UploadSpool, target: str) -> None:
        self._tools, self._spool = tools, spool
        self._client = tools.client
        state = spool.state
        self._target = state.target or target
        self._multipart_id = state.multipart_id
        self._plan = PartPlan(state.part_bytes or tools.part_bytes)
        self._joined_bytes = state.joined_bytes
        self._points = state.points
        self._parts: dict[int, Part] = {}
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._number = 1
        self._tail = Tail(tools, spool)
        # Keys that may have come to be, in the order in which they were made.
        self._made: list[str] = [self._target] if state.is_made else []
        self._error: BaseException | None = None
        self._is_over = False

    async def resume(self) -> None:
        """Take up what the last session left: the parts the server has, and the tail that lies here.

        Raises:
            KeyUnknown: the server dropped the parts.
        """
        if self._joined_bytes is not None or not self._points:
            return
        offset = self._points[-1]
        tail = await self._tools.pool.finish(self._spool.tail, offset)
        # Not `number_at(offset)`: the tail may be a whole part that was not sent yet.
        self._number = self._plan.number_at(offset - len(tail))
        if self._number > 1:
            await self._find_parts()
        await self._take(tail)

    async def _find_parts(self) -> None:
        """Those that were sent before it was closed. Some servers also list what was replaced, so a number alone says nothing."""
        etags = self._spool.state.etags
        listed = await self._client.list_parts(self._target, self._multipart_id)
        found = {(part.number, part.size_bytes, part.etag): part for part in listed}
        for number in range(1, self._number):
            etag = etags[number - 1] if number <= len(etags) else ""
            part = found.get((number, self._plan.size_of(number), etag))
            if part is None:
                raise KeyUnknown(f"{self._client.location} lost part {number} of an upload; start anew")
            self._parts[number] = part

    @property
    def offset(self) -> int:
        """See `BackendUpload.offset`."""
        if self._joined_bytes is not None:
            return self._joined_bytes
        return self._plan.start_of(self._number) + self._tail.size_bytes

    async def write(self, data: bytes) -> None:
        """See `BackendUpload.write`."""
        self._check_usable()
        if self._joined_bytes is not None:
            await self._send_again(self._joined_bytes)
        await self._take(data)

    async def drain(self) -> None:
        """See `BackendUpload.drain`."""
        while self._sending:
            await asyncio.wait(self._sending.values())
        self._check_usable()

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `BackendUpload.read`."""
        tail_start = self._plan.start_of(self._number)
        if self._joined_bytes is None and start >= tail_start:
            for at in range(start, stop, CHUNK_BYTES):
                yield await self._tail.read(at - tail_start, min(stop, at + CHUNK_BYTES) - tail_start)
        elif start < stop:
            await self._join_early()
            async with self._client.get(self._target, start, stop) as (_, chunks):
                async for chunk in chunks:
                    yield chunk

    async def truncate(self, offset: int) -> None:
        """See `BackendUpload.truncate`. Costs no request within the tail, at the end of a part, and at an offset at which it was
        closed lately; elsewhere what was sent is sent again."""
        assert 0 <= offset <= self.offset, offset
        await self.drain()
        number, tail_start = self._plan.number_at(offset), self._plan.start_of(self._number)
        kept = offset - self._plan.start_of(number)
        saved = await self._saved_tail(offset)
        await self._forget_points_behind(offset)
        if self._joined_bytes is not None:
            await self._send_again(offset)
        elif offset >= tail_start:
            self._tail.cut(offset - tail_start)
        elif kept == 0 or saved is not None:
            self._go_back(number)
            await self._take((saved or b"")[:kept])
        else:
            await self._join_early()
            await self._send_again(offset)

    async def commit(self, key: str) -> tuple[str, ...]:
        """See `BackendUpload.commit`."""
        try:
            names = await self._publish(checked_key(key))
        except BaseException:
            with contextlib.suppress(BlobstoreError):
                # The first error is the one to tell; what is left is listed among the open uploads, and is deleted there.
                await self.abort()
            raise
        if not names:
            await self.abort()
            return ()
        self._is_over = True
        await self._tools.pool.finish(self._spool.remove)
        return names

    async def abort(self) -> None:
        """See `BackendUpload.abort`."""
        if not self._is_over:
            self._is_over = True
            await unstoppable(self._abort())

    async def aclose(self) -> None:
        """See `BackendUpload.aclose`. If a part could not be sent it raises, and the upload stays as it was when it was closed
        before."""
        if not self._is_over:
            self._is_over = True
            await unstoppable(self._close())

    # Sending

    async def _take(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            size = self._plan.size_of(self._number)
            if self._tail.size_bytes == size:
                await self._send_tail()
                continue
            piece = view[: size - self._tail.size_bytes]
            await self._tail.append(piece, size)
            view = view[len(piece) :]

    async def _send_tail(self) -> None:
        """Send the tail as the next part, in a task of its own."""
        if not self._multipart_id:
            await unstoppable(self._start_multipart())
        while len(self._sending) >= PARTS_AT_ONCE:
            await asyncio.wait(self._sending.values(), return_when=asyncio.FIRST_COMPLETED)
        self._check_usable()
        buffer = await self._tail.take()
        number, self._number = self._number, self._number + 1
        task = asyncio.ensure_future(self._send(number, buffer))
        self._sending[number] = task
        task.add_done_callback(lambda task: self._sent(number, task, buffer))

    async def _start_multipart(self) -> None:
        self._multipart_id = await self._client.start_multipart(self._target)
        # Before its first part, so that whoever deletes this upload after a crash aborts it by its id.
        await self._save(is_durable=False)

    async def _send(self, number: int, buffer: PartBuffer) -> None:
        target, multipart_id = self._target, self._multipart_id
        if buffer.pieces is not None:
            part = await self._client.put_part_in_pieces(target, multipart_id, number, buffer.pieces)
        else:
            part = await self._client.put_part(target, multipart_id, number, buffer.data)
        self._parts[number] = part

    def _sent(self, number: int, task: asyncio.Task[None], buffer: PartBuffer) -> None:
        del self._sending[number]
        buffer.release()
        # Of each, so that none is told as one that nobody retrieved; of several the first counts.
        error = None if task.cancelled() else task.exception()
        self._error = self._error or error

    async def _join_early(self) -> None:
        if not await self._join():
            raise KeyUnknown("another session of this upload published it; start anew")

    async def _join(self) -> bool:
        """Make one object of all parts, if it isn't one already. False if another session's lies there, which stays."""
        if self._joined_bytes is not None:
            return True
        # Whoever writes to it holds the spool's lock, and a spool goes once its upload is published: so what is not there now was
        # published by nobody, and what is there, and not of this spool, was. Not every vendor refuses to complete over it.
        is_new = self._target not in self._made
        if is_new and await self._is_there(self._target):
            return False
        size = self.offset
        if self._tail.size_bytes:
            await self._send_tail()
        await self.drain()
        if is_new:
            self._made.append(self._target)
            # Known to whoever goes on after a crash: what is there is ours, and not another session's blob.
            await self._save(is_durable=False)
        # Not to be cancelled in the middle: whether the object is there must be known before it is deleted.
        if not await unstoppable(self._complete(is_new=is_new)):
            return False
        self._joined_bytes, self._multipart_id = size, ""
        self._points = ()
        await self._save(is_durable=False)
        return True

    async def _complete(self, *, is_new: bool) -> bool:
        parts = [self._parts[number] for number in range(1, self._number)]
        done = await self._client.complete(self._target, self._multipart_id, parts, is_new=is_new)
        if not done:
            # Another's: not to be deleted by us.
            self._made.remove(self._target)
        return done

    async def _send_again(self, offset: int) -> None:
        """Begin a new multipart upload of the same name with the first bytes of the object, which it will replace."""
        # A point at which all was joined has no tail, and none of the parts before it is there any more.
        self._joined_bytes, self._points, self._parts, self._number = None, (), {}, 1
        self._tail.cut(0)
        try:
            if offset:
                async with self._client.get(self._target, 0, offset) as (_, chunks):
                    async for chunk in chunks:
                        await self._take(chunk)
        except BaseException as error:
            # What was taken is no longer what `offset` said: nothing may follow it.
            self._error = error if isinstance(error, Exception) else KeyUnknown("this upload was cancelled; start anew")
            raise

    # Ending

    async def _publish(self, key: str) -> tuple[str, ...]:
        self._check_usable()
        name = self._tools.prefix + key
        if self._number == 1 and self._joined_bytes is None:
            if not await self._put_whole(name):
                return ()
            await self._drop_target(name)
            return (key,)
        has_record = name != self._target
        if has_record and not (key.startswith(BLOBS_PREFIX) and self._target.startswith(self._tools.data_prefix)):
            raise InvalidInput(f"this upload was begun for {self._target}, it can't become {key}")
        if not await self._join():
            return ()
        if not has_record:
            return (key,)
        record = record_key(key)
        self._made.append(self._tools.prefix + record)
        # It names bytes that are there: only after them.
        await unstoppable(self._client.put(self._tools.prefix + record, b"", is_new=False))
        return (self._target.removeprefix(self._tools.prefix), record)

    async def _put_whole(self, name: str) -> bool:
        if not await self._tools.creates_once() and await self._is_there(name):
            return False
        buffer = await self._tail.take() if self._tail.size_bytes else None
        try:
            # Not among what is deleted should this fail: a session of this upload that sent less than came here puts to the same
            # name, under no lock, and who made it is then known to the index alone.
            return await unstoppable(self._client.put(name, buffer.whole() if buffer is not None else b"", is_new=True))
        finally:
            if buffer is not None:
                buffer.release()

    async def _is_there(self, name: str) -> bool:
        try:
            await self._client.head(name)
        except KeyUnknown:
            return False
        return True

    async def _drop_target(self, name: str) -> None:
        """What was sent before the upload was truncated to less than a part."""
        if self._multipart_id:
            await self._client.abort(self._target, self._multipart_id)
        if self._target in self._made and self._target != name:
            await self._client.delete([self._target])

    async def _abort(self) -> None:
        try:
            sending = list(self._sending.values())
            for task in sending:
                task.cancel()
            if sending:
                await asyncio.wait(sending)
            if self._multipart_id:
                await self._abort_multipart(may_be_late=bool(sending))
            for key in reversed(self._made):
                if key not in await self._client.delete([key]):
                    # Bytes outlive the record that speaks of them. The trash knows both.
                    break
            await self._tools.pool.run(self._spool.remove)
        finally:
            self.let_go()

    async def _abort_multipart(self, *, may_be_late: bool) -> None:
        for _ in range(_ABORTS_MAX):
            await self._client.abort(self._target, self._multipart_id)
            if not may_be_late:
                return
            try:
                # A part that was cancelled on its way may arrive behind the abort.
                await self._client.list_parts(self._target, self._multipart_id)
            except KeyUnknown:
                return

    async def _close(self) -> None:
        try:
            while self._sending:
                await asyncio.wait(self._sending.values())
            if self._error is not None:
                raise self._error
            await self._tools.pool.run(
                self._spool.save_point, self._state(), self.offset, self._tail.view(), self._tail.size_bytes
            )
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Another session may take it up, as it was when it was closed before."""
        self._is_over = True
        self._tail.cut(0)
        self._spool.close()

    # What is known

    def _go_back(self, number: int) -> None:
        """The parts from a number on were never sent; their numbers will replace what the server has."""
        self._parts = {each: part for each, part in self._parts.items() if each < number}
        self._number = number
        self._tail.cut(0)

    async def _saved_tail(self, offset: int) -> bytes | None:
        for point in self._points:
            if point >= offset and self._plan.number_at(point) == self._plan.number_at(offset):
                return await self._tools.pool.finish(self._spool.tail, point)
        return None

    async def _forget_points_behind(self, offset: int) -> None:
        """Durably, before a part that they count on is replaced."""
        kept = tuple(point for point in self._points if point <= offset)
        if kept != self._points:
            self._points = kept
            await self._save(is_durable=True)

    async def _save(self, *, is_durable: bool) -> None:
        await self._tools.pool.finish(self._spool.save, self._state(), is_durable=is_durable)

    def _state(self) -> SpoolState:
        return SpoolState(
            target=self._target,
            multipart_id=self._multipart_id,
            part_bytes=self._plan.first_bytes,
            joined_bytes=self._joined_bytes,
            etags=tuple(self._parts[number].etag for number in range(1, self._number) if number in self._parts),
            points=self._points,
            is_made=self._target in self._made,
        )

    def _check_usable(self) -> None:
        assert not self._is_over, "this upload is over"
        if self._error is not None:
            raise self._error
