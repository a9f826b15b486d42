"""A store in the hands of a workload: each step says what it will have changed, does it, and says that it was answered."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

from blobstore import uploads
from blobstore.app import make_collector
from blobstore.backends import _file_backend
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.gc import GcPolicy, RunReport
from blobstore.index.lmdb import LmdbIndex
from blobstore.manifest import Manifest
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image
from tests.powercut.expected import (
    FREE,
    GONE,
    STORE_KEY,
    THERE,
    blob_key,
    manifest_key,
    tag_key,
    upload_key,
)
from tests.powercut.recording import Writer

DAY_MS = 24 * 3600 * 1000
AT_ONCE = GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True)
_BALLAST_BYTES = 4096


def content(name: str, size: int) -> bytes:
    """Bytes that the name tells, all different."""
    return hashlib.shake_128(name.encode()).digest(size)


def new_store(place: str, clock: FakeClock) -> Store:
    """A store with a ballast that fits a small disk, not yet open."""
    return Store(FilesystemBackend(place), LmdbIndex(f"{place}/index", ballast_bytes=_BALLAST_BYTES), clock=clock)


class Scene:
    """Short words for what a workload does. Repositories, manifests and tags are remembered, to know what a collection may
    take."""

    def __init__(self, place: str, recording: str) -> None:
        self.place, self.clock = place, FakeClock()
        self.recording = Writer(recording)
        self.store = new_store(place, self.clock)
        self._steps = 0
        self._blobs: set[Digest] = set()
        self._children: dict[tuple[str, Digest], set[Digest]] = {}
        self.tags: dict[tuple[str, str], Digest] = {}

    @contextlib.contextmanager
    def step(self, effects: dict[str, str]) -> Iterator[None]:
        """A request: its effects are owed once it is answered."""
        self._steps += 1
        number = self._steps
        self.recording.mark({"begun": number, "effects": effects})
        yield
        self.recording.mark({"answered": number})

    async def open(self) -> None:
        """Open the store, making it if there is none."""
        self.store = new_store(self.place, self.clock)
        with self.step({STORE_KEY: THERE}):
            await self.store.open(create=True)

    async def push_blob(self, data: bytes, repository: str = "app", *, pieces: int = 2) -> Descriptor:
        """Push a blob in some pieces."""
        digest = Digest.of(data)
        with self.step({blob_key(digest): THERE}):
            async with self.store.repository(repository).open_upload() as upload:
                size = -(-len(data) // pieces)
                for at in range(0, len(data), size):
                    await upload.write(data[at : at + size])
                pushed = await upload.commit(digest)
        self._blobs.add(digest)
        return pushed

    async def put(self, manifest: Manifest, *tags: str, repository: str = "app") -> None:
        """Put a manifest all of whose children are there."""
        digest = manifest.digest
        effects = {blob_key(digest): THERE, manifest_key(repository, digest): THERE}
        with self.step(effects | {tag_key(repository, tag): str(digest) for tag in tags}):
            await self.store.repository(repository).put_manifest(manifest.body, manifest.media_type, tags=tags)
        self._blobs.add(digest)
        self._children[repository, digest] = {digest, *(each.digest for each in manifest.references)}
        self.tags |= {(repository, tag): digest for tag in tags}

    async def push_image(
        self, name: str, *tags: str, layers: Sequence[bytes] = (), repository: str = "app"
    ) -> Manifest:
        """Push an image of this name: a config, its layers, the manifest."""
        config = content(f"config {name}", 100)
        layers = layers or [content(f"layer {name}", 6000)]
        for data in (config, *layers):
            await self.push_blob(data, repository)
        manifest = image(config, layers)
        await self.put(manifest, *tags, repository=repository)
        return manifest

    async def mount(self, data: bytes, source: str, target: str) -> None:
        """Mount a blob of one repository in another."""
        with self.step({blob_key(Digest.of(data)): THERE}):
            await self.store.repository(target).mount_blob(Digest.of(data), source)

    async def tag(self, digest: Digest, tag: str, repository: str = "app") -> None:
        """Point a tag at a manifest."""
        with self.step({tag_key(repository, tag): str(digest)}):
            await self.store.repository(repository).tag(digest, tag)
        self.tags[repository, tag] = digest

    async def untag(self, tag: str, repository: str = "app") -> None:
        """Remove a tag."""
        with self.step({tag_key(repository, tag): GONE}):
            await self.store.repository(repository).untag(tag)
        del self.tags[repository, tag]

    async def delete(self, digest: Digest, repository: str = "app") -> None:
        """Delete a manifest and the tags that name it."""
        tags = [tag for (name, tag), named in self.tags.items() if (name, named) == (repository, digest)]
        effects = {manifest_key(repository, digest): GONE} | {tag_key(repository, tag): GONE for tag in tags}
        with self.step(effects):
            await self.store.repository(repository).delete_manifest(digest)
        del self._children[repository, digest]
        for tag in tags:
            del self.tags[repository, tag]

    async def remove(self, repository: str) -> None:
        """Remove a repository and all in it."""
        going = [key for key in self._children if key[0] == repository]
        tags = [key for key in self.tags if key[0] == repository]
        with self.step({manifest_key(*key): GONE for key in going} | {tag_key(*key): GONE for key in tags}):
            await self.store.repository(repository).remove()
        for key in going:
            del self._children[key]
        for each in tags:
            del self.tags[each]

    async def begin_upload(self, name: str, size: int, repository: str = "app") -> str:
        """Upload the first half of a blob and leave; returns what `go_on` takes."""
        whole = content(name, size)
        async with contextlib.AsyncExitStack() as stack:
            upload = await stack.enter_async_context(self.store.repository(repository).open_upload())
            await upload.write(whole[: size // 2])
            upload_id = str(upload.upload_id)
            with self.step({upload_key(repository, upload_id, f"{name}:{size}"): str(upload.offset)}):
                await stack.aclose()
        return upload_id

    async def go_on(
        self, upload_id: str, name: str, size: int, stop: int | None = None, repository: str = "app"
    ) -> None:
        """Take an upload up, write up to `stop` and leave, or write the rest and commit."""
        whole = content(name, size)
        key = upload_key(repository, upload_id, f"{name}:{size}")
        effects = {key: str(stop)} if stop else {key: GONE, blob_key(Digest.of(whole)): THERE}
        with self.step(effects):
            async with self.store.repository(repository).resume_upload(upload_id) as upload:
                await upload.write(whole[upload.offset : stop])
                if stop is None:
                    await upload.commit(Digest.of(whole))
        if stop is None:
            self._blobs.add(Digest.of(whole))

    async def cancel(self, upload_id: str, name: str, size: int, repository: str = "app") -> None:
        """Give an upload up."""
        with self.step({upload_key(repository, upload_id, f"{name}:{size}"): GONE}):
            async with self.store.repository(repository).resume_upload(upload_id) as upload:
                await upload.cancel()

    async def collect(self, policy: GcPolicy = AT_ONCE) -> RunReport:
        """Collect; what nothing refers to may go, also where holds keep it for now."""
        dropped = self._untagged() if policy.delete_untagged else []
        kept = [children for key, children in self._children.items() if key not in dropped]
        free = self._blobs.difference(*kept)
        effects = {blob_key(digest): FREE for digest in free}
        with self.step(effects | {manifest_key(*key): FREE for key in dropped}):
            report = await make_collector(self.store, policy).run()
        for key in dropped:
            del self._children[key]
        self._blobs -= free
        return report

    def _untagged(self) -> list[tuple[str, Digest]]:
        """Manifests without a tag and without a parent that has one."""
        live = {(repository, digest) for (repository, _), digest in self.tags.items()}
        live |= {(repository, child) for repository, digest in live for child in self._children[repository, digest]}
        return [key for key in self._children if key not in live]


def make_chunks_small() -> None:
    """Have this process stage an upload of a few KB on the disk, as it would one of a few MB."""
    uploads.CHUNK_BYTES = _file_backend.CHUNK_BYTES = 8192
