"""The steps of the collector, each a function over one transaction that re-checks all it was told."""

from __future__ import annotations

from collections.abc import Container, Sequence

import msgspec

from blobstore.abc.records import (
    Blob,
    Condemned,
    Drop,
    Dropped,
    DroppedManifest,
    ManifestKey,
    Retired,
    RunRecord,
    Trash,
    Undone,
)
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index import _references as references
from blobstore.index import _state as state
from blobstore.index._outbox import emit
from blobstore.index._records import EDGE_MANIFEST, u32, u64
from blobstore.index._tables import Table, Transaction
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName
from blobstore.promises import HoldTerms

runs_kept_max = 1000


def drop_manifests(
    tx: Transaction, drops: Sequence[Drop], judged_at_ms: int, now_ms: int, terms: HoldTerms, run: str
) -> Dropped:
    """Drop the records of a batch that nothing outside of it keeps.

    A batch goes together, since a hostile image index may have its own child as subject: each keeps the other.
    """
    wanted: dict[bytes, tuple[Drop, records.ManifestRow]] = {}
    for drop in drops:
        key = state.manifest_key(tx, drop.key)
        row = state.get_manifest(tx, key) if key is not None else None
        if key is None or row is None or row.tag_count or judged_at_ms < row.lost_at_ms + terms.term_ms:
            continue
        wanted[key] = (drop, row)
    kept = [key for key, (drop, row) in wanted.items() if _is_kept(tx, key, drop, row, wanted.keys())]
    while kept:
        for key in kept:
            del wanted[key]
        kept = [key for key, (drop, row) in wanted.items() if _is_kept(tx, key, drop, row, wanted.keys())]
    changes: list[list[object]] = []
    for key, (drop, _) in wanted.items():
        # The row again: dropping another one may have changed it.
        row = state.get_manifest(tx, key)
        assert row is not None
        _remember_drop(tx, run, drop, row)
        references.remove_record(tx, key, row, now_ms)
        changes.append(["delete", drop.key.repository, str(drop.key.digest)])
    return Dropped(tuple(drop for drop, _ in wanted.values()), emit(tx, changes) if changes else 0)


def _is_kept(tx: Transaction, key: bytes, drop: Drop, row: records.ManifestRow, going: Container[bytes]) -> bool:
    if any(parent not in going for parent in state.parents(tx, key[4:], records.from_u32(key[:4]))):
        return True
    subject = state.subject_key(tx, key, row)
    if subject is not None:
        return subject not in going
    return drop.reason == "subject-gone" and not row.is_subject_gone


def _remember_drop(tx: Transaction, run: str, drop: Drop, row: records.ManifestRow) -> None:
    key = run.encode() + b"\0" + drop.key.repository.encode() + b"\0" + drop.key.digest.value
    value = records.DroppedRow(drop.key.repository, row.media_type, drop.reason)
    tx.put(Table.DROPPED, key, records.encode(value))


def list_dropped(tx: Transaction, run: str) -> list[DroppedManifest]:
    """The manifests a run dropped."""
    found: list[DroppedManifest] = []
    for key, value in tx.scan_prefix(Table.DROPPED, run.encode() + b"\0"):
        row = records.DROPPED.decode(value)
        named = ManifestKey(RepositoryName(row.repository), Digest.from_sha256(key[-32:]))
        found.append(DroppedManifest(named, row.media_type, row.reason))
    return found


def condemn(
    tx: Transaction, digests: Sequence[Digest], judged_at_ms: int, terms: HoldTerms, not_before_ms: int, run: str
) -> Condemned:
    """Condemn the blobs of a batch that nothing keeps; sweep the lapsed holds of the others."""
    going: list[Blob] = []
    swept = 0
    for digest in digests:
        raw = digest.value
        row = state.get_blob(tx, raw)
        lapsed, is_held = _split_holds(tx, raw, judged_at_ms, terms)
        if row is None or state.has_edge(tx, raw) or is_held:
            for key, hold in lapsed:
                state.delete_hold(tx, key, hold)
            swept += len(lapsed)
        elif row.state == records.STATE_PRESENT and not _is_anothers(tx, row.generation, raw):
            going.append(_condemn_present(tx, raw, row, not_before_ms, run))
            # They have done their work: out of the order of time, so that the next run doesn't meet them again.
            for key, hold in lapsed:
                tx.delete(Table.HOLDS_BY_TIME, u64(hold.renewed_at_ms) + key)
        elif row.state == records.STATE_SUSPECT:
            going.append(_discard_suspect(tx, raw, row, judged_at_ms, run))
    return Condemned(tuple(going), swept)


