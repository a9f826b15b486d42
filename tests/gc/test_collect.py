"""What a collection frees, what it spares, and when."""

from __future__ import annotations

import msgspec
import pytest

from blobstore.descriptor import Descriptor
from blobstore.digest import Algorithm, Digest
from blobstore.errors import BlobUnknown, ManifestBlobUnknown, ManifestUnknown
from blobstore.gc import GcPolicy
from blobstore.gc.collector import new_run
from blobstore.inventory import digest_part
from blobstore.layout import DATA_PREFIX
from blobstore.manifest import OCI_MANIFEST
from blobstore.testing.fakes import image, image_index, layer
from tests.gc.scene import AT_ONCE, DAY_MS, HOUR_MS, Bench


async def test_frees_exactly_what_no_other_image_shares(bench: Bench) -> None:
    """Two images share a layer; deleting one and collecting frees its own layer, config and manifest, nothing else."""
    await bench.push_image(b"config 1", [b"shared", b"own 1"], "one")
    other = await bench.push_image(b"config 2", [b"shared", b"own 2"], "two")
    await bench.store.repository("app").delete_manifest(other.digest)
    report = await bench.collect()
    assert report.freed_blobs == 3
    assert report.freed_bytes == len(b"config 2") + len(b"own 2") + other.size_bytes
    assert await bench.is_there(b"shared")
    assert not await bench.is_there(b"own 2")
    assert len({digest_part(key) for key in await bench.keys() if not key.startswith(DATA_PREFIX)}) == 4


async def test_a_manifest_shared_by_two_repositories_lives_until_both_let_go(bench: Bench) -> None:
    """Edges are keyed by repository and manifest: one repository's delete takes nothing from the other."""
    manifest = await bench.push_image(b"config", [b"layer"], "1", repository="left")
    await bench.push_image(b"config", [b"layer"], "1", repository="right")
    await bench.store.repository("left").delete_manifest(manifest.digest)
    assert (await bench.collect()).freed_blobs == 0
    await bench.store.repository("right").delete_manifest(manifest.digest)
    assert (await bench.collect()).freed_blobs == 3


async def test_a_blob_no_manifest_refers_to_waits_for_its_grace(bench: Bench) -> None:
    """An upload is a promise for grace and renewal time; after that the blob is condemned, and freed after the quarantine."""
    await bench.push_blob(b"lonely")
    policy = GcPolicy()
    report = await bench.collect(policy)
    assert report.to_json()["blobs"] == {
        "total": 1, "live": 0, "held": 1, "candidates": 0, "waiting": 0, "condemned": 0, "freed": 0
    }  # fmt: skip
    bench.clock.advance(DAY_MS + 61_000)
    report = await bench.collect(policy)
    assert (report.condemned_blobs, report.freed_blobs) == (1, 0)
    report = await bench.collect(policy)
    assert report.to_json()["blobs"]["waiting"] == 1
    bench.clock.advance(HOUR_MS)
    assert (await bench.collect(policy)).freed_blobs == 1
    assert await bench.keys() == set()


@pytest.mark.parametrize("is_full", [True, False])
async def test_an_incremental_run_finds_what_was_let_go(bench: Bench, is_full: bool) -> None:
    """Full and incremental runs name the same garbage after a delete."""
    keep = await bench.push_image(b"config 1", [b"shared", b"own 1"], "one")
    gone = await bench.push_image(b"config 2", [b"shared", b"own 2"], "two")
    await bench.store.repository("app").untag("two")
    report = await bench.collect(is_full=is_full)
    assert [drop.key.digest for drop in report.plan.drops] == [gone.digest]
    assert report.freed_blobs == 3
    assert (await bench.store.repository("app").get_manifest("one")).digest == keep.digest


async def test_untagged_manifests_stay_without_the_flag_and_are_told_of(bench: Bench) -> None:
    """The report says how many untagged manifests keep how many bytes."""
    await bench.push_image(b"config", [b"layer", b"shared"], "one")
    await bench.push_image(b"config 2", [b"shared"], "two")
    manifest = await bench.store.repository("app").find_manifest("one")
    await bench.store.repository("app").untag("one")
    report = await bench.collect(GcPolicy(grace_s=0, quarantine_s=0))
    assert report.plan.drops == ()
    assert report.plan.untagged_kept == 1
    assert report.plan.untagged_kept_bytes == manifest.size_bytes + len(b"config") + len(b"layer")


