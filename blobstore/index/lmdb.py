"""The embedded index: one LMDB environment on a local disk, shared by the processes of one host."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import mmap
import os
import stat
import weakref
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Concatenate

import lmdb

from blobstore.durable import is_there, make_directories, storage_errors, sync_directory
from blobstore.errors import (
    IndexDamaged,
    IndexMissing,
    IndexOnNetwork,
    IndexPoisoned,
    StorageFailed,
    StorageFull,
    StoreBusy,
)
from blobstore.index import _blobs, _collecting, _outbox, _references, _safety, _uploads
from blobstore.index._ballast import BALLAST_BYTES, Ballast
from blobstore.index._key_value import Arguments, KeyValueIndex, Result
from blobstore.index._lmdb_transaction import LmdbTransaction
from blobstore.index._mount import unsafe_filesystem
from blobstore.index._tables import Table, Transaction
from blobstore.index._writer import GroupWriter

MAP_SIZE_BYTES = 256 * 1024**3
"""Reserved once and sparse: growing a map that several processes share is where LMDB bindings went wrong before."""
READERS_MAX = 1024
_SCAN_THREADS = 2
_OPEN_TRIES = 5
_SPACE_TO_OPEN_BYTES = 1024 * 1024
_EMPTY_BYTES = 2 * mmap.PAGESIZE

_FREEING = frozenset({
    _uploads.cancel_upload, _uploads.expire_upload, _uploads.close_intent, _blobs.delete_blob, _blobs.unpin_blob,
    _references.delete_tag, _references.delete_manifest, _references.hide_repository, _references.continue_removals,
    _collecting.drop_manifests, _collecting.condemn, _collecting.retire, _collecting.forget_trash, _collecting.save_run,
    _collecting.undo_condemned, _collecting.sweep_holds, _outbox.trim_outbox,
    _safety.freeze, _safety.note_clock, _safety.note_orphan_scan, _safety.ask_orphan_scan,
})  # fmt: skip
"""Verbs that make room, or that a collection needs to get there."""


class LmdbIndex(KeyValueIndex):
    """An index in `path`, a directory. Open it after any fork; close it before the event loop ends.

    Point reads run on the event loop (microseconds, no disk once cached); scans run in threads; all writes go through one
    thread that syncs once for all verbs that wait (`sync=True`, `metasync=True`).
    """

    def __init__(
        self,
        path: str,
        *,
        map_size_bytes: int = MAP_SIZE_BYTES,
        ballast_bytes: int = BALLAST_BYTES,
    ) -> None:
        super().__init__()
        self._path = os.path.abspath(path)
        self._map_size_bytes, self._ballast_bytes = map_size_bytes, ballast_bytes
        self._env: lmdb.Environment | None = None
        self._databases: list[Any] = []
        self._writer: GroupWriter | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._lock: int | None = None
        self._reader_table: int | None = None
        self._ballast: Ballast | None = None
        self._is_forked = False

    @property
    def path(self) -> str:
        """The directory of the environment."""
        return self._path

    @property
    def commits(self) -> int:
        """How many synced transactions this process has committed."""
        return self._writer.commits if self._writer is not None else 0

    async def open(self, *, create: bool = False) -> None:
        """See `Index.open`."""
        assert self._env is None, "opened twice"
        with storage_errors(f"open the index {self._path}"):
            await asyncio.get_running_loop().run_in_executor(None, self._open, create)
        _open_indexes.add(self)

    def _open(self, create: bool) -> None:  # noqa: FBT001
        unsafe = unsafe_filesystem(self._path)
        if unsafe is not None:
            raise IndexOnNetwork(
                f"{self._path} is on {unsafe}, where LMDB's memory map is not safe; "
                "put the index on a local disk with --index lmdb:///path or BLOBSTORE_INDEX"
            )
        if not create and not is_there(os.path.join(self._path, "data.mdb")):
            raise IndexMissing(
                f"there is no index in {self._path}; if that is the right place and it was lost, "
                "`blobstore index rebuild` makes a new one from the store"
            )
        _check_is_ours(self._path)
        if self._path in _poisoned_paths:
            raise IndexPoisoned(_poisoned_paths[self._path])
        make_directories(self._path)
        if create:
            _discard_half_made(self._path)
        self._lock = _take_lock(self._path, is_exclusive=False)
        try:
            self._check_space()
            self._env = self._open_environment()
            self._check_whole()
            self._reader_table = os.open(os.path.join(self._path, "lock.mdb"), os.O_RDWR | os.O_CLOEXEC)
            _allocate(self._reader_table)
            self._databases = [self._env.open_db(table.name.encode()) for table in Table]
            # LMDB syncs its file, not the name of it.
            sync_directory(self._path)
            self._env.reader_check()
            self._read(_safety.check_format)
        except lmdb.Error as error:
            self._release()
            raise StorageFailed(f"the index {self._path} can't be opened: {error}") from error
        except BaseException:
            self._release()
            raise
        self._ballast = ballast = Ballast(os.path.join(self._path, "ballast"), self._ballast_bytes)
        ballast.restore()
        self._pool = ThreadPoolExecutor(_SCAN_THREADS, thread_name_prefix="blobstore-scan")
        self._writer = GroupWriter(self._env, self._databases, self._minter, ballast)
        self._writer.start()

    def _open_environment(self) -> lmdb.Environment:
        failed: lmdb.Error | None = None
        # More than once: its first page may be read only in part, and nobody should be sent to rebuild an index for that; and
        # opening can fail when another process opens or closes it at the same instant (lmdb.h).
        for _ in range(_OPEN_TRIES):
            try:
                return lmdb.open(
                    self._path,
                    map_size=self._map_size_bytes,
                    max_dbs=len(Table),
                    max_readers=READERS_MAX,
                    mode=0o600,
                )
            except lmdb.Error as error:
                if "already open" in str(error):
                    raise StoreBusy(f"this process has the index {self._path} open already") from error
                # The first is told: one that could not be made to its end is no index for the next try.
                failed = failed or error
        if isinstance(failed, (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError)):
            raise IndexMissing(
                f"{self._path} holds no index that can be read ({failed}); `blobstore index rebuild` makes a new one"
            ) from failed
        raise StorageFailed(f"the index {self._path} can't be opened: {failed}") from failed

    def _check_space(self) -> None:
        """LMDB maps its reader table before the disk has given it a place: on a full one, touching it would kill the process."""
        table = os.path.join(self._path, "lock.mdb")
        if is_there(table) and _is_allocated(os.stat(table)):
            return
        space = os.statvfs(self._path)
        if space.f_bavail * space.f_frsize < _SPACE_TO_OPEN_BYTES:
            raise StorageFull(
                f"no space left to open the index {self._path}; free {_SPACE_TO_OPEN_BYTES} bytes at least"
            )

    def _check_whole(self) -> None:
        """Reading a page behind the end of a file that was cut would kill the process."""
        assert self._env is not None
        needed = (self._env.info()["last_pgno"] + 1) * self._env.stat()["psize"]
        found = os.stat(os.path.join(self._path, "data.mdb")).st_size
        if found < needed:
            raise IndexDamaged(
                f"the index {self._path} was cut: {found} bytes of at least {needed}; `blobstore index rebuild` makes a new one"
            )

    async def aclose(self) -> None:
        """See `Index.aclose`."""
        if self._env is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.stop()
            if self._writer.poison is not None:
                _poisoned_paths[self._path] = self._writer.poison
        if self._pool is not None:
            self._pool.shutdown()
        self._release()

    def _release(self) -> None:
        if self._env is not None and not self._is_forked:
            self._env.close()
        # Never before the environment: closing any descriptor of a file drops all record locks this process has on it, and
        # LMDB's own are on this one. The next process to open the index would take itself for the only one.
        for handle in (self._reader_table, self._lock):
            if handle is not None:
                _let_go(handle)
        self._env, self._writer, self._pool, self._lock, self._reader_table = None, None, None, None, None

    def _environment(self) -> lmdb.Environment:
        if self._is_forked:
            raise IndexPoisoned(
                "the index was opened before this process was forked; open the store in the child instead"
            )
        if self._writer is not None and self._writer.poison is not None:
            raise IndexPoisoned(self._writer.poison)
        if self._env is None:
            raise IndexPoisoned("the index is closed")
        return self._env

    def _read(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        try:
            with self._environment().begin() as txn:
                return verb(LmdbTransaction(txn, self._databases), *args, **kwargs)
        except lmdb.PanicError as error:
            raise IndexPoisoned(f"the index failed earlier ({error}); open the store in a new process") from error

    async def _scan(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        self._environment()
        read = functools.partial(self._read, verb, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._pool, read)

    async def _write(
        self,
        verb: Callable[Concatenate[Transaction, Arguments], Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        self._environment()
        assert self._writer is not None
        result: Result = await self._writer.submit(lambda tx: verb(tx, *args, **kwargs), frees=verb in _FREEING)
        return result

    async def release_reserve(self) -> None:
        """See `SafetyIndex.release_reserve`."""
        self._environment()
        assert self._ballast is not None
        await asyncio.get_running_loop().run_in_executor(self._pool, self._ballast.release)

    def forget_after_fork(self) -> None:
        """In a forked child: refuse everything, and keep the parent's environment untouched."""
        self._is_forked = True


