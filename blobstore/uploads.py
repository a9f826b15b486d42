"""Uploads: bytes on their way to becoming a blob, hashed while they are written, resumable in another process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
from types import TracebackType
from typing import Self

import blake3
import msgspec

from blobstore.abc.backend import CHUNK_BYTES, BackendUpload
from blobstore.abc.records import BlobState, CommitOutcome, Committed, Content, Intent
from blobstore.clock import boot_id
from blobstore.descriptor import Descriptor
from blobstore.digest import Algorithm, Digest
from blobstore.errors import (
    BlobstoreError,
    DigestMismatch,
    KeyUnknown,
    SizeMismatch,
    UploadInterrupted,
    UploadUnknown,
)
from blobstore.events import BlobPushed
from blobstore.hashing import INLINE_HASH_MAX_BYTES, Sha256, new_sha256, resume_sha256
from blobstore.layout import blob_key, parse_blob_key, published_names
from blobstore.names import RepositoryName, UploadId
from blobstore.parts import Parts
from blobstore.pool import Lane, WorkerPool, unstoppable

OCTET_STREAM = "application/octet-stream"
_WHOLE_CHUNK_MIN_BYTES = 256 * 1024
# Of an upload that has a file already. Less than what an event loop reads of a socket at once (uvloop: 250 KiB), so that most
# pieces are handed on as they come: joined, they would be copied, and as many again would wait in memory.
_WHOLE_PIECE_MIN_BYTES = 192 * 1024


class Upload:
    """One session of an upload; belongs to one task. Leaving it without a commit keeps it resumable.

    Up to `CHUNK_BYTES` stay in memory; what is more goes to the backend while it is hashed, sha256 and blake3 side by side,
    each in a thread of its own.
    """

    def __init__(self, parts: Parts, intent: Intent, *, is_pinned: bool = False) -> None:
        self._parts, self._intent, self._is_pinned = parts, intent, is_pinned
        self._hashes = _Hashes(parts.hash_pool)
        self._staged: BackendUpload | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._handed_over = 0
        self._renewed_ms = parts.clock.monotonic_ms()
        self._is_over = False
        self._published: list[str] = []

    @property
    def upload_id(self) -> UploadId:
        """What `Repository.resume_upload` takes."""
        return self._intent.upload

    @property
    def offset(self) -> int:
        """How many bytes were taken."""
        return self._handed_over + self._pending_bytes

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append bytes; waits while the disk is behind.

        Raises:
            StorageFull: what was written before stays resumable.
            UploadInterrupted: the upload was expired or cancelled meanwhile.
        """
        assert not self._is_over, "this upload is over"
        await self._renew()
        # bytes can't change under us; anything else is copied, as its owner may reuse it.
        piece = data if isinstance(data, bytes) else bytes(data)
        # A blob of one chunk needs no file on its way.
        has_file = self._staged is not None
        if not self._pending and len(piece) >= (_WHOLE_PIECE_MIN_BYTES if has_file else _WHOLE_CHUNK_MIN_BYTES):
            await self._hand_over(piece)
            return
        self._pending.append(piece)
        self._pending_bytes += len(piece)
        if self._pending_bytes >= (_WHOLE_PIECE_MIN_BYTES if has_file else CHUNK_BYTES):
            await self._hand_over_pending()

    async def commit(self, digest: Digest | None = None, size_bytes: int | None = None) -> Descriptor:
        """Make the bytes a blob, durably, and promise it to the repository; returns its sha256 digest and size.

        Raises:
            DigestMismatch, SizeMismatch: the bytes are not what was announced, now or at the start; the upload is over.
            UploadInterrupted: the upload was expired or cancelled meanwhile, or another session of it has published its
                bytes.
            StorageFull: the upload is over, nothing is visible.
        """
        assert not self._is_over, "this upload is over"
        try:
            content = await self._content(digest, size_bytes)
            committed = await self._settle(content)
        except BaseException:
            with contextlib.suppress(BlobstoreError):
                # The first error is the one to tell; an intent that stays is expired later.
                await self._abandon()
            raise
        self._is_over = True
        self._parts.cleaner.add(committed.trash)
        await self._parts.journal.settle(committed.sequence)
        was_present = committed.outcome is not CommitOutcome.STORED
        self._parts.events(BlobPushed(self._intent.repository, content.digest, content.size_bytes, was_present))
        return Descriptor(OCTET_STREAM, content.digest, content.size_bytes)

    async def cancel(self) -> None:
        """Drop the bytes. Repeatable."""
        if not self._is_over:
            await self._abandon()

    async def aclose(self) -> None:
        """Make the bytes durable and note how far they go, so that another session can go on. Repeatable."""
        if self._is_over:
            return
        self._is_over = True
        try:
            await self._hand_over_pending()
            await self._hashes.drain()
        finally:
            if self._staged is not None:
                await self._staged.aclose()
        is_open = await self._parts.index.renew_upload(
            self._intent.upload,
            self._parts.clock.now_ms(),
            self._parts.terms,
            offset=self._handed_over,
            hash_state=self._hashes.save(),
            boot=boot_id(),
        )
        if not is_open and self._staged is not None:
            # The upload ended under us, and its trash may have been emptied before these bytes came.
            await self._parts.index.note_orphan_scan(is_due=True, token=self._intent.generation.key)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
            return
        try:
            await self.aclose()
        except BlobstoreError:
            # The body's error is the one to tell; what couldn't be saved is hashed again when the upload is resumed.
            return

    async def _renew(self) -> None:
        now_ms = self._parts.clock.monotonic_ms()
        if now_ms - self._renewed_ms < self._parts.terms.renew_ms:
            return
        self._renewed_ms = now_ms
        wall_ms = self._parts.clock.now_ms()
        if not await self._parts.index.renew_upload(self._intent.upload, wall_ms, self._parts.terms, boot=boot_id()):
            await self._abandon()
            raise UploadInterrupted(f"upload {self._intent.upload} was expired or cancelled; start anew")

    async def _hand_over_pending(self) -> None:
        if self._pending:
            piece = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            self._pending, self._pending_bytes = [], 0
            await self._hand_over(piece)

    async def _hand_over(self, piece: bytes) -> None:
        if self._staged is None:
            self._staged = await self._open_staged()
            if await self._parts.index.find_upload(self._intent.upload) is None:
                # Another session ended it before we took hold of its bytes: ours would be nobody's.
                await self._abandon()
                raise UploadInterrupted(f"upload {self._intent.upload} was ended by another session; start anew")
        self._handed_over += len(piece)
        await self._hashes.update(piece)
        await self._staged.write(piece)

    async def _content(self, claimed: Digest | None, size_bytes: int | None) -> Content:
        if size_bytes is not None and size_bytes != self.offset:
            raise SizeMismatch(f"upload {self._intent.upload}", size_bytes, self.offset)
        if self._staged is not None:
            await self._hand_over_pending()
        else:
            await self._hashes.update_small(self._pending)
        content = await self._hashes.content(self.offset)
        key = self._announced_key()
        announced = parse_blob_key(key) if key is not None else None
        if announced is not None and announced.digest != content.digest:
            # Published, these bytes would stand under that name.
            raise DigestMismatch(announced.digest, content.digest)
        if claimed is None or claimed == content.digest:
            return content
        if claimed.algorithm is Algorithm.SHA256:
            raise DigestMismatch(claimed, content.digest)
        actual = await self._hash_as(claimed.algorithm, content)
        if actual != claimed:
            raise DigestMismatch(claimed, actual)
        return msgspec.structs.replace(content, aliases=(claimed,))

    async def _hash_as(self, algorithm: Algorithm, content: Content) -> Digest:
        """The digest a client asks for only now; the bytes are read again unless it is known already."""
        if algorithm is Algorithm.BLAKE3 and content.blake3 is not None:
            return Digest(algorithm, content.blake3)
        hasher = blake3.blake3() if algorithm is Algorithm.BLAKE3 else hashlib.sha512()
        if self._staged is None:
            for piece in self._pending:
                hasher.update(piece)
        else:
            await self._staged.drain()
            async for chunk in self._staged.read(0, self._handed_over):
                await self._parts.hash_pool.finish(hasher.update, chunk)
        return Digest(algorithm, hasher.digest())

    async def _settle(self, content: Content) -> Committed:
        """Publish if the bytes are needed, never if they aren't, and commit."""
        index, names = self._parts.index, list[str]()
        known = await index.find_blob(content.digest)
        if known is None or known.state is BlobState.SUSPECT:
            names = await self._publish(content.digest)
        committed = await self._commit(content, names)
        if committed.outcome is CommitOutcome.NOT_PUBLISHED:
            # It was there when we asked, and was collected since.
            committed = await self._commit(content, await self._publish(content.digest))
        if committed.outcome is CommitOutcome.INTERRUPTED:
            self._parts.cleaner.add(committed.trash)
            raise UploadInterrupted(f"upload {self._intent.upload} was expired or cancelled; start anew")
        if self._staged is not None:
            # A duplicate's bytes; nothing after a publication.
            await self._staged.abort()
        return committed

    async def _commit(self, content: Content, names: list[str]) -> Committed:
        now_ms = self._parts.clock.now_ms()
        return await self._parts.index.commit_blob(self._intent, content, names, now_ms, is_pinned=self._is_pinned)

    async def _publish(self, digest: Digest) -> list[str]:
        key = blob_key(digest, self._intent.generation)
        self._published = [key]
        if self._staged is None:
            is_new = await self._parts.backend.put_new(key, b"".join(self._pending))
            return self._owned([key] if is_new else [])
        if self._announced_key() is None and not self._parts.backend.properties.renames_uploads:
            # A commit that fails half way may have made any of them.
            self._published += published_names(key, self._intent.generation)
        try:
            names = await self._staged.commit(key)
        except KeyUnknown as error:
            raise UploadInterrupted(f"upload {self._intent.upload} was expired or cancelled; start anew") from error
        assert set(names) <= set(self._published), names
        return self._owned(list(names))

    def _owned(self, names: list[str]) -> list[str]:
        if not names:
            # Whoever wrote them may be alive and about to commit them, or to take them back: two owners can lose a blob.
            raise UploadInterrupted(f"upload {self._intent.upload} was published by another session; start anew")
        return names

    async def _open_staged(self, *, resume: bool = False) -> BackendUpload:
        generation = str(self._intent.generation)
        return await self._parts.backend.open_upload(generation, key=self._announced_key(), resume=resume)

    def _announced_key(self) -> str | None:
        """Where the bytes will be, if their digest was known when the upload began."""
        return next((name for name in self._intent.names if parse_blob_key(name) is not None), None)

    async def _abandon(self) -> None:
        """Also where this is cancelled, as the end of one of several uploads often ends the others while they give up."""
        self._is_over = True
        await unstoppable(self._drop())

    async def _drop(self) -> None:
        if self._staged is not None:
            await self._staged.abort()
        now_ms = self._parts.clock.now_ms()
        trash = await self._parts.index.cancel_upload(self._intent.upload, now_ms, self._published)
        self._parts.cleaner.add(trash.generation if trash is not None else None)

    async def _resume(self) -> None:
        """Take up the bytes another session left, and hash what its saved state doesn't cover."""
        intent = self._intent
        try:
            self._staged = await self._open_staged(resume=True)
        except KeyUnknown as error:
            if intent.offset:
                raise UploadUnknown(f"the bytes of upload {intent.upload} are gone; start anew") from error
            return
        # Bytes written since they were last synced are whole as long as the machine has not been down since.
        offset = self._staged.offset
        trusted = offset if intent.boot == boot_id() else min(offset, intent.offset)
        if trusted < offset:
            await self._staged.truncate(trusted)
        start = self._hashes.resume(intent.hash_state, intent.offset) if intent.offset <= trusted else 0
        async for chunk in self._staged.read(start, trusted):
            await self._hashes.update(chunk)
        await self._hashes.drain()
        self._handed_over = trusted

    async def _let_go(self) -> None:
        """Of bytes that could not be taken up: held on to, they would be busy for whoever tries again."""
        self._is_over = True
        if self._staged is not None:
            with contextlib.suppress(BlobstoreError):
                # The first error is the one to tell.
                await unstoppable(self._staged.aclose())


