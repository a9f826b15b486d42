"""Copying a store: all of it, once, verified; what differs at the target, and what is damaged."""

import pytest

from blobstore.abc.records import ManifestKey
from blobstore.digest import Digest
from blobstore.errors import BlobUnknown, ConfigInvalid
from blobstore.events import Event, Progress
from blobstore.replication import copy_store
from tests.gc.scene import AT_ONCE, DAY_MS
from tests.replication.scene import BIG, PINNED, SHARED, Scene, damage, lose, picture


async def test_a_copy_is_alike(scene: Scene) -> None:
    """Manifests, tags with their dates, referrers, pins, aliases, foreign layers; a blob that nothing keeps stays behind."""
    report = await scene.copy()
    await scene.assert_alike()
    assert report.is_complete
    assert report.manifests_copied == 11
    assert report.tags_copied == 8
    assert report.pins_copied == 1
    assert not await scene.target.is_there(b"of no manifest")
    repository = scene.target.store.repository("app")
    manifest = await repository.get_manifest("multi")
    assert manifest.body == scene.images["index"].body
    async with scene.target.store.repository("team/other").open_blob(Digest.of(BIG)) as blob:
        assert await blob.read() == BIG


async def test_a_second_copy_sends_nothing(scene: Scene) -> None:
    """Nor does it write to the target's storage, however often."""
    first = await scene.copy()
    before = [info async for info in scene.target.store.backend.list("")]
    for _ in range(2):
        report = await scene.copy()
        assert (report.blobs_copied, report.bytes_copied, report.manifests_copied) == (0, 0, 0)
        assert (report.tags_copied, report.tags_moved, report.pins_copied, report.aliases_copied) == (0, [], 0, 0)
        assert report.manifests_present == first.manifests_copied
        assert report.blobs_present > 0
    assert [info async for info in scene.target.store.backend.list("")] == before
    await scene.assert_alike()


async def test_the_source_is_only_read(scene: Scene) -> None:
    """Neither its storage nor a hold, a date or a number in its index changes."""
    backend, index = scene.source.store.backend, scene.source.store.index
    before = [info async for info in backend.list("")], await index.totals(), await index.guards()
    scene.source.clock.advance(3_600_000)
    holds = await index.list_holds(Digest.of(SHARED))
    await scene.copy()
    assert ([info async for info in backend.list("")], await index.totals(), await index.guards()) == before
    assert await index.list_holds(Digest.of(SHARED)) == holds


async def test_later_only_what_is_new_is_sent(scene: Scene) -> None:
    """New images, moved tags, new aliases of old blobs; what both have already is not read."""
    await scene.copy()
    source = scene.source
    source.clock.advance(10_000)
    await source.push_image(b"config c", [SHARED, b"new"], "2")
    await source.store.repository("app").tag("2", "latest")
    async with source.store.repository("app").open_upload() as upload:
        await upload.write(SHARED)
        await upload.commit(
            Digest.parse("blake3:" + Digest.of(SHARED, Digest.parse("blake3:" + "0" * 64).algorithm).hex)
        )
    report = await scene.copy()
    assert (report.blobs_copied, report.manifests_copied, report.tags_copied) == (3, 1, 1)
    assert [str(each) for each in report.tags_moved] == ["app:latest"]
    assert report.aliases_copied == 1
    await scene.assert_alike()


async def test_what_a_moved_tag_left_is_untagged_as_of_the_move(scene: Scene) -> None:
    """Though the tag has the source's date: the target's collector gives the manifest its grace."""
    await scene.copy()
    scene.source.clock.advance(1000)
    await scene.source.push_image(b"config c", [SHARED], "1")
    scene.target.clock.advance(30 * DAY_MS)
    await scene.copy()
    before = await scene.target.store.repository("app").find_manifest(scene.images["app"].digest)
    assert before.lost_at_ms == scene.target.clock.now_ms()
    await scene.assert_alike()


