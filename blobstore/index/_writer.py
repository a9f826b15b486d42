"""The one thread that writes to an LMDB environment: many waiting verbs, one synced commit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import lmdb

from blobstore.errors import IndexPoisoned, StorageFull
from blobstore.index import _safety
from blobstore.index._ballast import Ballast
from blobstore.index._lmdb_transaction import LmdbTransaction
from blobstore.index._minting import Minter
from blobstore.index._tables import Transaction

batch_max_verbs = 1000
"""More than that wait for the next commit, so that the first of a crowd don't wait for its end."""

_FULL_BELOW_BYTES = 1024 * 1024

Verb = Callable[[Transaction], Any]


class _Job:
    """A verb on its way through the thread."""

    __slots__ = ("error", "frees", "future", "loop", "result", "verb")

    def __init__(self, verb: Verb, loop: asyncio.AbstractEventLoop, frees: bool) -> None:  # noqa: FBT001
        self.verb, self.loop, self.frees = verb, loop, frees
        self.future: asyncio.Future[Any] = loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


class _WroteBeforeRefusing(Exception):
    """A verb raised after it had written: its neighbours must not keep what it did."""


class GroupWriter:
    """Runs verbs in the order they come, and answers each when the commit that holds it is synced."""

    def __init__(self, env: lmdb.Environment, databases: list[Any], minter: Minter, ballast: Ballast) -> None:
        self._env, self._databases, self._minter, self._ballast = env, databases, minter, ballast
        self._jobs: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
        self._thread = threading.Thread(target=self._run, name="blobstore-index", daemon=True)
        self.poison: str | None = None
        self.commits = 0
        """How many transactions were committed; for benches."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, end the thread. Blocks."""
        self._jobs.put(None)
        self._thread.join()

    def submit(self, verb: Verb, *, frees: bool) -> asyncio.Future[Any]:
        """Queue a verb. `frees` tells that it makes room, so that it may use the ballast on a full disk."""
        loop = asyncio.get_running_loop()
        job = _Job(verb, loop, frees)
        gathered = self._gathered.get(loop)
        if gathered is None:
            self._gathered[loop] = gathered = []
        if not gathered:
            # Once a turn of the loop: verbs that become ready together share a commit.
            loop.call_soon(self._hand_over, loop)
        gathered.append(job)
        return job.future

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        self._jobs.put(self._gathered.pop(loop))

    def _run(self) -> None:
        waiting: list[_Job] = []
        is_stopping = False
        while True:
            while not is_stopping:
                try:
                    jobs = self._jobs.get(block=not waiting)
                except queue.Empty:
                    break
                is_stopping = jobs is None
                waiting += jobs or ()
            if not waiting:
                return
            batch, waiting = waiting[:batch_max_verbs], waiting[batch_max_verbs:]
            self._carry_out(batch)
            _answer(batch)

    def _carry_out(self, batch: list[_Job]) -> None:
        if self.poison is not None:
            _fail(batch, IndexPoisoned(self.poison))
            return
        try:
            self._commit_all(batch)
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            self._retry_with_ballast(batch, error)
        except lmdb.Error as error:
            if self._is_disk_full():
                self._retry_with_ballast(batch, error)
            else:
                self._poison(batch, error)
        except Exception as error:  # noqa: BLE001 - the thread must live on, and the callers be told
            _fail(batch, error)

    def _is_disk_full(self) -> bool:
        """LMDB calls a write that a full disk cut short an EIO. Its transaction is gone without a trace either way: no page of
        it is referred to."""
        try:
            space = os.statvfs(self._env.path())
        except OSError:
            # Not known to be full: then the worse is to be assumed.
            return False
        return space.f_bavail * space.f_frsize < _FULL_BELOW_BYTES

    def _commit_all(self, batch: list[_Job]) -> None:
        """All verbs of a batch in one transaction. One that refuses has written nothing, so the others need no protection
        from it; should one have written all the same, the batch is run again with each in its own nested transaction, which
        costs some microseconds a verb."""
        try:
            self._commit_flat(batch)
        except _WroteBeforeRefusing:
            self._commit_nested(batch)

    def _commit_flat(self, batch: list[_Job]) -> None:
        with self._env.begin(write=True) as txn:
            tx = LmdbTransaction(txn, self._databases)
            _safety.check_format(tx)
            for job in batch:
                tx.has_written = False
                job.result = job.error = None
                try:
                    job.result = job.verb(tx)
                except lmdb.Error:
                    raise
                except Exception as error:
                    if tx.has_written:
                        raise _WroteBeforeRefusing from error
                    job.error = error
            tx.flush()
        self._settle(tx)

    def _commit_nested(self, batch: list[_Job]) -> None:
        with self._env.begin(write=True) as txn:
            tx = LmdbTransaction(txn, self._databases)
            for job in batch:
                job.result = job.error = None
                with self._env.begin(write=True, parent=txn) as child_txn:
                    child = LmdbTransaction(child_txn, self._databases)
                    child.minted, child.epoch = tx.minted, tx.epoch
                    try:
                        job.result = job.verb(child)
                        child.flush()
                        tx.minted, tx.epoch = child.minted, child.epoch
                    except lmdb.Error:
                        raise
                    except Exception as error:  # noqa: BLE001 - whatever a verb raises is its caller's
                        job.error = error
                        child_txn.abort()
        self._settle(tx)

    def _settle(self, tx: LmdbTransaction) -> None:
        self._minter.settle(tx)
        self.commits += 1
        self._ballast.restore()

    def _retry_with_ballast(self, batch: list[_Job], error: lmdb.Error) -> None:
        """LMDB copies pages to change them, so on a full disk even a delete fails. The ballast's space is for those verbs."""
        freeing = [job for job in batch if job.frees]
        _fail(
            [job for job in batch if not job.frees],
            StorageFull(f"no space left for the index ({error}); free some, or run a collection"),
        )
        if not freeing:
            return
        self._ballast.release()
        try:
            self._commit_all(freeing)
        except (lmdb.MapFullError, lmdb.DiskError) as again:
            _fail(freeing, StorageFull(f"no space left for the index, not even to free some ({again})"))
        except lmdb.Error as again:
            if not self._is_disk_full():
                self._poison(freeing, again)
                return
            _fail(freeing, StorageFull(f"no space left for the index, not even to free some ({again})"))

    def _poison(self, batch: list[_Job], error: lmdb.Error) -> None:
        # What a failed sync left on the disk is unknown, and a second sync would not tell (ATC'20, fsync failures).
        self.poison = f"the index could not be written ({error}); end this process and open the store in a new one"
        _fail(batch, IndexPoisoned(self.poison))


def _fail(batch: list[_Job], error: Exception) -> None:
    for job in batch:
        job.result, job.error = None, error


def _answer(batch: list[_Job]) -> None:
    """Wake the callers, one call a loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[_Job]] = defaultdict(list)
    for job in batch:
        by_loop[job.loop].append(job)
    for loop, jobs in by_loop.items():
        # A loop that was closed while its verb waited has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, jobs)


def _resolve(jobs: list[_Job]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
