"""A blocking face of a store, for scripts: the same engine, its event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

from blobstore.abc.backend import CHUNK_BYTES
from blobstore.app import make_collector, open_store
from blobstore.config import Config
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.gc import GcPolicy, RunReport
from blobstore.manifest import Manifest
from blobstore.store import Store
from blobstore.uploads import Upload

Result = TypeVar("Result")
Item = TypeVar("Item")


class BlockingStore:
    """An open store whose methods block. Use it with `with`, from any one thread at a time; open it after any fork.

    with BlockingStore("/srv/registry", create=True) as store:
        descriptor = store.put(b"…", repository="library/app")
    """

    def __init__(
        self, url: str, *, index: str | None = None, create: bool = False, config: Config | None = None
    ) -> None:
        self._opening: AbstractAsyncContextManager[Store] = open_store(url, index=index, create=create, config=config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._store: Store | None = None

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="blobstore-loop", daemon=True)
        self._thread.start()
        try:
            self._store = self.call(self._opening.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.call(self._opening.__aexit__(kind, error, trace))
        finally:
            self._stop()

    def _stop(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop, self._store = None, None

    @property
    def store(self) -> Store:
        """The store itself; its methods are called through `call`."""
        assert self._store is not None, "the store is not open"
        return self._store

    def call(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run anything of the asynchronous library on the store's loop and wait for it."""
        assert self._loop is not None, "the store is not open"
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def put(self, data: bytes | BinaryIO, *, repository: str | None = None) -> Descriptor:
        """Store bytes, or all that a binary file holds; without a repository they are pinned until `unpin`.

        Raises:
            NameInvalid, StorageFull: as their names say.
        """
        pieces = iter([data]) if isinstance(data, bytes) else iter(lambda: data.read(CHUNK_BYTES), b"")
        return self.call(self._put(pieces, repository))

    async def _put(self, pieces: Iterator[bytes], repository: str | None) -> Descriptor:
        if repository is None:
            async with await self.store.open_pinned_upload() as upload:
                return await self._write_all(upload, pieces)
        async with self.store.repository(repository).open_upload() as upload:
            return await self._write_all(upload, pieces)

    @staticmethod
    async def _write_all(upload: Upload, pieces: Iterator[bytes]) -> Descriptor:
        while (piece := await asyncio.to_thread(next, pieces, b"")) != b"":
            await upload.write(piece)
        return await upload.commit()

    def unpin(self, digest: Digest) -> None:
        """Let go of a pinned blob.

        Raises:
            BlobUnknown: it isn't pinned.
        """
        self.call(self.store.unpin(digest))

    def get(self, digest: Digest) -> bytes:
        """A whole blob, verified.

        Raises:
            BlobUnknown, BlobDamaged: as their names say.
        """

        async def read() -> bytes:
            async with self.store.open_blob(digest) as blob:
                return await blob.read()

        return self.call(read())

    def put_manifest(
        self, repository: str, body: bytes, media_type: str | None = None, *, tag: str | None = None
    ) -> Descriptor:
        """See `Repository.put_manifest`."""
        return self.call(self.store.repository(repository).put_manifest(body, media_type, tag=tag))

    def get_manifest(self, repository: str, reference: str | Digest) -> Manifest:
        """See `Repository.get_manifest`."""
        return self.call(self.store.repository(repository).get_manifest(reference))

    def repositories(self) -> list[str]:
        """The names of all repositories."""
        return [str(name) for name in self.call(_collect(self.store.repositories()))]

    def tags(self, repository: str) -> dict[str, Digest]:
        """A repository's tags and what they name.

        Raises:
            RepositoryUnknown: it holds no manifest.
        """
        return {str(entry.tag): entry.digest for entry in self.call(_collect(self.store.repository(repository).tags()))}

    def collect(self, policy: GcPolicy | None = None, *, dry_run: bool = False) -> RunReport:
        """Collect garbage, or say what would be collected.

        Raises:
            CollectionRefused, StoreFrozen, IndexDamaged: see `Collector.run`.
        """
        collector = make_collector(self.store, policy)
        return self.call(collector.dry_run() if dry_run else collector.run())


async def _collect(items: AsyncIterator[Item]) -> list[Item]:
    return [item async for item in items]