def _is_anothers(tx: Transaction, generation: bytes, raw: bytes) -> bool:
    """Whether the trash row of a generation is another blob's. A rebuild may find two that two sessions of one upload published;
    the second one waits for the end of the first."""
    row = state.get_trash(tx, generation)
    return row is not None and row.digest not in (None, raw)


def sweep_holds(tx: Transaction, now_ms: int, terms: HoldTerms, after: bytes | None, limit: int) -> bytes | None:
    """Remove lapsed holds that no longer keep anything."""
    keys: list[bytes] = []
    end: bytes | None = None
    for key, _ in tx.scan(Table.HOLDS_BY_TIME, after + b"\0" if after else b""):
        if records.from_u64(key[:8]) + terms.term_ms > now_ms:
            break
        keys.append(key)
        if len(keys) == limit:
            end = key
            break
    for key in keys:
        raw = key[8:40]
        lapsed, is_held = _split_holds(tx, raw, now_ms, terms)
        if is_held or state.has_edge(tx, raw):
            for hold_key, hold in lapsed:
                state.delete_hold(tx, hold_key, hold)
    return end


def _split_holds(
    tx: Transaction, raw: bytes, now_ms: int, terms: HoldTerms
) -> tuple[list[tuple[bytes, records.HoldRow]], bool]:
    """The lapsed holds of a blob, and whether it has another."""
    found = state.holds(tx, raw)
    lapsed = [(key, row) for key, row in found if state.is_hold_lapsed(tx, key, row, now_ms, terms)]
    return lapsed, len(lapsed) < len(found)


def _condemn_present(tx: Transaction, raw: bytes, row: records.BlobRow, not_before_ms: int, run: str) -> Blob:
    condemned = records.BlobRow(records.STATE_CONDEMNED, row.generation, row.size, row.blake3, row.names, row.aliases)
    state.put_blob(tx, raw, condemned, row)
    blob = state.blob_value(raw, condemned)
    trash = records.TrashRow(raw, list(blob.names), row.size, not_before_ms, records.TRASH_WAITING, "unreferenced", run)
    state.put_trash(tx, row.generation, trash)
    return blob


def _discard_suspect(tx: Transaction, raw: bytes, row: records.BlobRow, now_ms: int, run: str) -> Blob:
    """Nobody wants a damaged blob: it is never condemned, so that no revival brings it back."""
    blob = state.blob_value(raw, row)
    state.delete_blob_row(tx, raw, row)
    trash = records.TrashRow(
        raw, list(blob.names), row.size, now_ms, records.TRASH_WAITING, "damaged and unreferenced", run
    )
    state.put_trash(tx, row.generation, trash)
    return blob


def retire(tx: Transaction, generations: Sequence[Generation], now_ms: int, terms: HoldTerms) -> Retired:
    """Take due trash out of everybody's reach, or give it back."""
    retiring: list[Trash] = []
    revived: list[Digest] = []
    has_freed = False
    for generation in generations:
        row = state.get_trash(tx, generation.key)
        if row is None:
            continue
        if row.state == records.TRASH_RETIRING:
            retiring.append(state.trash_value(generation.key, row))
            continue
        if now_ms < row.not_before_ms:
            continue
        blob = state.get_blob(tx, row.digest) if row.digest is not None else None
        if blob is not None and row.digest is not None and blob.generation == generation.key:
            if blob.state != records.STATE_CONDEMNED:
                state.delete_trash(tx, generation.key)
                continue
            _, is_held = _split_holds(tx, row.digest, now_ms, terms)
            if is_held or state.has_edge(tx, row.digest):
                state.revive(tx, row.digest, blob)
                revived.append(Digest.from_sha256(row.digest))
                continue
            state.delete_blob_row(tx, row.digest, blob)
        has_freed = has_freed or row.digest is not None
        gone = msgspec.structs.replace(row, state=records.TRASH_RETIRING)
        state.put_trash(tx, generation.key, gone)
        retiring.append(state.trash_value(generation.key, gone))
    if has_freed:
        # No reference changes, but a copy of the index made before this says "present" of these blobs: by the number it is
        # seen to be old.
        emit(tx, [])
    return Retired(tuple(retiring), tuple(revived))


