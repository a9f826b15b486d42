"""An index in memory: for tests, and for stores that need not outlive their process."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from typing import Concatenate

from blobstore.index._key_value import Arguments, KeyValueIndex, Result
from blobstore.index._tables import Table, Transaction


class MemoryIndex(KeyValueIndex):
    """Sorted tables in dicts; one event loop, one process. Verbs run where they are called."""

    def __init__(self) -> None:
        super().__init__()
        self._tables = tuple(_SortedTable() for _ in Table)

    async def open(self, *, create: bool = False) -> None:
        """Nothing to connect to."""

    async def aclose(self) -> None:
        """Nothing to release."""

    async def release_reserve(self) -> None:
        """Nothing is kept."""

    def _read(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        return verb(_MemoryTransaction(self._tables), *args, **kwargs)

    async def _scan(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        return verb(_MemoryTransaction(self._tables), *args, **kwargs)

    async def _write(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        tx = _MemoryTransaction(self._tables)
        try:
            result = verb(tx, *args, **kwargs)
            tx.flush()
        except BaseException:
            tx.roll_back()
            raise
        self._minter.settle(tx)
        return result


class _SortedTable:
    """A dict and its keys in order."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.keys: list[bytes] = []

    def set(self, key: bytes, value: bytes | None) -> bytes | None:
        """Set or, with None, remove; what was there before."""
        before = self.values.get(key)
        if value is None:
            if before is not None:
                del self.values[key]
                del self.keys[bisect.bisect_left(self.keys, key)]
        else:
            if before is None:
                bisect.insort(self.keys, key)
            self.values[key] = value
        return before


class _MemoryTransaction(Transaction):
    def __init__(self, tables: tuple[_SortedTable, ...]) -> None:
        super().__init__()
        self._tables = tables
        self._undo: list[tuple[Table, bytes, bytes | None]] = []

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._tables[table].values.get(key)

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._undo.append((table, key, self._tables[table].set(key, value)))

    def delete(self, table: Table, key: bytes) -> bool:
        before = self._tables[table].set(key, None)
        self._undo.append((table, key, before))
        return before is not None

    def scan(self, table: Table, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        chosen = self._tables[table]
        for at in range(bisect.bisect_left(chosen.keys, start), len(chosen.keys)):
            key = chosen.keys[at]
            yield key, chosen.values[key]

    def count(self, table: Table) -> int:
        return len(self._tables[table].keys)

    def roll_back(self) -> None:
        for table, key, before in reversed(self._undo):
            self._tables[table].set(key, before)
