"""What stops a collection before it changes anything, and what brings back what one took."""

from __future__ import annotations

import asyncio
import os

import pytest

from blobstore.abc.records import Seen, Verdict
from blobstore.digest import Digest
from blobstore.errors import (
    BlobUnknown,
    CollectionRefused,
    ForeignStore,
    FormatUnsupported,
    IndexDamaged,
    ManifestBlobUnknown,
    RunUnknown,
    StoreFrozen,
    UploadInterrupted,
)
from blobstore.gc import GcPolicy
from blobstore.gc.explain import explain
from blobstore.gc.plan import decode_plan, encode_plan
from blobstore.generation import Generation
from blobstore.index._tables import Table
from blobstore.layout import MARKER_KEY, blob_key
from blobstore.manifest import Manifest
from blobstore.reconcile import find_missing, find_orphans
from blobstore.scrub import scrub
from blobstore.testing.fakes import image_index
from tests.gc.scene import AT_ONCE, DAY_MS, HOUR_MS, Bench


async def test_undo_brings_back_what_is_still_in_quarantine(bench: Bench) -> None:
    """Blobs are revived, dropped manifests have their records again, and the next run takes nothing."""
    manifest = await bench.push_image(b"config", [b"layer"], "one")
    await bench.store.repository("app").untag("one")
    report = await bench.collect(GcPolicy(grace_s=0, delete_untagged=True))
    assert report.condemned_blobs == 3
    undone = await bench.collector().undo(report.plan.run)
    assert len(undone.blobs) == 3
    assert [key.digest for key in undone.manifests] == [manifest.digest]
    await bench.store.repository("app").tag(manifest.digest, "again")
    assert (await bench.collect()).freed_blobs == 0


async def test_undo_of_an_image_index_puts_children_back_first(bench: Bench) -> None:
    """A record never stands before those it refers to."""
    child = await bench.push_image(b"config", [b"layer"])
    parent = image_index([child])
    await bench.push(parent, "multi")
    await bench.store.repository("app").untag("multi")
    report = await bench.collect(GcPolicy(grace_s=0, delete_untagged=True))
    assert {key.digest for key in (await bench.collector().undo(report.plan.run)).manifests} == {
        child.digest,
        parent.digest,
    }
    await bench.check()


@pytest.mark.parametrize("is_gone", [False, True])
async def test_undo_of_what_rotted_says_so_and_brings_back_the_others(bench: Bench, *, is_gone: bool) -> None:
    """One damaged manifest is no reason to lose the others."""
    for name in ("one", "two"):
        await bench.push_image(name.encode(), [b"layer"], name)
        await bench.store.repository("app").untag(name)
    report = await bench.collect(GcPolicy(grace_s=0, delete_untagged=True))
    rotten, sound = (each.key for each in await bench.store.index.list_dropped(report.plan.run))
    blob = await bench.store.index.find_blob(rotten.digest)
    assert blob is not None
    await bench.store.backend.delete(blob.names)
    if not is_gone:
        await bench.store.backend.put(blob.names[0], b"{")
    undone = await bench.collector().undo(report.plan.run)
    assert (undone.manifests, undone.manifests_lost) == ((sound,), (rotten,))


async def test_undo_after_the_quarantine_says_what_is_lost(bench: Bench) -> None:
    """What was freed can't come back, and undo says so."""
    await bench.push_image(b"config", [b"layer"], "one")
    await bench.store.repository("app").untag("one")
    report = await bench.collect(AT_ONCE)
    undone = await bench.collector().undo(report.plan.run)
    assert undone.blobs == ()
    assert len(undone.manifests_lost) == 1
    with pytest.raises(RunUnknown):
        await bench.collector().undo("no such run")


async def test_a_run_that_would_take_most_of_a_large_store_is_refused(bench: Bench) -> None:
    """The cap counts blobs and names the flag that lifts it."""
    for number in range(12):
        await bench.push_blob(b"garbage %d" % number)
    policy = GcPolicy(grace_s=0, quarantine_s=0, max_share_floor_blobs=10)
    foreseen = await bench.collector(policy).dry_run()
    assert "--max-share" in str(foreseen.refusal)
    assert (foreseen.condemned_blobs, foreseen.freed_blobs) == (0, 0)
    with pytest.raises(CollectionRefused, match="--max-share"):
        await bench.collector(policy).run()
    assert await bench.is_there(b"garbage 1")
    lifted = GcPolicy(grace_s=0, quarantine_s=0, max_share_floor_blobs=10, max_share=1.0)
    assert (await bench.collector(lifted).run()).freed_blobs == 12


