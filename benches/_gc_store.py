"""Big stores for the collector to plan in: rows made by the same functions as those of pushes, in big transactions.

There are no bytes on the backend but the marker. Referenced blobs have no holds left, as after the collection before.
Run as a program it measures one plan's memory in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from _harness import SEED, PeakMemory, opened, run

from blobstore.abc.records import ManifestKey
from blobstore.app import make_collector
from blobstore.clock import SystemClock, random_u64
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.index import _references as references
from blobstore.index import _state as state
from blobstore.index._records import EDGE_BLOB
from blobstore.index._tables import Transaction
from blobstore.layout import blob_key, data_key, record_key
from blobstore.manifest import OCI_MANIFEST, Manifest
from blobstore.names import RepositoryName, TagName
from blobstore.store import Store

BATCH_MANIFESTS = 2000
BATCH_BLOBS = 20_000
REPOSITORIES = 50
UNTAGGED_EVERY = 1000
LAYERS_OWN, LAYERS_SHARED = 5, 5
AGE_MS = 30 * 24 * 3600 * 1000
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"


def raw_of(kind: str, number: int) -> bytes:
    """The sha256 of the thing of this number."""
    return hashlib.sha256(f"{SEED} {kind} {number}".encode()).digest()


def repository_of(number: int) -> RepositoryName:
    """A fifth of the images is in one repository, the rest in all others alike."""
    at = 0 if number % 5 == 0 else 1 + number % (REPOSITORIES - 1)
    return RepositoryName.parse(f"team-{at % 7}/image-{at:02d}")


def manifest_of(number: int) -> Manifest:
    """An image's manifest, as far as the index looks at one."""
    config = Descriptor(CONFIG_TYPE, Digest.from_sha256(raw_of("config", number)), 1500)
    digest = Digest.from_sha256(raw_of("manifest", number))
    return Manifest(b" " * 2500, digest, OCI_MANIFEST, None, config, (), (), None, {})


class _Blobs:
    """Puts blob rows, each of a generation of its own; `are_big` ones have the names that an object store gives to parts."""

    def __init__(self, *, are_big: bool = False) -> None:
        self._epoch, self._counter, self._are_big = random_u64(), 0, are_big

    def put(self, tx: Transaction, raw: bytes, size: int) -> list[str]:
        self._counter += 1
        digest, generation = Digest.from_sha256(raw), Generation(self._epoch, self._counter)
        key = blob_key(digest, generation)
        names = [data_key(generation), record_key(key)] if self._are_big else [key]
        state.put_blob(tx, raw, state.new_blob_row(digest, generation, size, raw[::-1], names), None)
        return names


async def build(store: Store, blobs: int) -> int:
    """A tenth manifests, a tenth configs, half layers of one image, a fifth shared layers, a tenth garbage; returns how many
    manifests there are."""
    manifests, shared, garbage = blobs // 10, blobs // 5, blobs // 10
    writer = _Blobs()
    now_ms = SystemClock().now_ms() - AGE_MS
    for start, stop in _batches(shared, BATCH_BLOBS):
        await store.index._write(_put_blobs, writer, [raw_of("shared", at) for at in range(start, stop)])
    for start, stop in _batches(manifests, BATCH_MANIFESTS):
        await store.index._write(_put_images, writer, range(start, stop), shared, now_ms)
    await add_garbage(store, garbage, "garbage", 100_000)
    return manifests


def _put_blobs(tx: Transaction, writer: _Blobs, raws: list[bytes]) -> None:
    for raw in raws:
        writer.put(tx, raw, 1_000_000)


def _put_images(tx: Transaction, writer: _Blobs, numbers: range, shared: int, now_ms: int) -> None:
    for number in numbers:
        manifest, repository = manifest_of(number), repository_of(number)
        own = [raw_of(f"layer {at}", number) for at in range(LAYERS_OWN)]
        assert manifest.config is not None
        for raw in (manifest.digest.value, manifest.config.digest.value, *own):
            writer.put(tx, raw, 1_000_000)
        # Taken in turn first, so that none is left without an image; then anywhere.
        turn = [raw_of("shared", number * 2 % shared), raw_of("shared", (number * 2 + 1) % shared)]
        noise = manifest.digest.value
        picked = [raw_of("shared", int.from_bytes(noise[at : at + 4], "big") % shared) for at in (0, 4, 8)]
        child = references.Child(EDGE_BLOB, 1_000_000)
        edges = dict.fromkeys((manifest.config.digest.value, *own, *turn, *picked), child)
        references.insert_record(tx, state.make_repository(tx, repository), manifest, edges, now_ms)
        if number % UNTAGGED_EVERY:
            tag = TagName.parse(f"v{number}")
            references.put_tag_row(tx, ManifestKey(repository, manifest.digest), tag, now_ms)


async def add_garbage(store: Store, count: int, kind: str, size_bytes: int, *, are_big: bool = False) -> list[str]:
    """Blobs whose holds lapsed long ago; returns their keys on the backend."""
    writer = _Blobs(are_big=are_big)
    keys: list[str] = []
    now_ms = SystemClock().now_ms() - AGE_MS
    for start, stop in _batches(count, BATCH_BLOBS):
        raws = [raw_of(kind, at) for at in range(start, stop)]
        keys += await store.index._write(_put_garbage, writer, raws, size_bytes, now_ms)
    return keys


def _put_garbage(tx: Transaction, writer: _Blobs, raws: list[bytes], size_bytes: int, now_ms: int) -> list[str]:
    number = state.make_repository(tx, repository_of(0))
    keys = []
    for raw in raws:
        keys += writer.put(tx, raw, size_bytes)
        state.set_hold(tx, raw, number, now_ms)
    return keys


def _batches(count: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, size):
        yield start, min(start + size, count)


def measure_memory(path: Path) -> dict[str, float]:
    """How far memory grew while planning, and how long it took."""
    with opened(path) as (runner, store):
        collector = make_collector(store)
        start = time.perf_counter()
        with PeakMemory() as memory:
            plan = run(runner, collector.plan())
        spent = time.perf_counter() - start
        return {"grown_bytes": memory.grown_bytes, "seconds": spent, "candidates": len(plan.candidates)}


if __name__ == "__main__":
    print(json.dumps(measure_memory(Path(sys.argv[1]))))
