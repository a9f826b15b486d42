"""The index suite, what collectors and reports read: slices that meet everything once."""

from __future__ import annotations

from blobstore.abc.records import ManifestKey, RunRecord
from blobstore.digest import Digest
from blobstore.testing._index_scene import ALPHA, BETA, IndexTests, Scene


class ScanningTests(IndexTests):
    """The scans of `CollectorIndex`, and its runs."""

    async def test_the_anti_join_finds_what_only_dropped_records_keep(self, scene: Scene) -> None:
        """A blob shared with a living manifest is kept; dropped, spared and free blobs are told apart."""
        going = await scene.push_image(b"only going", b"shared", config=b"1")
        await scene.push_image(b"shared", b"only staying", config=b"2", tags=["latest"])
        spared = await scene.push_image(b"only spared", config=b"3")
        await scene.push(b"free")
        tokens = {}
        for manifest in (going, spared):
            node = await scene.index.find_node(ManifestKey(ALPHA, manifest.digest))
            assert node is not None
            tokens[manifest.digest] = node.token
        found = {}
        after: bytes | None = None
        while True:
            page = await scene.index.scan_unreferenced(
                after, 2, frozenset({tokens[going.digest]}), frozenset({tokens[spared.digest]})
            )
            found.update({each.digest: each for each in page.items})
            after = page.next
            if after is None:
                break
        by_drop = {going.digest, Digest.of(b"only going"), Digest.of(b"1")}
        by_sparing = {spared.digest, Digest.of(b"only spared"), Digest.of(b"3")}
        assert {digest for digest, each in found.items() if each.is_dropped} == by_drop
        assert {digest for digest, each in found.items() if each.is_spared} == by_sparing
        assert set(found) == by_drop | by_sparing | {Digest.of(b"free")}
        assert found[Digest.of(b"only going")].last_referrer == ManifestKey(ALPHA, going.digest)

    async def test_what_only_going_records_keep_is_found(self, scene: Scene) -> None:
        """Each blob once, with the first record that keeps it; not what another record, or another repository, keeps."""
        first = await scene.push_image(b"only going", b"shared", config=b"1")
        second = await scene.push_image(b"only going", b"elsewhere", config=b"2")
        await scene.push_image(b"shared", config=b"3", tags=["latest"])
        await scene.push_image(b"elsewhere", config=b"4", repository=BETA)
        keys = [ManifestKey(ALPHA, manifest.digest) for manifest in (first, second)]
        found = {each.digest: each.keeper for each in await scene.index.list_let_go(keys, frozenset(keys))}
        assert found == {
            first.digest: keys[0],
            Digest.of(b"1"): keys[0],
            Digest.of(b"only going"): keys[0],
            second.digest: keys[1],
            Digest.of(b"2"): keys[1],
        }
        alone = await scene.index.list_let_go(keys[1:], frozenset(keys[1:]))
        assert {each.digest for each in alone} == {second.digest, Digest.of(b"2")}

    async def test_slices_of_manifests_meet_all(self, scene: Scene) -> None:
        """Whatever the limit, each record comes once, those of one repository together."""
        for repository in (ALPHA, BETA):
            for each in range(4):
                await scene.push_image(f"{repository} {each}".encode(), repository=repository)
        found = []
        after: bytes | None = None
        while True:
            page = await scene.index.scan_manifests(after, 3)
            found += [node.record.key for node in page.items]
            after = page.next
            if after is None:
                break
        assert len(set(found)) == len(found) == 8
        assert [key.repository for key in found] == sorted(key.repository for key in found)

    async def test_runs_are_listed_newest_first(self, scene: Scene) -> None:
        """One of the same id and start is replaced."""
        for each in range(3):
            await scene.index.save_run(RunRecord(f"run-{each}", scene.now_ms + each, scene.now_ms + each, b"{}"))
        await scene.index.save_run(RunRecord("run-2", scene.now_ms + 2, scene.now_ms + 9, b"[]"))
        found = await scene.index.list_runs(2)
        assert [(run.run, run.report) for run in found] == [("run-2", b"[]"), ("run-1", b"{}")]