async def start_upload(
    parts: Parts, repository: RepositoryName | None, digest: Digest | None, *, is_pinned: bool = False
) -> Upload:
    """Begin an upload; with its digest, if that is known, its bytes have a name from the start, and can become nothing else."""
    known = digest if digest is not None and digest.algorithm is Algorithm.SHA256 else None
    return Upload(parts, await open_intent(parts, repository, known), is_pinned=is_pinned)


async def open_intent(parts: Parts, repository: RepositoryName | None, digest: Digest | None) -> Intent:
    """A new intent; one that nobody waits for any more is cancelled again."""
    upload, now_ms = UploadId.random(), parts.clock.now_ms()
    starting = asyncio.ensure_future(parts.index.start_upload(upload, repository, digest, now_ms, boot_id()))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # The writer thread commits it all the same.
        await unstoppable(_take_back(parts, starting))
        raise


async def _take_back(parts: Parts, starting: asyncio.Future[Intent]) -> None:
    await asyncio.wait([starting])
    if starting.exception() is None:
        intent = starting.result()
        await parts.index.cancel_upload(intent.upload, parts.clock.now_ms())
        parts.cleaner.add(intent.generation)


async def resume_upload(parts: Parts, repository: RepositoryName, upload: UploadId) -> Upload:
    """Go on with an upload of this repository.

    Raises:
        UploadUnknown: there is none of that id here.
        UploadBusy: another session writes to it.
    """
    intent = await parts.index.find_upload(upload)
    if intent is None or intent.repository != repository:
        raise UploadUnknown(f"{repository} has no open upload {upload}")
    resumed = Upload(parts, intent)
    try:
        await resumed._resume()  # noqa: SLF001 - its own second half
    except BaseException:
        await resumed._let_go()  # noqa: SLF001 - the same
        raise
    return resumed


