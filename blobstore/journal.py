"""The journal: what refers to what, also on the backend, before anyone is told that it is so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgpack
import msgspec

from blobstore.abc.backend import CHUNK_BYTES, Backend, put_once, read_all
from blobstore.abc.index import Index
from blobstore.abc.paging import every, every_tag
from blobstore.abc.records import OutboxRow
from blobstore.clock import Clock
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError, JournalDamaged, RepositoryUnknown, StorageFull, StoreFrozen
from blobstore.events import Alarm, EventSink, discard
from blobstore.layout import (
    CHECKPOINT_PREFIX,
    JOURNAL_PREFIX,
    JournalName,
    checkpoint_key,
    journal_key,
    parse_checkpoint_key,
    parse_journal_key,
)
from blobstore.names import RepositoryName, UploadId
from blobstore.references import Change, References, RowEncoder, apply_all, decode_rows

ROWS_MAX = 10_000
"""How many changes one journal object holds at most."""
TRIM_EVERY_ROWS = 256
CHECKPOINT_EVERY_OBJECTS = 1000
CHECKPOINTS_KEPT = 2
_SLICE = 1000


class Journal:
    """Carries the outbox of the index to the backend; one for each open store."""

    def __init__(self, index: Index, backend: Backend, clock: Clock, events: EventSink = discard) -> None:
        self._index, self._backend, self._clock, self._events = index, backend, clock, events
        self._lock = asyncio.Lock()
        self._flushed = 0
        self._trimmed = 0
        self._objects_since_checkpoint = 0
        self._checkpointing: asyncio.Task[None] | None = None

    async def settle(self, sequence: int) -> None:
        """Return when the backend holds every change up to `sequence`. Whoever waits carries the others' too, those of a dead
        process included."""
        while self._flushed < sequence:
            async with self._lock:
                if self._flushed < sequence:
                    await self._flush_some()
        if self._objects_since_checkpoint >= CHECKPOINT_EVERY_OBJECTS:
            self._start_checkpoint()

    def _start_checkpoint(self) -> None:
        """Behind the answers: it only makes the next rebuild shorter."""
        if self._checkpointing is None or self._checkpointing.done():
            self._objects_since_checkpoint = 0
            self._checkpointing = asyncio.create_task(self._checkpoint_quietly())

    async def _checkpoint_quietly(self) -> None:
        try:
            await self.checkpoint()
        except BlobstoreError as error:
            self._events(Alarm(f"no checkpoint could be written: {error}; the journal grows until one can"))

    async def flush(self) -> None:
        """Return when the backend holds every change made before the call."""
        await self.settle((await self._index.guards()).sequence)

    async def aclose(self) -> None:
        """Forget the rows that are on the backend, so that the next process doesn't carry them again."""
        if self._checkpointing is not None:
            await self._checkpointing
        if self._trimmed < self._flushed:
            await self._index.trim_outbox(self._flushed)
            self._trimmed = self._flushed

    async def _flush_some(self) -> None:
        known = (await self._index.guards()).sequence
        rows = _without_gap(await self._index.list_outbox(self._flushed, ROWS_MAX))
        if not rows:
            # Another process carried and trimmed them.
            self._flushed = max(self._flushed, known)
            return
        first, last = rows[0].sequence, rows[-1].sequence
        encoder = RowEncoder()
        pieces = [encoder.header("journal", first, last)]
        pieces += [encoder.row([row.sequence, msgpack.unpackb(row.payload)]) for row in rows]
        data = b"".join([*pieces, encoder.end()])
        try:
            await self._put_rows(first, last, data)
        except StorageFull:
            # What is being journaled may be the very delete that makes room. Under a new name: the other may be there by now,
            # and not durable.
            await self._index.release_reserve()
            await self._put_rows(first, last, data)
        self._flushed = last
        self._objects_since_checkpoint += 1
        if self._flushed - self._trimmed >= TRIM_EVERY_ROWS:
            await self._index.trim_outbox(self._flushed)
            self._trimmed = self._flushed

    async def _put_rows(self, first: int, last: int, data: bytes) -> None:
        await put_once(self._backend, journal_key(first, last, self._index.unrecorded_generation()), data)

    async def checkpoint_if_long(self) -> None:
        """Write a checkpoint if many journal objects, of whichever process, have gathered."""
        gathered = 0
        async for _ in list_journal(self._backend):
            gathered += 1
        if gathered >= CHECKPOINT_EVERY_OBJECTS * CHECKPOINTS_KEPT:
            await self.checkpoint()

    async def checkpoint(self) -> int:
        """Write all references as one object and delete the journal objects that nobody needs any more; returns the sequence
        it covers.

        Raises:
            StoreFrozen: the index may lack what the journal holds.

        The scan goes in slices over a changing index. That is right all the same: a change sets a state, and every change
        behind the sequence noted before the scan is replayed over it. So the journal must hold all that the scan saw before
        the checkpoint is there: else the loss of the index would leave a part of a change, a tag without its manifest.
        """
        guards = await self._index.guards()
        if guards.frozen is not None:
            raise StoreFrozen(f"{guards.frozen}: what such an index knows must not take the place of the journal")
        sequence = guards.sequence
        await self.settle(sequence)
        upload_id = UploadId.random()
        intent = await self._index.start_upload(upload_id, None, None, self._clock.now_ms(), "")
        key = checkpoint_key(sequence, intent.generation)
        upload = await self._backend.open_upload(str(intent.generation), key=key)
        try:
            async for piece in self._pieces(sequence):
                await upload.write(piece)
            await self.flush()
            names = await upload.commit(key)
            # None: its name was there, which nobody else draws. As in `put_once`, it came there twice.
            assert names in ((key,), ()), names
        except BaseException:
            await upload.abort()
            await self._index.cancel_upload(upload_id, self._clock.now_ms())
            raise
        await self._index.close_intent(upload_id)
        self._objects_since_checkpoint = 0
        await self._delete_covered()
        return sequence

    async def _pieces(self, sequence: int) -> AsyncIterator[bytes]:
        encoder = RowEncoder()
        pieces = [encoder.header("checkpoint", sequence)]
        size = 0
        async for change in _all_changes(self._index):
            pieces.append(encoder.row(change))
            size += len(pieces[-1])
            if size >= CHUNK_BYTES:
                yield b"".join(pieces)
                pieces, size = [], 0
        yield b"".join([*pieces, encoder.end()])

    async def _delete_covered(self) -> None:
        """The newest checkpoints stay, and every journal object that the oldest of those doesn't cover: should one be
        damaged, the one before it still leads to today."""
        found = [info.key async for info in self._backend.list(CHECKPOINT_PREFIX)]
        kept = sorted(filter(None, map(parse_checkpoint_key, found)))[-CHECKPOINTS_KEPT:]
        covered = kept[0] if len(kept) == CHECKPOINTS_KEPT else 0
        doomed = [key for key in found if (parse_checkpoint_key(key) or covered) < covered]
        async for info in self._backend.list(JOURNAL_PREFIX):
            name = parse_journal_key(info.key)
            if name is not None and name.last <= covered:
                doomed.append(info.key)
        batch = self._backend.properties.delete_batch_max
        for at in range(0, len(doomed), batch):
            await self._backend.delete(doomed[at : at + batch])


