"""Bytes that could not get their name: what lies under `data/` belongs to the blob that its commit record names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import msgspec
import pytest

from blobstore.abc.backend import ObjectInfo
from blobstore.app import make_collector
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.errors import DigestMismatch, KeyUnknown, UploadInterrupted
from blobstore.gc import GcPolicy
from blobstore.index.memory import MemoryIndex
from blobstore.layout import DATA_PREFIX, RECORDS_PREFIX, UPLOADS_PREFIX, blob_key, data_key, is_record_key
from blobstore.missing import find_missing
from blobstore.names import UploadId
from blobstore.rebuild import finish, rebuild
from blobstore.reconcile import OrphanReport, find_orphans, reconcile
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from blobstore.testing.invariants import find_broken, find_garbage
from tests.gc.scene import AT_ONCE, DAY_MS, Bench


class Bucket(MemoryBackend):
    """Counts requests, notes what is deleted, and may refuse to delete a key."""

    def __init__(self) -> None:
        super().__init__(renames=False)
        self.requests = {"stat": 0, "list": 0, "read": 0}
        self.deleted: list[Sequence[str]] = []
        self.refused: set[str] = set()

    async def stat(self, key: str) -> ObjectInfo:
        self.requests["stat"] += 1
        return await super().stat(key)

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        self.requests["list"] += 1
        listed = 0
        async for info in super().list(prefix, after):
            listed += 1
            if listed % 1000 == 0:
                self.requests["list"] += 1
            yield info

    def read(self, key: str, start: int = 0, stop: int | None = None):
        self.requests["read"] += 1
        return super().read(key, start, stop)

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        self.deleted.append(tuple(keys))
        return await super().delete([key for key in keys if key not in self.refused])


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def bench(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Every blob but manifests is sent before its digest is known."""
    monkeypatch.setattr("blobstore.uploads.CHUNK_BYTES", 1)
    store = Store(Bucket(), MemoryIndex(), clock=clock)
    await store.open(create=True)
    yield Bench(store, clock)
    await store.aclose()


def bucket_of(bench: Bench) -> Bucket:
    assert isinstance(bench.store.backend, Bucket)
    return bench.store.backend


async def names_of(bench: Bench, data: bytes) -> tuple[str, ...]:
    blob = await bench.store.index.find_blob(Digest.of(data))
    assert blob is not None
    return blob.names


async def test_a_record_is_deleted_before_its_bytes(bench: Bench) -> None:
    """In requests of their own, however many: so that no record ever speaks of bytes that are gone."""
    for number in range(20):
        await bench.push_blob(b"layer %d" % number)
    await bench.collect()
    kinds = [{is_record_key(key) for key in keys} for keys in bucket_of(bench).deleted if keys]
    assert kinds == [{True}, {False}]
    assert await find_garbage(bench.store) == []


async def test_a_collection_deletes_by_the_thousand(bench: Bench) -> None:
    """As many requests as there are thousands of names, and none for a single one; planning asks for the marker alone."""
    for number in range(1200):
        await bench.push_blob(b"layer %d" % number)
    bucket = bucket_of(bench)
    policy = msgspec.structs.replace(AT_ONCE, max_share=1.0)
    assert await _requests(bucket, bench.collector(policy).plan()) == {"stat": 0, "list": 0, "read": 1}
    bucket.deleted.clear()
    assert (await bench.collector(policy).run()).freed_blobs == 1200
    assert [len(keys) for keys in bucket.deleted if keys] == [1000, 1000, 200, 200]
    assert bucket.requests["stat"] == 0


async def test_bytes_stay_while_their_record_can_not_be_deleted(bench: Bench) -> None:
    """And go with the next run that can."""
    await bench.push_blob(b"layer")
    data, record = await names_of(bench, b"layer")
    bucket_of(bench).refused = {record}
    report = await bench.collector(AT_ONCE).run()
    assert (report.freed_blobs, report.undeleted) == (0, 1)
    assert {data, record} <= await bench.keys()
    bucket_of(bench).refused = set()
    assert (await bench.collector(AT_ONCE).run()).freed_blobs == 1
    assert await bench.keys() == set()


