"""What an open store is made of, handed to those that work on it."""

from __future__ import annotations

import asyncio

import msgspec

from blobstore.abc.backend import Backend
from blobstore.abc.index import Index
from blobstore.abc.records import Trash, TrashState
from blobstore.clock import Clock
from blobstore.errors import BlobstoreError
from blobstore.events import EventSink
from blobstore.generation import Generation
from blobstore.journal import Journal
from blobstore.layout import is_record_key
from blobstore.pool import WorkerPool
from blobstore.promises import HoldTerms


class Cleaner:
    """Deletes bytes that turned out not to be needed, behind the answers: what it doesn't get done, the collector finds in the
    trash."""

    def __init__(self, index: Index, backend: Backend) -> None:
        self._index, self._backend = index, backend
        self._waiting: list[Generation] = []
        self._task: asyncio.Task[None] | None = None
        self._error: BlobstoreError | None = None

    def add(self, generation: Generation | None) -> None:
        """Delete the names of a trash row that nobody can reach, soon."""
        if generation is None:
            return
        self._waiting.append(generation)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Wait until nothing is left to do; raises the first error of what was left undone."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        if self._task is not None:
            self._task.result()
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _run(self) -> None:
        try:
            await self._delete_waiting()
        except BlobstoreError as error:
            # Nobody waits for this task before the end, and another may follow it.
            self._error = self._error or error

    async def _delete_waiting(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            found = [await self._index.find_trash(generation) for generation in batch]
            # What waits belongs to a condemned blob, which may come back.
            retiring = [trash for trash in found if trash is not None and trash.state is TrashState.RETIRING]
            await delete_trash(self._index, self._backend, retiring)


async def delete_trash(index: Index, backend: Backend, trash: list[Trash]) -> list[Trash]:
    """Delete the commit records of retiring trash, then its bytes, and then its rows; returns what this call removed."""
    records = [name for each in trash for name in each.names if is_record_key(name)]
    gone = await _delete(backend, records)
    # Without its record, data says nothing to a rebuild; a record without data would promise what is not there.
    bare = [each for each in trash if gone.issuperset(name for name in each.names if is_record_key(name))]
    gone |= await _delete(backend, [name for each in bare for name in each.names if not is_record_key(name)])
    confirmed = [each for each in bare if gone.issuperset(each.names)]
    return list(await index.forget_trash(confirmed)) if confirmed else []


async def _delete(backend: Backend, names: list[str]) -> set[str]:
    """Those that are confirmed gone."""
    batch = backend.properties.delete_batch_max
    gone: set[str] = set()
    for at in range(0, len(names), batch):
        gone |= await backend.delete(names[at : at + batch])
    return gone


class Parts(msgspec.Struct, frozen=True):
    """An open store from the inside."""

    index: Index
    backend: Backend
    clock: Clock
    terms: HoldTerms
    journal: Journal
    cleaner: Cleaner
    hash_pool: WorkerPool
    events: EventSink