def _without_gap(rows: Sequence[OutboxRow]) -> Sequence[OutboxRow]:
    """Those up to the first number that is left out: in an index that went back, the journal holds what is between."""
    end = next((at for at in range(1, len(rows)) if rows[at].sequence != rows[at - 1].sequence + 1), len(rows))
    return rows[:end]


async def check_not_ahead(index: Index, backend: Backend) -> None:
    """Make sure that the backend's journal knows nothing that the index doesn't: at open, before condemning and before
    deleting.

    Raises:
        StoreFrozen: it does, so the index is an older copy; it is frozen.
    """
    # List first, then read the index: what another process of this host adds in between is in both by then.
    numbered = [name.last async for name in list_journal(backend)]
    # Where checkpoints cover all of it, the journal is empty.
    numbered += [parse_checkpoint_key(info.key) or 0 async for info in backend.list(CHECKPOINT_PREFIX)]
    sequence, highest = (await index.guards()).sequence, max(numbered, default=0)
    if highest > sequence:
        why = f"the journal holds changes up to {highest}, the index only up to {sequence}"
        # A frozen store still takes pushes: their numbers must not be those of what it forgot, or a rebuild would drop one.
        await index.freeze(why, numbered=highest)
        raise StoreFrozen(f"{why}: the index is an older copy; `blobstore index rebuild` makes a new one")


