"""The index suite, putting manifests: what is checked, what is missing, what must be handed in again."""

from __future__ import annotations

import pytest

from blobstore.abc.records import BlobState, CommitOutcome, Content, ManifestKey
from blobstore.digest import Algorithm, Digest
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName, TagName
from blobstore.testing._index_scene import ALPHA, BETA, LATEST, IndexTests, Scene
from blobstore.testing.fakes import image, image_index, layer

CONFIG = b"{}"
LAYER = b"layer"


class ManifestPutTests(IndexTests):
    """`ReferenceIndex.put_manifest`."""

    async def test_a_put_makes_record_edges_and_tags(self, scene: Scene) -> None:
        """All in one: the record resolves by digest and tag, and keeps its children and itself."""
        manifest = await scene.push_image(LAYER, tags=["latest", "v1"])
        key = ManifestKey(ALPHA, manifest.digest)
        record = await scene.index.resolve(ALPHA, LATEST)
        assert record is not None
        assert record == await scene.index.resolve(ALPHA, manifest.digest)
        assert (record.key, record.tag_count, record.pushed_at_ms) == (key, 2, scene.now_ms)
        assert (record.media_type, record.size_bytes) == (manifest.media_type, manifest.size_bytes)
        assert record.artifact_type == manifest.listed_artifact_type
        assert set(await scene.index.list_children(key)) == {Digest.of(CONFIG), Digest.of(LAYER)}
        for digest in (manifest.digest, Digest.of(LAYER), Digest.of(CONFIG)):
            assert await scene.index.list_parents(digest, 10) == [key]
        assert set(await scene.index.list_tags_of(key)) == {"latest", "v1"}

    async def test_missing_children_are_all_named(self, scene: Scene) -> None:
        """Nothing is put, and the manifest's own bytes are trash with its intent."""
        manifest = image(CONFIG, [LAYER, b"more"])
        await scene.push(LAYER)
        put = await scene.put(manifest, "latest")
        assert set(put.missing) == {Digest.of(CONFIG), Digest.of(b"more")}
        assert put.trash is not None
        assert await scene.index.find_trash(put.trash) is not None
        assert await scene.index.resolve(ALPHA, LATEST) is None
        assert await scene.state_of(manifest.digest) is None
        assert (await scene.index.totals()).uploads == 0
        assert (await scene.index.guards()).sequence == 0

    async def test_a_refused_put_of_a_present_digest_leaves_it(self, scene: Scene) -> None:
        """The same manifest stands in another repository: its bytes there are not the ones that become trash."""
        manifest = await scene.push_image(LAYER)
        before = await scene.index.find_blob(manifest.digest)
        put = await scene.put(manifest, repository=BETA)
        assert put.missing
        assert await scene.index.find_blob(manifest.digest) == before
        assert before is not None
        doomed = {name for trash in await scene.trash() for name in trash.names}
        assert not doomed.intersection(before.names)

    @pytest.mark.parametrize("why", ["other repository", "lapsed", "suspect"])
    async def test_a_child_must_be_seen_here_and_whole(self, scene: Scene, why: str) -> None:
        """Whatever was answered before: another's blob, a lapsed promise, a damaged blob are missing."""
        await scene.push(LAYER, BETA if why == "other repository" else ALPHA)
        if why == "lapsed":
            scene.lapse()
        if why == "suspect":
            await scene.make_suspect(Digest.of(LAYER))
        await scene.push(CONFIG)
        assert (await scene.put(image(CONFIG, [LAYER]))).missing == (Digest.of(LAYER),)

    async def test_condemned_children_are_revived(self, scene: Scene) -> None:
        """A put of a manifest over condemned blobs brings them back in the same transaction."""
        await scene.push_condemned(LAYER)
        await scene.push(CONFIG)
        put = await scene.put(image(CONFIG, [LAYER]))
        assert put.outcome is CommitOutcome.STORED
        assert await scene.state_of(Digest.of(LAYER)) is BlobState.PRESENT
        assert all(trash.digest is None for trash in await scene.trash())

    async def test_a_refused_put_revives_nothing(self, scene: Scene) -> None:
        """A condemned child stays condemned where another child is missing."""
        await scene.push_condemned(LAYER)
        assert (await scene.put(image(CONFIG, [LAYER]))).missing == (Digest.of(CONFIG),)
        assert await scene.state_of(Digest.of(LAYER)) is BlobState.CONDEMNED

    async def test_an_unpublished_put_writes_nothing(self, scene: Scene) -> None:
        """Without names for absent bytes the intent stays, and the put can be made again."""
        await scene.push(CONFIG)
        manifest = image(CONFIG)
        intent = await scene.start(ALPHA, manifest.digest)
        content = _content(manifest)
        put = await scene.index.put_manifest(intent, content, [], manifest, [LATEST], scene.now_ms, scene.terms)
        assert (put.outcome, put.missing, put.needed) == (CommitOutcome.NOT_PUBLISHED, (), ())
        assert await scene.index.find_upload(intent.upload) == intent
        assert await scene.index.resolve(ALPHA, LATEST) is None

    @pytest.mark.parametrize("fence", ["cancel", "expire"])
    async def test_a_put_behind_a_fence_is_interrupted(self, scene: Scene, fence: str) -> None:
        """Once its intent is gone a put makes no record, and its name is trash."""
        await scene.push(CONFIG)
        manifest = image(CONFIG)
        intent = await scene.start(ALPHA, manifest.digest)
        if fence == "cancel":
            await scene.index.cancel_upload(intent.upload, scene.now_ms)
        else:
            await scene.index.expire_upload(intent.upload, scene.now_ms + 1, scene.now_ms)
        put = await scene.index.put_manifest(
            intent, _content(manifest), intent.names[1:], manifest, [LATEST], scene.now_ms, scene.terms
        )
        assert (put.outcome, put.trash) == (CommitOutcome.INTERRUPTED, intent.generation)
        assert await scene.index.resolve(ALPHA, LATEST) is None

    async def test_the_same_manifest_again_renews_its_grace(self, scene: Scene) -> None:
        """A second put is a duplicate that keeps one record with its first push time."""
        manifest = await scene.push_image(LAYER)
        pushed_ms = scene.now_ms
        scene.clock.advance(5000)
        put = await scene.put(manifest, "latest")
        assert put.outcome is CommitOutcome.DUPLICATE
        record = await scene.index.resolve(ALPHA, LATEST)
        assert record is not None
        assert (record.pushed_at_ms, record.lost_at_ms) == (pushed_ms, scene.now_ms)

    async def test_two_repositories_share_one_manifest(self, scene: Scene) -> None:
        """One blob, two records with edges of their own; deleting one leaves the other whole."""
        manifest = await scene.push_image(LAYER, repository=ALPHA)
        for data in (CONFIG, LAYER):
            await scene.push(data, BETA)
        assert (await scene.put(manifest, repository=BETA)).outcome is CommitOutcome.DUPLICATE
        parents = await scene.index.list_parents(Digest.of(LAYER), 10)
        assert set(parents) == {ManifestKey(ALPHA, manifest.digest), ManifestKey(BETA, manifest.digest)}
        await scene.index.delete_manifest(ManifestKey(ALPHA, manifest.digest), scene.now_ms)
        scene.clock.advance(10**12)
        await scene.condemn(manifest.digest, Digest.of(LAYER), Digest.of(CONFIG))
        assert await scene.sees(BETA, Digest.of(LAYER))
        assert not await scene.sees(ALPHA, Digest.of(LAYER))
        assert await scene.state_of(manifest.digest) is BlobState.PRESENT

    async def test_a_foreign_layer_need_not_be_here(self, scene: Scene) -> None:
        """It is neither missing nor a child; where its bytes were pushed, it is kept."""
        foreign = layer(b"foreign", is_foreign=True)
        await scene.push(CONFIG)
        await scene.put(absent := image(CONFIG, [foreign]))
        assert await scene.index.list_children(ManifestKey(ALPHA, absent.digest)) == [Digest.of(CONFIG)]
        await scene.push(b"foreign")
        await scene.put(present := image(CONFIG, [foreign, layer(CONFIG)]))
        assert foreign.digest in await scene.index.list_children(ManifestKey(ALPHA, present.digest))

    async def test_buildkit_lists_layers_in_an_image_index(self, scene: Scene) -> None:
        """A child whose media type is no manifest's needs no record, and is kept like a layer."""
        await scene.push(LAYER)
        cache = image_index([layer(LAYER)])
        assert (await scene.put(cache)).outcome is CommitOutcome.STORED
        assert await scene.index.list_children(ManifestKey(ALPHA, cache.digest)) == [Digest.of(LAYER)]
        node = await scene.index.find_node(ManifestKey(ALPHA, cache.digest))
        assert node is not None
        assert node.children == ()

    async def test_child_manifests_are_children(self, scene: Scene) -> None:
        """An image index keeps its manifests, and marking sees them as such."""
        child = await scene.push_image(LAYER)
        parent = image_index([child])
        await scene.put(parent)
        node = await scene.index.find_node(ManifestKey(ALPHA, parent.digest))
        assert node is not None
        assert node.children == (child.digest,)

    async def test_a_child_without_a_record_is_needed_and_replayed(self, scene: Scene) -> None:
        """Its record was dropped while its bytes are still seen: handed in again, its layers get their edges back."""
        child = await scene.push_image(LAYER)
        scene.lapse()
        assert (await scene.drop(child)).drops
        parent = image_index([child])
        put = await scene.put(parent)
        assert (put.outcome, put.needed, put.missing) == (CommitOutcome.NOT_PUBLISHED, (child.digest,), ())
        assert await scene.index.resolve(ALPHA, parent.digest) is None
        put = await scene.put(parent, replays=[child])
        assert put.outcome is CommitOutcome.STORED
        assert await scene.index.resolve(ALPHA, child.digest) is not None
        scene.clock.advance(10**12)
        assert await scene.sees(ALPHA, Digest.of(LAYER))

    async def test_a_replay_whose_layers_are_gone_is_missing(self, scene: Scene) -> None:
        """What a replayed child refers to is re-checked as everything is."""
        child = await scene.push_image(LAYER)
        scene.lapse()
        await scene.drop(child)
        await scene.make_suspect(Digest.of(LAYER))
        put = await scene.put(image_index([child]), replays=[child])
        assert put.missing == (Digest.of(LAYER),)
        assert await scene.index.resolve(ALPHA, child.digest) is None

    async def test_nested_replays_go_in_together(self, scene: Scene) -> None:
        """A dropped image index in an image index: both records come back."""
        child = await scene.push_image(LAYER)
        middle = image_index([child])
        await scene.put(middle)
        scene.lapse()
        assert len((await scene.drop(middle, child)).drops) == 2
        top = image_index([middle, child])
        assert set((await scene.put(top)).needed) == {middle.digest, child.digest}
        assert (await scene.put(top, replays=[child, middle])).outcome is CommitOutcome.STORED
        for each in (middle, child):
            assert await scene.index.resolve(ALPHA, each.digest) is not None

    async def test_aliases_resolve_and_are_children(self, scene: Scene) -> None:
        """A manifest put under sha512 is found by it; a layer named by blake3 is kept under its sha256."""
        blake3 = Digest.of(LAYER, Algorithm.BLAKE3)
        await scene.push(LAYER, aliases=[blake3])
        await scene.push(CONFIG)
        named = layer(LAYER)
        manifest = image(CONFIG, [type(named)(named.media_type, blake3, named.size_bytes)])
        sha512 = Digest.of(manifest.body, Algorithm.SHA512)
        await scene.put(manifest, aliases=[sha512])
        record = await scene.index.resolve(ALPHA, sha512)
        assert record is not None
        assert record.key.digest == manifest.digest
        assert Digest.of(LAYER) in await scene.index.list_children(record.key)
        assert await scene.index.list_parents(blake3, 10) == [record.key]

    async def test_a_tag_knows_the_digest_it_was_pushed_with(self, scene: Scene) -> None:
        """Of another algorithm, each tag its own, until it is put again without; the record is one."""
        await scene.push(CONFIG)
        manifest = image(CONFIG)
        sha512 = Digest.of(manifest.body, Algorithm.SHA512)
        blake3 = Digest.of(manifest.body, Algorithm.BLAKE3)
        await scene.put(manifest, "plain")
        await scene.put(manifest, "long", "other", aliases=[sha512])
        await scene.put(manifest, "other", aliases=[blake3])
        tagged = {"plain": None, "long": sha512, "other": blake3}
        for tag, expected in tagged.items():
            record = await scene.index.resolve(ALPHA, TagName(tag))
            assert record is not None
            assert (record.key.digest, record.tagged_as) == (manifest.digest, expected)
        for digest in (manifest.digest, sha512):
            record = await scene.index.resolve(ALPHA, digest)
            assert record is not None
            assert (record.tagged_as, record.tag_count) == (None, 3)
        await scene.put(manifest, "long")
        record = await scene.index.resolve(ALPHA, TagName("long"))
        assert record is not None
        assert record.tagged_as is None

    async def test_a_put_gives_a_new_repository_a_name(self, scene: Scene) -> None:
        """Repositories are listed in byte order once they hold a manifest."""
        names = [RepositoryName.parse(name) for name in ("b", "a/b", "a-b", "a")]
        for name in names:
            await scene.push(CONFIG, name)
        assert await scene.index.list_repositories(None, 10) == []
        for name in names:
            await scene.put(image(CONFIG), repository=name)
        assert await scene.index.list_repositories(None, 10) == ["a", "a-b", "a/b", "b"]
        assert await scene.index.list_repositories(RepositoryName("a"), 2) == ["a-b", "a/b"]


def _content(manifest: Manifest) -> Content:
    return Content(manifest.digest, manifest.size_bytes)