@pytest.mark.parametrize("jump_ms", [DAY_MS * 400, -DAY_MS])
async def test_a_clock_that_jumps_costs_a_grace_and_no_blob(bench: Bench, jump_ms: int) -> None:
    """Set forward or back under a running collector: nothing is condemned for one grace, then things go on by themselves."""
    await bench.push_blob(b"promised")
    collector = bench.collector(GcPolicy(quarantine_s=0))
    await collector.run()
    bench.clock.jump(jump_ms)
    with pytest.raises(CollectionRefused, match="clock"):
        await collector.run()
    assert await bench.is_there(b"promised")
    bench.clock.advance(DAY_MS * 2)
    await collector.run()
    assert await bench.is_there(b"promised") == (jump_ms < 0)


async def test_a_clock_set_back_between_processes_is_noticed(bench: Bench) -> None:
    """The index remembers the latest time a collector saw."""
    await bench.collect(GcPolicy())
    bench.clock.jump(-DAY_MS)
    with pytest.raises(CollectionRefused, match="clock"):
        await bench.collector(GcPolicy()).run()


async def test_time_between_processes_is_no_jump(bench: Bench) -> None:
    """A machine that was off for a month collects at once."""
    await bench.push_blob(b"old")
    await bench.collect(GcPolicy())
    bench.clock.jump(30 * DAY_MS)
    assert (await bench.collector(GcPolicy()).run()).condemned_blobs == 1


async def test_another_index_owns_the_store(bench: Bench) -> None:
    """A marker that names another index stops the run."""
    await bench.push_blob(b"blob")
    await bench.store.backend.put(MARKER_KEY, b'{"format":1,"store_id":"other","index_id":"other"}')
    with pytest.raises(ForeignStore):
        await bench.collector().run()
    assert await bench.is_there(b"blob")


async def test_a_journal_ahead_of_the_index_freezes_collecting(bench: Bench) -> None:
    """The index is an older copy: the run stops, and so does every later one."""
    await bench.push_blob(b"garbage")
    await bench.store.backend.put_new(f"journal/{7:020d}-{9:020d}.{'0' * 32}", b"")
    with pytest.raises(StoreFrozen, match="older copy"):
        await bench.collector().run()
    with pytest.raises(StoreFrozen):
        await bench.collector().plan()
    assert await bench.is_there(b"garbage")


async def test_names_of_an_unknown_process_freeze_collecting(bench: Bench) -> None:
    """A generation that this index can't have minted means that it went back, or is not alone."""
    alien = blob_key(Digest.of(b"alien"), Generation(1, 1))
    await bench.store.backend.put_new(alien, b"alien")
    found = await find_orphans(bench.store.index, bench.store.backend, bench.clock)
    assert found.aliens == 1
    with pytest.raises(StoreFrozen):
        await bench.collector().run()
    assert alien in await bench.keys()


async def test_an_edge_without_its_reverse_stops_the_run(bench: Bench) -> None:
    """Without the check the layer would look unreferenced, and be lost."""
    manifest = await bench.push_image(b"config", [b"layer"], "one")
    raw = Digest.of(b"layer").value

    def damage(tx) -> None:
        key = next(key for key, _ in tx.scan_prefix(Table.EDGES_TO, raw))
        tx.delete(Table.EDGES_TO, key)

    await bench.store.index._write(damage)
    with pytest.raises(IndexDamaged, match=r"no reverse"):
        await bench.collector().run()
    assert await bench.is_there(b"layer")
    assert (await bench.store.repository("app").get_manifest("one")).digest == manifest.digest


