"""What rows mean together: the steps that several verbs share, each keeping every secondary row beside its primary."""

from __future__ import annotations

from typing import Any

import msgspec

from blobstore.abc.records import Blob, BlobState, ManifestKey, ManifestRecord, Trash, TrashState
from blobstore.digest import Algorithm, Digest
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index._records import NO_REPOSITORY, u32, u64
from blobstore.index._tables import Table, Transaction
from blobstore.layout import blob_key, parse_blob_key, parse_record_key
from blobstore.names import RepositoryName
from blobstore.promises import PINNED_MS, Activity, HoldTerms

_BLOB_STATES = (BlobState.PRESENT, BlobState.CONDEMNED, BlobState.SUSPECT)
_TRASH_STATES = (TrashState.WAITING, TrashState.RETIRING)
_TOTALS_OF_STATE = ("present", "condemned", "suspect")


def is_frozen(tx: Transaction) -> bool:
    """Whether this may be an older copy of the index: then the backend and the journal know better than its rows."""
    return tx.get(Table.META, records.META_FROZEN) is not None


# Repositories


def repository_id(tx: Transaction, name: RepositoryName) -> int | None:
    """The short id of a repository, None if there is none of that name."""
    known = tx.repository_ids.get(name)
    if known is not None:
        return known
    value = tx.get(Table.REPOSITORIES, name.encode())
    if value is None:
        return None
    tx.repository_ids[name] = number = records.REPOSITORY.decode(value).id
    return number


def make_repository(tx: Transaction, name: RepositoryName) -> int:
    """The short id of a repository, made if there is none. Ids are never used again."""
    known = repository_id(tx, name)
    if known is not None:
        return known
    stored = tx.get(Table.META, records.META_NEXT_REPOSITORY)
    number = records.from_u32(stored) if stored else NO_REPOSITORY + 1
    tx.put(Table.META, records.META_NEXT_REPOSITORY, u32(number + 1))
    tx.put(Table.REPOSITORIES, name.encode(), records.encode(records.RepositoryRow(number, 0, 0)))
    tx.put(Table.REPOSITORY_NAMES, u32(number), name.encode())
    tx.repository_ids[name] = number
    return number


def repository_name(tx: Transaction, number: int) -> RepositoryName | None:
    """The name of a repository id, None for no repository or one that is gone."""
    value = tx.get(Table.REPOSITORY_NAMES, u32(number))
    return RepositoryName(value.decode()) if value else None


def activity(tx: Transaction, number: int) -> Activity:
    """Since and until when bytes have been arriving in a repository."""
    name = tx.get(Table.REPOSITORY_NAMES, u32(number)) if number != NO_REPOSITORY else None
    value = tx.get(Table.REPOSITORIES, name) if name else None
    if value is None:
        return Activity()
    row = records.REPOSITORY.decode(value)
    # A repository that was removed and made again is another one.
    return Activity(row.since_ms, row.until_ms) if row.id == number else Activity()


# Blobs


def canonical(tx: Transaction, digest: Digest) -> bytes | None:
    """The raw sha256 that a digest of any algorithm stands for; None for an alias nobody used."""
    if digest.algorithm is Algorithm.SHA256:
        return digest.value
    return tx.get(Table.ALIASES, records.digest_key(digest))


def get_blob(tx: Transaction, raw: bytes) -> records.BlobRow | None:
    """The row of a blob."""
    value = tx.get(Table.BLOBS, raw)
    return records.BLOB.decode(value) if value else None


def new_blob_row(
    digest: Digest, generation: Generation, size: int, blake3: bytes | None, names: list[str]
) -> records.BlobRow:
    """A present blob's row; its names are left out where they follow from digest and generation."""
    kept = [] if names == [blob_key(digest, generation)] else names
    return records.BlobRow(records.STATE_PRESENT, generation.key, size, blake3, kept, [])


def blob_state(row: records.BlobRow) -> BlobState:
    """The state of a blob's row as others see it."""
    return _BLOB_STATES[row.state]


def blob_value(raw: bytes, row: records.BlobRow) -> Blob:
    """A blob's row as others see it."""
    digest, generation = Digest.from_sha256(raw), Generation.from_key(row.generation)
    names = tuple(row.names) or (blob_key(digest, generation),)
    return Blob(digest, _BLOB_STATES[row.state], generation, row.size, row.blake3, names)


def put_blob(tx: Transaction, raw: bytes, row: records.BlobRow, before: records.BlobRow | None) -> None:
    """Write a blob's row and keep the counters right; `before` is the row it replaces."""
    if before is None or before.state != row.state or before.size != row.size:
        is_referenced = has_edge(tx, raw)
        if before is not None:
            _count_blob(tx, before, is_referenced, -1)
        _count_blob(tx, row, is_referenced, +1)
    tx.put(Table.BLOBS, raw, records.encode(row))