class _Hashes:
    """sha256 and blake3 of the same bytes, each in its own lane."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._sha256: Sha256 = new_sha256()
        # blake3's state can't be saved: None in an upload that was resumed with a saved state.
        self._blake3: blake3.blake3 | None = blake3.blake3()
        self._lanes = Lane(pool), Lane(pool)

    async def update(self, piece: bytes) -> None:
        """Hash a piece, off the event loop; may run behind."""
        await self._lanes[0].put(functools.partial(self._sha256.update, piece))
        if self._blake3 is not None:
            await self._lanes[1].put(functools.partial(self._blake3.update, piece))

    async def update_small(self, pieces: list[bytes]) -> None:
        """Hash a small blob: where it is called if it is very small, in one hop otherwise."""
        if sum(map(len, pieces)) <= INLINE_HASH_MAX_BYTES:
            self._update_all(pieces)
        else:
            await self._pool.finish(self._update_all, pieces)

    def _update_all(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._sha256.update(piece)
            if self._blake3 is not None:
                self._blake3.update(piece)

    async def drain(self) -> None:
        """Wait until all is hashed."""
        for lane in self._lanes:
            await lane.drain()

    async def content(self, size_bytes: int) -> Content:
        """What all bytes hash to."""
        await self.drain()
        blake3_digest = self._blake3.digest() if self._blake3 is not None else None
        return Content(Digest.from_sha256(self._sha256.digest()), size_bytes, blake3_digest)

    def save(self) -> bytes | None:
        """The sha256 state, after `drain`."""
        return self._sha256.save()

    def resume(self, state: bytes | None, hashed_bytes: int) -> int:
        """Go on from a saved state; returns from which offset the bytes must still be hashed."""
        found = resume_sha256(state, hashed_bytes) if state else None
        if found is None or hashed_bytes == 0:
            return 0
        self._sha256, self._blake3 = found, None
        return hashed_bytes
