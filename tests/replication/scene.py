"""A source with everything that a store can hold, and what to say of two stores that should be alike."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from blobstore.abc.paging import every, every_tag
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Algorithm, Digest
from blobstore.layout import parse_blob_key
from blobstore.manifest import OCI_MANIFEST, Manifest, parse_manifest
from blobstore.replication import CopyReport, copy_store
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image, image_index, layer
from blobstore.testing.invariants import find_broken
from tests.gc.scene import Bench

PAGE = 100
BIG = hashlib.shake_256(b"big").digest(3_000_000)
SHARED = b"a layer of several images"
PINNED = b"pinned"


class Scene:
    """Two open stores; `images` are the source's manifests by name."""

    def __init__(self, source: Bench, target: Bench) -> None:
        self.source, self.target = source, target
        self.images: dict[str, Manifest] = {}

    async def copy(self, **options: Any) -> CopyReport:
        return await copy_store(self.source.store, self.target.store, **options)

    async def assert_alike(self) -> None:
        """The target has all that the source has, every byte right, and nothing more."""
        assert await picture(self.target.store) == await picture(self.source.store)
        assert await find_broken(self.target.store) == []


async def make_scene(source: Store, target: Store, source_clock: FakeClock, target_clock: FakeClock) -> Scene:
    scene = Scene(Bench(source, source_clock), Bench(target, target_clock))
    bench, images = scene.source, scene.images
    images["app"] = await bench.push_image(b"config a", [SHARED, BIG], "1", "latest")
    source_clock.advance(5000)
    images["other"] = await bench.push_image(b"config b", [SHARED, b"own"], "1", repository="team/other")
    await bench.push_image(b"config a", [SHARED, BIG], "same", repository="team/other")
    source_clock.advance(5000)
    arm = await bench.push_image(b"config arm", [SHARED, b"arm"])
    images["index"] = image_index([images["app"], arm])
    await bench.push(images["index"], "multi")
    images["signature"] = await bench.push_image(b"{}", [b"signature"], subject=images["index"])
    await bench.push_image(b"{}", [b"signature of the signature"], subject=images["signature"])
    images["untagged"] = await bench.push_image(b"untagged", [b"layer of none"])
    await _push_odd_ones(scene)
    async with await source.open_pinned_upload() as upload:
        await upload.write(PINNED)
        await upload.commit()
    await bench.push_blob(b"of no manifest")
    return scene


async def _push_odd_ones(scene: Scene) -> None:
    """Foreign layers, digests of other algorithms, an image index that is the subject of its own child."""
    bench, repository = scene.source, scene.source.store.repository("odd")
    await bench.push_blob(b"foreign, and here", "odd")
    foreign = image(b"c", [layer(b"foreign", is_foreign=True), layer(b"foreign, and here", is_foreign=True)])
    await bench.push_blob(b"c", "odd")
    await bench.push(foreign, "foreign", repository="odd")
    data = b"known by its sha512"
    async with repository.open_upload() as upload:
        await upload.write(data)
        await upload.commit(Digest.of(data, Algorithm.SHA512))
    body = image(b"c", [msgspec.structs.replace(layer(data), digest=Digest.of(data, Algorithm.SHA512))]).body
    await repository.put_manifest(body, OCI_MANIFEST, tag="sha512", digest=Digest.of(body, Algorithm.SHA512))
    async with repository.open_upload() as upload:
        await upload.write(b"c")
        await upload.commit(Digest.of(b"c", Algorithm.BLAKE3))
    # The child names a subject that comes after it; its index can't name that child's bytes before they are made.
    child = image(b"c", [], subject=image_index([parse_manifest(image(b"c").body)]))
    await bench.push(child, "child", repository="odd")


async def picture(store: Store) -> dict[str, Any]:
    """Everything that a copy promises to carry over."""
    index = store.index
    nodes = [node.record async for node in every(lambda after: index.scan_manifests(after, PAGE))]
    tags = [
        (name, entry.tag, entry.digest, entry.updated_at_ms)
        async for name in store.repositories()
        async for entry in every_tag(index, name, PAGE)
    ]
    referenced = [
        (found.blob.digest, found.blob.size_bytes, {str(parent) for parent in found.parents})
        async for found in every(lambda after: index.scan_references(after, PAGE))
        if found.parents
    ]
    return {
        "manifests": sorted((str(each.key), each.media_type, each.artifact_type, str(each.subject)) for each in nodes),
        "tags": tags,
        "blobs": referenced,
        "pins": list(await index.list_pins(None, PAGE)),
        "aliases": [each async for each in every(lambda after: index.scan_aliases(after, PAGE))],
    }


async def damage(store: Store, digest: Digest) -> None:
    """Change a byte of a blob below the store."""
    async for info in store.backend.list(""):
        blob = await store.index.find_blob(digest)
        assert blob is not None
        if info.key == blob.names[0]:
            async with store.backend.read(info.key) as chunks:
                data = bytearray(b"".join([chunk async for chunk in chunks]))
            data[len(data) // 2] ^= 1
            await store.backend.put(info.key, bytes(data))
            return
    raise AssertionError(f"{digest} has no bytes")


async def lose(store: Store, digest: Digest) -> None:
    """Delete a blob's bytes below the store."""
    blob = await store.index.find_blob(digest)
    assert blob is not None
    assert await store.backend.delete(blob.names) == set(blob.names)
    assert isinstance(store.backend, MemoryBackend) or parse_blob_key(blob.names[0]) is not None