def add_blob(tx: Transaction, raw: bytes, row: records.BlobRow) -> None:
    """Write the row of a blob that had none, and so neither edge nor hold."""
    _count_blob(tx, row, False, +1)  # noqa: FBT003
    tx.put(Table.BLOBS, raw, records.encode(row))


def delete_blob_row(tx: Transaction, raw: bytes, row: records.BlobRow) -> None:
    """Remove a blob's row, its aliases and its holds."""
    _count_blob(tx, row, has_edge(tx, raw), -1)
    tx.delete(Table.BLOBS, raw)
    for alias in row.aliases:
        tx.delete(Table.ALIASES, alias)
    for key, hold in holds(tx, raw):
        delete_hold(tx, key, hold)


def _count_blob(tx: Transaction, row: records.BlobRow, is_referenced: bool, sign: int) -> None:  # noqa: FBT001
    state = _TOTALS_OF_STATE[row.state]
    tx.add(f"{state}_blobs", sign)
    tx.add(f"{state}_bytes", sign * row.size)
    if row.state == records.STATE_PRESENT and not is_referenced:
        count_unreferenced(tx, row, sign)


def count_unreferenced(tx: Transaction, row: records.BlobRow, sign: int) -> None:
    """A present blob lost its last edge, or found a first one."""
    if row.state == records.STATE_PRESENT:
        tx.add("unreferenced_blobs", sign)
        tx.add("unreferenced_bytes", sign * row.size)


def revive(tx: Transaction, raw: bytes, row: records.BlobRow) -> records.BlobRow:
    """From condemned to present, and its trash row goes, at once. Every way back goes through here."""
    assert row.state == records.STATE_CONDEMNED
    trash = delete_trash(tx, row.generation)
    if trash is not None and len(trash.names) > len(blob_value(raw, row).names):
        # What other sessions of its upload had left was to go with it; now only a listing finds that.
        tx.put(Table.META, records.META_ORPHAN_SCAN, row.generation)
    revived = records.BlobRow(records.STATE_PRESENT, row.generation, row.size, row.blake3, row.names, row.aliases)
    put_blob(tx, raw, revived, row)
    # Condemning took its holds out of the order of time; as a living blob's they must be found again.
    for key, hold in holds(tx, raw):
        tx.put(Table.HOLDS_BY_TIME, u64(hold.renewed_at_ms) + key, b"")
    return revived


# Edges


def has_edge(tx: Transaction, raw: bytes) -> bool:
    """Whether any manifest keeps a blob."""
    return tx.has_prefix(Table.EDGES_TO, raw)


def has_edge_from(tx: Transaction, raw: bytes, repository: int) -> bool:
    """Whether a manifest of that repository keeps a blob."""
    return tx.has_prefix(Table.EDGES_TO, raw + u32(repository))


def parents(tx: Transaction, raw: bytes, repository: int) -> list[bytes]:
    """MANIFESTS keys of the image indexes that list a manifest in its repository. One that names its digest as a layer keeps
    the bytes, not the record."""
    found = [key[32:] for key, _ in tx.scan_prefix(Table.EDGES_TO, raw + u32(repository))]
    return [key for key in found if tx.get(Table.EDGES_FROM, key + raw) == records.EDGE_MANIFEST]


def has_parent(tx: Transaction, raw: bytes, repository: int) -> bool:
    """Whether `parents` would find any."""
    keys = tx.scan_prefix(Table.EDGES_TO, raw + u32(repository))
    return any(tx.get(Table.EDGES_FROM, key[32:] + raw) == records.EDGE_MANIFEST for key, _ in keys)


# Holds


def holds(tx: Transaction, raw: bytes) -> list[tuple[bytes, records.HoldRow]]:
    """All holds of a blob by their HOLDS key."""
    return [(key, records.HOLD.decode(value)) for key, value in tx.scan_prefix(Table.HOLDS, raw)]


def get_hold(tx: Transaction, raw: bytes, repository: int) -> records.HoldRow | None:
    """A repository's hold of a blob."""
    value = tx.get(Table.HOLDS, raw + u32(repository))
    return records.HOLD.decode(value) if value else None


