"""Copying one repository: manifests from the leaves up, each behind its blobs, each with its tags."""

from __future__ import annotations

import contextlib

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
from blobstore.names import RepositoryName, TagName
from blobstore.pool import for_each
from blobstore.replication._blobs import BlobCopier
from blobstore.replication._order import batches
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
        self._tags: dict[Digest, list[TagEntry]] = {}
        self._there: dict[TagName, TagEntry] = {}
        self._left_out: set[Digest] = set()

    async def run(self, nodes: list[ManifestNode]) -> None:
        """Manifests, each behind its blobs and children, each with its tags."""
        for entry in await _tags(self._source, self._repository.name):
            self._tags.setdefault(entry.digest, []).append(entry)
        self._there = {entry.tag: entry for entry in await _tags(self._target, self._repository.name)}
        for batch in batches(nodes):
            await for_each(lambda node: self._copy_manifest(node.record), batch, manifests_at_once)

    async def _copy_manifest(self, record: ManifestRecord) -> None:
        digest = record.key.digest
        is_there = await self._target.index.resolve(self._repository.name, digest) is not None
        if is_there and self._trusts_present:
            self._report.manifests_present += 1
        elif self._is_dry_run:
            self._report.manifests_copied += 1
        else:
            try:
                is_put = await self._put(record)
            except (BlobUnknown, ManifestBlobUnknown) as error:
                if await self._source.index.resolve(self._repository.name, digest) is None:
                    # Deleted, and perhaps collected, while we were at it: there is nothing to copy any more.
                    self._report.gone += 1
                    return
                if isinstance(error, ManifestBlobUnknown):
                    raise
                self._blobs.failed(digest, str(error))
                is_put = False
            if not is_put:
                self._left_out.add(digest)
                self._report.left_out.append(record.key)
                return
            self._report.manifests_copied += not is_there
            self._report.manifests_present += is_there
        for entry in self._tags.get(digest, ()):
            await self._copy_tag(record.key, entry)

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

    async def _copy_tag(self, key: ManifestKey, entry: TagEntry) -> None:
        there = self._there.get(entry.tag)
        if there is not None and there.digest == entry.digest:
            return
        difference = TagDifference(key.repository, entry.tag, entry.digest, there.digest if there is not None else None)
        if there is not None and there.updated_at_ms > entry.updated_at_ms:
            self._report.tags_newer.append(difference)
            return
        if there is None:
            self._report.tags_copied += 1
        else:
            self._report.tags_moved.append(difference)
        if not self._is_dry_run:
            await self._put_tag(key, entry, is_move=there is not None)

    async def _put_tag(self, key: ManifestKey, entry: TagEntry, *, is_move: bool) -> None:
        index, journal = self._target.index, self._target.parts.journal
        with contextlib.suppress(ManifestUnknown):
            # Deleted at the target in the same moment: then it has no tag either.
            if is_move:
                # What it named before is untagged as of now, not as of then.
                await index.put_tag(key, entry.tag, self._target.parts.clock.now_ms())
            change = await index.put_tag(key, entry.tag, entry.updated_at_ms)
            await journal.settle(change.sequence)


async def _tags(store: Store, repository: RepositoryName) -> list[TagEntry]:
    try:
        return [entry async for entry in every_tag(store.index, repository, _PAGE)]
    except RepositoryUnknown:
        return []
