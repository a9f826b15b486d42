"""The engine broken on purpose, in the process of a workload: what the rig must catch."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import lmdb

from blobstore import journal
from blobstore.backends import _file_backend, _file_calls, _files
from blobstore.index import _lmdb_transaction, _writer
from blobstore.index import lmdb as lmdb_index

_HEAD_START_S = 0.05


class _OsWithoutFsync:
    """The module `os`, whose fsync does nothing."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    @staticmethod
    def fsync(_handle: int) -> None:
        """Promises nothing."""


def _file_not_synced() -> None:
    _files.os = _OsWithoutFsync()  # type: ignore[assignment]


def _directory_not_synced() -> None:
    _file_calls.sync_directory = _file_backend.sync_directory = lambda _path: None


def _index_not_synced() -> None:
    lmdb.open = functools.partial(lmdb.open, sync=False)


def _index_meta_not_synced() -> None:
    lmdb.open = functools.partial(lmdb.open, metasync=False)


def _answer_before_commit() -> None:
    """The callers are woken by the last thing that is done before the commit."""
    running: list[Any] = []
    commit, flush = _writer.GroupWriter._commit_flat, _lmdb_transaction.LmdbTransaction.flush

    def commit_flat(self: _writer.GroupWriter, batch: list[Any]) -> None:
        running[:] = batch
        commit(self, batch)

    def flush_and_answer(self: _lmdb_transaction.LmdbTransaction) -> None:
        flush(self)
        _writer._answer(running)
        time.sleep(_HEAD_START_S)

    _writer.GroupWriter._commit_flat = commit_flat
    _lmdb_transaction.LmdbTransaction.flush = flush_and_answer
    find = lmdb_index.LmdbIndex.find_upload

    async def find_at_last(self: lmdb_index.LmdbIndex, upload: Any) -> Any:
        # A session looks whether its upload is still open; told too early that it was begun, it would stop.
        while (found := await find(self, upload)) is None:
            await asyncio.sleep(_HEAD_START_S / 10)
        return found

    lmdb_index.LmdbIndex.find_upload = find_at_last


def _answer_before_journal() -> None:
    settle = journal.Journal.settle
    late: set[asyncio.Task[None]] = set()

    async def settle_late(self: journal.Journal, sequence: int) -> None:
        async def later() -> None:
            await asyncio.sleep(_HEAD_START_S)
            await settle(self, sequence)

        task = asyncio.create_task(later())
        late.add(task)
        task.add_done_callback(late.discard)

    journal.Journal.settle = settle_late


def _delete_before_retire() -> None:
    """The bytes of what is due go before the rows that name them."""
    retire = lmdb_index.LmdbIndex.retire

    async def delete_and_retire(self: lmdb_index.LmdbIndex, generations: Sequence[Any], *args: Any) -> Any:
        found = [await self.find_trash(generation) for generation in generations]
        root = os.path.dirname(self.path)
        names = [os.path.join(root, name) for trash in found if trash is not None for name in trash.names]
        await asyncio.to_thread(_files.delete_files, _file_calls.FileCalls(), names)
        return await retire(self, generations, *args)

    lmdb_index.LmdbIndex.retire = delete_and_retire


VARIANTS: dict[str, tuple[str, Callable[[], None]]] = {
    "file-not-synced": ("push", _file_not_synced),
    "directory-not-synced": ("push", _directory_not_synced),
    "index-not-synced": ("push", _index_not_synced),
    "index-meta-not-synced": ("push", _index_meta_not_synced),
    "answer-before-commit": ("push", _answer_before_commit),
    "answer-before-journal": ("index", _answer_before_journal),
    "delete-before-retire": ("free", _delete_before_retire),
}
"""By name: the workload that shows it, and what breaks the engine of this process."""
