"""Bytes in files: a backend over file calls, which say what kind of file system lies below."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from blobstore.abc.backend import CHUNK_BYTES, Backend, BackendProperties, BackendUpload, ObjectInfo
from blobstore.backends import _files
from blobstore.backends._file_calls import FileCalls, OpenFile, OpenUpload
from blobstore.backends._files import translated
from blobstore.backends._keys import checked_key
from blobstore.durable import DIRECTORY_MODE, make_directories, storage_failed, sync_directory
from blobstore.errors import BlobDamaged, ConfigInvalid, StoreUnknown
from blobstore.layout import BLOBS_PREFIX, CHECKPOINT_PREFIX, JOURNAL_PREFIX, MARKER_KEY, UPLOADS_PREFIX
from blobstore.pool import Lane, WorkerPool, unstoppable

Result = TypeVar("Result")
_Entries = Sequence[tuple[str, int]]

_WRITEBACK_BYTES = 8 * 1024 * 1024
_SHARDS = 256
_DIRECTORIES_AHEAD = 32
_NAMES_AHEAD = 1000
_OWN_NAMES = ("blobs", "uploads", "journal", "checkpoint", "index", "lost+found")


class FileBackend(Backend):
    """Files below `root`. Blobs are sharded over 256 directories, which are made once."""

    def __init__(self, root: str, calls: FileCalls, properties: BackendProperties, pool: WorkerPool) -> None:
        self._root = os.path.abspath(root)
        self._calls, self._properties, self._pool = calls, properties, pool

    @property
    def properties(self) -> BackendProperties:
        """See `Backend.properties`."""
        return self._properties

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
        self._calls.close()

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
            for shard in sorted({f"{shard:02x}" for shard in range(_SHARDS)}.difference(os.listdir(blobs))):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(os.path.join(blobs, shard), DIRECTORY_MODE)
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
            await self._pool.finish(_files.replace_whole, self._calls, self.path_of(key), data)

    async def put_new(self, key: str, data: bytes) -> bool:
        """See `Backend.put_new`."""
        with translated(f"write {key}"):
            return await self._pool.finish(_files.create_whole, self._calls, self.path_of(key), data)

    async def open_upload(self, upload_id: str, *, key: str | None = None, resume: bool = False) -> BackendUpload:
        """See `Backend.open_upload`."""
        path = self.path_of(UPLOADS_PREFIX + upload_id)
        with translated(f"open upload {upload_id}"):
            opened = await self._pool.obtain(
                functools.partial(self._calls.open_upload, path, resume=resume), OpenUpload.close
            )
        return _FileUpload(self.path_of, opened, self._calls, self._pool)

    @asynccontextmanager
    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `Backend.read`."""
        path = self.path_of(key)
        with translated(f"read {key}"):
            file, end = await self._pool.obtain(
                functools.partial(_files.open_range, self._calls, path, start, stop), lambda opened: opened[0].close()
            )
        reader = _FileReader(self._pool, file, key, start, end)
        try:
            yield reader.chunks()
        finally:
            await reader.aclose()

    async def stat(self, key: str) -> ObjectInfo:
        """See `Backend.stat`."""
        with translated(f"stat {key}"):
            return ObjectInfo(key, await self._pool.run(_files.size_of, self._calls, self.path_of(key)))

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `Backend.delete`."""
        by_path = {self.path_of(key): key for key in keys}
        with translated("delete"):
            gone = await self._pool.finish(_files.delete_files, self._calls, list(by_path))
        return frozenset(by_path[path] for path in gone)

    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `Backend.list`."""
        directory, slash, _ = prefix.rpartition("/")
        if slash:
            checked_key(directory)
        return self._walk(directory + slash, prefix, after)

    async def _walk(
        self, directory: str, prefix: str, after: str | None, entries: _Entries | None = None
    ) -> AsyncIterator[ObjectInfo]:
        """Depth first: sorted by name, directories by name and slash, which is the order of the keys. Those in a directory are
        listed some at a time, as most have few names and each turn of a thread costs more than a small listing."""
        if entries is None:
            (entries,) = await self._listed([directory])
        ahead: dict[str, _Entries] = {}
        for at, (name, size) in enumerate(entries):
            key = directory + name
            if not name.endswith("/"):
                if key.startswith(prefix) and (after is None or key > after):
                    yield ObjectInfo(key, size)
            elif _may_hold(key, prefix, after):
                if key not in ahead:
                    behind = (directory + other for other, _ in itertools.islice(entries, at, None))
                    wanted = (each for each in behind if each.endswith("/") and _may_hold(each, prefix, after))
                    several = [*itertools.islice(wanted, _DIRECTORIES_AHEAD)]
                    ahead = dict(zip(several, await self._listed(several), strict=False))
                async for found in self._walk(key, prefix, after, ahead.pop(key)):
                    yield found

    async def _listed(self, directories: Sequence[str]) -> Sequence[_Entries]:
        """What is in each of the first of these directories; in one at least."""
        paths = [os.path.join(self._root, directory) for directory in directories]
        with translated(f"list {directories[0]}"):
            return await self._pool.finish(_files.list_directories, self._calls, paths, _NAMES_AHEAD)