class Recovered(msgspec.Struct):
    """What the journal and the checkpoints of a backend say."""

    references: References
    sequence: int
    problems: list[str]


async def recover(backend: Backend) -> Recovered:
    """Replay the newest checkpoint that can be read, and each journal sequence behind it once, in order, up to the first gap."""
    recovered = await _load_checkpoint(backend)
    async for name in list_journal(backend):
        if name.last <= recovered.sequence:
            continue
        if name.first > recovered.sequence + 1:
            recovered.problems.append(
                f"the journal has a gap: {recovered.sequence + 1} to {name.first - 1} is missing; what follows is ignored"
            )
            break
        try:
            _, rows = decode_rows("journal", await read_all(backend, name.key), name.key)
            _replay(recovered, rows, name.key)
        except JournalDamaged as error:
            # Another process may have carried the same rows in another object.
            recovered.problems.append(str(error))
    return recovered


def _replay(recovered: Recovered, rows: list[Change], where: str) -> None:
    for row in rows:
        match row:
            case [int(sequence), list(changes)]:
                if sequence == recovered.sequence + 1:
                    apply_all(recovered.references, changes, where)
                    recovered.sequence += 1
            case _:
                raise JournalDamaged(f"{where} is damaged: {row!r:.200} is no change with its number")


async def _load_checkpoint(backend: Backend) -> Recovered:
    found = [info.key async for info in backend.list(CHECKPOINT_PREFIX)]
    problems: list[str] = []
    for key in sorted((key for key in found if parse_checkpoint_key(key) is not None), reverse=True):
        references = References()
        try:
            header, changes = decode_rows("checkpoint", await read_all(backend, key), key)
            apply_all(references, changes, key)
        except JournalDamaged as error:
            problems.append(str(error))
            continue
        return Recovered(references, header[0], problems)
    return Recovered(References(), 0, problems)


async def list_journal(backend: Backend) -> AsyncIterator[JournalName]:
    """The names of all journal objects, in order of their first sequence."""
    async for info in backend.list(JOURNAL_PREFIX):
        name = parse_journal_key(info.key)
        if name is not None:
            yield name


async def _all_changes(index: Index) -> AsyncIterator[Change]:
    """Every reference as the change that makes it; aliases first, as manifests may be named by them."""
    pinned: Digest | None = None
    while pins := await index.list_pins(pinned, _SLICE):
        pinned = pins[-1]
        for digest in pins:
            yield ["pin", str(digest)]
    async for change in _alias_changes(index):
        yield change
    async for change in _manifest_changes(index):
        yield change
    repository: RepositoryName | None = None
    while names := await index.list_repositories(repository, _SLICE):
        repository = names[-1]
        for name in names:
            async for change in _tag_changes(index, name):
                yield change


async def _manifest_changes(index: Index) -> AsyncIterator[Change]:
    async for node in every(lambda after: index.scan_manifests(after, _SLICE)):
        record = node.record
        repository, digest = record.key.repository, str(record.key.digest)
        yield ["manifest", repository, digest, record.media_type, record.pushed_at_ms]
        if record.is_subject_gone:
            yield ["orphaned", repository, digest]


async def _tag_changes(index: Index, repository: RepositoryName) -> AsyncIterator[Change]:
    try:
        async for entry in every_tag(index, repository, _SLICE):
            yield ["tag", repository, entry.tag, str(entry.digest), entry.updated_at_ms]
    except RepositoryUnknown:
        # Removed while we scanned; the change that says so stands behind this checkpoint.
        return


async def _alias_changes(index: Index) -> AsyncIterator[Change]:
    async for alias in every(lambda after: index.scan_aliases(after, _SLICE)):
        yield ["alias", str(alias.alias), str(alias.digest)]
