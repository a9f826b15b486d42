"""The steps of a push of bytes, each a function over one transaction."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore.abc.records import CommitOutcome, Committed, Content, Intent, Trash
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index import _state as state
from blobstore.index._minting import Minter
from blobstore.index._outbox import emit
from blobstore.index._records import NO_REPOSITORY
from blobstore.index._tables import Table, Transaction
from blobstore.layout import blob_key, upload_key
from blobstore.names import RepositoryName, UploadId
from blobstore.promises import GRACE_S_DEFAULT, PINNED_MS, RENEW_S, HoldTerms

_PAUSE_DEFAULT_MS = (GRACE_S_DEFAULT + RENEW_S) * 1000


def start_upload(
    tx: Transaction,
    minter: Minter,
    upload: UploadId,
    repository: RepositoryName | None,
    digest: Digest | None,
    now_ms: int,
    boot: str,
) -> Intent:
    """Mint a generation, insert the intent."""
    generation = minter.mint(tx)
    names = [upload_key(generation)]
    if digest is not None:
        names.append(blob_key(digest, generation))
    row = records.IntentRow(generation.key, repository, names, 0, None, boot, now_ms)
    state.add_intent(tx, upload, row)
    return _intent(upload, row)


def find_upload(tx: Transaction, upload: UploadId) -> Intent | None:
    """The intent of an open upload."""
    row = state.get_intent(tx, upload)
    return _intent(upload, row) if row else None


def renew_upload(
    tx: Transaction,
    upload: UploadId,
    now_ms: int,
    terms: HoldTerms,
    offset: int | None,
    hash_state: bytes | None,
    boot: str,
) -> bool:
    """Bytes arrived for an upload."""
    row = state.get_intent(tx, upload)
    if row is None:
        return False
    before_ms, row.renewed_at_ms = row.renewed_at_ms, now_ms
    if offset is not None:
        row.offset, row.hash_state = offset, hash_state
    row.boot = boot or row.boot
    state.put_intent(tx, upload, row, before_ms)
    if row.repository is not None:
        _note_activity(tx, RepositoryName(row.repository), now_ms, terms)
    return True


def _note_activity(tx: Transaction, name: RepositoryName, now_ms: int, terms: HoldTerms) -> None:
    state.make_repository(tx, name)
    value = tx.get(Table.REPOSITORIES, name.encode())
    assert value is not None
    row = records.REPOSITORY.decode(value)
    # A pause that is too long for these terms ends the activity; a collector with a shorter grace sees a longer one, which
    # keeps more, never less.
    if now_ms - row.until_ms > max(terms.term_ms, _PAUSE_DEFAULT_MS):
        row.since_ms = now_ms
    row.until_ms = max(row.until_ms, now_ms)
    tx.put(Table.REPOSITORIES, name.encode(), records.encode(row))


def commit_blob(
    tx: Transaction,
    intent: Intent,
    content: Content,
    names: Sequence[str],
    now_ms: int,
    is_pinned: bool,  # noqa: FBT001
) -> Committed:
    """Durable bytes become a blob, held for the intent's repository."""
    committed = settle_bytes(tx, intent, content, names, now_ms)
    if committed.outcome in (CommitOutcome.NOT_PUBLISHED, CommitOutcome.INTERRUPTED):
        return committed
    raw = content.digest.value
    tx.add("pushed_bytes", content.size_bytes)
    changes: list[list[object]] = add_aliases(tx, raw, content.aliases)
    if is_pinned:
        state.set_hold(tx, raw, NO_REPOSITORY, PINNED_MS)
        changes.append(["pin", str(content.digest)])
    else:
        assert intent.repository is not None, "a blob of no repository is pinned, or nothing would keep it"
        state.set_hold(tx, raw, state.make_repository(tx, intent.repository), now_ms)
    return Committed(committed.outcome, committed.trash, emit(tx, changes) if changes else 0)


def settle_bytes(tx: Transaction, intent: Intent, content: Content, names: Sequence[str], now_ms: int) -> Committed:
    """The part of a commit that blobs and manifests share: which bytes the digest has from now on.

    After it the blob is present, unless the outcome says that nothing was done; the caller gives it a hold or an edge in the
    same transaction.
    """
    generation, raw = intent.generation.key, content.digest.value
    open_row = state.get_intent(tx, intent.upload)
    row = state.get_blob(tx, raw)
    if open_row is None and row is not None and row.generation == generation:
        # Said twice: these very bytes are the blob, and no trash.
        if row.state == records.STATE_CONDEMNED:
            state.revive(tx, raw, row)
        is_sound = row.state != records.STATE_SUSPECT
        return Committed(CommitOutcome.DUPLICATE if is_sound else CommitOutcome.INTERRUPTED)
    if open_row is None:
        # Fenced: the intent was expired or cancelled, and its names went to the trash then; ours may be one more.
        if names:
            note_fenced(tx, intent.upload)
            state.trash_names(tx, generation, [*intent.names, *names], content.size_bytes, now_ms, "fenced commit")
        return Committed(CommitOutcome.INTERRUPTED, intent.generation if names else None)
    if row is None or row.state == records.STATE_SUSPECT or state.is_frozen(tx):
        # What a frozen index has may have been collected since; a rebuild takes what it finds of the two.
        if not names:
            return Committed(CommitOutcome.NOT_PUBLISHED)
        if row is not None and row.state == records.STATE_CONDEMNED:
            row = state.revive(tx, raw, row)
        state.delete_intent(tx, intent.upload, open_row)
        _install(tx, content, intent.generation, list(names), row, now_ms)
        return Committed(CommitOutcome.STORED)
    state.delete_intent(tx, intent.upload, open_row)
    state.trash_names(tx, generation, [*intent.names, *names], content.size_bytes, now_ms, "duplicate upload")
    if row.state == records.STATE_CONDEMNED:
        state.revive(tx, raw, row)
        return Committed(CommitOutcome.REVIVED, intent.generation)
    return Committed(CommitOutcome.DUPLICATE, intent.generation)


