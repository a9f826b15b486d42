"""Holes that an attacker found once: each stays closed."""

from __future__ import annotations

from typing import Any

import pytest

from blobstore.abc.records import ManifestPut
from blobstore.app import make_collector
from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.errors import FormatUnsupported, ManifestBlobUnknown, ManifestInvalid, StorageFull
from blobstore.gc import GcPolicy
from blobstore.gc.plan import decode_plan, encode_plan
from blobstore.layout import BLOBS_PREFIX, JOURNAL_PREFIX
from blobstore.manifest import OCI_MANIFEST
from blobstore.names import RepositoryName
from blobstore.testing.fakes import image, image_index, layer
from blobstore.testing.invariants import find_garbage
from tests.gc.scene import AT_ONCE, DAY_MS, HOUR_MS, Bench


async def test_what_an_old_plan_drops_is_promised_from_the_drop_on(bench: Bench) -> None:
    """Carried out 30 hours later, the blobs of a dropped manifest still have their whole grace."""
    await bench.push_image(b"config", [b"layer"], "one")
    await bench.store.repository("app").untag("one")
    bench.clock.advance(2 * DAY_MS)
    collector = bench.collector(GcPolicy(delete_untagged=True))
    plan = await collector.plan()
    bench.clock.advance(30 * HOUR_MS)
    assert (await collector.carry_out(plan)).dropped_manifests == 1
    await bench.store.repository("app").stat_blob(Digest.of(b"layer"))
    assert (await bench.collect(GcPolicy())).condemned_blobs == 0


async def test_a_long_chain_of_dropped_children_is_refused_with_advice(bench: Bench) -> None:
    """Neither recursion nor a quadratic transaction; pushed from the bottom it is taken."""
    chain = [await bench.push_image(b"config", [])]
    for _ in range(60):
        chain.append(image_index([chain[-1]]))
        await bench.push(chain[-1])
    await bench.collect(GcPolicy(grace_s=0, quarantine_s=1000, delete_untagged=True))
    error = await bench.fails(bench.push(chain[-1], "top"))
    assert isinstance(error, ManifestInvalid)
    assert "push those first" in str(error)
    for manifest in chain:
        await bench.push(manifest)
    assert (await bench.store.totals()).uploads == 0


async def test_a_child_named_twice_is_needed_in_the_stricter_way(bench: Bench) -> None:
    """As a foreign layer and as a plain one: it must be here. As a manifest and as a layer: it is a manifest."""
    await bench.push_blob(b"config")
    twice = image(b"config", [layer(b"absent", is_foreign=True), layer(b"absent")])
    assert isinstance(await bench.fails(bench.push(twice)), ManifestBlobUnknown)
    child = await bench.push_image(b"config", [b"layer"])
    as_layer = Descriptor("application/octet-stream", child.digest, child.size_bytes)
    as_manifest = Descriptor(OCI_MANIFEST, child.digest, child.size_bytes)
    await bench.push(image_index([as_layer, as_manifest]), "multi")
    assert (await bench.collect()).freed_blobs == 0


async def test_a_child_that_goes_while_it_is_read_back_is_missing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record was dropped, and its bytes are collected before the put has read them: the answer names what to push."""
    child = await bench.push_image(b"config", [b"layer"])
    await bench.collect(GcPolicy(grace_s=0, quarantine_s=HOUR_MS // 1000, delete_untagged=True))
    put = bench.store.index.put_manifest

    async def put_then_collect(*given: Any) -> ManifestPut:
        result = await put(*given)
        if result.needed:
            bench.clock.advance(HOUR_MS)
            await bench.collect()
        return result

    monkeypatch.setattr(bench.store.index, "put_manifest", put_then_collect)
    error = await bench.fails(bench.push(image_index([child])))
    assert isinstance(error, ManifestBlobUnknown)
    assert error.missing == (child.digest,)
    await bench.check()


async def test_a_layer_that_is_a_manifests_digest_keeps_the_bytes_not_the_record(bench: Bench) -> None:
    """The dry run and the run agree about it."""
    child = await bench.push_image(b"config", [b"layer"])
    named = Descriptor("application/octet-stream", child.digest, child.size_bytes)
    await bench.push(image(b"config", [named]), "one")
    report = await bench.collect()
    assert [drop.key.digest for drop in report.plan.drops] == [child.digest]
    assert await bench.store.index.find_blob(child.digest) is not None
    assert not await bench.is_there(b"layer")


@pytest.mark.parametrize("delete_untagged", [True, False])
async def test_an_incremental_report_never_counts_below_nothing(bench: Bench, delete_untagged: bool) -> None:
    """What goes with a loose record is not loose itself."""
    children = [await bench.push_image(b"config %d" % number, []) for number in range(2)]
    await bench.push(image_index(children))
    policy = GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=delete_untagged)
    report = await bench.collect(policy, is_full=False)
    assert report.plan.untagged_kept == (0 if delete_untagged else 1)


async def test_a_plan_edited_by_hand_is_checked_line_by_line(bench: Bench) -> None:
    """Values that no planning would give are refused, not carried out."""
    plan = encode_plan(await bench.collector(AT_ONCE).plan()).decode()
    run = decode_plan(plan.encode()).run
    for old, new in (
        (run, "x" * 600),
        ('"batch_max": 1000', '"batch_max": 0'),
        ('"now_ms": ', '"now_ms": -'),
        ('"now_ms": ', '"now_ms": 99'),
        ('"max_share": 0.5', '"max_share": 7'),
    ):
        assert old in plan
        with pytest.raises(FormatUnsupported):
            decode_plan(plan.replace(old, new, 1).encode())


async def test_bytes_that_can_not_be_deleted_are_told_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that frees nothing does not say that all is well."""
    await bench.push_blob(b"garbage")
    backend = bench.store.backend

    async def refuse(keys: list[str]) -> frozenset[str]:
        return frozenset()

    with monkeypatch.context() as patched:
        patched.setattr(backend, "delete", refuse)
        report = await make_collector(bench.store, AT_ONCE).run()
        assert (report.condemned_blobs, report.freed_blobs, report.undeleted) == (1, 0, 1)
        assert report.to_json()["undeleted"] == 1
    assert (await make_collector(bench.store, AT_ONCE).run()).freed_blobs == 1


