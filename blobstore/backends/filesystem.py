"""Bytes in files of a local file system."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from blobstore.abc.backend import CHUNK_BYTES, Backend, BackendProperties, BackendUpload, ObjectInfo
from blobstore.backends import _files
from blobstore.backends._files import translated
from blobstore.backends._keys import checked_key
from blobstore.durable import DIRECTORY_MODE, make_directories, storage_failed, sync_directory
from blobstore.errors import BlobDamaged, ConfigInvalid, StoreUnknown, UploadBusy
from blobstore.layout import BLOBS_PREFIX, CHECKPOINT_PREFIX, JOURNAL_PREFIX, MARKER_KEY, UPLOADS_PREFIX
from blobstore.pool import Lane, WorkerPool

THREADS = 8
_WRITEBACK_BYTES = 8 * 1024 * 1024
_SHARDS = 256
_OWN_NAMES = ("blobs", "uploads", "journal", "checkpoint", "index", "lost+found")


class FilesystemBackend(Backend):
    """Files below `root`. Blobs are sharded over 256 directories, which are made once."""

    def __init__(self, root: str, threads: int = THREADS) -> None:
        self._root = os.path.abspath(root)
        self._pool = WorkerPool("files", threads)

    @property
    def properties(self) -> BackendProperties:
        """See `Backend.properties`."""
        return BackendProperties(name="filesystem", recheck_s=1)

    @property
    def location(self) -> str:
        """See `Backend.location`."""
        return self._root

    async def open(self) -> None:
        """See `Backend.open`.

        Raises:
            StoreUnknown: the root is there, but no directory.
        """
        with translated(f"open the store {self._root}"):
            is_wrong = await self._pool.run(_is_something_else, self._root)
        if is_wrong:
            raise StoreUnknown(f"{self._root} is not a directory")

    async def aclose(self) -> None:
        """See `Backend.aclose`."""
        await self._pool.aclose()

    async def prepare(self) -> None:
        """See `Backend.prepare`."""
        await self._pool.finish(self._prepare)

    def _prepare(self) -> None:
        try:
            make_directories(self._root)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigInvalid(f"no directory can be made at {self._root}: {error.strerror}") from error
        except OSError as error:
            raise storage_failed(f"make the store {self._root}", error) from error
        with translated(f"make the store {self._root}"):
            self._refuse_foreign()
            for prefix in (UPLOADS_PREFIX, JOURNAL_PREFIX, CHECKPOINT_PREFIX, BLOBS_PREFIX):
                make_directories(os.path.join(self._root, prefix.rstrip("/")))
            blobs = os.path.join(self._root, BLOBS_PREFIX)
            for shard in range(_SHARDS):
                os.makedirs(os.path.join(blobs, f"{shard:02x}"), DIRECTORY_MODE, exist_ok=True)
            sync_directory(blobs)

    def _refuse_foreign(self) -> None:
        """A mistyped place must not scatter a store over somebody's files. What a first try left is ours."""
        names = os.listdir(self._root)
        foreign = [name for name in names if not name.startswith((*_OWN_NAMES, "."))]
        if foreign and MARKER_KEY not in names:
            raise ConfigInvalid(
                f"{self._root} is no store and not empty (it holds {min(foreign)!r}); give a new or empty directory"
            )

    def path_of(self, key: str) -> str:
        """Where the file of a key lies; it may be gone by the time it is opened."""
        return os.path.join(self._root, checked_key(key))

    async def put(self, key: str, data: bytes) -> None:
        """See `Backend.put`."""
        with translated(f"write {key}"):
            await self._pool.finish(_files.replace_whole, self.path_of(key), data)

    async def put_new(self, key: str, data: bytes) -> bool:
        """See `Backend.put_new`."""
        with translated(f"write {key}"):
            return await self._pool.finish(_files.create_whole, self.path_of(key), data)

    async def open_upload(self, upload_id: str, *, resume: bool = False) -> BackendUpload:
        """See `Backend.open_upload`."""
        path = self.path_of(UPLOADS_PREFIX + upload_id)
        with translated(f"open upload {upload_id}"):
            handle, size = await self._pool.obtain(
                functools.partial(_open_staged, path, resume), lambda opened: os.close(opened[0])
            )
        return _FileUpload(self.path_of, path, handle, size, self._pool)

    @asynccontextmanager
    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Backend.read`."""
        path = self.path_of(key)
        with translated(f"read {key}"):
            handle, end = await self._pool.obtain(
                functools.partial(_files.open_range, path, start, stop), lambda opened: os.close(opened[0])
            )
        reader = _FileReader(self._pool, handle, key, start, end)
        try:
            yield reader.chunks()
        finally:
            await reader.aclose()

    async def stat(self, key: str) -> ObjectInfo:
        """See `Backend.stat`."""
        with translated(f"stat {key}"):
            return ObjectInfo(key, await self._pool.run(_files.size_of, self.path_of(key)))

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `Backend.delete`."""
        by_path = {self.path_of(key): key for key in keys}
        with translated("delete"):
            gone = await self._pool.finish(_files.delete_files, list(by_path))
        return frozenset(by_path[path] for path in gone)

    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Backend.list`."""
        directory, slash, _ = prefix.rpartition("/")
        if slash:
            checked_key(directory)
        return self._walk(directory + slash, prefix, after)

    async def _walk(self, directory: str, prefix: str, after: str | None) -> AsyncIterator[ObjectInfo]:
        """Depth first, a directory's files in hand at a time: sorted by name, directories by name and slash, which is the order
        of the keys."""
        with translated(f"list {directory}"):
            entries = await self._pool.finish(_list_directory, os.path.join(self._root, directory))
        for name, size in entries:
            key = directory + name
            if not name.endswith("/"):
                if key.startswith(prefix) and (after is None or key > after):
                    yield ObjectInfo(key, size)
            elif (key.startswith(prefix) or prefix.startswith(key)) and (
                after is None or key > after or after.startswith(key)
            ):
                async for found in self._walk(key, prefix, after):
                    yield found


def _is_something_else(path: str) -> bool:
    # One look, that raises where nothing can be told: os.path.isdir would say no.
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _list_directory(path: str) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found.append((f"{entry.name}/", 0))
                    continue
                try:
                    found.append((entry.name, entry.stat(follow_symlinks=False).st_size))
                except FileNotFoundError:
                    # Deleted while we looked: a listing owes only what was there before and after.
                    continue
    except (FileNotFoundError, NotADirectoryError):
        return []
    found.sort()
    return found


def _open_staged(path: str, resume: bool) -> tuple[int, int]:  # noqa: FBT001
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if resume else os.O_CREAT | os.O_EXCL)
    try:
        handle = os.open(path, flags, _files.FILE_MODE)
    except FileExistsError as error:
        raise UploadBusy("this upload was begun already") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        found = os.fstat(handle)
        if found.st_nlink > 1:
            # Published by a session that died before it took this name away: to write here is to write into a blob.
            os.unlink(path)
        # Whoever held it before us may have published or dropped it in between: then this name is no more, and this raises.
        os.stat(path)
    except BlockingIOError as error:
        os.close(handle)
        raise UploadBusy("another session is writing to this upload") from error
    except BaseException:
        os.close(handle)
        raise
    return handle, found.st_size


class _FileUpload(BackendUpload):
    """A staged file, written in order by one lane."""

    def __init__(self, path_of: Callable[[str], str], path: str, handle: int, size: int, pool: WorkerPool) -> None:
        self._path_of, self._path, self._pool = path_of, path, pool
        self._handle: int | None = handle
        self._offset = size
        self._written_back = size
        self._lane = Lane(pool)

    @property
    def offset(self) -> int:
        """See `BackendUpload.offset`."""
        return self._offset

    async def write(self, data: bytes) -> None:
        """See `BackendUpload.write`."""
        with translated("write an upload"):
            await self._lane.put(functools.partial(self._write, self._open_handle(), data, self._offset))
        self._offset += len(data)

    def _write(self, handle: int, data: bytes, offset: int) -> None:
        _files.write_at(handle, data, offset)
        end = offset + len(data)
        if end - self._written_back >= _WRITEBACK_BYTES:
            _files.start_writeback(handle, self._written_back, end - self._written_back)
            self._written_back = end

    async def drain(self) -> None:
        """See `BackendUpload.drain`."""
        with translated("write an upload"):
            await self._lane.drain()

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `BackendUpload.read`."""
        handle = self._open_handle()
        while start < stop:
            with translated("read an upload"):
                chunk = await self._pool.finish(os.pread, handle, min(CHUNK_BYTES, stop - start), start)
            if not chunk:
                return
            start += len(chunk)
            yield chunk

    async def truncate(self, offset: int) -> None:
        """See `BackendUpload.truncate`."""
        await self.drain()
        with translated("truncate an upload"):
            await self._pool.finish(os.ftruncate, self._open_handle(), offset)
        self._offset = self._written_back = offset

    async def commit(self, key: str) -> bool:
        """See `BackendUpload.commit`."""
        try:
            final = self._path_of(key)
            await self.drain()
        except BaseException:
            await self.abort()
            raise
        handle, self._handle = self._open_handle(), None
        with translated(f"commit {key}"):
            return await self._pool.finish(_files.publish, handle, self._path, final)

    async def abort(self) -> None:
        """See `BackendUpload.abort`."""
        await self._end(_drop)

    async def aclose(self) -> None:
        """See `BackendUpload.aclose`."""
        await self._end(_sync_and_close)

    async def _end(self, finish: Callable[[int, str], None]) -> None:
        handle, self._handle = self._handle, None
        if handle is None:
            return
        try:
            await self._lane.settle()
        finally:
            with translated("close an upload"):
                await self._pool.finish(finish, handle, self._path)

    def _open_handle(self) -> int:
        assert self._handle is not None, "this upload is over"
        return self._handle


