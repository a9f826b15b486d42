"""Importing images: a plan from the source, then its blobs, many at once so that they share commits, then its manifests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack, ExitStack
from typing import Any, TypeVar

import msgspec

from blobstore.abc.backend import CHUNK_BYTES
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.durable import storage_errors
from blobstore.errors import ArchiveInvalid, BlobstoreError, BlobUnknown, ContentMismatch
from blobstore.events import EventSink, Progress, discard
from blobstore.importers._plan import Plan, PlannedEntry, make_plan, read_manifest
from blobstore.importers._sources import Content, DirectoryFiles, Source, TarFiles, close_read
from blobstore.importers.docker_archive import MANIFEST_FILE, DockerArchive
from blobstore.importers.oci_layout import LAYOUT_FILE, OciLayout
from blobstore.names import RepositoryName, TagName
from blobstore.pool import WorkerPool, task_group
from blobstore.repository import Repository
from blobstore.store import Store
from blobstore.uploads import Upload

Item = TypeVar("Item")
Result = TypeVar("Result")

# Small blobs cost a commit each, and concurrent commits are synced together; big ones cost reading and hashing.
small_blob_max_bytes = 1024 * 1024
small_blobs_at_once = 32
big_blobs_at_once = 4
manifests_at_once = 32

_READ_THREADS = 8
_PHASE = "import"


class ImportedManifest(msgspec.Struct, frozen=True):
    """A manifest the source offered by itself, with the tags that name it now.

    `instead_of` is set where the source has an image index of which only this one image is present (`docker save` of one
    platform): the index it stands in for.
    """

    digest: Digest
    media_type: str
    size_bytes: int
    tags: tuple[TagName, ...]
    instead_of: Digest | None = None


class ImportReport(msgspec.Struct, frozen=True):
    """What an import did. `manifests` are the source's entries; `manifests_put` counts their children too.

    `ignored` are entries of the source whose media type is no manifest's.
    """

    repository: RepositoryName
    manifests: tuple[ImportedManifest, ...]
    manifests_put: int
    blobs_imported: int
    blobs_skipped: int
    bytes_read: int
    ignored: tuple[Descriptor, ...] = ()


async def import_image(
    store: Store, source: str, repository: str, tag: str | None = None, *, progress: EventSink = discard
) -> ImportReport:
    """Import all images of an OCI image layout (directory or tar) or a `docker save` tar into a repository.

    Repeatable: blobs the repository sees already are not read again, so an import that was cut short goes on. All blobs come
    before the first manifest, children before parents: a failure leaves no manifest or tag without what it refers to.

    Args:
        store: an open store.
        source: a directory or an uncompressed tar file.
        repository: where to; made if it is new.
        tag: in place of the source's own tags; then it must hold one image.
        progress: is told bytes done and in all.

    Raises:
        ArchiveInvalid: the source is truncated, hostile, not what it says it is, or leaves a choice.
        NameInvalid, TagInvalid: as their names say.
        StorageFull: what was imported before stays, for the next try.
    """
    target = store.repository(repository)
    wanted = TagName.parse(tag) if tag is not None else None
    pool = WorkerPool("import", _READ_THREADS)
    try:
        # Only when no thread works on them any more are the files closed: `finish` sees to that.
        with ExitStack() as stack:
            opened = await pool.finish(open_source, source, stack)
            plan = await pool.finish(make_plan, opened, wanted)
            return await _Import(opened, target, plan, pool, progress).run()
    finally:
        await pool.aclose()


def open_source(path: str, stack: ExitStack) -> Source:
    """What lies at a path, by its kind; open until `stack` is closed. Blocks.

    Raises:
        ArchiveInvalid: nothing is there, or nothing that is known.
    """
    try:
        # O_NONBLOCK, as opening a pipe would wait for its writer. The path itself may be a link: a person gave it.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ArchiveInvalid(f"{path} can't be opened: {error.strerror}") from error
    stack.callback(close_read, handle)
    with storage_errors(f"look at {path}"):
        mode = os.fstat(handle).st_mode
    if stat.S_ISDIR(mode):
        return OciLayout(DirectoryFiles(path, handle))
    if not stat.S_ISREG(mode):
        raise ArchiveInvalid(f"{path} is neither a directory nor a file; write the archive to a file first")
    files = TarFiles(path, handle)
    # Since version 25 `docker save` writes both; the layout has the manifests themselves.
    if LAYOUT_FILE in files:
        return OciLayout(files)
    if MANIFEST_FILE in files:
        return DockerArchive(files)
    raise ArchiveInvalid(f"{path} has neither {LAYOUT_FILE} nor {MANIFEST_FILE}: it is no image archive")


class _Import:
    """One import under way."""

    def __init__(
        self, source: Source, repository: Repository, plan: Plan, pool: WorkerPool, progress: EventSink
    ) -> None:
        self._source, self._repository, self._plan = source, repository, plan
        self._pool, self._progress = pool, progress
        self._imported = self._skipped = self._bytes_read = self._bytes_done = 0
        self._bytes_total = sum(plan.blobs.values())

    async def run(self) -> ImportReport:
        """Blobs, then manifests from the leaves up."""
        small = [digest for digest, size in self._plan.blobs.items() if size <= small_blob_max_bytes]
        big = [digest for digest, size in self._plan.blobs.items() if size > small_blob_max_bytes]
        await _run_at_once(
            [
                *_workers(self._import_blob, big, big_blobs_at_once),
                *_workers(self._import_blob, small, small_blobs_at_once),
            ]
        )
        tags = self._tags()
        for level in self._plan.levels:
            await _run_at_once(_workers(lambda each: self._put_manifest(each, tags), level, manifests_at_once))
        return self._report()

    def _tags(self) -> dict[Digest, tuple[TagName, ...]]:
        found: dict[Digest, tuple[TagName, ...]] = {}
        for entry in self._plan.entries:
            # Two image indexes may have the same image standing in for them.
            found[entry.descriptor.digest] = (*found.get(entry.descriptor.digest, ()), *entry.tags)
        return found

    async def _import_blob(self, digest: Digest) -> None:
        size = self._plan.blobs[digest]
        if await self._is_seen(digest):
            self._skipped += 1
            self._advance(size)
            return
        with ExitStack() as stack:
            content = await self._pool.finish(self._open, digest, stack)
            await self._copy(content, digest, size)
        self._imported += 1

    async def _is_seen(self, digest: Digest) -> bool:
        try:
            await self._repository.stat_blob(digest)
        except BlobUnknown:
            return False
        return True

    def _open(self, digest: Digest, stack: ExitStack) -> Content:
        content = self._source.open(digest, stack)
        if content is None or content.size_bytes != self._plan.blobs[digest]:
            raise ArchiveInvalid(f"{self._source.location}: blob {digest} was changed during the import; run it again")
        return content

    async def _copy(self, content: Content, digest: Digest, size: int) -> None:
        async with AsyncExitStack() as stack:
            upload = await _finished(self._start_upload(digest, stack))
            try:
                while upload.offset < size:
                    chunk = await self._pool.finish(content.read, upload.offset, CHUNK_BYTES)
                    await upload.write(chunk)
                    self._bytes_read += len(chunk)
                    self._advance(len(chunk))
                await upload.commit(digest, size)
            except ContentMismatch as error:
                raise ArchiveInvalid(f"{self._source.location}: blob {digest}: {error}") from error

    async def _start_upload(self, digest: Digest, stack: AsyncExitStack) -> Upload:
        upload = await stack.enter_async_context(self._repository.open_upload(digest))
        # A next try reads the blob from its start, so a half one is of no use; after a commit this does nothing.
        stack.push_async_callback(_drop, upload)
        return upload

    async def _put_manifest(self, descriptor: Descriptor, tags: dict[Digest, tuple[TagName, ...]]) -> None:
        body = await self._pool.finish(read_manifest, self._source, descriptor)
        own_tags = tags.get(descriptor.digest, ())
        putting = self._repository.put_manifest(body, descriptor.media_type, tags=own_tags, digest=descriptor.digest)
        await _finished(putting)

    def _advance(self, done_bytes: int) -> None:
        self._bytes_done += done_bytes
        self._progress(Progress(_PHASE, self._bytes_done, self._bytes_total))

    def _report(self) -> ImportReport:
        return ImportReport(
            repository=self._repository.name,
            manifests=tuple(_imported(entry) for entry in self._plan.entries),
            manifests_put=sum(map(len, self._plan.levels)),
            blobs_imported=self._imported,
            blobs_skipped=self._skipped,
            bytes_read=self._bytes_read,
            ignored=self._plan.ignored,
        )


def _imported(entry: PlannedEntry) -> ImportedManifest:
    found = entry.descriptor
    return ImportedManifest(found.digest, found.media_type, found.size_bytes, entry.tags, entry.instead_of)


async def _drop(upload: Upload) -> None:
    with contextlib.suppress(BlobstoreError):
        # The first error is the one to tell; an upload that stays is expired later.
        await upload.cancel()


async def _finished(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, which a cancelled wait still waits for: an upload that was being started would stay open."""
    running = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()  # seen, or asyncio would log it as lost
        raise


def _workers(
    work: Callable[[Item], Coroutine[Any, Any, None]], items: Iterable[Item], at_once: int
) -> list[Callable[[], Coroutine[Any, Any, None]]]:
    """As many workers as may run at once, sharing `items`: a task for each item would be a million tasks."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    return [worker] * at_once


async def _run_at_once(workers: Iterable[Callable[[], Coroutine[Any, Any, None]]]) -> None:
    """Run all; the first error ends the others."""
    async with task_group() as group:
        for worker in workers:
            group.create_task(worker())