def forget_trash(tx: Transaction, trash: Sequence[Trash]) -> list[Trash]:
    """Remove the rows whose bytes are gone."""
    removed: list[Trash] = []
    for each in trash:
        row = state.get_trash(tx, each.generation.key)
        if row is None or row.state != records.TRASH_RETIRING or set(row.names) - set(each.names):
            continue
        state.delete_trash(tx, each.generation.key)
        if row.digest is not None:
            tx.add("freed_bytes", row.size)
        removed.append(each)
    return removed


def undo_condemned(tx: Transaction, run: str, now_ms: int) -> Undone:
    """Revive what a run condemned and still waits."""
    revived: list[Digest] = []
    late: list[Digest] = []
    rows = [(key, records.TRASH.decode(value)) for key, value in tx.scan(Table.TRASH, b"")]
    for generation, row in rows:
        if row.run != run or row.digest is None:
            continue
        blob = state.get_blob(tx, row.digest)
        if blob is None or blob.state != records.STATE_CONDEMNED or blob.generation != generation:
            late.append(Digest.from_sha256(row.digest))
            continue
        state.revive(tx, row.digest, blob)
        for key, _ in state.holds(tx, row.digest):
            state.set_hold(tx, row.digest, records.from_u32(key[32:]), now_ms)
        revived.append(Digest.from_sha256(row.digest))
    return Undone(tuple(revived), tuple(late))


def reinstate_manifest(tx: Transaction, repository: RepositoryName, manifest: Manifest, now_ms: int) -> int | None:
    """Put a dropped record back, if all it needs is still there."""
    kinds, lost = references.plain_edges(tx, manifest)
    number = state.make_repository(tx, repository)
    needed = {raw: state.get_blob(tx, raw) for raw in (manifest.digest.value, *kinds)}
    if lost or any(row is None or row.state == records.STATE_SUSPECT for row in needed.values()):
        return None
    if any(
        child.kind == EDGE_MANIFEST and state.get_manifest(tx, u32(number) + raw) is None
        for raw, child in kinds.items()
    ):
        return None
    for raw, row in needed.items():
        if row is not None and row.state == records.STATE_CONDEMNED:
            state.revive(tx, raw, row)
    return emit(tx, references.insert_record(tx, number, manifest, kinds, now_ms))


def save_run(tx: Transaction, record: RunRecord) -> None:
    """Remember a run; the oldest beyond `runs_kept_max` go, with what undo would need of them."""
    row = records.RunRow(record.run, record.started_at_ms, record.finished_at_ms, record.report)
    tx.put(Table.RUNS, u64(record.started_at_ms) + record.run.encode(), records.encode(row))
    surplus = tx.count(Table.RUNS) - runs_kept_max
    oldest: list[tuple[bytes, str]] = []
    for key, value in tx.scan(Table.RUNS, b"") if surplus > 0 else ():
        if len(oldest) == surplus:
            break
        oldest.append((key, records.RUN.decode(value).run))
    for key, run in oldest:
        tx.delete(Table.RUNS, key)
        for dropped in [found for found, _ in tx.scan_prefix(Table.DROPPED, run.encode() + b"\0")]:
            tx.delete(Table.DROPPED, dropped)


def list_runs(tx: Transaction, limit: int) -> list[RunRecord]:
    """The newest runs, newest first."""
    rows = [records.RUN.decode(value) for _, value in tx.scan(Table.RUNS, b"")]
    return [RunRecord(row.run, row.started_at_ms, row.finished_at_ms, row.report) for row in reversed(rows[-limit:])]