def _drop(handle: int, path: str) -> None:
    os.close(handle)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _sync_and_close(handle: int, path: str) -> None:
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    sync_directory(os.path.dirname(path))


class _FileReader:
    """Reads a file one chunk ahead of its consumer."""

    def __init__(self, pool: WorkerPool, handle: int, key: str, start: int, end: int) -> None:
        self._pool, self._handle, self._key = pool, handle, key
        self._at, self._end = start, end
        self._ahead: asyncio.Future[bytes] | None = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """The bytes; raises rather than ending early, should the file have shrunk."""
        while self._at < self._end:
            if self._ahead is None:
                self._ahead = self._start()
            with translated(f"read {self._key}"):
                chunk = await asyncio.shield(self._ahead)
            if not chunk:
                raise BlobDamaged(f"{self._key} ends {self._end - self._at} bytes early")
            self._at += len(chunk)
            self._ahead = self._start() if self._at < self._end else None
            yield chunk

    async def aclose(self) -> None:
        """Wait for what is being read, then close."""
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
            if not self._ahead.cancelled():
                # Nobody asked for this chunk, so nobody is told of its error.
                self._ahead.exception()
        with contextlib.suppress(OSError):
            # It was only read; the descriptor is gone all the same.
            os.close(self._handle)

    def _start(self) -> asyncio.Future[bytes]:
        size = min(CHUNK_BYTES, self._end - self._at)
        return asyncio.ensure_future(self._pool.run(os.pread, self._handle, size, self._at))