async def test_a_run_that_died_can_be_undone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is remembered before it drops anything."""
    manifest = await bench.push_image(b"config", [b"layer"], "one")
    await bench.store.repository("app").untag("one")
    collector = bench.collector(GcPolicy(grace_s=0, delete_untagged=True))
    plan = await collector.plan()
    with monkeypatch.context() as patched:
        patched.setattr(collector, "_condemn", _die)
        with pytest.raises(KeyboardInterrupt):
            await collector.carry_out(plan)
    assert [key.digest for key in (await collector.undo(plan.run)).manifests] == [manifest.digest]
    assert (await collector.undo(plan.run)).manifests_lost == ()


async def _die(*_: object) -> None:
    raise KeyboardInterrupt


async def test_a_subject_that_comes_back_takes_its_referrers_back(bench: Bench) -> None:
    """They are no longer loose, and go with it again when it goes."""
    subject = await bench.push_image(b"config", [], "one")
    await bench.push_image(b"sig config", [b"signature"], subject=subject)
    await bench.store.repository("app").delete_manifest(subject.digest)
    await bench.push_image(b"config", [], "one")
    assert (await bench.collect(GcPolicy(grace_s=0, quarantine_s=0))).plan.drops == ()
    assert (await bench.store.totals()).loose_manifests == 0


@pytest.mark.parametrize("is_full", [True, False])
async def test_a_subject_that_goes_in_another_repository_is_none_of_ours(bench: Bench, is_full: bool) -> None:
    """Here it never was: the referrer goes as an untagged manifest, and the dry run says so."""
    subject = await bench.push_image(b"config", [], repository="theirs")
    await bench.push_image(b"sig config", [b"signature"], repository="ours", subject=subject)
    report = await bench.collect(is_full=is_full)
    assert {drop.key.repository: drop.reason for drop in report.plan.drops} == {
        "theirs": "untagged",
        "ours": "untagged",
    }


async def test_a_removal_that_was_killed_is_finished_and_dry_runs_stay_exact(bench: Bench) -> None:
    """What is hidden keeps its blobs for the run that finishes it, as the dry run before said; the next one frees them."""
    await bench.push_image(b"config", [b"layer"], "one")
    await bench.push_blob(b"let go")
    await bench.store.index.hide_repository(RepositoryName("app"), bench.clock.now_ms())
    assert (await bench.collect()).freed_blobs == 1
    assert (await bench.collect()).freed_blobs == 3
    assert await find_garbage(bench.store) == []


async def test_a_full_disk_is_collected_although_nothing_can_be_journaled(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal says what was freed as soon as that has made room."""
    await bench.push_blob(b"garbage")
    backend = bench.store.backend
    put_new = backend.put_new

    async def put_where_there_is_room(key: str, data: bytes) -> bool:
        if any([True async for _ in backend.list(BLOBS_PREFIX)]):
            raise StorageFull("no space left")
        return await put_new(key, data)

    monkeypatch.setattr(backend, "put_new", put_where_there_is_room)
    assert (await bench.collect(AT_ONCE)).freed_blobs == 1
    assert [True async for _ in backend.list(JOURNAL_PREFIX)]
