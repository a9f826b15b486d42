"""Bringing single blobs from one store to a repository of another."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from blobstore.abc.records import Blob, BlobState
from blobstore.digest import Digest
from blobstore.errors import BlobDamaged, BlobstoreError, BlobUnknown, ContentMismatch, KeyUnknown
from blobstore.events import EventSink, Progress
from blobstore.names import RepositoryName
from blobstore.replication._report import BlobFailure, CopyReport
from blobstore.repository import Repository
from blobstore.store import Store
from blobstore.uploads import Upload

PHASE = "copy"
small_blob_max_bytes = 1024 * 1024
small_blobs_at_once = 32
big_blobs_at_once = 4

_OpenUpload = Callable[[Digest], AbstractAsyncContextManager[Upload]]
_ATTEMPTS_MAX = 3
_PARENTS_ASKED = 10


class BlobCopier:
    """Brings each blob at most once, several at a time. What is damaged at the source is noted and not tried again."""

    def __init__(self, source: Store, target: Store, report: CopyReport, progress: EventSink) -> None:
        self._source, self._target, self._report, self._progress = source, target, report, progress
        self._small = asyncio.Semaphore(small_blobs_at_once)
        self._big = asyncio.Semaphore(big_blobs_at_once)
        self._under_way: dict[Digest, asyncio.Lock] = {}
        self._damaged: set[Digest] = set()
        self._done_bytes = 0
        self.total_bytes = 0
        """What is to be sent in all, for the progress."""

    async def bring(self, repository: Repository, digest: Digest) -> bool:
        """See to it that the target's repository has a blob, promised; False: its bytes can't be had.

        Raises:
            BlobUnknown: the source has none of that digest (any more).
        """
        async with self._alone(digest):
            if digest in self._damaged:
                return False
            return await self._is_promised(repository, digest) or await self._send(digest, repository.open_upload)

    async def bring_pinned(self, digest: Digest) -> bool:
        """As `bring`, held by a pin in place of a repository."""

        @asynccontextmanager
        async def open_upload(_: Digest) -> AsyncIterator[Upload]:
            async with await self._target.open_pinned_upload() as upload:
                yield upload

        async with self._alone(digest):
            return digest not in self._damaged and await self._send(digest, open_upload)

    def failed(self, digest: Digest, why: str) -> None:
        """Note that a blob is damaged at the source."""
        if digest not in self._damaged:
            self._damaged.add(digest)
            self._report.failures.append(BlobFailure(digest, why))

    def advance(self, done_bytes: int) -> None:
        """Bytes were sent."""
        self._done_bytes += done_bytes
        self._progress(Progress(PHASE, self._done_bytes, max(self._done_bytes, self.total_bytes)))

    @asynccontextmanager
    async def _alone(self, digest: Digest) -> AsyncIterator[None]:
        """Two repositories often need the same blob at once: the second waits, and finds it there."""
        lock = self._under_way.setdefault(digest, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._under_way.pop(digest, None)

    async def _is_promised(self, repository: Repository, digest: Digest) -> bool:
        with contextlib.suppress(BlobUnknown):
            await repository.stat_blob(digest)
            return True
        found = await self._target.index.find_blob(digest)
        if found is None or found.state is BlobState.SUSPECT:
            return False
        for other in await self._seen_by(found.digest):
            with contextlib.suppress(BlobUnknown):
                await repository.mount_blob(digest, other)
                return True
        return False

    async def _seen_by(self, digest: Digest) -> list[RepositoryName]:
        index = self._target.index
        parents = [parent.repository for parent in await index.list_parents(digest, _PARENTS_ASKED)]
        return parents or [hold.repository for hold in await index.list_holds(digest) if hold.repository is not None]

    async def _send(self, digest: Digest, open_upload: _OpenUpload) -> bool:
        """Send the bytes. What the source lost may have been collected, or pushed anew: only what stays wrong is damage."""
        why = ""
        for _ in range(_ATTEMPTS_MAX):
            blob = await self._source.index.find_blob(digest)
            if blob is None:
                raise BlobUnknown(f"no blob {digest}; it was collected just now")
            try:
                async with self._small if blob.size_bytes <= small_blob_max_bytes else self._big:
                    await self._send_once(blob, digest, open_upload)
            except (BlobDamaged, BlobUnknown, ContentMismatch, KeyUnknown) as error:
                why = str(error)
            else:
                self._report.blobs_copied += 1
                return True
            again = await self._source.index.find_blob(digest)
            if again is not None and again.generation == blob.generation:
                break
        self.failed(digest, why)
        return False

    async def _send_once(self, blob: Blob, digest: Digest, open_upload: _OpenUpload) -> None:
        sent_bytes = 0
        async with self._source.open_blob(blob.digest) as chunks, open_upload(blob.digest) as upload:
            try:
                async for chunk in chunks:
                    await upload.write(chunk)
                    sent_bytes += len(chunk)
                    self.advance(len(chunk))
                await upload.commit(digest, blob.size_bytes)
            except BaseException:
                self.advance(-sent_bytes)
                with contextlib.suppress(BlobstoreError):
                    # The first error is the one to tell. A next run sends the blob from its start, so half of it is of no use.
                    await upload.cancel()
                raise
        self._report.bytes_copied += blob.size_bytes