async def test_a_reconcile_lists_and_asks_for_nothing(bench: Bench) -> None:
    """One listing of each prefix serves both ways: no request for a single blob, whatever name it has."""
    for number in range(1200):
        await bench.push_blob(b"layer %d" % number)
    await bench.push_image(b"config", [b"layer 7"], "one")
    bucket = bucket_of(bench)
    bucket.requests = dict.fromkeys(bucket.requests, 0)
    orphans, missing = await reconcile(bench.store.index, bucket, bench.clock, recheck_s=0)
    # data/ and commits/ hold more than one page each; blobs/ and uploads/ less.
    assert bucket.requests == {"stat": 0, "list": 6, "read": 0}
    assert (orphans.listed, orphans.orphans, orphans.aliens) == (2 * 1201 + 1, 0, 0)
    assert missing.blobs == 1202
    assert missing.missing == missing.wrong_size == missing.unrecorded == missing.index_problems == []


async def test_only_what_is_doubtful_is_looked_at(bench: Bench) -> None:
    """A blob without bytes, one cut short, and one whose bytes are in order are told apart; a push heals the first two."""
    for data in (b"sound", b"gone", b"cut"):
        await bench.push_blob(data)
    bucket = bucket_of(bench)
    await bucket.delete([(await names_of(bench, b"gone"))[0]])
    await bucket.put((await names_of(bench, b"cut"))[0], b"c")
    bucket.requests["stat"] = 0
    found = await find_missing(bench.store.index, bucket, recheck_s=0)
    assert (found.missing, found.wrong_size) == ([Digest.of(b"gone")], [Digest.of(b"cut")])
    assert bucket.requests["stat"] == 4
    for data in (b"gone", b"cut"):
        await bench.push_blob(data)
    found = await find_missing(bench.store.index, bucket, recheck_s=0)
    assert (found.missing, found.wrong_size, found.suspect) == ([], [], [])


async def test_a_lost_record_is_put_again(bench: Bench) -> None:
    """Its bytes are no orphan for that, and a rebuild finds the blob."""
    await bench.push_image(b"config", [b"layer"], "one")
    data, record = await names_of(bench, b"layer")
    bucket = bucket_of(bench)
    await bucket.delete([record])
    orphans, missing = await reconcile(bench.store.index, bucket, bench.clock, recheck_s=0)
    assert (orphans.orphans, orphans.aliens) == (0, 0)
    assert missing.unrecorded == [Digest.of(b"layer")]
    assert missing.missing == []
    assert {data, record} <= await bench.keys()
    assert await find_broken(bench.store) == []
    assert (await find_missing(bench.store.index, bucket, recheck_s=0)).unrecorded == []


@pytest.mark.parametrize("has_record", [False, True])
async def test_what_a_commit_left_that_was_cut_short_goes(bench: Bench, *, has_record: bool) -> None:
    """The process died behind the bytes, or behind the record: minted here, of no blob, so both are trash."""
    await bench.push_blob(b"kept")
    intent = await bench.store.index.start_upload(UploadId.random(), "app", None, bench.clock.now_ms(), "")
    upload = await bench.store.backend.open_upload(str(intent.generation))
    await upload.write(b"orphan")
    names = await upload.commit(blob_key(Digest.of(b"orphan"), intent.generation))
    if not has_record:
        await bench.store.backend.delete([names[1]])
    bench.clock.advance(DAY_MS + 1)
    await bench.collector(GcPolicy(grace_s=10 * DAY_MS / 1000, quarantine_s=0)).run()
    assert await bench.keys() == set(await names_of(bench, b"kept"))