async def test_the_layer_of_another_repository_is_mounted(scene: Scene) -> None:
    """What the target has under another name is not sent; blobs shared by repositories are sent once."""
    await scene.target.push_image(b"config of the target", [BIG], "t", repository="elsewhere")
    report = await scene.copy()
    assert report.is_complete
    assert report.bytes_copied < len(BIG)
    async with scene.target.store.repository("app").open_blob(Digest.of(BIG)) as blob:
        assert await blob.read() == BIG
    names = [info.key async for info in scene.target.store.backend.list("")]
    assert len([name for name in names if Digest.of(SHARED).hex in name]) == 1


async def test_tags_that_only_the_target_moved_stay(scene: Scene) -> None:
    """The newer one wins, and the others are told; nothing that the target alone has is deleted unasked."""
    await scene.copy()
    target = scene.target
    ours = await target.push_image(b"config t", [b"of the target"], "1", "only-here")
    await target.store.repository("team/other").untag("1")
    for _ in range(2):
        report = await scene.copy()
        assert [(str(each), each.target) for each in report.tags_newer] == [("app:1", ours.digest)]
        assert [str(each) for each in report.tags_extra] == ["app:only-here"]
        assert report.manifests_extra == [ManifestKey(target.store.repository("app").name, ours.digest)]
        assert not report.is_extra_deleted
    assert (await target.store.repository("app").find_manifest("1")).key.digest == ours.digest
    assert await target.store.repository("team/other").find_manifest("1")
    scene.source.clock.advance(10 * DAY_MS)
    await scene.source.store.repository("app").tag("latest", "1")
    assert [str(each) for each in (await scene.copy()).tags_moved] == ["app:1"]


async def test_what_only_the_target_has_is_deleted_if_asked(scene: Scene) -> None:
    """Tags, manifests, image indexes before their children, whole repositories; nothing that a newer tag of the target names."""
    await scene.copy()
    source = scene.source.store.repository("app")
    await source.untag("multi")
    async for referrer in source.referrers(scene.images["index"].digest):
        async for inner in source.referrers(referrer.digest):
            await source.delete_manifest(inner.digest)
        await source.delete_manifest(referrer.digest)
    await source.delete_manifest(scene.images["index"].digest)
    await source.delete_manifest(scene.images["untagged"].digest)
    await scene.source.store.repository("odd").remove()
    report = await scene.copy(deletes_extra=True, is_dry_run=True)
    foreseen = len(report.manifests_extra)
    assert foreseen == 7
    before = await picture(scene.target.store)
    assert before != await picture(scene.source.store)
    report = await scene.copy(deletes_extra=True)
    assert report.is_extra_deleted
    assert len(report.manifests_extra) == foreseen
    expected, found = await picture(scene.source.store), await picture(scene.target.store)
    assert {**found, "aliases": []} == {**expected, "aliases": []}
    scene.target.clock.advance(DAY_MS)
    ours = await scene.target.push_image(b"config t", [b"of the target"], "1")
    report = await scene.copy(deletes_extra=True)
    assert (await scene.target.store.repository("app").find_manifest("1")).key.digest == ours.digest
    assert report.manifests_extra == []


async def test_a_dry_run_changes_nothing_and_is_right(scene: Scene) -> None:
    """Its numbers are those of the run that follows; the target need not be there."""
    nowhere = await copy_store(scene.source.store, None, is_dry_run=True)
    foreseen = await scene.copy(is_dry_run=True)
    assert [info.key async for info in scene.target.store.backend.list("blobs/")] == []
    report = await scene.copy()
    for field in ("manifests_copied", "tags_copied", "pins_copied", "blobs_present"):
        assert getattr(nowhere, field) == getattr(foreseen, field) == getattr(report, field), field
    # A blob that only has got another name is sent once more; that is not counted ahead.
    assert 0 <= report.blobs_copied - foreseen.blobs_copied <= 1
    # So is a manifest of two repositories that are copied in the same moment.
    assert 0 <= report.bytes_copied - foreseen.bytes_copied <= 1000


