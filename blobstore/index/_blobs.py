"""The steps that answer for single blobs, each a function over one transaction."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

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
    seen = _see(tx, repository, digest, now_ms, terms)
    return state.blob_value(seen.raw, seen.row) if seen is not None else None


def peek_blob(
    tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
) -> tuple[Blob | None, bool]:
    """What `touch_blob` would answer, and whether it would write."""
    seen = _see(tx, repository, digest, now_ms, terms)
    if seen is None:
        return None, False
    return state.blob_value(seen.raw, seen.row), seen.needs_promise(now_ms, terms)


def touch_blob(
    tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
) -> Blob | None:
    """A blob as a repository sees it, promised."""
    seen = _see(tx, repository, digest, now_ms, terms)
    if seen is None:
        return None
    if seen.needs_promise(now_ms, terms):
        seen.row = _promise(tx, seen.raw, seen.row, seen.number, now_ms)
    return state.blob_value(seen.raw, seen.row)


class _Seen:
    """A blob that a repository sees, and what it sees it by."""

    __slots__ = ("has_edge", "hold", "number", "raw", "row")

    def __init__(
        self,
        number: int,
        raw: bytes,
        row: records.BlobRow,
        has_edge: bool,  # noqa: FBT001
        hold: records.HoldRow | None,
    ) -> None:
        self.number, self.raw, self.row, self.has_edge, self.hold = number, raw, row, has_edge, hold

    def needs_promise(self, now_ms: int, terms: HoldTerms) -> bool:
        """Whether a yes must be written down: the blob is condemned, or its hold is no longer fresh."""
        if self.row.state == records.STATE_CONDEMNED:
            return True
        return self.hold is not None and now_ms - self.hold.renewed_at_ms > terms.renew_ms


def _see(tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> _Seen | None:
    number, raw = state.repository_id(tx, repository), state.canonical(tx, digest)
    row = state.get_blob(tx, raw) if raw is not None else None
    if number is None or raw is None or row is None or row.state == records.STATE_SUSPECT:
        return None
    if state.has_edge_from(tx, raw, number):
        return _Seen(number, raw, row, True, None)  # noqa: FBT003
    hold = state.get_hold(tx, raw, number)
    if hold is None:
        return None
    # Who let go of a condemned blob last may take it back.
    if row.state != records.STATE_CONDEMNED and state.is_hold_lapsed(tx, raw + u32(number), hold, now_ms, terms):
        return None
    return _Seen(number, raw, row, False, hold)  # noqa: FBT003


def mount_blob(
    tx: Transaction, source: RepositoryName, target: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms
) -> Blob | None:
    """A blob that one repository sees is promised to another."""
    seen = _see(tx, source, digest, now_ms, terms)
    if seen is None:
        return None
    row = _promise(tx, seen.raw, seen.row, state.make_repository(tx, target), now_ms)
    return state.blob_value(seen.raw, row)


def list_viewers(tx: Transaction, digest: Digest, limit: int, now_ms: int, terms: HoldTerms) -> list[RepositoryName]:
    """Repositories that see a blob."""
    raw = state.canonical(tx, digest)
    row = state.get_blob(tx, raw) if raw is not None else None
    if raw is None or row is None or row.state == records.STATE_SUSPECT:
        return []
    numbers = dict.fromkeys(_keepers(tx, raw, limit))
    for key, value in itertools.islice(tx.scan_prefix(Table.HOLDS, raw), limit):
        hold = records.HOLD.decode(value)
        if row.state == records.STATE_CONDEMNED or not state.is_hold_lapsed(tx, key, hold, now_ms, terms):
            numbers[records.from_u32(key[32:])] = None
    names = [(number, state.repository_name(tx, number)) for number in numbers if number != NO_REPOSITORY]
    # The name of one that is being removed may be another's by now.
    return [name for number, name in names if name is not None and state.repository_id(tx, name) == number]


def _keepers(tx: Transaction, raw: bytes, limit: int) -> Iterator[int]:
    """Ids of repositories with a manifest that keeps a blob, jumping over further manifests of the same."""
    start = raw
    for _ in range(limit):
        key = next(tx.scan_keys(Table.EDGES_TO, start), b"")
        if not key.startswith(raw):
            return
        number = records.from_u32(key[32:36])
        yield number
        start = raw + u32(number + 1)


def _promise(tx: Transaction, raw: bytes, row: records.BlobRow, number: int, now_ms: int) -> records.BlobRow:
    if row.state == records.STATE_CONDEMNED:
        row = state.revive(tx, raw, row)
    state.set_hold(tx, raw, number, now_ms)
    return row


def delete_blob(tx: Transaction, repository: RepositoryName, digest: Digest, now_ms: int, terms: HoldTerms) -> None:
    """A repository lets go of a blob."""
    seen = _see(tx, repository, digest, now_ms, terms)
    if seen is None:
        raise BlobUnknown(f"{repository} has no blob {digest}")
    if seen.has_edge:
        keys = [key[32:] for key, _ in tx.scan_prefix(Table.EDGES_TO, seen.raw + u32(seen.number))]
        raise StillReferenced(digest, [state.manifest_key_value(tx, key) for key in keys])
    _let_go(tx, seen.raw, seen.number)


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