async def test_an_edge_to_a_blob_without_a_row_stops_the_run(bench: Bench) -> None:
    """A reference to nothing is reported, not collected around."""
    await bench.push_image(b"config", [b"layer"], "one")
    await bench.store.index._write(lambda tx: tx.delete(Table.BLOBS, Digest.of(b"layer").value))
    with pytest.raises(IndexDamaged, match="no row"):
        await bench.collector().run()


async def test_what_a_crash_left_on_the_backend_is_found_and_freed(bench: Bench) -> None:
    """Bytes published by a process that died before its commit: minted here, in no row, so they are trash."""
    await bench.push_blob(b"first")
    row = await bench.store.index.find_blob(Digest.of(b"first"))
    index = bench.store.index
    intent = await index.start_upload("0" * 32, "app", None, bench.clock.now_ms(), "")
    orphan = blob_key(Digest.of(b"orphan"), intent.generation)
    await bench.store.backend.put_new(orphan, b"orphan")
    bench.clock.advance(DAY_MS + 1)
    await bench.collect(GcPolicy(grace_s=10 * DAY_MS / 1000, quarantine_s=0))
    assert orphan not in await bench.keys()
    assert row.names[0] in await bench.keys()


async def test_reconcile_leaves_open_uploads_and_trash_alone(bench: Bench) -> None:
    """What is in an intent or the trash is known."""
    async with bench.store.repository("app").open_upload() as upload:
        await upload.write(b"x" * 2_000_000)
        found = await find_orphans(bench.store.index, bench.store.backend, bench.clock)
        assert (found.orphans, found.aliens) == (0, 0)
        await upload.commit()
    await bench.collect(GcPolicy(grace_s=0))
    assert (await find_orphans(bench.store.index, bench.store.backend, bench.clock)).orphans == 0


async def test_missing_bytes_make_a_blob_suspect_and_a_push_heals_it(bench: Bench) -> None:
    """404 for a suspect blob makes clients push it again, and the image is whole."""
    await bench.push_image(b"config", [b"layer"], "one")
    blob = await bench.store.index.find_blob(Digest.of(b"layer"))
    await bench.store.backend.delete(blob.names)
    found = await find_missing(bench.store.index, bench.store.backend, recheck_s=0)
    assert found.missing == [blob.digest]
    with pytest.raises(BlobUnknown):
        await bench.store.repository("app").stat_blob(blob.digest)
    await bench.push_blob(b"layer")
    await bench.store.repository("app").stat_blob(blob.digest)
    assert (await find_missing(bench.store.index, bench.store.backend, recheck_s=0)).missing == []
    assert (await bench.collect()).freed_blobs == 0


async def test_scrub_finds_flipped_bits(bench: Bench) -> None:
    """The damaged blob is marked, the others are not, and a suspect nobody refers to is thrown away."""
    await bench.push_blob(b"good")
    await bench.push_blob(b"damaged")
    blob = await bench.store.index.find_blob(Digest.of(b"damaged"))
    await bench.store.backend.put(blob.names[0], b"dAmaged")
    report = await scrub(bench.store.parts, recheck_s=0)
    assert (report.blobs, report.damaged) == (2, [blob.digest])
    run = await bench.collect()
    assert {candidate.reason for candidate in run.plan.candidates} == {"unreferenced", "damaged"}
    assert await bench.keys() == set()


async def test_a_plan_written_down_reads_back_the_same(bench: Bench) -> None:
    """And anything else is refused with a sentence."""
    await bench.push_image(b"config", [b"layer"], "one")
    await bench.store.repository("app").untag("one")
    plan = await bench.collector(AT_ONCE).plan()
    once = decode_plan(encode_plan(plan))
    assert (once.drops, once.candidates, once.due) == (plan.drops, plan.candidates, plan.due)
    assert decode_plan(encode_plan(once)) == once
    report = await bench.collector(AT_ONCE).carry_out(decode_plan(encode_plan(plan)))
    assert report.freed_blobs == 3
    for spoiled in (b"", b"{}", b"[]", encode_plan(plan).replace(b'"version": 1', b'"version": 2'), os.urandom(100)):
        with pytest.raises(FormatUnsupported):
            decode_plan(spoiled)