async def test_dropped_manifests_let_go_later_when_there_is_a_grace(bench: Bench) -> None:
    """With a grace the run drops the record and says what will follow; the blobs go when their own grace is over."""
    manifest = await bench.push_image(b"config", [b"layer"], "one")
    await bench.store.repository("app").untag("one")
    policy = GcPolicy(delete_untagged=True, quarantine_s=0)
    assert (await bench.collect(policy)).plan.drops == ()
    bench.clock.advance(2 * DAY_MS)
    report = await bench.collect(policy)
    assert len(report.plan.drops) == 1
    assert (report.plan.later.blobs, report.plan.later.size_bytes) == (3, manifest.size_bytes + 11)
    assert report.freed_blobs == 0
    bench.clock.advance(2 * DAY_MS)
    assert (await bench.collect(policy)).freed_blobs == 3


async def test_children_of_a_tagged_image_index_live(bench: Bench) -> None:
    """Image indexes within image indexes keep their untagged children, with --delete-untagged and no grace."""
    child = await bench.push_image(b"config", [b"layer"])
    inner = image_index([child])
    await bench.push(inner)
    outer = image_index([inner])
    await bench.push(outer, "multi")
    assert (await bench.collect()).freed_blobs == 0
    await bench.store.repository("app").untag("multi")
    report = await bench.collect()
    assert len(report.plan.drops) == 3
    assert report.freed_blobs == 5


@pytest.mark.parametrize("is_full", [True, False])
async def test_referrers_live_with_their_subject_and_go_after_it(bench: Bench, is_full: bool) -> None:
    """A signature and the signature of that stay while the image has a tag, and go without the flag once it is deleted."""
    subject = await bench.push_image(b"config", [b"layer"], "one")
    signature = await bench.push_image(b"sig config", [b"signature"], subject=subject)
    await bench.push_image(b"sig config", [b"countersignature"], subject=signature)
    policy = GcPolicy(grace_s=0, quarantine_s=0)
    assert (await bench.collect(is_full=is_full)).freed_blobs == 0
    await bench.store.repository("app").delete_manifest(subject.digest)
    report = await bench.collect(policy, is_full=is_full)
    assert [drop.reason for drop in report.plan.drops] == ["subject-gone", "subject-gone"]
    assert await bench.keys() == set()


async def test_a_referrer_whose_subject_never_came_is_an_untagged_manifest(bench: Bench) -> None:
    """Its subject was never here, so only --delete-untagged lets it go."""
    absent = image(b"absent", [])
    await bench.push_image(b"sig config", [b"signature"], subject=absent)
    assert (await bench.collect(GcPolicy(grace_s=0, quarantine_s=0))).plan.drops == ()
    report = await bench.collect()
    assert [drop.reason for drop in report.plan.drops] == ["untagged"]


@pytest.mark.parametrize("size", [1, 3])
async def test_a_hostile_circle_of_subject_and_children_is_collected(bench: Bench, size: int) -> None:
    """An image index whose subject leads back to its own child keeps itself alive by reference counts; marking sees through."""
    first = last = await bench.push_image(b"config", [b"layer"])
    for number in range(size - 1):
        last = await bench.push_image(b"config", [b"layer %d" % number], subject=last)
    circle = image_index([first], subject=last)
    await bench.push(circle, "hostile")
    assert (await bench.collect()).freed_blobs == 0
    await bench.store.repository("app").untag("hostile")
    report = await bench.collect()
    assert len(report.plan.drops) == size + 1
    assert await bench.keys() == set()


async def test_a_hostile_circle_goes_with_a_grace_too(bench: Bench) -> None:
    """Its records go in one transaction, as each keeps the other."""
    child = await bench.push_image(b"config", [b"layer"])
    await bench.push(image_index([child], subject=child), "hostile")
    await bench.store.repository("app").untag("hostile")
    policy = GcPolicy(delete_untagged=True, quarantine_s=0)
    bench.clock.advance(2 * DAY_MS)
    assert (await bench.collect(policy)).dropped_manifests == 2
    bench.clock.advance(2 * DAY_MS)
    await bench.collect(policy)
    assert await bench.keys() == set()


