"""The steps that answer for single blobs, each a function over one transaction."""

from __future__ import annotations

from blobstore.abc.records import Blob
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, StillReferenced
from blobstore.index import _records as records
from blobstore.index import _state as state
from blobstore.index._outbox import emit
from blobstore.index._records import NO_REPOSITORY, u32
from blobstore.index._tables import Table, Transaction
from blobstore.names import RepositoryName
from blobstore.promises import PINNED_MS, HoldTerms


def find_blob(tx: Transaction, digest: Digest) -> Blob | None:
    """What is known of a blob, whoever sees it."""
    raw = state.canonical(tx, digest)
    row = state.get_blob(tx, raw) if raw is not None else None
    return state.blob_value(raw, row) if raw is not None and row is not None else None


def view_blob(
    tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
) -> Blob | None:
    """A blob as a repository sees it."""
    number, raw = state.repository_id(tx, repository), state.canonical(tx, digest)
    row = state.get_blob(tx, raw) if raw is not None else None
    if number is None or raw is None or row is None:
        return None
    return state.blob_value(raw, row) if state.is_visible(tx, raw, row, number, now_ms, terms) else None


def needs_touch(tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> bool:
    """Whether `touch_blob` would write: the blob is condemned, or promised by a hold that is no longer fresh."""
    number, raw = state.repository_id(tx, repository), state.canonical(tx, digest)
    row = state.get_blob(tx, raw) if raw is not None else None
    if number is None or raw is None or row is None:
        return False
    if row.state == records.STATE_CONDEMNED:
        return True
    hold = state.get_hold(tx, raw, number)
    is_fresh = hold is not None and now_ms - hold.renewed_at_ms <= terms.renew_ms
    return not is_fresh and not state.has_edge_from(tx, raw, number)


def touch_blob(
    tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
) -> Blob | None:
    """A blob as a repository sees it, promised."""
    seen = view_blob(tx, repository, digest, now_ms, terms)
    if seen is not None:
        number = state.repository_id(tx, repository)
        assert number is not None
        if needs_touch(tx, repository, digest, now_ms, terms):
            _promise(tx, seen.digest.value, number, now_ms)
        return find_blob(tx, digest)
    return None


def mount_blob(
    tx: Transaction, source: RepositoryName, target: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
) -> Blob | None:
    """A blob that one repository sees is promised to another."""
    seen = view_blob(tx, source, digest, now_ms, terms)
    if seen is None:
        return None
    _promise(tx, seen.digest.value, state.make_repository(tx, target), now_ms)
    return find_blob(tx, digest)


def _promise(tx: Transaction, raw: bytes, number: int, now_ms: int) -> None:
    row = state.get_blob(tx, raw)
    assert row is not None
    if row.state == records.STATE_CONDEMNED:
        state.revive(tx, raw, row)
    state.set_hold(tx, raw, number, now_ms)


def delete_blob(tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> None:
    """A repository lets go of a blob."""
    seen = view_blob(tx, repository, digest, now_ms, terms)
    if seen is None:
        raise BlobUnknown(f"{repository} has no blob {digest}")
    number, raw = state.repository_id(tx, repository), seen.digest.value
    assert number is not None
    if state.has_edge_from(tx, raw, number):
        keys = [key[32:] for key, _ in tx.scan_prefix(Table.EDGES_TO, raw + u32(number))]
        raise StillReferenced(digest, [state.manifest_key_value(tx, key) for key in keys])
    _let_go(tx, raw, number)


def _let_go(tx: Transaction, raw: bytes, number: int) -> None:
    """A hold ends before its time; a lapsed one of no repository takes its place, so that the collector finds the blob."""
    row = state.get_hold(tx, raw, number)
    assert row is not None
    state.delete_hold(tx, raw + u32(number), row)
    if state.get_hold(tx, raw, NO_REPOSITORY) is None:
        state.set_hold(tx, raw, NO_REPOSITORY, 0, row.last_referrer)


def unpin_blob(tx: Transaction, digest: Digest, now_ms: int) -> int:
    """A pin ends."""
    del now_ms
    raw = state.canonical(tx, digest)
    row = state.get_hold(tx, raw, NO_REPOSITORY) if raw is not None else None
    if raw is None or row is None or row.renewed_at_ms != PINNED_MS:
        raise BlobUnknown(f"no pin on {digest}")
    _let_go(tx, raw, NO_REPOSITORY)
    return emit(tx, [["unpin", str(Digest.from_sha256(raw))]])


def list_pins(tx: Transaction, after: Digest | None, limit: int) -> list[Digest]:
    """Pinned blobs; pins stand at the end of the order of time."""
    start = records.u64(PINNED_MS) + (after.value + b"\xff" * 4 if after is not None else b"")
    found: list[Digest] = []
    for key, _ in tx.scan(Table.HOLDS_BY_TIME, start):
        found.append(Digest.from_sha256(key[8:40]))
        if len(found) == limit:
            break
    return found