@pytest.mark.parametrize("harm", [damage, lose])
async def test_a_damaged_blob_is_left_out(scene: Scene, harm) -> None:
    """With the manifests that need it, and their indexes; all others are copied. Healed, it follows."""
    await harm(scene.source.store, Digest.of(b"arm"))
    report = await scene.copy()
    assert [failure.digest for failure in report.failures] == [Digest.of(b"arm")]
    left_out = {key.digest for key in report.left_out}
    assert scene.images["index"].digest in left_out
    assert len(left_out) == 2
    assert not report.is_complete
    target = scene.target.store.repository("app")
    assert (await target.get_manifest("1")).body == scene.images["app"].body
    assert [each.digest async for each in target.referrers(scene.images["index"].digest)]
    await scene.source.store.index.suspect_blob(
        Digest.of(b"arm"), (await scene.source.store.stat_blob(Digest.of(b"arm"))).generation
    )
    await scene.source.push_blob(b"arm")
    assert (await scene.copy()).is_complete
    await scene.assert_alike()


async def test_a_damaged_manifest_is_left_out(scene: Scene) -> None:
    """It is not put, whatever its bytes have become."""
    await damage(scene.source.store, scene.images["other"].digest)
    report = await scene.copy()
    assert [failure.digest for failure in report.failures] == [scene.images["other"].digest]
    assert [key.digest for key in report.left_out] == [scene.images["other"].digest]
    assert (await scene.target.store.repository("team/other").get_manifest("same")).body == scene.images["app"].body


async def test_a_damaged_pin_is_left_out(scene: Scene) -> None:
    """It is named, and not counted as copied."""
    await damage(scene.source.store, Digest.of(PINNED))
    report = await scene.copy()
    assert ([failure.digest for failure in report.failures], report.pins_copied) == ([Digest.of(PINNED)], 0)
    assert not await scene.target.is_there(PINNED)


async def test_damage_at_the_target_is_healed(scene: Scene) -> None:
    """A blob that a check found missing there is sent again."""
    await scene.copy()
    blob = await scene.target.store.stat_blob(Digest.of(b"arm"))
    await lose(scene.target.store, blob.digest)
    await scene.target.store.index.suspect_blob(blob.digest, blob.generation)
    report = await scene.copy()
    assert (report.blobs_copied, report.manifests_copied) == (1, 0)
    await scene.assert_alike()


async def test_a_store_is_not_copied_onto_itself(scene: Scene) -> None:
    """That is refused."""
    with pytest.raises(ConfigInvalid, match="the same store"):
        await copy_store(scene.source.store, scene.source.store)


async def test_progress_ends_at_all_bytes(scene: Scene) -> None:
    """It never goes back by itself, and the last one is the total that was foreseen, or a little more."""
    seen: list[Progress] = []

    def note(event: Event) -> None:
        if isinstance(event, Progress) and event.phase == "copy":
            seen.append(event)

    await scene.copy(progress=note)
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert all(0 < event.done <= event.total for event in seen)
    assert len(BIG) < seen[-1].done == seen[-1].total


async def test_pins_hold_at_the_target(scene: Scene) -> None:
    """A pinned blob survives the target's collector, also one that was there before, unpinned, or of a repository."""
    await scene.target.push_blob(PINNED, "app")
    await scene.copy()
    scene.target.clock.advance(30 * DAY_MS)
    for _ in range(2):
        await scene.target.collector(AT_ONCE).run(is_full=True)
    async with scene.target.store.open_blob(Digest.of(PINNED)) as blob:
        assert await blob.read() == PINNED
    await scene.target.store.unpin(Digest.of(PINNED))
    with pytest.raises(BlobUnknown):
        await scene.target.store.unpin(Digest.of(PINNED))
