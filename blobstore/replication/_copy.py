"""Copying a store into another: blobs, then what refers to them, one repository after the other and several at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence

from blobstore.abc.paging import every, every_repository
from blobstore.abc.records import Blob, BlobState, ManifestNode
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, ConfigInvalid
from blobstore.events import EventSink, Progress, discard
from blobstore.index.memory import MemoryIndex
from blobstore.pool import for_each
from blobstore.replication._blobs import BlobCopier
from blobstore.replication._extras import find_extras, remove_extras
from blobstore.replication._report import CopyReport
from blobstore.replication._repository import RepositoryCopy
from blobstore.store import Store

repositories_at_once = 4
pins_at_once = 32

_PAGE = 1000


async def copy_store(
    source: Store,
    target: Store | None,
    *,
    deletes_extra: bool = False,
    is_dry_run: bool = False,
    progress: EventSink = discard,
) -> CopyReport:
    """Put every image of `source` into `target`: manifests with all they keep, tags with their dates, pins, and the digests of
    other algorithms that clients used. What the target has is not sent again, so that a copy that was cut short goes on, and a
    later one sends what is new. The source is only read; both may be used and collected meanwhile.

    A tag that was moved at the target later than at the source stays. A blob that is damaged at the source is left out together
    with the manifests that need it, and reported; all else is copied. What no manifest and no pin keeps is not copied.

    Args:
        source: an open store.
        target: another one; None in a dry run, for one that isn't made yet.
        deletes_extra: delete the tags and manifests that the target alone has.
        is_dry_run: change nothing, and report what would be done.
        progress: is told bytes sent and to be sent in all.

    Raises:
        ConfigInvalid: both are the same store.
        StorageFull, StorageFailed, …: of either storage; what was copied stays, for the next try.
    """
    if target is None:
        assert is_dry_run, "a copy needs a target"
        nothing = Store(MemoryBackend(), MemoryIndex())
        await nothing.open(create=True)
        async with nothing:
            return await copy_store(source, nothing, is_dry_run=True, progress=progress)
    if source.store_id == target.store_id:
        raise ConfigInvalid(
            f"{source.backend.location} and {target.backend.location} are the same store, as both have the id "
            f"{source.store_id}; files that were copied by hand are no second store"
        )
    return await _Copy(source, target, is_dry_run=is_dry_run, progress=progress).run(deletes_extra=deletes_extra)


class _Copy:
    """One copy under way."""

    def __init__(self, source: Store, target: Store, *, is_dry_run: bool, progress: EventSink) -> None:
        self._source, self._target, self._is_dry_run, self._progress = source, target, is_dry_run, progress
        self._report = CopyReport(source.backend.location, target.backend.location, is_dry_run)
        self._blobs = BlobCopier(source, target, self._report, progress)
        self._trusts_present = False

    async def run(self, *, deletes_extra: bool) -> CopyReport:
        """All of it."""
        # A manifest whose blobs are all there need not be looked into; with damage at the target, it may heal it.
        self._trusts_present = (await self._target.totals()).suspect_blobs == 0
        await self._compare()
        await for_each(self._copy_repository, every_repository(self._source.index, _PAGE), repositories_at_once)
        await for_each(self._copy_pin, _pins(self._source), pins_at_once)
        await self._copy_aliases()
        await find_extras(self._source, self._target, self._report)
        if deletes_extra and not self._is_dry_run:
            await remove_extras(self._target, self._report)
        self._report.is_extra_deleted = deletes_extra
        return self._report

    async def _compare(self) -> None:
        """How much is to be sent: one look at the index of the target for each blob, none at its storage."""
        looked_at = missing = 0
        async for found in every(lambda after: self._source.index.scan_references(after, _PAGE)):
            if not found.parents:
                continue
            looked_at += 1
            if looked_at % _PAGE == 0:
                self._progress(Progress("compare", looked_at, 0))
            is_there = await self._look(found.blob)
            if not any(parent.digest == found.blob.digest for parent in found.parents):
                self._report.blobs_present += is_there
                missing += not is_there
        async for digest in _pins(self._source):
            blob = await self._source.index.find_blob(digest)
            if blob is not None and not await self._source.index.list_parents(digest, 1):
                missing += not await self._look(blob)
        if self._is_dry_run:
            self._report.blobs_copied, self._report.bytes_copied = missing, self._blobs.total_bytes

    async def _look(self, blob: Blob) -> bool:
        """Whether the target has a blob; what it has not is to be sent."""
        there = await self._target.index.find_blob(blob.digest)
        is_there = there is not None and there.state is not BlobState.SUSPECT
        if not is_there:
            self._blobs.total_bytes += blob.size_bytes
        return is_there

    async def _copy_repository(self, nodes: Sequence[ManifestNode]) -> None:
        name = nodes[0].record.key.repository
        copying = RepositoryCopy(
            self._source,
            self._target,
            self._target.repository(name),
            self._blobs,
            self._report,
            trusts_present=self._trusts_present,
            is_dry_run=self._is_dry_run,
        )
        await copying.run(nodes)

    async def _copy_pin(self, digest: Digest) -> None:
        if await self._is_pinned(digest):
            return
        if self._is_dry_run:
            self._report.pins_copied += 1
            return
        with contextlib.suppress(BlobUnknown):
            # Unpinned and collected meanwhile.
            if await self._pin(digest) or await self._blobs.bring_pinned(digest):
                self._report.pins_copied += 1

    async def _is_pinned(self, digest: Digest) -> bool:
        index = self._target.index
        there = await index.find_blob(digest)
        if there is None or there.state is BlobState.SUSPECT:
            return False
        return any(hold.repository is None for hold in await index.list_holds(digest))

    async def _pin(self, digest: Digest) -> bool:
        """Pin what the target has already; False if it has not."""
        try:
            change = await self._target.index.pin_blob(digest, self._target.parts.clock.now_ms())
        except BlobUnknown:
            return False
        await self._target.parts.journal.settle(change.sequence)
        return True

    async def _copy_aliases(self) -> None:
        """What manifests name is there by now; these are the digests by which clients alone know a blob."""
        index = self._target.index
        async for each in every(lambda after: self._source.index.scan_aliases(after, _PAGE)):
            if await index.find_blob(each.alias) is not None:
                continue
            parents = await index.list_parents(each.digest, 1)
            if not parents:
                continue
            self._report.aliases_copied += 1
            if self._is_dry_run:
                continue
            repository = self._target.repository(parents[0].repository)
            record = await index.resolve(repository.name, each.digest)
            with contextlib.suppress(BlobUnknown):
                if record is None:
                    await self._blobs.bring(repository, each.alias)
                else:
                    manifest = await repository.get_manifest(each.digest)
                    await repository.put_manifest(manifest.body, record.media_type, digest=each.alias)


async def _pins(store: Store) -> AsyncIterator[Digest]:
    after: Digest | None = None
    while page := await store.index.list_pins(after, _PAGE):
        after = page[-1]
        for digest in page:
            yield digest
