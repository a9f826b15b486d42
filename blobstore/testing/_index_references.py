"""The index suite, tags, deletions and referrers."""

from __future__ import annotations

import pytest

from blobstore.abc.records import BlobState, CommitOutcome, ManifestKey
from blobstore.digest import Algorithm, Digest
from blobstore.errors import ManifestUnknown, RepositoryUnknown, StillReferenced, TagUnknown
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName, TagName
from blobstore.testing._index_scene import ALPHA, BETA, LATEST, IndexTests, Scene
from blobstore.testing.fakes import image, image_index

LAYER = b"layer"


class ReferenceTests(IndexTests):
    """The other verbs of `ReferenceIndex`."""

    async def test_a_tag_moves(self, scene: Scene) -> None:
        """The old manifest notes when it lost its last tag; the new one has it."""
        old, new = await scene.push_image(b"1", tags=["latest"]), await scene.push_image(b"2")
        scene.clock.advance(1000)
        await scene.index.put_tag(_key(new), LATEST, scene.now_ms)
        resolved = await scene.index.resolve(ALPHA, LATEST)
        assert resolved is not None
        assert resolved.key == _key(new)
        left = await scene.index.resolve(ALPHA, old.digest)
        assert left is not None
        assert (left.tag_count, left.lost_at_ms) == (0, scene.now_ms)
        assert await _loose(scene) == [old.digest]

    async def test_a_tag_set_again_counts_once(self, scene: Scene) -> None:
        """Only its time changes."""
        manifest = await scene.push_image(LAYER, tags=["latest"])
        scene.clock.advance(1000)
        await scene.index.put_tag(_key(manifest), LATEST, scene.now_ms)
        record = await scene.index.resolve(ALPHA, LATEST)
        assert record is not None
        assert record.tag_count == 1
        assert [each.updated_at_ms for each in await scene.index.list_tags(ALPHA, None, 10)] == [scene.now_ms]

    async def test_a_tag_needs_a_record(self, scene: Scene) -> None:
        """A blob that is no manifest here can't be tagged."""
        manifest = await scene.push_image(LAYER)
        for key in (ManifestKey(BETA, manifest.digest), ManifestKey(ALPHA, Digest.of(LAYER))):
            with pytest.raises(ManifestUnknown):
                await scene.index.put_tag(key, LATEST, scene.now_ms)

    async def test_an_untagged_manifest_stays(self, scene: Scene) -> None:
        """The tag goes, the record is loose from now on; deleting it again is refused."""
        manifest = await scene.push_image(LAYER, tags=["latest"])
        assert await _loose(scene) == []
        await scene.index.delete_tag(ALPHA, LATEST, scene.now_ms)
        assert await scene.index.resolve(ALPHA, LATEST) is None
        assert await _loose(scene) == [manifest.digest]
        for repository in (ALPHA, BETA):
            with pytest.raises(TagUnknown):
                await scene.index.delete_tag(repository, LATEST, scene.now_ms)

    async def test_tags_are_listed_in_byte_order(self, scene: Scene) -> None:
        """In pages, beginning behind the last; an unknown repository is refused."""
        names = ["B", "a", "a-b", "a.b", "a_b", "1", "_x"]
        await scene.push_image(LAYER, tags=names)
        first = [each.tag for each in await scene.index.list_tags(ALPHA, None, 3)]
        rest = [each.tag for each in await scene.index.list_tags(ALPHA, first[-1], 100)]
        assert first + rest == sorted(names)
        assert [each.tag for each in await scene.index.list_tags(ALPHA, TagName("a"), 1)] == ["a-b"]
        with pytest.raises(RepositoryUnknown):
            await scene.index.list_tags(BETA, None, 10)

    async def test_a_deleted_manifest_takes_its_tags_along(self, scene: Scene) -> None:
        """Record and tags go; it can't be deleted twice."""
        manifest = await scene.push_image(LAYER, tags=["latest", "v1"])
        await scene.index.delete_manifest(_key(manifest), scene.now_ms)
        assert await scene.index.resolve(ALPHA, manifest.digest) is None
        assert await scene.index.resolve(ALPHA, LATEST) is None
        assert (await scene.index.totals()).tags == 0
        with pytest.raises(ManifestUnknown):
            await scene.index.delete_manifest(_key(manifest), scene.now_ms)

    async def test_a_manifest_with_a_parent_is_not_deleted(self, scene: Scene) -> None:
        """The error names the image index; when that is gone, the child can go, and notes when it lost its parent."""
        child = await scene.push_image(LAYER)
        parent = image_index([child])
        await scene.put(parent, "latest")
        assert await _loose(scene) == []
        with pytest.raises(StillReferenced) as refused:
            await scene.index.delete_manifest(_key(child), scene.now_ms)
        assert refused.value.parents == (_key(parent),)
        scene.clock.advance(1000)
        await scene.index.delete_manifest(_key(parent), scene.now_ms)
        record = await scene.index.resolve(ALPHA, child.digest)
        assert record is not None
        assert record.lost_at_ms == scene.now_ms
        assert await _loose(scene) == [child.digest]
        await scene.index.delete_manifest(_key(child), scene.now_ms)

    async def test_an_edge_that_goes_becomes_a_hold(self, scene: Scene) -> None:
        """A yes that the edge stood behind is owed for a whole grace more, and the hold tells which manifest went."""
        manifest = await scene.push_image(LAYER)
        scene.clock.advance(10 * scene.terms.term_ms)
        assert await scene.index.touch_blob(ALPHA, Digest.of(LAYER), scene.now_ms, scene.terms) is not None
        await scene.index.delete_manifest(_key(manifest), scene.now_ms)
        (hold,) = await scene.index.list_holds(Digest.of(LAYER))
        assert (hold.repository, hold.renewed_at_ms) == (ALPHA, scene.now_ms)
        assert hold.last_referrer == _key(manifest)
        scene.clock.advance(scene.terms.term_ms - 1)
        assert (await scene.condemn(Digest.of(LAYER))).blobs == ()
        assert (await scene.put(manifest)).outcome in (CommitOutcome.DUPLICATE, CommitOutcome.REVIVED)

    async def test_an_edge_of_two_makes_no_hold(self, scene: Scene) -> None:
        """While another manifest of the repository keeps the blob, none is needed."""
        first, _ = await scene.push_image(LAYER), await scene.push_image(LAYER, b"more")
        (before,) = await scene.index.list_holds(Digest.of(LAYER))
        scene.clock.advance(1000)
        await scene.index.delete_manifest(_key(first), scene.now_ms)
        assert await scene.index.list_holds(Digest.of(LAYER)) == [before]

    async def test_referrers_are_found_before_and_after_their_subject(self, scene: Scene) -> None:
        """Whether the subject comes first, last, or never."""
        subject = image(b"{}", [LAYER])
        early = await scene.push_image(b"early", subject=subject)
        await scene.push_image(LAYER)
        late = await scene.push_image(b"late", subject=subject)
        found = await scene.index.list_referrers(ALPHA, subject.digest, None, 10)
        assert [each.key.digest for each in found] == sorted([early.digest, late.digest])
        assert [each.subject for each in found] == [subject.digest] * 2
        page = await scene.index.list_referrers(ALPHA, subject.digest, found[0].key.digest, 10)
        assert page == found[1:]
        assert await scene.index.list_referrers(BETA, subject.digest, None, 10) == []
        nodes = await scene.index.list_referrer_nodes(_key(subject))
        assert {node.record.key.digest for node in nodes} == {early.digest, late.digest}

    async def test_referrers_note_that_their_subject_went(self, scene: Scene) -> None:
        """They are loose from then on, in the list of those whose subject is gone."""
        subject = await scene.push_image(LAYER)
        referrer = await scene.push_image(b"signature", subject=subject)
        assert await _loose(scene) == [subject.digest]
        scene.clock.advance(1000)
        await scene.index.delete_manifest(_key(subject), scene.now_ms)
        record = await scene.index.resolve(ALPHA, referrer.digest)
        assert record is not None
        assert (record.is_subject_gone, record.lost_at_ms) == (True, scene.now_ms)
        assert await _loose(scene) == []
        assert await _loose(scene, is_subject_gone=True) == [referrer.digest]
        found = await scene.index.list_referrers(ALPHA, subject.digest, None, 10)
        assert [each.key.digest for each in found] == [referrer.digest]

    async def test_a_referrer_is_not_loose_once_its_subject_came(self, scene: Scene) -> None:
        """Pushed before its subject it is loose; with a living subject it no longer is."""
        subject = image(b"{}", [LAYER])
        referrer = await scene.push_image(b"signature", subject=subject)
        assert await _loose(scene) == [referrer.digest]
        await scene.push_image(LAYER)
        assert await _loose(scene) == [subject.digest]

    async def test_a_referrer_is_not_loose_once_its_subject_came_back(self, scene: Scene) -> None:
        """The subject was deleted and pushed again: the collector needs no longer look at its referrer."""
        subject = await scene.push_image(LAYER, tags=["latest"])
        await scene.push_image(b"signature", subject=subject)
        await scene.index.delete_manifest(_key(subject), scene.now_ms)
        await scene.put(subject, "latest")
        assert await _loose(scene) == []
        assert await _loose(scene, is_subject_gone=True) == []

    async def test_a_subject_named_by_an_alias_can_go(self, scene: Scene) -> None:
        """The subject, its blob and so its alias go first: its referrer can still be deleted and leaves nothing behind."""
        for data in (b"{}", LAYER):
            await scene.push(data)
        subject = image(b"{}", [LAYER])
        alias = Digest.of(subject.body, Algorithm.SHA512)
        await scene.put(subject, aliases=[alias])
        named = subject.descriptor
        for data in (b"signature",):
            await scene.push(data)
        referrer = image(b"{}", [b"signature"], subject=type(named)(named.media_type, alias, named.size_bytes))
        await scene.put(referrer)
        for digest in (alias, subject.digest):
            found = await scene.index.list_referrers(ALPHA, digest, None, 10)
            assert [each.key.digest for each in found] == [referrer.digest]
        await scene.index.delete_manifest(_key(subject), scene.now_ms)
        scene.lapse()
        (blob,) = (await scene.condemn(subject.digest)).blobs
        scene.clock.advance(10**9)
        assert len((await scene.index.retire([blob.generation], scene.now_ms, scene.terms)).retiring) == 1
        await scene.index.delete_manifest(_key(referrer), scene.now_ms)
        for digest in (alias, subject.digest):
            assert await scene.index.list_referrers(ALPHA, digest, None, 10) == []

    async def test_touch_renews_the_grace_of_a_loose_manifest(self, scene: Scene) -> None:
        """Only of one that nothing holds, and only once `renew_s` is over."""
        loose, tagged = await scene.push_image(b"1"), await scene.push_image(b"2", tags=["latest"])
        pushed_ms = scene.now_ms
        scene.clock.advance(scene.terms.renew_ms)
        assert await scene.index.touch_manifest(_key(loose), scene.now_ms, scene.terms)
        assert await _lost(scene, loose) == pushed_ms
        scene.clock.advance(1)
        assert await scene.index.touch_manifest(_key(loose), scene.now_ms, scene.terms)
        assert await scene.index.touch_manifest(_key(tagged), scene.now_ms, scene.terms)
        assert (await _lost(scene, loose), await _lost(scene, tagged)) == (scene.now_ms, pushed_ms)
        assert not await scene.index.touch_manifest(ManifestKey(BETA, loose.digest), scene.now_ms, scene.terms)

    async def test_loose_manifests_are_listed_by_age(self, scene: Scene) -> None:
        """Those that lost their hold up to a time, oldest first, in slices."""
        pushed = []
        for each in range(5):
            pushed.append((await scene.push_image(bytes([each]))).digest)
            scene.clock.advance(1000)
        before_ms = scene.now_ms - 2000
        page = await scene.index.list_loose_manifests(before_ms, None, 3, is_subject_gone=False)
        rest = await scene.index.list_loose_manifests(before_ms, page.next, 3, is_subject_gone=False)
        found = [node.record.key.digest for node in (*page.items, *rest.items)]
        assert (found, rest.next) == (pushed[:4], None)

    async def test_a_hidden_repository_is_gone_at_once(self, scene: Scene) -> None:
        """Nothing in it is seen, its name is free, and the rest is taken apart in batches."""
        manifests = [await scene.push_image(bytes([each]), LAYER, tags=[f"t{each}"]) for each in range(5)]
        await scene.index.hide_repository(ALPHA, scene.now_ms)
        assert await scene.index.resolve(ALPHA, TagName("t0")) is None
        assert not await scene.sees(ALPHA, Digest.of(LAYER))
        assert await scene.index.list_repositories(None, 10) == []
        assert (await scene.index.scan_manifests(None, 10)).items == ()
        again = await scene.push_image(LAYER, tags=["new"])
        steps = 0
        while await scene.index.continue_removals(2, scene.now_ms):
            steps += 1
            assert steps < 10
        assert steps >= 3
        found = await scene.index.list_tags(ALPHA, None, 10)
        assert [each.tag for each in found] == ["new"]
        assert (await scene.index.totals()).manifests == 1
        scene.clock.advance(10**12)
        candidates = [each.digest for each in manifests]
        assert {each.digest for each in (await scene.condemn(*candidates)).blobs} == set(candidates)
        assert await scene.state_of(again.digest) is BlobState.PRESENT

    async def test_only_a_known_repository_is_hidden(self, scene: Scene) -> None:
        """One without a manifest is unknown; nor can one be hidden twice."""
        await scene.push(LAYER)
        for name in (ALPHA, RepositoryName("nobody")):
            with pytest.raises(RepositoryUnknown):
                await scene.index.hide_repository(name, scene.now_ms)
        await scene.push_image(LAYER)
        await scene.index.hide_repository(ALPHA, scene.now_ms)
        with pytest.raises(RepositoryUnknown):
            await scene.index.hide_repository(ALPHA, scene.now_ms)
        assert await scene.index.continue_removals(10, scene.now_ms)
        assert not await scene.index.continue_removals(10, scene.now_ms)


def _key(manifest: Manifest) -> ManifestKey:
    return ManifestKey(ALPHA, manifest.digest)


async def _loose(scene: Scene, *, is_subject_gone: bool = False) -> list[Digest]:
    page = await scene.index.list_loose_manifests(2**62, None, 100, is_subject_gone=is_subject_gone)
    return [node.record.key.digest for node in page.items]


async def _lost(scene: Scene, manifest: Manifest) -> int:
    record = await scene.index.resolve(ALPHA, manifest.digest)
    assert record is not None
    return record.lost_at_ms