async def test_a_plan_of_another_store_is_refused(bench: Bench) -> None:
    """Plans carry the id of their store."""
    plan = await bench.collector().plan()
    other = decode_plan(encode_plan(plan).replace(plan.store_id.encode(), b"f" * 32))
    with pytest.raises(CollectionRefused, match="store"):
        await bench.collector().carry_out(other)


async def test_explain_says_what_keeps_a_blob(bench: Bench) -> None:
    """The way from the tag to the layer, the promise, the pin, the quarantine."""
    manifest = await bench.push_image(b"config", [b"layer"], "one")

    async def verdict(data: bytes) -> str:
        now_ms = bench.clock.now_ms()
        return (await explain(bench.store.index, Digest.of(data), GcPolicy(), now_ms)).verdict

    assert "app:one needs it" in await verdict(b"layer")
    await bench.store.repository("app").untag("one")
    assert "--delete-untagged" in await verdict(b"layer")
    await bench.store.repository("app").delete_manifest(manifest.digest)
    assert "promised" in await verdict(b"layer")
    bench.clock.advance(2 * DAY_MS)
    assert "garbage" in await verdict(b"layer")
    await bench.collect(GcPolicy())
    assert "condemned" in await verdict(b"layer")
    bench.clock.advance(HOUR_MS)
    await bench.collect(GcPolicy())
    with pytest.raises(BlobUnknown):
        await verdict(b"layer")


async def test_a_verdict_reads_the_index_after_the_listing(bench: Bench) -> None:
    """A name listed before its blob was committed is known by the time it is judged."""
    await bench.push_blob(b"blob")
    blob = await bench.store.index.find_blob(Digest.of(b"blob"))
    seen = [
        Seen(blob.names[0], blob.generation, blob.digest, 4),
        Seen("uploads/x", Generation(blob.generation.epoch, blob.generation.counter + 1000), None, 0),
    ]
    assert list(await bench.store.index.judge(seen)) == [Verdict.KNOWN, Verdict.ALIEN]


async def test_concurrent_collectors_free_each_blob_once(bench: Bench) -> None:
    """Each step re-checks and may be repeated; what one has freed the other does not count."""
    for number in range(50):
        await bench.push_blob(b"garbage %d" % number)
    reports = await asyncio.gather(*(bench.collector(AT_ONCE).run() for _ in range(4)))
    assert sum(report.freed_blobs for report in reports) == 50
    assert await bench.keys() == set()
    totals = await bench.store.totals()
    assert (totals.present_blobs, totals.condemned_blobs, totals.unreferenced_blobs, totals.trash) == (0, 0, 0, 0)


async def test_collecting_while_images_are_pushed_breaks_none(bench: Bench) -> None:
    """Pushers, retaggers and collectors with next to no grace at once: a push may have to start anew, no image ever breaks."""
    policy = GcPolicy(grace_s=0.02, renew_s=0, quarantine_s=0.005, delete_untagged=True)
    turns = asyncio.Semaphore(0)

    async def push_until_through(name: int, number: int) -> Manifest:
        layers = [b"shared %d" % (number % 3), b"own %d %d" % (name, number)]
        for _ in range(1000):
            for _ in range(3):
                turns.release()
            try:
                return await bench.push_image(b"config %d" % name, layers, f"t{name}")
            except (ManifestBlobUnknown, UploadInterrupted):
                continue
        raise AssertionError("never got through")

    async def pusher(name: int) -> None:
        for number in range(8):
            manifest = await push_until_through(name, number)
            for reference in manifest.references:
                async with bench.store.repository("app").open_blob(reference.digest) as blob:
                    assert Digest.of(await blob.read()) == reference.digest

    async def collect() -> None:
        while True:
            await turns.acquire()
            if done.is_set():
                return
            bench.clock.advance(1)
            await bench.collector(policy).run()

    done = asyncio.Event()
    collecting = [asyncio.create_task(collect()) for _ in range(2)]
    await asyncio.gather(*(pusher(name) for name in range(4)))
    done.set()
    turns.release()
    turns.release()
    await asyncio.gather(*collecting)
    bench.clock.advance(1000)
    for _ in range(2):
        await bench.collect(AT_ONCE)
    assert len([entry async for entry in bench.store.repository("app").tags()]) == 4
    assert (await bench.store.totals()).trash == 0
