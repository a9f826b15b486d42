"""The steps of guards, reconciliation and rebuilding, each a function over one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore.abc.records import Blob, IndexIdentity, ManifestKey, Seen, Trash, TrashState, Verdict
from blobstore.digest import Algorithm, Digest
from blobstore.errors import ForeignStore, FormatUnsupported
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index import _references as references
from blobstore.index import _state as state
from blobstore.index._outbox import last_sequence
from blobstore.index._records import EDGE_BLOB, EDGE_MANIFEST, NO_REPOSITORY, u32, u64
from blobstore.index._tables import Table, Transaction
from blobstore.layout import FORMAT_VERSION
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName, TagName
from blobstore.promises import PINNED_MS


def identity(tx: Transaction) -> IndexIdentity | None:
    """Whose index this is."""
    stored = tx.get(Table.META, records.META_IDENTITY)
    if stored is None:
        return None
    check_format(tx)
    row = records.IDENTITY.decode(stored)
    return IndexIdentity(row.store_id, row.index_id)


def check_format(tx: Transaction) -> None:
    """Refuse an index of another format version; every writing transaction asks."""
    found = tx.get(Table.META, records.META_FORMAT)
    if found is not None and found != u32(FORMAT_VERSION):
        raise FormatUnsupported(
            f"the index has format version {records.from_u32(found)}; this version of blobstore knows {FORMAT_VERSION}"
        )


def initialise(tx: Transaction, wanted: IndexIdentity) -> None:
    """Make an empty index that of a store."""
    found = identity(tx)
    if found == wanted:
        return
    if found is not None:
        raise ForeignStore(f"this index belongs to store {found.store_id}, not to {wanted.store_id}")
    tx.put(Table.META, records.META_FORMAT, u32(FORMAT_VERSION))
    tx.put(Table.META, records.META_IDENTITY, records.encode(records.IdentityRow(wanted.store_id, wanted.index_id)))


def freeze(tx: Transaction, why: str, numbered: int) -> None:
    """Stop all collecting; the first reason stays. Numbers up to `numbered` are taken."""
    if tx.get(Table.META, records.META_FROZEN) is None:
        tx.put(Table.META, records.META_FROZEN, why.encode())
    if numbered > last_sequence(tx):
        tx.put(Table.META, records.META_SEQUENCE, u64(numbered))


def note_clock(tx: Transaction, now_ms: int, is_jump: bool) -> None:  # noqa: FBT001
    """Remember the latest time seen; a jump starts a quiet grace, counted by the clock as it is now."""
    tx.put(Table.META, records.META_CLOCK_HIGH, u64(now_ms))
    if is_jump:
        tx.put(Table.META, records.META_QUIET_SINCE, u64(now_ms))


def note_orphan_scan(tx: Transaction, is_due: bool, token: bytes | None = None) -> None:  # noqa: FBT001
    """Say whether bytes may lie on the backend that no row knows."""
    if is_due:
        tx.put(Table.META, records.META_ORPHAN_SCAN, token or b"1")
    elif token is None or token == tx.get(Table.META, records.META_ORPHAN_SCAN):
        tx.delete(Table.META, records.META_ORPHAN_SCAN)


def ask_orphan_scan(tx: Transaction, boot: str, now_ms: int, every_ms: int) -> None:
    """Ask for an orphan scan after another boot, or once in a while."""
    known = tx.get(Table.META, records.META_ORPHAN_SCAN_ASKED)
    if known is not None and known[8:] == boot.encode():
        asked_at_ms = records.from_u64(known[:8])
        if asked_at_ms <= now_ms < asked_at_ms + every_ms:
            return
    token = u64(now_ms) + boot.encode()
    tx.put(Table.META, records.META_ORPHAN_SCAN_ASKED, token)
    tx.put(Table.META, records.META_ORPHAN_SCAN, token)


def judge(tx: Transaction, found: Sequence[Seen]) -> list[Verdict]:
    """What is known of names seen on the backend."""
    return [_judge(tx, seen) for seen in found]


def _judge(tx: Transaction, seen: Seen) -> Verdict:
    generation = seen.generation.key
    if seen.digest is not None:
        row = state.get_blob(tx, seen.digest.value)
        if row is not None and row.generation == generation:
            return Verdict.KNOWN
    if tx.get(Table.INTENTS_BY_GENERATION, generation) is not None:
        return Verdict.KNOWN
    trash = state.get_trash(tx, generation)
    # The row of an expired upload doesn't know the name its process published the bytes under before it died.
    if trash is not None and (trash.digest is not None or seen.key in trash.names):
        return Verdict.KNOWN
    stored = tx.get(Table.EPOCHS, generation[:8])
    is_ours = stored is not None and seen.generation.counter <= records.from_u64(stored)
    return Verdict.ORPHAN if is_ours else Verdict.ALIEN


def trash_orphans(tx: Transaction, found: Sequence[Seen], now_ms: int) -> int:
    """Put what is still an orphan into the trash; nobody can reach it, so it may go at once."""
    orphans = [seen for seen in found if _judge(tx, seen) is Verdict.ORPHAN]
    for seen in orphans:
        state.trash_names(tx, seen.generation.key, [seen.key], seen.size_bytes, now_ms, "left by a crash")
    return len(orphans)


def suspect_blob(tx: Transaction, digest: Digest, generation: Generation) -> bool:
    """From present to suspect, if the row still has this generation."""
    row = state.get_blob(tx, digest.value)
    if row is None or row.state != records.STATE_PRESENT or row.generation != generation.key:
        return False
    after = records.BlobRow(records.STATE_SUSPECT, row.generation, row.size, row.blake3, row.names, row.aliases)
    state.put_blob(tx, digest.value, after, row)
    return True


# Rebuilding


def restore_blobs(tx: Transaction, blobs: Sequence[Blob], now_ms: int) -> None:
    """Insert blobs found on the backend; one that no manifest will refer to is held for one grace."""
    for blob in blobs:
        row = state.new_blob_row(blob.digest, blob.generation, blob.size_bytes, blob.blake3, list(blob.names))
        state.put_blob(tx, blob.digest.value, row, state.get_blob(tx, blob.digest.value))
        state.set_hold(tx, blob.digest.value, NO_REPOSITORY, now_ms)


def restore_trash(tx: Transaction, trash: Sequence[Trash]) -> None:
    """Insert bytes that no blob needs."""
    for each in trash:
        status = records.TRASH_WAITING if each.state is TrashState.WAITING else records.TRASH_RETIRING
        before = state.get_trash(tx, each.generation.key)
        names = [*(before.names if before is not None else ()), *each.names]
        row = records.TrashRow(
            each.digest.value if each.digest is not None else None,
            list(dict.fromkeys(names)),
            each.size_bytes,
            each.not_before_ms,
            status,
            each.why,
            each.run,
        )
        state.put_trash(tx, each.generation.key, row)


def restore_epochs(tx: Transaction, high: Sequence[Generation]) -> None:
    """Know the epochs seen on the backend."""
    for generation in high:
        key = u64(generation.epoch)
        stored = tx.get(Table.EPOCHS, key)
        known = records.from_u64(stored) if stored else 0
        tx.put(Table.EPOCHS, key, u64(max(known, generation.counter)))


def restore_manifest(
    tx: Transaction,
    repository: RepositoryName,
    manifest: Manifest,
    pushed_at_ms: int,
    now_ms: int,
    is_subject_gone: bool,  # noqa: FBT001
) -> list[Digest]:
    """Insert a record and its edges. Children whose bytes are lost become suspect, so that a push heals them."""
    kinds, lost = references.plain_edges(tx, manifest)
    number = state.make_repository(tx, repository)
    references_of = {reference.digest: reference.kind for reference in manifest.references}
    for digest in lost:
        if digest.algorithm is not Algorithm.SHA256:
            continue
        state.put_blob(tx, digest.value, _lost_row(digest.value), None)
        kind = EDGE_MANIFEST if references_of[digest] == "manifest" else EDGE_BLOB
        kinds[digest.value] = references.Child(kind, 0, is_suspect=True)
    references.insert_record(tx, number, manifest, kinds, now_ms)
    key = u32(number) + manifest.digest.value
    row = state.get_manifest(tx, key)
    assert row is not None
    state.put_manifest_row(tx, key, state.changed(row, pushed_at_ms=pushed_at_ms, is_subject_gone=is_subject_gone), row)
    return lost


def restore_tag(tx: Transaction, key: ManifestKey, tag: TagName, updated_at_ms: int) -> None:
    """Insert a tag."""
    references.put_tag_row(tx, key, tag, updated_at_ms)


def restore_pin(tx: Transaction, digest: Digest) -> None:
    """Insert a pin; of a blob that is lost, with a suspect row, so that a push heals it."""
    if state.get_blob(tx, digest.value) is None:
        state.put_blob(tx, digest.value, _lost_row(digest.value), None)
    state.set_hold(tx, digest.value, NO_REPOSITORY, PINNED_MS)


def restore_alias(tx: Transaction, alias: Digest, digest: Digest) -> None:
    """Insert an alias; of a blob that is lost, with a suspect row, so that a push heals it."""
    before = state.get_blob(tx, digest.value)
    row = before or _lost_row(digest.value)
    key = records.digest_key(alias)
    if key not in row.aliases:
        row.aliases.append(key)
        tx.put(Table.ALIASES, key, digest.value)
        state.put_blob(tx, digest.value, row, before)


def _lost_row(raw: bytes) -> records.BlobRow:
    """Of a blob that is owed, and has no bytes anywhere. Its generation is of no epoch, and yet of no other blob: trash is
    told apart by it."""
    generation = Generation(0, int.from_bytes(raw[:8], "big"))
    return records.BlobRow(records.STATE_SUSPECT, generation.key, 0, None, [], [])


def finish_rebuild(tx: Transaction, sequence: int, now_ms: int) -> None:
    """Go on numbering behind what the journal holds; nothing is condemned for one grace."""
    tx.put(Table.META, records.META_SEQUENCE, u64(max(sequence, last_sequence(tx))))
    tx.put(Table.META, records.META_QUIET_SINCE, u64(now_ms))
    # So that a clock that was wrong just now, and is put right, is seen to go back.
    tx.put(Table.META, records.META_CLOCK_HIGH, u64(now_ms))
