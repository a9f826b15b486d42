"""The tables of a verb inside an LMDB transaction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from blobstore.index._tables import Table, Transaction


class LmdbTransaction(Transaction):
    """Tables are named databases; `databases` has their handles in the order of `Table`.

    The handles and cursors are untyped: the binding types values as bytes or memoryview, and without `buffers` they are bytes.
    """

    __slots__ = ("_cursors", "_databases", "_txn")

    def __init__(self, txn: Any, databases: list[Any]) -> None:
        super().__init__()
        self._txn, self._databases = txn, databases
        self._cursors: dict[Table, Any] = {}

    def get(self, table: Table, key: bytes) -> bytes | None:
        value: bytes | None = self._txn.get(key, db=self._databases[table])
        return value

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self.has_written = True
        self._txn.put(key, value, db=self._databases[table])

    def delete(self, table: Table, key: bytes) -> bool:
        self.has_written = True
        return bool(self._txn.delete(key, db=self._databases[table]))

    def scan(self, table: Table, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        cursor = self._txn.cursor(db=self._databases[table])
        if not cursor.set_range(start):
            return iter(())
        pairs: Iterator[tuple[bytes, bytes]] = cursor.iternext(keys=True, values=True)
        return pairs

    def scan_keys(self, table: Table, start: bytes) -> Iterator[bytes]:
        cursor = self._txn.cursor(db=self._databases[table])
        if not cursor.set_range(start):
            return iter(())
        keys: Iterator[bytes] = cursor.iternext(keys=True, values=False)
        return keys

    def has_prefix(self, table: Table, prefix: bytes) -> bool:
        cursor = self._cursors.get(table)
        if cursor is None:
            cursor = self._cursors[table] = self._txn.cursor(db=self._databases[table])
        return bool(cursor.set_range(prefix) and cursor.key().startswith(prefix))

    def count(self, table: Table) -> int:
        return int(self._txn.stat(self._databases[table])["entries"])
