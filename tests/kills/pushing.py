"""A pusher of the kill tests: does all that changes references, in a repository of its own, and journals what it was told."""

from __future__ import annotations

import os
from pathlib import Path

from blobstore.abc.paging import every
from blobstore.abc.records import Slice, Trash
from blobstore.digest import Digest
from blobstore.errors import (
    BlobUnknown,
    ManifestBlobUnknown,
    TagUnknown,
    UploadInterrupted,
    UploadUnknown,
)
from blobstore.manifest import Manifest
from blobstore.store import Store
from blobstore.testing.fakes import image, image_index
from tests.kills.acks import GONE, OpenUpload, Owed
from tests.kills.content import Mix, layer_bytes, push_blob, seeded, shared_layer
from tests.kills.processes import Lines

PUSHERS = 3
TAGS = 10
CHUNK_BYTES_MAX = 40_000
RESUMABLE_MS = 3000
"""An upload that was left so short a time ago is there; much less than `Mix.upload_idle_s`."""


class Pusher:
    """One slot of the crew: what an earlier process of the slot was told binds this one."""

    def __init__(self, store: Store, mix: Mix, slot: int, place: Path, seed: str) -> None:
        self._store, self._mix, self._slot = store, mix, slot
        self._repository = store.repository(repository_name(slot))
        self._rng = seeded(seed)
        self._names = 0
        self._owed = Owed()
        self._journal = Lines(place / f"{slot}.acks")
        self._owed.replay(self._journal.new())

    async def step(self) -> None:
        """One operation, drawn at random."""
        steps = {
            self.push_image: 6, self.push_image_index: 2, self.push_blob: 2, self.push_chunk: 4, self.retag: 2,
            self.untag: 1, self.delete_manifest: 1, self.delete_blob: 1, self.pin: 1, self.unpin: 1,
        }  # fmt: skip
        await self._rng.choices(list(steps), list(steps.values()))[0]()

    def _say(self, verb: str, *values: object) -> None:
        self._journal.append(verb, *values)
        self._owed.replay([[verb, *values]])

    def _new_name(self) -> str:
        self._names += 1
        return f"{self._slot} {os.getpid()} {self._names} {self._rng.random()}"

    def _now_ms(self) -> int:
        return self._store.parts.clock.now_ms()

    def _any_tag(self) -> str:
        return f"t{self._rng.randrange(TAGS)}"

    # Blobs

    async def push_blob(self) -> None:
        at_ms = self._now_ms()
        digest = await push_blob(self._repository, layer_bytes(self._new_name()))
        self._say("blob", str(digest), at_ms)

    async def delete_blob(self) -> None:
        """One that nobody else has."""
        digest = await push_blob(self._repository, layer_bytes(self._new_name()))
        self._say("delete-blob?", str(digest))
        try:
            await self._repository.delete_blob(digest)
        except BlobUnknown:
            assert not self._mix.promise_ms

    async def push_chunk(self) -> None:
        """Go on with an upload that a process of this slot left, dead or alive; or begin one."""
        if not self._owed.uploads:
            name, at_ms = self._new_name(), self._now_ms()
            async with self._repository.open_upload() as upload:
                upload_id = upload.upload_id
                await upload.write(_staged(name)[: self._rng.randint(1, CHUNK_BYTES_MAX)])
                offset = upload.offset
            self._say("upload", upload_id, name, offset, at_ms)
            return
        upload_id, left = self._rng.choice(list(self._owed.uploads.items()))
        self._say("resume?", upload_id)
        try:
            await self._resume(upload_id, left)
        except (UploadUnknown, UploadInterrupted) as error:
            age_ms = self._now_ms() - left.at_ms
            if age_ms < RESUMABLE_MS and not await self._is_rebuilt_since(left.at_ms):
                trash = [each async for each in every(self._list_trash) if each.digest is None]
                raise AssertionError(
                    f"upload {upload_id} was left {age_ms} ms ago, at {left.at_ms}, and is gone; "
                    f"{await self._store.index.guards()}; {trash}"
                ) from error

    async def _list_trash(self, after: bytes | None) -> Slice[Trash]:
        return await self._store.index.list_due_trash(2**62, self._mix.terms, after, 1000)

    async def _is_rebuilt_since(self, at_ms: int) -> bool:
        """An index made anew knows no open uploads."""
        return (await self._store.index.guards()).quiet_since_ms >= at_ms

    async def _resume(self, upload_id: str, left: OpenUpload) -> None:
        data, at_ms = _staged(left.name), self._now_ms()
        is_last = self._rng.random() < 0.5
        async with self._repository.resume_upload(upload_id) as upload:
            assert upload.offset >= left.offset, f"{upload_id}: {upload.offset} of {left.offset} bytes are left"
            stop = len(data) if is_last else upload.offset + self._rng.randint(0, CHUNK_BYTES_MAX)
            await upload.write(data[upload.offset : stop])
            if is_last:
                await upload.commit(Digest.of(data))
            offset = upload.offset
        if is_last:
            self._say("blob", str(Digest.of(data)), at_ms)
        else:
            self._say("upload", upload_id, left.name, offset, at_ms)

    async def pin(self) -> None:
        async with await self._store.open_pinned_upload() as upload:
            await upload.write(layer_bytes(self._new_name()))
            self._say("pin", str((await upload.commit()).digest))

    async def unpin(self) -> None:
        if self._owed.pins:
            digest = self._rng.choice(sorted(self._owed.pins))
            self._say("unpin?", digest)
            await self._store.unpin(Digest.parse(digest))
            self._say("unpin", digest)

    # Manifests

    async def push_image(self) -> None:
        asked: dict[Digest, int] = {}
        manifest = await self._bring_image(asked)
        await self._put(manifest, self._any_tag() if self._rng.random() < 0.8 else None, asked)

    async def push_image_index(self) -> None:
        asked: dict[Digest, int] = {}
        children = [await self._bring_image(asked), await self._bring_image(asked)]
        if all([await self._put(child, None, asked) for child in children]):
            await self._put(image_index(children), self._any_tag(), asked)

    async def _bring_image(self, asked: dict[Digest, int]) -> Manifest:
        config, shared = layer_bytes(self._new_name()), [shared_layer(self._rng) for _ in range(2)]
        for data in (*shared, config):
            asked[Digest.of(data)] = await self._bring(data)
        return image(config, shared)

    async def _bring(self, data: bytes) -> int:
        """Ask and skip, mount, or send; returns when the yes was asked for."""
        at_ms, habit = self._now_ms(), self._rng.random()
        try:
            if habit < 0.3:
                await self._repository.stat_blob(Digest.of(data))
                return at_ms
            if habit < 0.6:
                await self._repository.mount_blob(Digest.of(data), repository_name(self._rng.randrange(PUSHERS)))
                return at_ms
        except BlobUnknown:
            at_ms = self._now_ms()
        await push_blob(self._repository, data)
        return at_ms

    async def _put(self, manifest: Manifest, tag: str | None, asked: dict[Digest, int]) -> bool:
        at_ms, digest = self._now_ms(), str(manifest.digest)
        if tag is not None:
            self._say("tag?", tag, digest)
        try:
            await self._repository.put_manifest(manifest.body, manifest.media_type, tag=tag)
        except (ManifestBlobUnknown, BlobUnknown) as error:
            missing = error.missing if isinstance(error, ManifestBlobUnknown) else asked
            age_ms = self._now_ms() - max(asked[each] for each in missing)
            if age_ms < self._mix.promise_ms:
                raise AssertionError(f"refused {age_ms} ms after a yes") from error
            return False
        self._say("manifest", digest, at_ms)
        if tag is not None:
            self._say("tag", tag, digest)
        asked[manifest.digest] = at_ms
        return True

    async def retag(self) -> None:
        source = self._a_standing_tag()
        if source is not None:
            tag, digest = self._any_tag(), next(iter(self._owed.tags[source]))
            self._say("tag?", tag, digest)
            await self._repository.tag(Digest.parse(digest), tag)
            self._say("tag", tag, digest)

    async def untag(self) -> None:
        tag = self._any_tag()
        may_be_gone = GONE in self._owed.tags.get(tag, {GONE})
        self._say("untag?", tag)
        try:
            await self._repository.untag(tag)
        except TagUnknown:
            assert may_be_gone, f"tag {tag} is gone"
        self._say("untag", tag)

    async def delete_manifest(self) -> None:
        tag = self._a_standing_tag()
        if tag is not None:
            digest = next(iter(self._owed.tags[tag]))
            self._say("delete?", digest)
            await self._repository.delete_manifest(Digest.parse(digest))
            self._say("delete", digest)

    def _a_standing_tag(self) -> str | None:
        standing = [tag for tag, allowed in self._owed.tags.items() if len(allowed) == 1 and GONE not in allowed]
        return self._rng.choice(standing) if standing else None


def repository_name(slot: int) -> str:
    """The repository of a slot."""
    return f"kills/{slot}"


def _staged(name: str) -> bytes:
    """The bytes of an upload in chunks."""
    return seeded("staged", name).randbytes(4 * CHUNK_BYTES_MAX)