def _may_hold(directory: str, prefix: str, after: str | None) -> bool:
    """Whether keys that are looked for can lie in a directory."""
    return (directory.startswith(prefix) or prefix.startswith(directory)) and (
        after is None or directory > after or after.startswith(directory)
    )


def _is_something_else(path: str) -> bool:
    # One look, that raises where nothing can be told: os.path.isdir would say no.
    try:
        return not stat.S_ISDIR(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


class _FileUpload(BackendUpload):
    """A staged file, written in order by one lane."""

    def __init__(self, path_of: Callable[[str], str], opened: OpenUpload, calls: FileCalls, pool: WorkerPool) -> None:
        self._path_of, self._calls, self._pool = path_of, calls, pool
        self._opened: OpenUpload | None = opened
        self._offset = self._written_back = opened.size_bytes
        self._lane = Lane(pool)

    @property
    def offset(self) -> int:
        """See `BackendUpload.offset`."""
        return self._offset

    async def write(self, data: bytes) -> None:
        """See `BackendUpload.write`."""
        with translated("write an upload"):
            piece = functools.partial(self._write, self._open_handle(), data, self._offset)
            await self._pool.waiting(self._lane.put(piece))
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
            await self._pool.waiting(self._lane.drain())

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

    async def commit(self, key: str) -> tuple[str, ...]:
        """See `BackendUpload.commit`."""
        try:
            final = self._path_of(key)
            await self.drain()
        except BaseException:
            await self.abort()
            raise
        opened, self._opened = self._opened, None
        with translated(f"commit {key}"):
            is_new = await self._over(opened, lambda handle, path: _files.publish(self._calls, handle, path, final))
        return (key,) if is_new else ()

    async def abort(self) -> None:
        """See `BackendUpload.abort`."""
        await self._end(functools.partial(_files.drop, self._calls))

    async def aclose(self) -> None:
        """See `BackendUpload.aclose`."""
        await self._end(functools.partial(_files.sync_and_keep, self._calls))

    async def _end(self, finish: Callable[[int, str], None]) -> None:
        opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            await self._lane.settle()
        finally:
            with translated("close an upload"):
                await self._over(opened, finish)

    async def _over(self, opened: OpenUpload | None, finish: Callable[[int, str], Result]) -> Result:
        """End with `finish`, which closes the handle; then another session may have it."""
        assert opened is not None, "this upload is over"

        def end() -> Result:
            try:
                return finish(opened.handle, opened.path)
            finally:
                opened.release()

        return await self._pool.finish(end)

    def _open_handle(self) -> int:
        assert self._opened is not None, "this upload is over"
        return self._opened.handle


class _FileReader:
    """Reads a file one chunk ahead of its consumer."""

    def __init__(self, pool: WorkerPool, file: OpenFile, key: str, start: int, end: int) -> None:
        self._pool, self._file, self._key = pool, file, key
        self._at, self._end = start, end
        self._ahead: asyncio.Future[bytes] | None = None
        self._is_closed = False

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
        """Wait for what is being read, however often that is cancelled, then close."""
        await unstoppable(self._close())

    async def _close(self) -> None:
        if self._ahead is not None:
            await asyncio.wait([self._ahead])
            if not self._ahead.cancelled():
                # Nobody asked for this chunk, so nobody is told of its error.
                self._ahead.exception()
        if not self._is_closed:
            await self._pool.finish(self._close_file)

    def _start(self) -> asyncio.Future[bytes]:
        size = min(CHUNK_BYTES, self._end - self._at)
        return asyncio.ensure_future(self._pool.run(self._read, size, self._at))

    def _read(self, size_bytes: int, at: int) -> bytes:
        data = self._file.read(size_bytes, at)
        if at + len(data) == self._end:
            self._close_file()
        return data

    def _close_file(self) -> None:
        """In a thread, with the last read if it comes to that: the server of a share is asked, and may be away for long."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            # It was only read; the descriptor is gone all the same.
            self._file.close()
