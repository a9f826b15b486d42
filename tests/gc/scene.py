"""Short words for what the collector's tests do to a store, and the checks that follow every collection."""

from __future__ import annotations

from collections.abc import Sequence

from blobstore.abc.records import Seen, Verdict
from blobstore.app import make_collector
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError
from blobstore.gc import Collector, GcPolicy, RunReport
from blobstore.layout import (
    BLOBS_PREFIX,
    DATA_PREFIX,
    RECORDS_PREFIX,
    data_key,
    is_record_key,
    parse_blob_key,
    parse_data_key,
    parse_record_key,
)
from blobstore.manifest import Manifest
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image
from blobstore.testing.invariants import find_broken

HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS
PREFIXES = (BLOBS_PREFIX, DATA_PREFIX, RECORDS_PREFIX)
AT_ONCE = GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True)


class Bench:
    """An open store and everything needed to push, delete and collect."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.store, self.clock = store, clock

    async def push_blob(self, data: bytes, repository: str = "app") -> Descriptor:
        async with self.store.repository(repository).open_upload() as upload:
            await upload.write(data)
            return await upload.commit()

    async def push(self, manifest: Manifest, *tags: str, repository: str = "app") -> Digest:
        return (
            await self.store.repository(repository).put_manifest(manifest.body, manifest.media_type, tags=tags)
        ).digest

    async def push_image(
        self,
        config: bytes,
        layers: Sequence[bytes],
        *tags: str,
        repository: str = "app",
        subject: Manifest | None = None,
    ) -> Manifest:
        for data in (config, *layers):
            await self.push_blob(data, repository)
        manifest = image(config, layers, subject=subject)
        await self.push(manifest, *tags, repository=repository)
        return manifest

    def collector(self, policy: GcPolicy = AT_ONCE) -> Collector:
        return make_collector(self.store, policy)

    async def collect(self, policy: GcPolicy = AT_ONCE, *, is_full: bool = True) -> RunReport:
        """Collect, and insist that the dry run before named exactly what the run then did."""
        collector = self.collector(policy)
        foreseen = await collector.dry_run(is_full=is_full)
        report = await collector.run(is_full=is_full)
        for field in ("condemned_blobs", "condemned_bytes", "freed_blobs", "freed_bytes", "dropped_manifests"):
            assert getattr(report, field) == getattr(foreseen, field), field
        assert report.plan.drops == foreseen.plan.drops
        assert report.plan.candidates == foreseen.plan.candidates
        await self.check()
        return report

    async def is_there(self, data: bytes) -> bool:
        return await self.store.index.find_blob(Digest.of(data)) is not None

    async def check(self) -> None:
        """The store is whole, and nothing lies on the backend that no row knows."""
        assert await find_broken(self.store) == []
        assert [seen for seen in await self._seen() if seen is not Verdict.KNOWN] == []

    async def _seen(self) -> Sequence[Verdict]:
        keys = await self.keys()
        names = {key: parse_blob_key(key) or parse_record_key(key) for key in keys}
        names |= {data_key(name.generation): name for key, name in names.items() if name and is_record_key(key)}
        found = [Seen(key, name.generation, name.digest, 0) for key, name in names.items() if name is not None]
        bare = [Seen(key, parse_data_key(key), None, 0) for key in keys if names[key] is None]
        return await self.store.index.judge([*found, *bare])

    async def keys(self) -> set[str]:
        """The names of all bytes and commit records."""
        return {info.key for prefix in PREFIXES async for info in self.store.backend.list(prefix)}

    async def fails(self, awaitable) -> BlobstoreError:
        try:
            await awaitable
        except BlobstoreError as error:
            return error
        raise AssertionError("it should have failed")
