"""Ordered tables of bytes under the verbs: what a key-value engine must offer for an index to be built on it."""

from __future__ import annotations

import abc
import enum
from collections.abc import Iterator

from blobstore.index import _records as records


class Table(enum.IntEnum):
    """The tables; docs/storage.md, Index tables, has keys and values."""

    META = 0
    REPOSITORIES = 1
    REPOSITORY_NAMES = 2
    REMOVALS = 3
    BLOBS = 4
    ALIASES = 5
    MANIFESTS = 6
    EDGES_FROM = 7
    EDGES_TO = 8
    REFERRERS = 9
    TAGS = 10
    TAGS_OF = 11
    HOLDS = 12
    HOLDS_BY_TIME = 13
    LOOSE_BY_TIME = 14
    INTENTS = 15
    INTENTS_BY_TIME = 16
    INTENTS_BY_GENERATION = 17
    TRASH = 18
    TRASH_BY_TIME = 19
    OUTBOX = 20
    RUNS = 21
    DROPPED = 22
    EPOCHS = 23


class Transaction(abc.ABC):
    """One verb's view of the tables. Verbs check first and write after, so that one that raises has written nothing."""

    def __init__(self) -> None:
        self._totals: dict[str, int] = {}
        self.has_written = False
        self.minted: int | None = None
        """The counter of the last generation minted in this transaction; `flush` writes it to the row of its epoch."""
        self.epoch = 0
        self.repository_ids: dict[str, int] = {}
        """Ids looked up or made in this transaction; whoever takes a name away clears it."""

    @abc.abstractmethod
    def get(self, table: Table, key: bytes) -> bytes | None:
        """The value under a key."""

    @abc.abstractmethod
    def put(self, table: Table, key: bytes, value: bytes) -> None:
        """Set a value."""

    @abc.abstractmethod
    def delete(self, table: Table, key: bytes) -> bool:
        """Remove a key; whether it was there."""

    @abc.abstractmethod
    def scan(self, table: Table, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys from `start` on, in byte order, with their values. Only valid until the next write."""

    @abc.abstractmethod
    def count(self, table: Table) -> int:
        """How many keys a table has, without counting them."""

    def scan_keys(self, table: Table, start: bytes) -> Iterator[bytes]:
        """Keys alone, from `start` on. Only valid until the next write."""
        for key, _ in self.scan(table, start):
            yield key

    def scan_prefix(self, table: Table, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Keys that begin with `prefix`. Only valid until the next write."""
        for key, value in self.scan(table, prefix):
            if not key.startswith(prefix):
                return
            yield key, value

    def has_prefix(self, table: Table, prefix: bytes) -> bool:
        """Whether any key begins with `prefix`."""
        for key, _ in self.scan(table, prefix):
            return key.startswith(prefix)
        return False

    def add(self, total: str, delta: int) -> None:
        """Change one of the counters; they are written once, by `flush`."""
        self.has_written = True
        self._totals[total] = self._totals.get(total, 0) + delta

    def flush(self) -> None:
        """Write what is written once a transaction: the last generation minted, and the counters that changed. The engine calls
        it before each commit."""
        if self.minted is not None:
            self.put(Table.EPOCHS, records.u64(self.epoch), records.u64(self.minted))
        changed = {name: delta for name, delta in self._totals.items() if delta}
        self._totals.clear()
        if not changed:
            return
        stored = self.get(Table.META, records.META_TOTALS)
        row = records.TOTALS.decode(stored) if stored else records.TotalsRow.zero()
        for name, delta in changed.items():
            setattr(row, name, getattr(row, name) + delta)
        self.put(Table.META, records.META_TOTALS, records.encode(row))
