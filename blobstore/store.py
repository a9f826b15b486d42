"""A store: a backend and an index that belong together, and the repositories in it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Self

from blobstore.abc.backend import Backend
from blobstore.abc.index import Index
from blobstore.abc.records import Blob, IndexIdentity, Totals
from blobstore.clock import Clock, SystemClock, random_hex
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, ForeignStore, IndexMissing, StoreFrozen, StoreUnknown
from blobstore.events import Alarm, EventSink, discard
from blobstore.journal import Journal, check_not_ahead
from blobstore.marker import Marker, check_marker, create_marker, half_rebuilt, new_marker, read_marker
from blobstore.names import RepositoryName
from blobstore.parts import Cleaner, Parts
from blobstore.pool import WorkerPool
from blobstore.promises import HoldTerms
from blobstore.readers import BlobReader, open_blob
from blobstore.repository import Repository
from blobstore.uploads import Upload, start_upload

_PAGE = 1000
_OTHER_HOST = (
    "\nThis storage can be reached from other hosts. If one of them writes to the store, work there: its index serves that host "
    "alone, several writing hosts wait for the PostgreSQL index. A rebuild here takes the store away from that host"
)
_OTHER_COPY = ". Or another host writes with a copy of this index: one host alone may"


class Store:
    """An open store. Belongs to one event loop; open it after any fork.

    `terms` says how long this process's answers are promises; a collector has terms of its own. `new_store_id` is what a store is
    named that is made, where its index had to be found before.
    """

    def __init__(
        self,
        backend: Backend,
        index: Index,
        *,
        clock: Clock | None = None,
        terms: HoldTerms | None = None,
        events: EventSink = discard,
        new_store_id: str | None = None,
    ) -> None:
        clock = clock or SystemClock()
        self._new_store_id = new_store_id
        self._parts = Parts(
            index,
            backend,
            clock,
            terms or HoldTerms(),
            Journal(index, backend, clock, events),
            Cleaner(index, backend),
            WorkerPool("hash", max(2, os.cpu_count() or 1)),
            events,
        )
        self._identity: IndexIdentity | None = None

    @property
    def index(self) -> Index:
        """What refers to what; for collectors and reports."""
        return self._parts.index

    @property
    def backend(self) -> Backend:
        """Where the bytes are; for collectors and reports."""
        return self._parts.backend

    @property
    def parts(self) -> Parts:
        """The store from the inside; for the parts of blobstore that work on it."""
        return self._parts

    @property
    def store_id(self) -> str:
        """The random name the store got when it was made."""
        assert self._identity is not None, "the store is not open"
        return self._identity.store_id

    async def open(self, *, create: bool = False) -> None:
        """Connect; with `create`, make a store where none is. After a crash nothing is to be repaired.

        Raises:
            StoreUnknown: there is none, and `create` is False.
            IndexMissing: there is a store, but its index is not where it should be.
            ForeignStore: the index is another store's, or another index speaks for this one.
            FormatUnsupported, IndexOnNetwork, StoreBusy: as their names say.
        """
        try:
            await self._parts.backend.open()
            marker = await read_marker(self._parts.backend)
            if marker is not None:
                with self._naming_other_hosts():
                    await self._join(marker)
            else:
                await self._make(is_wanted=create)
            await self._look_for_older_copy()
        except BaseException:
            self._identity = None
            await self._release()
            raise

    @contextlib.contextmanager
    def _naming_other_hosts(self) -> Iterator[None]:
        """That an index is missing has a likelier reason than its loss where another host may have it."""
        try:
            yield
        except (IndexMissing, ForeignStore) as error:
            if self._parts.backend.properties.is_shared:
                raise type(error)(f"{error}.{_OTHER_HOST}") from error
            raise

    async def _make(self, *, is_wanted: bool) -> None:
        """Index first, marker last: a crash in between leaves an index that the next try takes up."""
        if not is_wanted:
            raise StoreUnknown(f"there is no store at {self._parts.backend.location}; `blobstore init` makes one")
        await self._parts.backend.prepare()
        await self._parts.index.open(create=True)
        identity = await self._parts.index.identity()
        if identity is None:
            identity = IndexIdentity(self._new_store_id or random_hex(16), random_hex(16))
            await self._parts.index.initialise(identity)
        if not await create_marker(self._parts.backend, new_marker(identity)):
            await check_marker(self._parts.backend, identity)
        self._identity = identity

    async def _join(self, marker: Marker) -> None:
        if marker.state != "ready":
            raise StoreFrozen(half_rebuilt(self._parts.backend))
        await self._parts.index.open()
        identity = await self._parts.index.identity()
        if identity is None:
            raise IndexMissing("the index is empty, but the store is not; `blobstore index rebuild` makes a new one")
        await check_marker(self._parts.backend, identity)
        self._identity = identity

    async def _look_for_older_copy(self) -> None:
        try:
            await check_not_ahead(self._parts.index, self._parts.backend)
        except StoreFrozen as error:
            # Serving goes on; collecting does not.
            is_shared = self._parts.backend.properties.is_shared
            self._parts.events(Alarm(f"{error}{_OTHER_COPY if is_shared else ''}"))

    async def aclose(self) -> None:
        """Finish what runs behind the answers, then release all. Repeatable."""
        if self._identity is not None:
            self._identity = None
            try:
                await self._parts.cleaner.aclose()
                await self._parts.journal.aclose()
            finally:
                await self._release()

    async def _release(self) -> None:
        async with AsyncExitStack() as stack:
            for part in (self._parts.backend, self._parts.index, self._parts.hash_pool):
                stack.push_async_callback(part.aclose)

    async def __aenter__(self) -> Self:
        if self._identity is None:
            await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def repository(self, name: str) -> Repository:
        """A repository by name, whether it holds anything or not.

        Raises:
            NameInvalid: `name` is outside the grammar.
        """
        return Repository(self._parts, RepositoryName.parse(name))

    async def repositories(self) -> AsyncIterator[RepositoryName]:
        """All repositories that hold a manifest, in byte order."""
        after: RepositoryName | None = None
        while page := await self.index.list_repositories(after, _PAGE):
            after = page[-1]
            for name in page:
                yield name

    async def open_pinned_upload(self) -> Upload:
        """Begin an upload of a blob that no repository holds: it is pinned until `unpin`."""
        return await start_upload(self._parts, None, None, is_pinned=True)

    async def unpin(self, digest: Digest) -> None:
        """Let go of a pinned blob; the collector frees it.

        Raises:
            BlobUnknown: it isn't pinned.
        """
        change = await self.index.unpin_blob(digest, self._parts.clock.now_ms())
        await self._parts.journal.settle(change.sequence)

    async def stat_blob(self, digest: Digest) -> Blob:
        """What is known of a blob, whichever repository it is in.

        Raises:
            BlobUnknown: there is none.
        """
        found = await self.index.find_blob(digest)
        if found is None:
            raise BlobUnknown(f"no blob {digest}")
        return found

    def open_blob(
        self, digest: Digest, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Read a blob, whichever repository it is in; see `BlobReader`."""
        return open_blob(self._parts, digest, lambda: self.index.find_blob(digest), start, stop)

    async def totals(self) -> Totals:
        """Counters of blobs, bytes, manifests and uploads; no scan."""
        return await self.index.totals()

    async def checkpoint(self) -> int:
        """Write all references to the backend as one object; returns the journal sequence it covers. Done by itself now and
        then."""
        return await self._parts.journal.checkpoint()
