"""Minting generations: an epoch for each process, and a counter that shows when the index went back under it."""

from __future__ import annotations

from blobstore.clock import random_u64
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index._records import u64
from blobstore.index._tables import Table, Transaction

_UNRECORDED = 1 << 63


class Minter:
    """One process's epoch. `settle` is called when the transaction that minted is durable."""

    def __init__(self) -> None:
        self.epoch = random_u64()
        self._high = 0
        self._unrecorded = 0

    def mint(self, tx: Transaction) -> Generation:
        """The next generation, recorded in `tx`.

        If the row does not hold what was minted last, the index was exchanged for an older one under this process: it
        freezes, and a new epoch begins, so that no name is minted twice.
        """
        if tx.minted is None:
            self._begin(tx)
        assert tx.minted is not None
        tx.minted += 1
        tx.has_written = True
        return Generation(self.epoch, tx.minted)

    def _begin(self, tx: Transaction) -> None:
        stored = tx.get(Table.EPOCHS, u64(self.epoch))
        if (records.from_u64(stored) if stored else 0) != self._high:
            if tx.get(Table.META, records.META_FROZEN) is None:
                why = "the index does not remember what this process minted: it was replaced by an older copy"
                tx.put(Table.META, records.META_FROZEN, why.encode())
            self.epoch, self._high = random_u64(), 0
        tx.epoch, tx.minted = self.epoch, self._high

    def settle(self, tx: Transaction) -> None:
        """What `tx` minted is durable."""
        if tx.minted is not None:
            self._high = tx.minted

    def unrecorded(self) -> Generation:
        """A generation for names that no row knows: from the upper half of the counter, which `mint` never reaches."""
        self._unrecorded += 1
        return Generation(self.epoch, _UNRECORDED + self._unrecorded)