async def test_layers_listed_by_a_cache_index_live(bench: Bench) -> None:
    """BuildKit's cache exports list layers in an image index; they are blobs, not manifests."""
    for data in (b"cached layer", b"cache config"):
        await bench.push_blob(data)
    config = Descriptor("application/vnd.buildkit.cacheconfig.v0", Digest.of(b"cache config"), 12)
    await bench.push(image_index([layer(b"cached layer"), config]), "cache")
    assert (await bench.collect()).freed_blobs == 0
    assert await bench.is_there(b"cached layer")


async def test_absent_foreign_layers_are_no_edges_and_present_ones_live(bench: Bench) -> None:
    """A foreign layer need not be here; pushed all the same it is kept, as an image needs it."""
    for data in (b"config", b"foreign but pushed"):
        await bench.push_blob(data)
    foreign = [layer(b"elsewhere", is_foreign=True), layer(b"foreign but pushed", is_foreign=True)]
    await bench.push(image(b"config", foreign), "one")
    assert (await bench.collect()).freed_blobs == 0
    assert await bench.is_there(b"foreign but pushed")


async def test_a_condemned_blob_that_is_pushed_again_comes_back(bench: Bench) -> None:
    """Its old bytes are revived, the new ones are never published."""
    await bench.push_blob(b"wanted")
    keys = await bench.keys()
    await bench.collect(GcPolicy(grace_s=0))
    await bench.push_blob(b"wanted")
    await bench.push(image(b"wanted", []), "one")
    assert keys < await bench.keys()
    assert (await bench.collect()).freed_blobs == 0
    assert await bench.is_there(b"wanted")


async def test_a_manifest_revives_the_condemned_blobs_it_names(bench: Bench) -> None:
    """Blobs were promised, lapsed and were condemned: the put takes them back in its own transaction."""
    for data in (b"config", b"layer"):
        await bench.push_blob(data)
    await bench.collect(GcPolicy(grace_s=0))
    await bench.push(image(b"config", [b"layer"]), "one")
    bench.clock.advance(DAY_MS)
    assert (await bench.collect()).freed_blobs == 0


async def test_a_manifest_naming_retired_blobs_is_refused_with_all_of_them(bench: Bench) -> None:
    """Nothing half done: the manifest is not there, and its own bytes are trash."""
    for data in (b"config", b"layer"):
        await bench.push_blob(data)
    await bench.collect()
    manifest = image(b"config", [b"layer"])
    error = await bench.fails(bench.push(manifest, "one"))
    assert isinstance(error, ManifestBlobUnknown)
    assert set(error.missing) == {Digest.of(b"config"), Digest.of(b"layer")}
    await bench.collect()
    assert await bench.keys() == set()


async def test_asking_for_a_blob_renews_its_promise(bench: Bench) -> None:
    """HEAD answers yes and that yes holds for a grace of its own."""
    await bench.push_blob(b"asked for")
    bench.clock.advance(DAY_MS)
    await bench.store.repository("app").stat_blob(Digest.of(b"asked for"))
    bench.clock.advance(DAY_MS)
    assert (await bench.collect(GcPolicy())).condemned_blobs == 0


async def test_a_pinned_blob_lives_until_it_is_unpinned(bench: Bench) -> None:
    """Not even a run without grace takes a pin."""
    async with await bench.store.open_pinned_upload() as upload:
        await upload.write(b"pinned")
        digest = (await upload.commit()).digest
    assert (await bench.collect()).freed_blobs == 0
    await bench.store.unpin(digest)
    assert (await bench.collect(GcPolicy(quarantine_s=0))).freed_blobs == 1


async def test_a_removed_repository_is_gone_at_once_and_its_bytes_with_the_collection(bench: Bench) -> None:
    """Its name is free again, and what it shared with others stays."""
    await bench.push_image(b"config", [b"own", b"shared"], "one", repository="old")
    await bench.push_image(b"config 2", [b"shared"], "one", repository="other")
    await bench.store.repository("old").remove()
    assert [name async for name in bench.store.repositories()] == ["other"]
    assert (await bench.collect()).freed_blobs == 3
    assert await bench.is_there(b"shared")