def set_hold(
    tx: Transaction, raw: bytes, repository: int, renewed_at_ms: int, last_referrer: bytes | None = None
) -> None:
    """Make or renew a hold. One that lasts longer already, a pin above all, stays as long as it is."""
    key = raw + u32(repository)
    before = tx.get(Table.HOLDS, key)
    if before is not None:
        row = records.HOLD.decode(before)
        renewed_at_ms = max(renewed_at_ms, row.renewed_at_ms)
        tx.delete(Table.HOLDS_BY_TIME, u64(row.renewed_at_ms) + key)
        last_referrer = last_referrer or row.last_referrer
    tx.put(Table.HOLDS, key, records.encode(records.HoldRow(renewed_at_ms, last_referrer)))
    tx.put(Table.HOLDS_BY_TIME, u64(renewed_at_ms) + key, b"")


def delete_hold(tx: Transaction, key: bytes, row: records.HoldRow) -> None:
    """Remove a hold by its HOLDS key."""
    tx.delete(Table.HOLDS, key)
    tx.delete(Table.HOLDS_BY_TIME, u64(row.renewed_at_ms) + key)


def is_hold_lapsed(tx: Transaction, key: bytes, row: records.HoldRow, now_ms: int, terms: HoldTerms) -> bool:
    """Whether nothing is owed any more for a hold, by its HOLDS key."""
    # Most holds are young or belong to a repository that is quiet; only the others need its activity.
    if row.renewed_at_ms >= PINNED_MS or now_ms < row.renewed_at_ms + terms.term_ms:
        return False
    return terms.is_lapsed(row.renewed_at_ms, activity(tx, records.from_u32(key[32:])), now_ms)


def is_visible(
    tx: Transaction, raw: bytes, blob: records.BlobRow, repository: int, now_ms: int, terms: HoldTerms
) -> bool:
    """Whether a repository may use a blob: an edge of its own, or a hold; a lapsed one will do while it is condemned."""
    if blob.state == records.STATE_SUSPECT:
        return False
    if has_edge_from(tx, raw, repository):
        return True
    row = get_hold(tx, raw, repository)
    if row is None:
        return False
    return blob.state == records.STATE_CONDEMNED or not is_hold_lapsed(tx, raw + u32(repository), row, now_ms, terms)


# Trash


def get_trash(tx: Transaction, generation: bytes) -> records.TrashRow | None:
    """A row of the trash."""
    value = tx.get(Table.TRASH, generation)
    return records.TRASH.decode(value) if value else None


def put_trash(tx: Transaction, generation: bytes, row: records.TrashRow) -> None:
    """Write a trash row, and its place in the order of time; names that were there before stay in it."""
    before = get_trash(tx, generation)
    if before is not None:
        row.names = list(dict.fromkeys([*before.names, *row.names]))
        tx.delete(Table.TRASH_BY_TIME, _due(before) + generation)
    tx.put(Table.TRASH, generation, records.encode(row))
    tx.put(Table.TRASH_BY_TIME, _due(row) + generation, b"")


def delete_trash(tx: Transaction, generation: bytes) -> records.TrashRow | None:
    """Remove a trash row; what it was."""
    row = get_trash(tx, generation)
    if row is not None:
        tx.delete(Table.TRASH, generation)
        tx.delete(Table.TRASH_BY_TIME, _due(row) + generation)
    return row


def trash_names(tx: Transaction, generation: bytes, names: list[str], size: int, now_ms: int, why: str) -> Trash:
    """Bytes that became no blob: nobody can reach them, so they may be deleted as soon as this is durable.

    Several sessions may have written for one upload, and one may have made it a blob. Then its name is not among those that go;
    and once it is condemned, what the others left waits with it.
    """
    others = [name for name in dict.fromkeys(names) if not _is_of_blob(tx, name, generation)]
    before = get_trash(tx, generation)
    if before is not None and before.state == records.TRASH_WAITING:
        row = msgspec.structs.replace(before, names=[*before.names, *others])
    else:
        row = records.TrashRow(None, others, size, now_ms, records.TRASH_RETIRING, why, None)
    put_trash(tx, generation, row)
    return trash_value(generation, row)


def _is_of_blob(tx: Transaction, name: str, generation: bytes) -> bool:
    # Never `data_key`: what one session published there no other can, so it is no blob's while its session gives it up.
    parsed = parse_blob_key(name) or parse_record_key(name)
    row = get_blob(tx, parsed.digest.value) if parsed is not None else None
    return row is not None and row.generation == generation


def trash_value(generation: bytes, row: records.TrashRow) -> Trash:
    """A trash row as others see it."""
    return Trash(
        Generation.from_key(generation),
        Digest.from_sha256(row.digest) if row.digest else None,
        tuple(row.names),
        row.size,
        row.not_before_ms,
        _TRASH_STATES[row.state],
        row.why,
        row.run,
    )


def _due(row: records.TrashRow) -> bytes:
    return u64(0 if row.state == records.TRASH_RETIRING else row.not_before_ms)


# Intents