@asynccontextmanager
async def exclusive_lock(path: str) -> AsyncIterator[None]:
    """Keep every process from opening the index at `path`, for the length of a rebuild.

    Raises:
        StoreBusy: one has it open.
    """
    with storage_errors(f"lock the index {path}"):
        handle = _take_lock(path, is_exclusive=True)
    try:
        yield
    finally:
        _let_go(handle)


def _check_is_ours(path: str) -> None:
    """LMDB trusts its file: one made to harm could do more to its reader than any request (CVE-2019-16224 to 16228).

    Raises:
        StorageFailed: somebody else could have written it.
    """
    for each in (path, os.path.join(path, "data.mdb")):
        try:
            found = os.stat(each)
        except FileNotFoundError:
            continue
        if found.st_mode & stat.S_IWOTH:
            raise StorageFailed(
                f"the index {path} can be written by every user of this machine; run chmod -R o-w on it"
            )
        # Root may look at anybody's; anybody trusts what is root's.
        if os.geteuid() != 0 and found.st_uid not in (os.geteuid(), 0):
            raise StorageFailed(f"the index {path} belongs to another user; run as that one, or chown it")


def _take_lock(path: str, *, is_exclusive: bool) -> int:
    """A lock that every process with the index open shares, and that a rebuild wants alone."""
    handle = os.open(f"{path}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if is_exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        _let_go(handle)
        who = "another process has" if is_exclusive else "a rebuild has"
        raise StoreBusy(f"{who} the index {path} open; wait for it, or end it") from error
    except BaseException:
        _let_go(handle)
        raise
    return handle


def _let_go(handle: int) -> None:
    with contextlib.suppress(OSError):
        # Nothing was written to it, and it is gone all the same.
        os.close(handle)


def _discard_half_made(path: str) -> None:
    """Remove what a process left that died, or found no space, while LMDB wrote the first two pages: they hold nothing yet, and
    half of them could never be opened again."""
    data = os.path.join(path, "data.mdb")
    if not is_there(data) or os.stat(data).st_size > _EMPTY_BYTES:
        return
    try:
        handle = _take_lock(path, is_exclusive=True)
    except StoreBusy:
        # Its maker lives.
        return
    try:
        if os.stat(data).st_size <= _EMPTY_BYTES:
            os.unlink(data)
    finally:
        _let_go(handle)


def _is_allocated(found: os.stat_result) -> bool:
    return found.st_blocks * 512 >= found.st_size


def _allocate(handle: int) -> None:
    if not _is_allocated(os.fstat(handle)):
        os.posix_fallocate(handle, 0, os.fstat(handle).st_size)


_poisoned_paths: dict[str, str] = {}
"""Indexes a sync of which failed in this process: only a new process may open them again."""

_open_indexes: weakref.WeakSet[LmdbIndex] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # LMDB in a forked child works without an error and corrupts: nothing else would tell.
    for index in _open_indexes:
        index.forget_after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
