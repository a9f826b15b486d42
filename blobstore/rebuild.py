"""Rebuild: a new index from what lies on the backend alone."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Sequence

import msgspec

from blobstore.abc.backend import Backend, ObjectInfo, read_all
from blobstore.abc.index import Index
from blobstore.abc.paging import every
from blobstore.abc.records import Blob, BlobState, IndexIdentity, ManifestKey, Trash, TrashState
from blobstore.clock import Clock, random_hex
from blobstore.digest import Digest
from blobstore.errors import Damaged, InvalidInput, KeyUnknown, ManifestUnknown, StoreUnknown
from blobstore.events import EventSink, Progress, Waiting, discard
from blobstore.generation import Generation
from blobstore.inventory import DataListing, list_data, list_names
from blobstore.journal import Journal, list_journal, recover
from blobstore.layout import (
    CHECKPOINT_PREFIX,
    UPLOADS_PREFIX,
    blob_key,
    data_key,
    parse_blob_key,
    parse_checkpoint_key,
    parse_record_key,
    parse_upload_key,
    published_names,
)
from blobstore.manifest import Manifest, parse_manifest
from blobstore.marker import new_marker, read_marker, replace_marker
from blobstore.missing import find_missing
from blobstore.names import RepositoryName
from blobstore.pool import task_group
from blobstore.promises import GRACE_S_DEFAULT
from blobstore.references import ManifestEntry, References
from blobstore.units import format_duration

BATCH = 1000
READS_AT_ONCE_MAX = 16
# Shorter waits need no words.
_TOLD_WAIT_S = 10


class RebuildReport(msgspec.Struct):
    """What a rebuild found and put back. `problems` are sentences for a person; any of them means that something was lost
    before the rebuild."""

    blobs: int = 0
    size_bytes: int = 0
    manifests: int = 0
    tags: int = 0
    pins: int = 0
    superfluous: int = 0
    problems: list[str] = []


async def rebuild(
    backend: Backend, index: Index, clock: Clock, events: EventSink = discard, *, wait_s: float | None = None
) -> tuple[RebuildReport, IndexIdentity]:
    """Fill an empty, open index from the backend, which must be open and used by no other process. The marker says
    "rebuilding" from the beginning, and until `finish` is called with the identity that this returns: a rebuild that dies is
    begun anew. `wait_s`, if it is given, takes the place of the backend's `late_requests_s`.

    Raises:
        StoreUnknown: no store lies there.
    """
    marker = await read_marker(backend)
    if marker is None:
        raise StoreUnknown(f"there is no store at {backend.location}: no marker")
    identity = IndexIdentity(marker.store_id, random_hex(16))
    await replace_marker(backend, new_marker(identity, "rebuilding"))
    await backend.prepare()
    await _wait(backend.properties.late_requests_s if wait_s is None else wait_s, events)
    await index.initialise(identity)
    work = _Rebuild(backend, index, clock, events)
    await work.restore_blobs()
    await work.restore_references()
    await work.look_once_more()
    return work.report, identity


async def _wait(seconds: float, events: EventSink) -> None:
    """Until what a dead process asked for has been done, or never will be."""
    if seconds >= _TOLD_WAIT_S:
        events(
            Waiting(
                f"requests of a process that died may take effect for {format_duration(seconds)} more; that is waited for. If "
                "nobody wrote to the store for so long, `--wait 0s` goes on at once"
            )
        )
    for second in range(math.ceil(seconds)):
        events(Progress("wait", second, math.ceil(seconds)))
        await asyncio.sleep(min(1, seconds - second))


async def finish(backend: Backend, identity: IndexIdentity) -> None:
    """The new index is in its place: it speaks for the store from now on."""
    await replace_marker(backend, new_marker(identity))


class _Rebuild:
    def __init__(self, backend: Backend, index: Index, clock: Clock, events: EventSink) -> None:
        self._backend, self._index, self._clock, self._events = backend, index, clock, events
        self._now_ms = clock.now_ms()
        self._epochs: dict[int, int] = {}
        self._damaged: list[Blob] = []
        self.report = RebuildReport()

    async def restore_blobs(self) -> None:
        """Every blob found is present and held now; of several generations of one, the first that hashes right."""
        batch: list[Blob] = []
        data = await list_data(self._backend)
        async for copies in self._copies(data):
            chosen, others = await self._choose(copies)
            batch.append(chosen)
            self.report.blobs += 1
            self.report.size_bytes += chosen.size_bytes
            await self._trash(others)
            if len(batch) == BATCH:
                await self._index.restore_blobs(batch, self._now_ms)
                self._events(Progress("blobs", self.report.blobs, 0))
                batch = []
        await self._index.restore_blobs(batch, self._now_ms)
        for blob in self._damaged:
            await self._index.suspect_blob(blob.digest, blob.generation)
        for generation, size_bytes in data.without_record():
            self._note(generation)
            self.report.superfluous += 1
            await self._trash_names(generation, None, (data_key(generation),), size_bytes)
        async for info in self._backend.list(UPLOADS_PREFIX):
            upload = parse_upload_key(info.key)
            if upload is not None:
                self._note(upload)
                await self._trash_names(upload, None, (info.key,), info.size_bytes)
        await self._index.restore_epochs([Generation(epoch, high) for epoch, high in self._epochs.items()])

    async def _copies(self, data: DataListing) -> AsyncIterator[list[Blob]]:
        """The generations of one digest together; the listings have them side by side."""
        copies: list[Blob] = []
        async for info in list_names(self._backend):
            blob = await self._found(info, data)
            if blob is None:
                continue
            if copies and copies[0].digest != blob.digest:
                yield copies
                copies = []
            copies.append(blob)
        if copies:
            yield copies

    async def _found(self, info: ObjectInfo, data: DataListing) -> Blob | None:
        """The blob that a name speaks of, if its bytes are there."""
        name, record = parse_blob_key(info.key), parse_record_key(info.key)
        if name is not None:
            self._note(name.generation)
            return Blob(name.digest, BlobState.PRESENT, name.generation, info.size_bytes, None, (info.key,))
        if record is None:
            return None
        self._note(record.generation)
        size_bytes = data.note_record(record.generation)
        if size_bytes is None:
            # A collection was cut short after the bytes went, or somebody else deleted them: references to it say which.
            self.report.superfluous += 1
            await self._trash_names(record.generation, record.digest, (info.key,), 0)
            return None
        names = published_names(blob_key(record.digest, record.generation), record.generation)
        return Blob(record.digest, BlobState.PRESENT, record.generation, size_bytes, None, names)

    async def _choose(self, copies: Sequence[Blob]) -> tuple[Blob, list[Blob]]:
        if len(copies) == 1:
            return copies[0], []
        right = [blob for blob in copies if await self._hashes_right(blob)]
        chosen = (right or copies)[0]
        if not right:
            self._damaged.append(chosen)
            self.report.problems.append(f"no copy of {chosen.digest} hashes right; push it again")
        return chosen, [blob for blob in copies if blob is not chosen]

    async def _hashes_right(self, blob: Blob) -> bool:
        hasher = hashlib.sha256()
        async with self._backend.read(blob.names[0]) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(hasher.update, chunk)
        return hasher.digest() == blob.digest.value

    async def _trash(self, blobs: Sequence[Blob]) -> None:
        for blob in blobs:
            self.report.superfluous += 1
            await self._trash_names(blob.generation, blob.digest, blob.names, blob.size_bytes)

    async def _trash_names(
        self, generation: Generation, digest: Digest | None, names: tuple[str, ...], size_bytes: int
    ) -> None:
        not_before_ms = self._now_ms + GRACE_S_DEFAULT * 1000
        trash = Trash(
            generation,
            digest,
            names,
            size_bytes,
            not_before_ms,
            TrashState.WAITING,
            "not needed by the rebuild",
            None,
        )
        await self._index.restore_trash([trash])

    def _note(self, generation: Generation) -> None:
        self._epochs[generation.epoch] = max(self._epochs.get(generation.epoch, 0), generation.counter)

    async def restore_references(self) -> None:
        """Aliases, manifests, tags, pins, from checkpoint and journal; then a checkpoint, as the new numbers begin behind it."""
        recovered = await recover(self._backend)
        self.report.problems += recovered.problems
        if recovered.sequence == 0 and self.report.blobs:
            self.report.problems.append(
                f"there are {self.report.blobs} blobs, but neither journal nor checkpoint: if there were manifests, tags or "
                "pins, they are lost"
            )
        references = recovered.references
        for alias, digest in references.aliases.items():
            # Of blobs that were collected since they are of no use.
            if await self._index.find_blob(digest) is not None:
                await self._index.restore_alias(alias, digest)
        for name, repository in references.repositories.items():
            await self._restore_manifests(name, references)
            for tag, target in repository.tags.items():
                key = ManifestKey(name, target.digest)
                try:
                    await self._index.restore_tag(key, tag, target.updated_at_ms)
                    self.report.tags += 1
                except ManifestUnknown as error:
                    self.report.problems.append(f"tag {name}:{tag} is lost: {error}")
        for digest in references.pins:
            if await self._index.find_blob(digest) is None:
                # Nobody took the pin back: it waits for the push.
                self.report.problems.append(f"the pinned blob {digest} is lost; push it again")
            await self._index.restore_pin(digest)
            self.report.pins += 1
        numbered = [name.last async for name in list_journal(self._backend)]
        numbered += [parse_checkpoint_key(info.key) or 0 async for info in self._backend.list(CHECKPOINT_PREFIX)]
        highest = max([recovered.sequence, *numbered])
        await self._index.finish_rebuild(highest, self._now_ms)
        journal = Journal(self._index, self._backend, self._clock)
        await journal.checkpoint()
        if recovered.problems:
            # The newest two are kept, and the damaged one may be among them: one more damage would lose everything.
            await journal.checkpoint()

    async def _restore_manifests(self, name: RepositoryName, references: References) -> None:
        limit = asyncio.Semaphore(READS_AT_ONCE_MAX)
        repository = references.repositories[name]

        async def restore(digest: Digest, entry: ManifestEntry) -> None:
            async with limit:
                await self._restore_manifest(ManifestKey(name, digest), entry, references)

        async with task_group() as group:
            for digest, entry in repository.manifests.items():
                group.create_task(restore(digest, entry))

    async def _restore_manifest(self, key: ManifestKey, entry: ManifestEntry, references: References) -> None:
        try:
            manifest = await self._read_manifest(key.digest, entry)
        except (KeyUnknown, InvalidInput, Damaged) as error:
            # And nothing else: bytes that could not be read this time are not lost, the next try may read them.
            self.report.problems.append(f"manifest {key} is lost: {error}")
            return
        is_gone = manifest.subject is not None and references.is_subject_gone(
            key.repository, key.digest, manifest.subject.digest
        )
        await self._restore_lost_aliases(manifest, references)
        lost = await self._index.restore_manifest(
            key.repository, manifest, entry.pushed_at_ms, self._now_ms, is_subject_gone=is_gone
        )
        self.report.problems += [f"{digest}, which {key} refers to, is lost; push it again" for digest in lost]
        self.report.manifests += 1
        self._events(Progress("manifests", self.report.manifests, 0))

    async def _read_manifest(self, digest: Digest, entry: ManifestEntry) -> Manifest:
        blob = await self._index.find_blob(digest)
        if blob is None:
            raise KeyUnknown("its bytes are not there")
        data = await read_all(self._backend, blob.names[0])
        if Digest.of(data) != digest:
            # Else a push would take what lies there for it.
            await self._index.suspect_blob(blob.digest, blob.generation)
            raise KeyUnknown("its bytes are damaged; push it again")
        return parse_manifest(data, entry.media_type)

    async def _restore_lost_aliases(self, manifest: Manifest, references: References) -> None:
        """What a manifest names by another algorithm and is lost: its sha256 is known, so that a push can heal it."""
        for reference in manifest.references:
            digest = references.aliases.get(reference.digest)
            if digest is not None and await self._index.find_blob(digest) is None:
                await self._index.restore_alias(reference.digest, digest)
                self.report.problems.append(f"{reference.digest} ({digest}) is lost; push it again")

    async def look_once_more(self) -> None:
        """Every chosen key must still be there: a request of a dead process may have taken effect late."""
        properties = self._backend.properties
        if properties.lists_faster_than_stats:
            found = await find_missing(self._index, self._backend, recheck_s=properties.recheck_s)
            self.report.problems += [_vanished(digest) for digest in (*found.missing, *found.wrong_size)]
            return
        async for each in every(lambda after: self._index.scan_references(after, BATCH)):
            if each.blob.state is BlobState.PRESENT:
                await self._look_at(each.blob)

    async def _look_at(self, blob: Blob) -> None:
        try:
            await self._backend.stat(blob.names[0])
        except KeyUnknown:
            await self._index.suspect_blob(blob.digest, blob.generation)
            self.report.problems.append(_vanished(blob.digest))


def _vanished(digest: Digest) -> str:
    return f"the bytes of {digest} vanished during the rebuild"