def get_intent(tx: Transaction, upload: str) -> records.IntentRow | None:
    """The row of an open upload."""
    value = tx.get(Table.INTENTS, bytes.fromhex(upload))
    return records.INTENT.decode(value) if value else None


def add_intent(tx: Transaction, upload: str, row: records.IntentRow) -> None:
    """Write the intent of an upload that had none, with its places by time and by generation."""
    key = bytes.fromhex(upload)
    tx.put(Table.INTENTS, key, records.encode(row))
    tx.put(Table.INTENTS_BY_TIME, u64(row.renewed_at_ms) + key, b"")
    tx.put(Table.INTENTS_BY_GENERATION, row.generation, key)


def put_intent(tx: Transaction, upload: str, row: records.IntentRow, before_ms: int) -> None:
    """Write an intent anew; `before_ms` is when it was renewed before."""
    tx.delete(Table.INTENTS_BY_TIME, u64(before_ms) + bytes.fromhex(upload))
    add_intent(tx, upload, row)


def delete_intent(tx: Transaction, upload: str, row: records.IntentRow) -> None:
    """Remove an intent."""
    key = bytes.fromhex(upload)
    tx.delete(Table.INTENTS, key)
    tx.delete(Table.INTENTS_BY_TIME, u64(row.renewed_at_ms) + key)
    tx.delete(Table.INTENTS_BY_GENERATION, row.generation)


# Manifests


def get_manifest(tx: Transaction, key: bytes) -> records.ManifestRow | None:
    """A manifest's record by its MANIFESTS key."""
    value = tx.get(Table.MANIFESTS, key)
    return records.MANIFEST.decode(value) if value else None


def manifest_key(tx: Transaction, key: ManifestKey) -> bytes | None:
    """The MANIFESTS key that a manifest would have; None if its repository or alias is unknown."""
    number, raw = repository_id(tx, key.repository), canonical(tx, key.digest)
    return u32(number) + raw if number is not None and raw is not None else None


def manifest_key_value(tx: Transaction, key: bytes) -> ManifestKey | None:
    """What a MANIFESTS key names; None once its repository is gone."""
    name = repository_name(tx, records.from_u32(key[:4]))
    return ManifestKey(name, Digest.from_sha256(key[4:])) if name is not None else None


def manifest_value(key: ManifestKey, row: records.ManifestRow, tagged_as: Digest | None = None) -> ManifestRecord:
    """A manifest's record as others see it."""
    return ManifestRecord(
        key,
        row.media_type,
        row.artifact_type,
        records.digest_from_key(row.subject) if row.subject else None,
        row.size,
        row.pushed_at_ms,
        row.tag_count,
        row.lost_at_ms,
        row.is_subject_gone,
        tagged_as,
    )


def subject_key(tx: Transaction, key: bytes, row: records.ManifestRow) -> bytes | None:
    """The MANIFESTS key of a manifest's subject, if that has a record here."""
    if row.subject is None:
        return None
    raw = canonical(tx, records.digest_from_key(row.subject))
    found = key[:4] + raw if raw is not None else None
    return found if found is not None and tx.get(Table.MANIFESTS, found) is not None else None


def is_loose(tx: Transaction, key: bytes, row: records.ManifestRow) -> bool:
    """Whether a manifest has neither tag nor parent nor a subject that is here."""
    if row.tag_count or has_parent(tx, key[4:], records.from_u32(key[:4])):
        return False
    return subject_key(tx, key, row) is None


def put_manifest_row(tx: Transaction, key: bytes, row: records.ManifestRow, before: records.ManifestRow | None) -> None:
    """Write a record, and its place among the loose ones as things stand now."""
    if before is not None and before.loose_at_ms:
        tx.delete(Table.LOOSE_BY_TIME, _loose_key(key, before))
    row.loose_at_ms = row.lost_at_ms if is_loose(tx, key, row) else 0
    if row.loose_at_ms:
        tx.put(Table.LOOSE_BY_TIME, _loose_key(key, row), b"")
    tx.put(Table.MANIFESTS, key, records.encode(row))


def delete_manifest_row(tx: Transaction, key: bytes, row: records.ManifestRow) -> None:
    """Remove a record and its place among the loose ones."""
    if row.loose_at_ms:
        tx.delete(Table.LOOSE_BY_TIME, _loose_key(key, row))
    tx.delete(Table.MANIFESTS, key)


def changed(row: records.ManifestRow, **fields: Any) -> records.ManifestRow:
    """A copy of a record with some fields changed."""
    return msgspec.structs.replace(row, **fields)


def _loose_key(key: bytes, row: records.ManifestRow) -> bytes:
    return (b"\x01" if row.is_subject_gone else b"\x00") + u64(row.loose_at_ms) + key
