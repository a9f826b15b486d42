"""A stage for tests of an index: short ways to push, and the checks that must hold after every test."""

from __future__ import annotations

import abc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest_asyncio

from blobstore.abc.index import Index
from blobstore.abc.records import (
    BlobState,
    CommitOutcome,
    Committed,
    Condemned,
    Content,
    Drop,
    Dropped,
    IndexIdentity,
    Intent,
    ManifestKey,
    ManifestPut,
    ReferencedBlob,
    Trash,
)
from blobstore.digest import Algorithm, Digest
from blobstore.layout import blob_key
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName, TagName, UploadId
from blobstore.promises import HoldTerms
from blobstore.testing.fakes import FakeClock, image

ALPHA = RepositoryName.parse("alpha/app")
BETA = RepositoryName.parse("beta")
LATEST = TagName.parse("latest")
IDENTITY = IndexIdentity("store-1", "index-1")
BOOT = "boot-1"
RUN = "run-1"
QUARANTINE_MS = 3_600_000
FAR_MS = 2**62
"""Later than anything."""


class Scene:
    """An index, a clock that stands still, and verbs for the usual."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.clock = FakeClock()
        self.terms = HoldTerms(grace_s=3600)

    @property
    def now_ms(self) -> int:
        """What time it is."""
        return self.clock.now_ms()

    def lapse(self) -> None:
        """Let as much time pass as every hold and grace lasts."""
        self.clock.advance(self.terms.term_ms)

    async def start(self, repository: RepositoryName | None = ALPHA, digest: Digest | None = None) -> Intent:
        """Start an upload."""
        return await self.index.start_upload(UploadId.random(), repository, digest, self.now_ms, BOOT)

    async def commit(
        self,
        intent: Intent,
        data: bytes,
        *,
        aliases: Sequence[Digest] = (),
        is_published: bool = True,
        is_pinned: bool = False,
    ) -> Committed:
        """Commit an upload of `data`."""
        content = _content(data, aliases)
        names = [blob_key(content.digest, intent.generation)] if is_published else []
        return await self.index.commit_blob(intent, content, names, self.now_ms, is_pinned=is_pinned)

    async def push(self, data: bytes, repository: RepositoryName = ALPHA, *, aliases: Sequence[Digest] = ()) -> Digest:
        """Push a blob from start to end."""
        await self.commit(await self.start(repository), data, aliases=aliases)
        return Digest.of(data)

    async def put(
        self,
        manifest: Manifest,
        *tags: str,
        repository: RepositoryName = ALPHA,
        replays: Sequence[Manifest] = (),
        aliases: Sequence[Digest] = (),
    ) -> ManifestPut:
        """Put a manifest whose bytes are published."""
        intent = await self.start(repository, manifest.digest)
        names = [blob_key(manifest.digest, intent.generation)]
        parsed = [TagName.parse(tag) for tag in tags]
        content = _content(manifest.body, aliases)
        return await self.index.put_manifest(intent, content, names, manifest, parsed, self.now_ms, self.terms, replays)

    async def push_image(
        self,
        *layers: bytes,
        tags: Sequence[str] = (),
        repository: RepositoryName = ALPHA,
        subject: Manifest | None = None,
        config: bytes = b"{}",
    ) -> Manifest:
        """Push config, layers and manifest of an image."""
        for data in (config, *layers):
            await self.push(data, repository)
        manifest = image(config, layers, subject=subject)
        put = await self.put(manifest, *tags, repository=repository)
        assert put.outcome is CommitOutcome.STORED, put
        return manifest

    async def state_of(self, digest: Digest) -> BlobState | None:
        """The state of a blob, None without a row."""
        blob = await self.index.find_blob(digest)
        return blob.state if blob is not None else None

    async def sees(self, repository: RepositoryName, digest: Digest) -> bool:
        """Whether a repository may read a blob now."""
        return await self.index.view_blob(repository, digest, self.now_ms, self.terms) is not None

    async def condemn(self, *digests: Digest) -> Condemned:
        """Condemn whatever may be of these."""
        return await self.index.condemn(digests, self.now_ms, self.terms, self.now_ms + QUARANTINE_MS, RUN)

    async def drop(self, *manifests: Manifest, reason: str = "untagged", repository: RepositoryName = ALPHA) -> Dropped:
        """Drop whatever may be of these records."""
        drops = [Drop(ManifestKey(repository, each.digest), reason) for each in manifests]
        return await self.index.drop_manifests(drops, self.now_ms, self.now_ms, self.terms, RUN)

    async def push_condemned(self, data: bytes) -> Digest:
        """A blob whose promise is over and that was condemned."""
        digest = await self.push(data)
        self.lapse()
        condemned = await self.condemn(digest)
        assert [each.digest for each in condemned.blobs] == [digest]
        return digest

    async def make_suspect(self, digest: Digest) -> None:
        """Find that a blob's bytes are wrong."""
        blob = await self.index.find_blob(digest)
        assert blob is not None
        assert await self.index.suspect_blob(digest, blob.generation)

    async def trash(self) -> list[Trash]:
        """The whole trash."""
        return list((await self.index.list_due_trash(FAR_MS, self.terms, None, 10_000)).items)

    async def blobs(self) -> list[ReferencedBlob]:
        """Every blob with its parents, read in small slices."""
        found: list[ReferencedBlob] = []
        after: bytes | None = None
        while True:
            page = await self.index.scan_references(after, 3)
            found += page.items
            after = page.next
            if after is None:
                return found

    async def check(self) -> None:
        """What must hold after every step: totals equal a recount, edges match, no blob is without a reason to be."""
        while await self.index.continue_removals(100, self.now_ms):
            pass
        blobs = await self.blobs()
        await self._check_blob_totals(blobs)
        await self._check_other_totals()
        await self._check_edges(blobs)

    async def _check_blob_totals(self, blobs: Sequence[ReferencedBlob]) -> None:
        counted: Counter[str] = Counter()
        for each in blobs:
            kinds = [each.blob.state.value]
            if each.blob.state is BlobState.PRESENT and not each.parents:
                kinds.append("unreferenced")
            for kind in kinds:
                counted[f"{kind}_blobs"] += 1
                counted[f"{kind}_bytes"] += each.blob.size_bytes
        totals = await self.index.totals()
        for kind in ("present", "unreferenced", "condemned", "suspect"):
            for unit in ("blobs", "bytes"):
                assert getattr(totals, f"{kind}_{unit}") == counted[f"{kind}_{unit}"], f"{kind}_{unit}"
        unreferenced = {each.blob.digest for each in blobs if not each.parents}
        slice_ = await self.index.scan_unreferenced(None, 10_000, frozenset(), frozenset())
        assert {each.digest for each in slice_.items} == unreferenced

    async def _check_other_totals(self) -> None:
        totals, index = await self.index.totals(), self.index
        assert totals.manifests == len((await index.scan_manifests(None, 10_000)).items)
        loose = [
            node.record.key
            for is_gone in (False, True)
            for node in (await index.list_loose_manifests(FAR_MS, None, 10_000, is_subject_gone=is_gone)).items
        ]
        assert len(set(loose)) == len(loose) == totals.loose_manifests
        repositories = await index.list_repositories(None, 10_000)
        assert totals.tags == sum([len(await index.list_tags(name, None, 10_000)) for name in repositories])
        assert totals.repositories >= len(repositories)
        assert totals.uploads == len(await index.list_uploads(FAR_MS, 10_000))
        assert totals.trash == len(await self.trash())

    async def _check_edges(self, blobs: Sequence[ReferencedBlob]) -> None:
        after: bytes | None = None
        while (after := await self.index.check_edges(after, 2)) is not None:
            pass
        for each in blobs:
            assert each.parents or await self.index.list_holds(each.blob.digest), f"nothing names {each.blob.digest}"
        for node in (await self.index.scan_manifests(None, 10_000)).items:
            for child in node.children:
                assert await self.index.find_node(ManifestKey(node.record.key.repository, child)), (
                    f"{child} has no record"
                )


def _content(data: bytes, aliases: Sequence[Digest]) -> Content:
    blake3 = Digest.of(data, Algorithm.BLAKE3).value
    return Content(Digest.of(data), len(data), blake3, tuple(aliases))


class IndexTests(abc.ABC):
    """What each part of the suite stands on: a new index for each test, checked when the test is over."""

    @abc.abstractmethod
    def make_index(self, directory: Path) -> Index:
        """A new and empty index, not yet opened; `directory` is empty and its own."""

    @pytest_asyncio.fixture
    async def scene(self, tmp_path: Path) -> AsyncIterator[Scene]:
        """An opened index; after the test, its counters must equal a recount."""
        index = self.make_index(tmp_path)
        await index.open(create=True)
        try:
            await index.initialise(IDENTITY)
            scene = Scene(index)
            yield scene
            await scene.check()
        finally:
            await index.aclose()