async def test_a_blob_committed_while_we_listed_is_no_orphan(bench: Bench) -> None:
    """Its bytes were listed, its record came after the records were, and its intent was gone when we asked."""
    bucket = bucket_of(bench)
    async with bench.store.repository("app").open_upload() as upload:
        await upload.write(b"late")
        staged = upload._staged
        assert staged is not None
        listing = bucket.list

        async def list_around_a_commit(prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
            if prefix == DATA_PREFIX:
                # As if a request had made the bytes visible, and the next one had not been sent yet.
                yield ObjectInfo(data_key(upload._intent.generation), 4)
            async for info in listing(prefix, after):
                yield info
            if prefix == RECORDS_PREFIX:
                await upload.commit()

        bucket.list = list_around_a_commit  # type: ignore[method-assign]
        found = await find_orphans(bench.store.index, bucket, bench.clock)
        bucket.list = listing  # type: ignore[method-assign]
    assert (found.orphans, found.aliens) == (0, 0)
    async with bench.store.open_blob(Digest.of(b"late")) as blob:
        assert await blob.read() == b"late"


async def test_bytes_of_an_unknown_process_freeze_collecting(bench: Bench) -> None:
    """Also those under a name that says no digest."""
    other = Store(MemoryBackend(renames=False), MemoryIndex(), clock=bench.clock)
    await other.open(create=True)
    await Bench(other, bench.clock).push_blob(b"strange")
    blob = await other.index.find_blob(Digest.of(b"strange"))
    await other.aclose()
    assert blob is not None
    await bench.store.backend.put_new(blob.names[0], b"strange")
    assert (await find_orphans(bench.store.index, bench.store.backend, bench.clock)).aliens == 1
    assert (await bench.store.index.guards()).frozen is not None


async def test_announced_bytes_have_their_name_from_the_start(bench: Bench) -> None:
    """No record is needed; and bytes of another digest are refused before any of them is to be seen."""
    repository = bench.store.repository("app")
    async with repository.open_upload(Digest.of(b"right")) as upload:
        await upload.write(b"right")
        await upload.commit()
    assert [name.partition("/")[0] for name in await names_of(bench, b"right")] == ["blobs"]
    before = await bench.keys()
    for claimed in (None, Digest.of(b"wrong")):
        async with repository.open_upload(Digest.of(b"right")) as upload:
            await upload.write(b"wrong")
            with pytest.raises(DigestMismatch):
                await upload.commit(claimed)
    await bench.store.parts.cleaner.aclose()
    assert await bench.keys() == before
    assert [info async for info in bench.store.backend.list(UPLOADS_PREFIX)] == []


async def test_an_announced_digest_outlives_a_session(bench: Bench) -> None:
    """Whoever goes on with the upload sends to the same name, and is held to the same digest."""
    repository = bench.store.repository("app")
    for data in (b"first second", b"first wrong"):
        async with repository.open_upload(Digest.of(b"first second")) as upload:
            await upload.write(b"first ")
        async with repository.resume_upload(upload.upload_id) as resumed:
            await resumed.write(data.removeprefix(b"first "))
            if data.endswith(b"wrong"):
                with pytest.raises(DigestMismatch):
                    await resumed.commit()
            else:
                assert (await resumed.commit()).digest == Digest.of(data)
    assert [name.partition("/")[0] for name in await names_of(bench, b"first second")] == ["blobs"]


async def test_a_commit_cancelled_anywhere_leaves_all_or_nothing(bench: Bench) -> None:
    """Between bytes and record, too: what came to be of a blob that isn't one is trash at once, by all its names."""
    kept: set[str] = set()
    outcomes: set[bool] = set()
    for steps in range(40):
        data = b"blob %d" % steps
        task = asyncio.create_task(bench.push_blob(data))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        blob = await bench.store.index.find_blob(Digest.of(data))
        outcomes.add(blob is not None)
        if blob is not None:
            kept.update(blob.names)
        await bench.store.parts.cleaner.aclose()
        assert await bench.keys() == kept, steps
    assert outcomes == {False, True}


async def test_a_commit_cancelled_before_its_record_takes_its_bytes_back(bench: Bench) -> None:
    """They are trash at once, by the name they have there."""
    task = asyncio.create_task(bench.push_blob(b"no blob"))
    while not any(key.startswith(DATA_PREFIX) for key in await bench.keys()):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await bench.store.parts.cleaner.aclose()
    assert await bench.keys() == set()


async def test_a_session_that_comes_too_late_takes_nothing_away(bench: Bench) -> None:
    """It had sent nothing yet when another session made the upload a blob: the two would share one name."""
    repository = bench.store.repository("app")
    async with repository.open_upload() as late:
        async with repository.resume_upload(late.upload_id) as quick:
            await quick.write(b"quick")
            await quick.commit()
        with pytest.raises(UploadInterrupted):
            await late.write(b"late")
    await bench.store.parts.cleaner.aclose()
    assert await bench.keys() == set(await names_of(bench, b"quick"))
    async with bench.store.open_blob(Digest.of(b"quick")) as blob:
        assert await blob.read() == b"quick"
    assert [info async for info in bench.store.backend.list(UPLOADS_PREFIX)] == []
    assert await find_orphans(bench.store.index, bench.store.backend, bench.clock) == OrphanReport(listed=2)


@pytest.mark.parametrize("other", [b"first", b"other"])
async def test_published_bytes_are_replaced_by_no_other_session(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, other: bytes
) -> None:
    """One session has published and not committed yet: another of the same upload, with these or other bytes, is refused."""
    repository, commit = bench.store.repository("app"), bench.store.index.commit_blob
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def commit_slowly(*args, **options):
        if not reached.is_set():
            reached.set()
            await goes_on.wait()
        return await commit(*args, **options)

    monkeypatch.setattr(bench.store.index, "commit_blob", commit_slowly)
    async with repository.open_upload() as first:
        await first.write(b"first")
        committing = asyncio.create_task(first.commit())
        await reached.wait()
        async with repository.resume_upload(first.upload_id) as second:
            await second.write(other)
            with pytest.raises(UploadInterrupted):
                await second.commit()
        goes_on.set()
        with pytest.raises(UploadInterrupted):
            # Its intent went with the other session: fenced, and nothing was answered.
            await committing
    await bench.store.parts.cleaner.aclose()
    assert not await bench.is_there(b"first")
    assert await bench.keys() == set()
    await bench.push_blob(b"first")
    await bench.check()


async def test_an_abandoned_upload_costs_one_listing(bench: Bench) -> None:
    """Not a request for each; and a plan without any costs none for them."""
    bucket = bucket_of(bench)
    policy = GcPolicy(quarantine_s=0)
    plain = await _requests(bucket, bench.collector(policy).plan())
    for number in range(5):
        async with bench.store.repository("app").open_upload() as upload:
            await upload.write(b"abandoned %d" % number)
    bench.clock.advance(2 * DAY_MS)
    collector = bench.collector(policy)
    assert await _requests(bucket, collector.plan()) == {**plain, "list": plain["list"] + 1}
    assert [each.size_bytes for each in (await collector.plan()).abandoned] == [11] * 5
    assert (await collector.run()).expired_uploads == 5


async def _requests(bucket: Bucket, work) -> dict[str, int]:
    bucket.requests = dict.fromkeys(bucket.requests, 0)
    await work
    return bucket.requests


async def test_the_index_is_rebuilt_from_the_bucket_alone(bench: Bench) -> None:
    """Blobs of both kinds of names; bytes without a record, and a record without bytes, go to the trash."""
    await bench.push_image(b"config", [b"layer", b"lost"], "one")
    await bench.push_image(b"other config", [b"layer"], "two")
    bucket = bucket_of(bench)
    before = {blob.digest: blob.names async for blob in _blobs(bench.store)}
    _, lost_record = await names_of(bench, b"lost")
    await bucket.delete([(await names_of(bench, b"lost"))[0]])
    async with bench.store.repository("app").open_upload() as upload:
        await upload.write(b"unrecorded")
    unrecorded = data_key(upload._intent.generation)
    bucket._objects[unrecorded] = b"unrecorded"
    await bench.store.aclose()

    index = MemoryIndex()
    await index.open(create=True)
    bucket.requests = dict.fromkeys(bucket.requests, 0)
    report, identity = await rebuild(bucket, index, bench.clock)
    await finish(bucket, identity)
    assert bucket.requests["stat"] == 0
    assert (report.blobs, report.manifests, report.tags, report.superfluous) == (5, 2, 2, 2)
    assert len(report.problems) == 1
    assert str(Digest.of(b"lost")) in report.problems[0]
    store = Store(bucket, index, clock=bench.clock)
    await store.open()
    rebuilt = {blob.digest: blob.names async for blob in _blobs(store)}
    assert {**before, Digest.of(b"lost"): rebuilt[Digest.of(b"lost")]} == rebuilt
    async with store.open_blob(Digest.of(b"layer")) as blob:
        assert await blob.read() == b"layer"
    bench.clock.advance(3 * DAY_MS)
    await make_collector(store, GcPolicy(quarantine_s=0)).run()
    keys = {info.key async for info in bucket.list("")}
    assert not {lost_record, unrecorded} & keys
    assert await find_broken(store) == []
    await store.aclose()


async def _blobs(store: Store):
    for each in (await store.index.scan_references(None, 1000)).items:
        yield each.blob


async def test_a_record_that_vanished_is_told_as_broken(bench: Bench) -> None:
    """The check that all other tests end with looks at records, too."""
    await bench.push_image(b"config", [b"layer"], "one")
    _, record = await names_of(bench, b"layer")
    await bench.store.backend.delete([record])
    with pytest.raises(KeyUnknown):
        await bench.store.backend.stat(record)
    assert len(await find_broken(bench.store)) == 1
