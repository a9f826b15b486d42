"""Changes of references on their way to the journal: numbered in the transaction that makes them."""

from __future__ import annotations

from collections.abc import Sequence

import msgpack

from blobstore.abc.records import OutboxRow
from blobstore.index import _records as records
from blobstore.index._records import u64
from blobstore.index._tables import Table, Transaction


def last_sequence(tx: Transaction) -> int:
    """The number of the newest change."""
    stored = tx.get(Table.META, records.META_SEQUENCE)
    return records.from_u64(stored) if stored else 0


def emit(tx: Transaction, changes: Sequence[Sequence[object]]) -> int:
    """Number some changes, made by one verb, and put them into the outbox; docs/storage.md has the kinds."""
    sequence = last_sequence(tx) + 1
    tx.put(Table.META, records.META_SEQUENCE, u64(sequence))
    tx.put(Table.OUTBOX, u64(sequence), msgpack.packb(list(changes)))
    return sequence


def list_outbox(tx: Transaction, after: int, limit: int) -> list[OutboxRow]:
    """Rows behind `after`, in order."""
    found: list[OutboxRow] = []
    for key, value in tx.scan(Table.OUTBOX, u64(after + 1)):
        found.append(OutboxRow(records.from_u64(key), value))
        if len(found) == limit:
            break
    return found


def trim_outbox(tx: Transaction, through: int) -> None:
    """Forget the rows up to `through`."""
    done = [row.sequence for row in list_outbox(tx, 0, through) if row.sequence <= through] if through else []
    for sequence in done:
        tx.delete(Table.OUTBOX, u64(sequence))
