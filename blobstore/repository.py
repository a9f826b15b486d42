"""A repository: the blobs, manifests and tags under one name."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from blobstore.abc.backend import put_once
from blobstore.abc.paging import every_tag
from blobstore.abc.records import (
    Blob,
    BlobState,
    CommitOutcome,
    Content,
    Intent,
    ManifestKey,
    ManifestPut,
    ManifestRecord,
    TagEntry,
)
from blobstore.descriptor import Descriptor
from blobstore.digest import Algorithm, Digest
from blobstore.errors import (
    BlobUnknown,
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    UploadInterrupted,
)
from blobstore.events import ManifestPushed
from blobstore.layout import blob_key
from blobstore.manifest import Manifest, manifest_size_max_bytes, parse_manifest
from blobstore.names import RepositoryName, TagName, UploadId
from blobstore.parts import Parts
from blobstore.pool import unstoppable
from blobstore.readers import BlobReader, open_blob
from blobstore.uploads import Upload, open_intent, resume_upload, start_upload

_PAGE = 1000
_REMOVAL_BATCH = 500
_REPLAYS_MAX = 10_000
_REPLAY_ROUNDS_MAX = 32


class Repository:
    """One repository of an open store; made by `Store.repository`."""

    def __init__(self, parts: Parts, name: RepositoryName) -> None:
        self._parts, self._name = parts, name

    @property
    def name(self) -> RepositoryName:
        """Its name."""
        return self._name

    # Blobs

    @asynccontextmanager
    async def open_upload(self, digest: Digest | None = None) -> AsyncIterator[Upload]:
        """Begin an upload; with `digest`, if it is known, bytes of another one are refused, and an object store needs no commit
        record. Leaving without a commit keeps what came resumable."""
        async with await start_upload(self._parts, self._name, digest) as upload:
            yield upload

    @asynccontextmanager
    async def resume_upload(self, upload_id: str) -> AsyncIterator[Upload]:
        """Go on with an upload of this repository, at its `offset`, from whichever process it was begun.

        Raises:
            UploadUnknown: there is none of that id here.
            UploadBusy: another session writes to it.
        """
        async with await resume_upload(self._parts, self._name, UploadId.parse(upload_id)) as upload:
            yield upload

    async def stat_blob(self, digest: Digest) -> Blob:
        """Answer that a blob is here, and promise it: HEAD.

        Raises:
            BlobUnknown: this repository doesn't see it.
        """
        found = await self._parts.index.touch_blob(self._name, digest, self._now_ms(), self._parts.terms)
        if found is None:
            raise BlobUnknown(f"{self._name} has no blob {digest}")
        return found

    def open_blob(
        self, digest: Digest, start: int = 0, stop: int | None = None
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Read a blob that this repository sees; promises nothing. See `BlobReader`."""

        async def find() -> Blob | None:
            return await self._parts.index.view_blob(self._name, digest, self._now_ms(), self._parts.terms)

        return open_blob(self._parts, digest, find, start, stop)

    async def mount_blob(self, digest: Digest, source: str) -> Descriptor:
        """Take over a blob that the repository `source` sees; no byte moves.

        Raises:
            BlobUnknown: `source` doesn't see it.
        """
        index, now_ms = self._parts.index, self._now_ms()
        found = await index.mount_blob(RepositoryName.parse(source), self._name, digest, now_ms, self._parts.terms)
        if found is None:
            raise BlobUnknown(f"{source} has no blob {digest}")
        return Descriptor("application/octet-stream", found.digest, found.size_bytes)

    async def delete_blob(self, digest: Digest) -> None:
        """Let go of a blob; the collector frees it once nothing else keeps it.

        Raises:
            BlobUnknown: this repository doesn't see it.
            StillReferenced: one of its manifests refers to it.
        """
        await self._parts.index.delete_blob(self._name, digest, self._now_ms(), self._parts.terms)

    # Manifests

    async def put_manifest(
        self,
        body: bytes,
        media_type: str | None = None,
        *,
        tag: str | None = None,
        tags: Sequence[str] = (),
        digest: Digest | None = None,
    ) -> Descriptor:
        """Put a manifest, and point tags at it. All it refers to must be here; a subject need not be.

        Args:
            body: its exact bytes.
            media_type: what it was sent as; without one its own `mediaType` decides.
            tag: a tag to point at it.
            tags: more tags.
            digest: what it is said to hash to, of any algorithm.

        Raises:
            ManifestInvalid: see `parse_manifest`.
            DigestMismatch: it hashes to something else.
            ManifestBlobUnknown: it names what this repository doesn't have.
            TagInvalid: a tag is outside the grammar.
        """
        wanted = [TagName.parse(each) for each in (*([tag] if tag is not None else []), *tags)]
        manifest = await self._parts.hash_pool.run(parse_manifest, body, media_type)
        await self.put_parsed_manifest(manifest, wanted, digest=digest)
        return manifest.descriptor

    async def put_parsed_manifest(
        self, manifest: Manifest, tags: Sequence[TagName] = (), *, digest: Digest | None = None
    ) -> None:
        """As `put_manifest`, for one that was parsed."""
        content = await self._content(manifest, digest)
        intent = await open_intent(self._parts, self._name, manifest.digest)
        try:
            result = await self._put(intent, content, manifest, tags)
        except BaseException:
            await unstoppable(self._take_back(intent, manifest.digest))
            raise
        self._parts.cleaner.add(result.trash)
        if result.missing:
            raise ManifestBlobUnknown(result.missing)
        if result.outcome is CommitOutcome.INTERRUPTED:
            raise UploadInterrupted(f"the put of {manifest.digest} was expired under way; try again")
        await self._parts.journal.settle(result.sequence)
        self._parts.events(ManifestPushed(self._name, manifest.digest, tuple(tags)))

    async def _take_back(self, intent: Intent, digest: Digest) -> None:
        names = [blob_key(digest, intent.generation)]
        trash = await self._parts.index.cancel_upload(intent.upload, self._now_ms(), names)
        self._parts.cleaner.add(trash.generation if trash is not None else None)

    async def _content(self, manifest: Manifest, claimed: Digest | None) -> Content:
        content = Content(manifest.digest, manifest.size_bytes, Digest.of(manifest.body, Algorithm.BLAKE3).value)
        if claimed is None or claimed == manifest.digest:
            return content
        actual = Digest.of(manifest.body, claimed.algorithm)
        if actual != claimed:
            raise DigestMismatch(claimed, actual)
        return Content(content.digest, content.size_bytes, content.blake3, (claimed,))

    async def _put(self, intent: Intent, content: Content, manifest: Manifest, tags: Sequence[TagName]) -> ManifestPut:
        """Publish the bytes unless they are there, then put; children whose record is gone are read back and put with it."""
        names: list[str] = []
        replays: list[Manifest] = []
        known = await self._parts.index.find_blob(content.digest)
        if known is None or known.state is BlobState.SUSPECT:
            names = await self._publish(intent, content, manifest)
        for _ in range(_REPLAY_ROUNDS_MAX):
            result = await self._parts.index.put_manifest(
                intent, content, names, manifest, tags, self._now_ms(), self._parts.terms, replays
            )
            if len(replays) + len(result.needed) > _REPLAYS_MAX:
                break
            if result.needed:
                for digest in result.needed:
                    # A child that was collected since is missing: the next put will say so, with whatever else is.
                    with contextlib.suppress(BlobUnknown):
                        replays.append(await self._read_child(digest))
            elif result.outcome is CommitOutcome.NOT_PUBLISHED and not names:
                names = await self._publish(intent, content, manifest)
            else:
                return result
        raise ManifestInvalid(f"too many of the manifests below {manifest.digest} are not here; push those first")

    async def _publish(self, intent: Intent, content: Content, manifest: Manifest) -> list[str]:
        key = blob_key(content.digest, intent.generation)
        await put_once(self._parts.backend, key, manifest.body)
        return [key]

    async def _read_child(self, digest: Digest) -> Manifest:
        """A child whose record is gone while its bytes are still seen."""
        async with self.open_blob(digest) as blob:
            if blob.size_bytes > manifest_size_max_bytes:
                raise ManifestInvalid(f"{digest} is listed as a manifest, but has {blob.size_bytes} bytes")
            return parse_manifest(await blob.read())

    async def find_manifest(self, reference: str | Digest) -> ManifestRecord:
        """What is known of the manifest that a tag or a digest names, promised as HEAD does.

        Raises:
            ManifestUnknown: there is none.
        """
        record = await self._parts.index.resolve(self._name, _reference(reference))
        if record is not None and await self._parts.index.touch_manifest(record.key, self._now_ms(), self._parts.terms):
            return record
        raise ManifestUnknown(f"{self._name} has no manifest {reference}")

    async def get_manifest(self, reference: str | Digest) -> Manifest:
        """The manifest that a tag or a digest names, verified.

        Raises:
            ManifestUnknown: there is none.
            BlobDamaged: its bytes are missing or wrong.
        """
        record = await self.find_manifest(reference)
        find = self._parts.index.find_blob
        async with open_blob(self._parts, record.key.digest, lambda: find(record.key.digest)) as blob:
            return parse_manifest(await blob.read(), record.media_type)

    async def delete_manifest(self, digest: Digest) -> None:
        """Remove a manifest and the tags that name it; the collector frees what nothing else keeps.

        Raises:
            ManifestUnknown: there is none.
            StillReferenced: an image index of this repository refers to it.
        """
        change = await self._parts.index.delete_manifest(ManifestKey(self._name, digest), self._now_ms())
        await self._parts.journal.settle(change.sequence)

    async def referrers(self, subject: Digest, artifact_type: str | None = None) -> AsyncIterator[Descriptor]:
        """Manifests of this repository whose subject is `subject`, which need not be here, in order of digest."""
        after: Digest | None = None
        while page := await self._parts.index.list_referrers(self._name, subject, after, _PAGE):
            after = page[-1].key.digest
            for record in page:
                if artifact_type is None or record.artifact_type == artifact_type:
                    yield (await self.get_manifest(record.key.digest)).descriptor

    # Tags

    async def tag(self, reference: str | Digest, tag: str) -> None:
        """Point a tag at the manifest that another tag or a digest names.

        Raises:
            ManifestUnknown, TagInvalid: as their names say.
        """
        wanted = TagName.parse(tag)
        record = await self.find_manifest(reference)
        change = await self._parts.index.put_tag(record.key, wanted, self._now_ms())
        await self._parts.journal.settle(change.sequence)

    async def untag(self, tag: str) -> None:
        """Remove a tag; the manifest stays.

        Raises:
            TagUnknown, TagInvalid: there is none, or none can be.
        """
        change = await self._parts.index.delete_tag(self._name, TagName.parse(tag), self._now_ms())
        await self._parts.journal.settle(change.sequence)

    def tags(self) -> AsyncIterator[TagEntry]:
        """All tags, in byte order.

        Raises:
            RepositoryUnknown: this repository holds no manifest.
        """
        return every_tag(self._parts.index, self._name, _PAGE)

    async def remove(self) -> None:
        """Remove the repository and all in it: gone at once for everybody, taken apart in batches.

        Raises:
            RepositoryUnknown: it holds no manifest.
        """
        change = await self._parts.index.hide_repository(self._name, self._now_ms())
        await self._parts.journal.settle(change.sequence)
        while await self._parts.index.continue_removals(_REMOVAL_BATCH, self._now_ms()):
            pass

    def _now_ms(self) -> int:
        return self._parts.clock.now_ms()


def _reference(text: str | Digest) -> TagName | Digest:
    if isinstance(text, Digest):
        return text
    return Digest.parse(text) if ":" in text else TagName.parse(text)
