"""Copying one repository: manifests from the leaves up, each behind its blobs; then their tags."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence

from blobstore.abc.paging import every_tag
from blobstore.abc.records import ManifestKey, ManifestNode, ManifestRecord, TagEntry
from blobstore.digest import Digest
from blobstore.errors import (
    BlobDamaged,
    BlobUnknown,
    ContentMismatch,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    RepositoryUnknown,
)
from blobstore.manifest import Manifest, parse_manifest
from blobstore.names import RepositoryName, TagName, tag_max_chars
from blobstore.pool import for_each
from blobstore.replication._blobs import BlobCopier
from blobstore.replication._order import batches, families
from blobstore.replication._report import CopyReport, TagDifference
from blobstore.repository import Repository
from blobstore.store import Store

manifests_at_once = 8
blobs_of_manifest_at_once = 16

_PAGE = 1000
_ATTEMPTS_MAX = 3


class RepositoryCopy:
    """The copy of one repository."""

    def __init__(
        self,
        source: Store,
        target: Store,
        repository: Repository,
        blobs: BlobCopier,
        report: CopyReport,
        *,
        trusts_present: bool,
        is_dry_run: bool,
    ) -> None:
        self._source, self._target, self._repository = source, target, repository
        self._blobs, self._report = blobs, report
        self._trusts_present, self._is_dry_run = trusts_present, is_dry_run
        self._turn = asyncio.Semaphore(manifests_at_once)
        self._tags: dict[Digest, deque[TagEntry]] = {}
        self._left_out: set[Digest] = set()
        self._gone: set[Digest] = set()
        self._counted: set[Digest] = set()

    async def run(self, nodes: Sequence[ManifestNode]) -> None:
        """Each image with all that belongs to it, then its tags: who pulls by tag finds signatures, too. Not all tags at the end:
        a collector that deletes what has none would have a day of a long copy to do so."""
        for entry in await _tags(self._source, self._repository.name):
            self._tags.setdefault(entry.digest, deque()).append(entry)
        await for_each(self._copy_family, families(nodes), manifests_at_once)

    async def _copy_family(self, nodes: Sequence[ManifestNode]) -> None:
        for is_last in (False,) * (_ATTEMPTS_MAX - 1) + (True,):
            for batch in batches(nodes):
                await for_each(lambda node: self._copy_manifest(node.record), batch, manifests_at_once)
            try:
                for node in nodes:
                    await self._copy_tags(node.record.key)
            except ManifestUnknown:
                # Deleted at the target in the same moment, by hand or by a collector without grace.
                if is_last:
                    raise
            else:
                return

    async def _copy_manifest(self, record: ManifestRecord) -> None:
        digest = record.key.digest
        if digest in self._left_out or digest in self._gone:
            return
        async with self._turn:
            is_there = await self._target.index.resolve(self._repository.name, digest) is not None
            if is_there and self._trusts_present:
                self._count(digest, is_there=True)
            elif self._is_dry_run:
                self._count(digest, is_there=False)
            elif await self._is_put(record):
                self._count(digest, is_there=is_there)

    async def _is_put(self, record: ManifestRecord) -> bool:
        digest = record.key.digest
        try:
            if await self._put(record):
                return True
        except (BlobUnknown, ManifestBlobUnknown) as error:
            if await self._source.index.resolve(self._repository.name, digest) is None:
                # Deleted, and perhaps collected, while we were at it: there is nothing to copy any more.
                self._report.gone += 1
                self._gone.add(digest)
                return False
            if isinstance(error, ManifestBlobUnknown):
                raise
            self._blobs.failed(digest, str(error))
        self._left_out.add(digest)
        self._report.left_out.append(record.key)
        return False

    def _count(self, digest: Digest, *, is_there: bool) -> None:
        if digest not in self._counted:
            self._counted.add(digest)
            self._report.manifests_present += is_there
            self._report.manifests_copied += not is_there

    async def _put(self, record: ManifestRecord) -> bool:
        """Bring what a manifest needs, and put it; False if its bytes, or any of those, are damaged."""
        manifest = await self._read(record)
        if manifest is None:
            return False
        wanted = [(each.digest, each.kind == "foreign") for each in manifest.references if each.kind != "manifest"]
        children = [each.digest for each in manifest.references if each.kind == "manifest"]
        if not self._left_out.isdisjoint(children) or not await self._bring(wanted):
            return False
        is_sent = await self._target.index.find_blob(record.key.digest) is None
        for is_last in (False,) * (_ATTEMPTS_MAX - 1) + (True,):
            try:
                await self._repository.put_manifest(manifest.body, record.media_type)
            except ManifestBlobUnknown as error:
                # A collector without grace was faster than we are. Children whose record it dropped are put with it.
                again = [(each, False) for each in error.missing if isinstance(each, Digest)]
                if is_last or not await self._bring(again):
                    raise
            else:
                if is_sent:
                    self._report.bytes_copied += record.size_bytes
                    self._blobs.advance(record.size_bytes)
                return True
        raise AssertionError("unreachable")

    async def _read(self, record: ManifestRecord) -> Manifest | None:
        try:
            async with self._source.open_blob(record.key.digest) as blob:
                return parse_manifest(await blob.read(), record.media_type)
        except (BlobDamaged, ContentMismatch, ManifestInvalid) as error:
            self._blobs.failed(record.key.digest, str(error))
            return None

    async def _bring(self, wanted: list[tuple[Digest, bool]]) -> bool:
        missing: list[Digest] = []

        async def bring(each: tuple[Digest, bool]) -> None:
            digest, is_foreign = each
            try:
                if not await self._blobs.bring(self._repository, digest):
                    missing.append(digest)
            except BlobUnknown:
                # A foreign layer need not be here.
                if not is_foreign:
                    raise

        await for_each(bring, wanted, blobs_of_manifest_at_once)
        return not missing

    async def _copy_tags(self, key: ManifestKey) -> None:
        if key.digest in self._left_out or key.digest in self._gone:
            return
        waiting = self._tags.get(key.digest)
        while waiting:
            await self._copy_tag(key, waiting[0])
            waiting.popleft()

    async def _copy_tag(self, key: ManifestKey, entry: TagEntry) -> None:
        # Asked only now: a push to the target may have moved it while we were at its manifest.
        there = await _find_tag(self._target, key.repository, entry.tag)
        if there is not None and there.digest == entry.digest:
            return
        difference = TagDifference(key.repository, entry.tag, entry.digest, there.digest if there is not None else None)
        if there is not None and there.updated_at_ms > entry.updated_at_ms:
            self._report.tags_newer.append(difference)
            return
        if not self._is_dry_run:
            await self._put_tag(key, entry, is_move=there is not None)
        if there is None:
            self._report.tags_copied += 1
        else:
            self._report.tags_moved.append(difference)

    async def _put_tag(self, key: ManifestKey, entry: TagEntry, *, is_move: bool) -> None:
        index, journal = self._target.index, self._target.parts.journal
        if is_move:
            # What it named before is untagged as of now, not as of then.
            await index.put_tag(key, entry.tag, self._target.parts.clock.now_ms())
        change = await index.put_tag(key, entry.tag, entry.updated_at_ms)
        await journal.settle(change.sequence)


async def _find_tag(store: Store, repository: RepositoryName, tag: TagName) -> TagEntry | None:
    # In byte order nothing that can be a tag is between this and the tag.
    before = TagName(f"{tag[:-1]}{chr(ord(tag[-1]) - 1)}{'~' * tag_max_chars}")
    with contextlib.suppress(RepositoryUnknown):
        found = await store.index.list_tags(repository, before, 1)
        return found[0] if found and found[0].tag == tag else None
    return None


async def _tags(store: Store, repository: RepositoryName) -> list[TagEntry]:
    try:
        return [entry async for entry in every_tag(store.index, repository, _PAGE)]
    except RepositoryUnknown:
        return []