async def test_an_alias_lives_as_long_as_its_blob(bench: Bench) -> None:
    """A layer pushed and named by sha512 is found by both digests, kept by its manifest, and gone with it."""
    alias = Digest.of(b"layer", Algorithm.SHA512)
    await bench.push_blob(b"config")
    async with bench.store.repository("app").open_upload() as upload:
        await upload.write(b"layer")
        await upload.commit(alias)
    manifest = image(b"config", [Descriptor("application/octet-stream", alias, 5)])
    await bench.push(manifest, "one")
    assert (await bench.collect()).freed_blobs == 0
    async with bench.store.repository("app").open_blob(alias) as blob:
        assert await blob.read() == b"layer"
    await bench.store.repository("app").delete_manifest(manifest.digest)
    await bench.collect()
    with pytest.raises(BlobUnknown):
        await bench.store.stat_blob(alias)


async def test_an_abandoned_upload_goes_with_its_bytes(bench: Bench) -> None:
    """Idle for a day: the run names it, expires it, and a later write finds it gone."""
    async with bench.store.repository("app").open_upload() as upload:
        await upload.write(b"x" * 3_000_000)
    bench.clock.advance(DAY_MS + 1)
    report = await bench.collect(GcPolicy())
    assert [(each.upload, each.size_bytes) for each in report.plan.abandoned] == [(upload.upload_id, 3_000_000)]
    assert report.expired_uploads == 1
    await bench.collect(GcPolicy())
    assert [info async for info in bench.store.backend.list("uploads/")] == []


async def test_an_old_tag_moved_away_lets_its_manifest_go(bench: Bench) -> None:
    """The manifest that lost its last tag is loose from that moment on."""
    old = await bench.push_image(b"config 1", [], "latest")
    await bench.push_image(b"config 2", [], "latest")
    assert [drop.key.digest for drop in (await bench.collect()).plan.drops] == [old.digest]
    with pytest.raises(ManifestUnknown):
        await bench.store.repository("app").get_manifest(old.digest)


async def test_a_plan_carried_out_later_rechecks_each_line(bench: Bench) -> None:
    """What was wanted again since the plan was made stays; the rest goes."""
    await bench.push_blob(b"wanted again")
    await bench.push_blob(b"not wanted")
    collector = bench.collector(AT_ONCE)
    plan = await collector.plan()
    await bench.push(image(b"wanted again", []), "one")
    report = await collector.carry_out(plan)
    assert (report.condemned_blobs, report.freed_blobs) == (1, 1)
    assert await bench.is_there(b"wanted again")
    await bench.check()


async def test_the_report_adds_up(bench: Bench) -> None:
    """Total = live + held + candidates + waiting, in blobs and bytes, in every state of a store."""
    for number in range(4):
        await bench.push_image(b"config %d" % number, [b"layer %d" % number, b"shared"], f"tag-{number}")
    await bench.push_blob(b"held")
    await bench.store.repository("app").untag("tag-1")
    for policy in (GcPolicy(), GcPolicy(grace_s=0, delete_untagged=True), AT_ONCE):
        document = (await bench.collector(policy).dry_run()).to_json()
        for counts in (document["blobs"], document["bytes"]):
            assert counts["total"] == sum(counts[key] for key in ("live", "held", "candidates", "waiting"))
            assert min(counts.values()) >= 0
        await bench.collect(policy)
    assert msgspec.json.decode((await bench.store.index.list_runs(1))[0].report)["dry_run"] is False


async def test_a_blob_pushed_under_its_manifests_media_type_is_still_a_blob(bench: Bench) -> None:
    """A child listed as a manifest whose record was dropped is put again with its parent, so that its layers have edges."""
    child = await bench.push_image(b"config", [b"layer"])
    await bench.collect(GcPolicy(grace_s=0, quarantine_s=1000, delete_untagged=True))
    with pytest.raises(ManifestUnknown):
        await bench.store.repository("app").get_manifest(child.digest)
    await bench.push(image_index([child]), "multi")
    assert (await bench.store.repository("app").get_manifest(child.digest)).media_type == OCI_MANIFEST
    assert (await bench.collect()).freed_blobs == 0


async def test_a_run_has_the_name_it_was_given(bench: Bench) -> None:
    """Who asked for a run can name it before it begins: its report and its record carry that name."""
    await bench.push_blob(b"garbage")
    name = new_run()
    assert (await bench.collector().dry_run(run=name)).to_json()["run"] == name
    assert (await bench.collector().run(run=name)).to_json()["run"] == name
    assert [record.run for record in await bench.store.index.list_runs(10)] == [name]