def note_fenced(tx: Transaction, upload: UploadId) -> None:
    """Bytes were published after their intent had gone. Its trash row may know their name since before that, and go as soon as
    an earlier delete of it comes back: only a listing is sure to find them."""
    tx.put(Table.META, records.META_ORPHAN_SCAN, upload.encode())


def add_aliases(tx: Transaction, raw: bytes, aliases: Sequence[Digest]) -> list[list[object]]:
    """Remember what else clients call a blob, as long as the blob; returns what the journal must know."""
    if not aliases:
        return []
    row = state.get_blob(tx, raw)
    assert row is not None
    changes: list[list[object]] = []
    for alias in aliases:
        key = records.digest_key(alias)
        if key not in row.aliases:
            row.aliases.append(key)
            tx.put(Table.ALIASES, key, raw)
            changes.append(["alias", str(alias), str(Digest.from_sha256(raw))])
    if changes:
        state.put_blob(tx, raw, row, row)
    return changes


def _install(
    tx: Transaction,
    content: Content,
    generation: Generation,
    names: list[str],
    before: records.BlobRow | None,
    now_ms: int,
) -> None:
    raw = content.digest.value
    row = state.new_blob_row(content.digest, generation, content.size_bytes, content.blake3, names)
    if before is not None:
        # A push heals a suspect blob: the new bytes take its place, the old ones go at once.
        row.aliases = before.aliases
        old = list(state.blob_value(raw, before).names)
        state.put_blob(tx, raw, row, before)
        state.trash_names(tx, before.generation, old, before.size, now_ms, "replaced by a push")
        # As when a blob is freed: a copy of the index made before this knows only the old name.
        emit(tx, [])
    else:
        state.add_blob(tx, raw, row)


def cancel_upload(tx: Transaction, upload: UploadId, now_ms: int, names: Sequence[str]) -> Trash | None:
    """An upload ends without a blob."""
    row = state.get_intent(tx, upload)
    if row is None:
        if names:
            note_fenced(tx, upload)
        return None
    row.names = [*row.names, *names]
    return _trash_intent(tx, upload, row, now_ms, "cancelled upload")


def expire_upload(tx: Transaction, upload: UploadId, before_ms: int, now_ms: int) -> Trash | None:
    """An upload nobody wrote to for too long ends."""
    row = state.get_intent(tx, upload)
    if row is None or row.renewed_at_ms >= before_ms:
        return None
    # Its process may have died between publishing the bytes and committing them; their name is in no row then.
    # A generation is used once, so it also tells this request from every other.
    tx.put(Table.META, records.META_ORPHAN_SCAN, row.generation)
    return _trash_intent(tx, upload, row, now_ms, "abandoned upload")


def _trash_intent(tx: Transaction, upload: UploadId, row: records.IntentRow, now_ms: int, why: str) -> Trash:
    state.delete_intent(tx, upload, row)
    return state.trash_names(tx, row.generation, row.names, row.offset, now_ms, why)


def close_intent(tx: Transaction, upload: UploadId) -> None:
    """The bytes of an intent are where they belong, and are no blob."""
    row = state.get_intent(tx, upload)
    if row is not None:
        state.delete_intent(tx, upload, row)


def list_uploads(tx: Transaction, before_ms: int, limit: int) -> list[Intent]:
    """Intents older than a time, oldest first."""
    found: list[Intent] = []
    for key, _ in tx.scan(Table.INTENTS_BY_TIME, b""):
        if records.from_u64(key[:8]) >= before_ms or len(found) == limit:
            break
        upload = UploadId(key[8:].hex())
        row = state.get_intent(tx, upload)
        assert row is not None, upload
        found.append(_intent(upload, row))
    return found


def pin_blob(tx: Transaction, digest: Digest, now_ms: int) -> int:
    """A hold of no repository that doesn't expire."""
    del now_ms
    raw = state.canonical(tx, digest)
    row = state.get_blob(tx, raw) if raw is not None else None
    if raw is None or row is None or row.state == records.STATE_SUSPECT:
        raise BlobUnknown(f"no blob {digest} to pin")
    if row.state == records.STATE_CONDEMNED:
        state.revive(tx, raw, row)
    state.set_hold(tx, raw, NO_REPOSITORY, PINNED_MS)
    return emit(tx, [["pin", str(Digest.from_sha256(raw))]])


def _intent(upload: UploadId, row: records.IntentRow) -> Intent:
    return Intent(
        upload,
        Generation.from_key(row.generation),
        RepositoryName(row.repository) if row.repository is not None else None,
        tuple(row.names),
        row.offset,
        row.hash_state,
        row.boot,
        row.renewed_at_ms,
    )
