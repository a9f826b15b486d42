"""Copying a store while it is cut short, collected, pushed to, and in which order it goes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from blobstore.abc.paging import every
from blobstore.abc.records import ManifestKey
from blobstore.digest import Digest
from blobstore.errors import KeyUnknown, StorageFull, TransientError
from blobstore.gc import GcPolicy
from blobstore.names import TagName
from blobstore.replication import CopyReport
from blobstore.replication._blobs import big_blobs_at_once, small_blob_max_bytes, small_blobs_at_once
from blobstore.replication._copy import repositories_at_once
from blobstore.replication._repository import manifests_at_once
from blobstore.store import Store
from blobstore.testing.invariants import find_broken
from tests.gc.scene import AT_ONCE, DAY_MS
from tests.replication.scene import BIG, PINNED, Scene, damage, lose, picture


async def test_a_copy_cut_short_goes_on(scene: Scene) -> None:
    """Cancelled anywhere, what was copied is not sent again, half an upload is dropped, and in the end all is there."""
    sent = 0
    for turns in (1, 10, 50, 100, 200, 400, 800):
        task = asyncio.ensure_future(scene.copy())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            sent += task.result().bytes_copied
        assert (await scene.target.store.totals()).uploads == 0
    report = await scene.copy()
    assert report.is_complete
    await scene.assert_alike()


@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_half_an_upload_is_dropped(scene: Scene, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """In the middle of a big blob: no upload stays open, nothing of its bytes stays, and the source's reads are closed."""
    reached, reading = asyncio.Event(), 0
    real = scene.source.store.backend.read

    async def halting(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield await anext(chunks)
        yield await anext(chunks)
        reached.set()
        if how == "failed":
            raise TransientError("the endpoint is gone")
        await asyncio.Event().wait()

    @asynccontextmanager
    async def read(key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        nonlocal reading
        async with real(key, start, stop) as chunks:
            reading += 1
            yield halting(chunks) if stop == len(BIG) else chunks
        reading -= 1

    _one_at_a_time(monkeypatch)
    with monkeypatch.context() as patched:
        patched.setattr(scene.source.store.backend, "read", read)
        task = asyncio.ensure_future(scene.copy())
        await reached.wait()
        if how == "cancelled":
            task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() == (how == "cancelled")
        if how == "failed":
            assert isinstance(task.exception(), TransientError)
    target = scene.target.store
    assert (await target.totals()).uploads == 0
    await target.parts.cleaner.aclose()
    assert [info async for info in target.backend.list("uploads/")] == []
    await scene.target.check()
    assert (await scene.copy()).is_complete
    await scene.assert_alike()


async def test_few_big_blobs_are_under_way_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes memory for its chunks at both ends; small ones are brought by the dozen."""
    big = [bytes([number]) * (small_blob_max_bytes + 1) for number in range(10)]
    await scene.source.push_image(b"config of the big ones", big, "big")
    await scene.source.push_image(b"config of the small ones", [b"small %d" % number for number in range(60)], "small")
    under_way, most = {True: 0, False: 0}, {True: 0, False: 0}
    real = scene.source.store.backend.read

    @asynccontextmanager
    async def read(key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        is_big = stop is not None and stop > small_blob_max_bytes
        async with real(key, start, stop) as chunks:
            under_way[is_big] += 1
            most[is_big] = max(most[is_big], under_way[is_big])
            await asyncio.sleep(0)
            yield chunks
        under_way[is_big] -= 1

    monkeypatch.setattr(scene.source.store.backend, "read", read)
    assert (await scene.copy()).is_complete
    assert 1 < most[True] <= big_blobs_at_once
    # And the manifests that wait for them.
    assert 4 < most[False] <= small_blobs_at_once + repositories_at_once * manifests_at_once


async def test_a_full_target_is_told_and_the_next_run_goes_on(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was copied stays, no upload stays open, no manifest stands without its blobs."""
    backend, room = scene.target.store.backend, 5
    real = backend.put_new

    async def put_new(key: str, data: bytes) -> bool:
        nonlocal room
        if key.startswith("blobs/"):
            room -= 1
            if room < 0:
                raise StorageFull("no space left")
        return await real(key, data)

    with monkeypatch.context() as patched:
        patched.setattr(backend, "put_new", put_new)
        with pytest.raises(StorageFull):
            await scene.copy()
    assert (await scene.target.store.totals()).uploads == 0
    # What was cancelled is deleted behind the answers; a look at the listing would meet names whose rows just went.
    await scene.target.store.parts.cleaner.aclose()
    await scene.target.check()
    there = (await scene.target.store.totals()).present_blobs
    assert there > 0
    report = await scene.copy()
    assert report.is_complete
    await scene.assert_alike()


async def test_collectors_at_both_sides_take_nothing_that_is_needed(scene: Scene) -> None:
    """They run again and again while the copy does, each with the grace that is usual."""
    policy = GcPolicy(quarantine_s=0)
    stop = False

    async def collect(bench) -> int:
        runs = 0
        while not stop:
            await bench.collector(policy).run(is_full=True)
            # Less than a grace in all, however slow the machine is.
            bench.clock.advance(60_000 if runs < 1000 else 0)
            runs += 1
            await asyncio.sleep(0)
        return runs

    collecting = [asyncio.ensure_future(collect(bench)) for bench in (scene.source, scene.target)]
    report = await scene.copy()
    stop = True
    assert min(await asyncio.gather(*collecting)) >= 1
    assert report.is_complete
    await scene.assert_alike()


async def test_a_collector_without_grace_at_the_target_costs_a_second_try(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blobs taken away between their upload and their manifest are brought once more."""
    index, seen = scene.target.store.index, set[object]()
    real = index.put_manifest

    async def put_manifest(intent, content, *rest):
        if (intent.repository, content.digest) not in seen:
            seen.add((intent.repository, content.digest))
            await scene.target.collector(AT_ONCE).run(is_full=True)
            await scene.target.collector(AT_ONCE).run(is_full=True)
        return await real(intent, content, *rest)

    _one_at_a_time(monkeypatch)
    monkeypatch.setattr(index, "put_manifest", put_manifest)
    scene.target.clock.advance(1000)
    report = await scene.copy()
    assert report.is_complete
    assert len(seen) == report.manifests_copied
    lacking = set(await _manifests(scene.source.store)) - set(await _manifests(scene.target.store))
    # What has no tag, and is of no image that has one, is garbage to this collector.
    assert lacking <= {scene.images["untagged"].digest}


def _one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("_copy.repositories", "_repository.manifests", "_repository.blobs_of_manifest"):
        monkeypatch.setattr(f"blobstore.replication.{what}_at_once", 1)


async def _manifests(store: Store) -> list[Digest]:
    return [node.record.key.digest async for node in every(lambda after: store.index.scan_manifests(after, 100))]


async def test_a_tag_comes_after_all_that_belongs_to_its_image(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs, then manifests, then tags: whoever pulls by tag finds the platforms' images, and the signatures of those."""
    store = scene.target.store
    real, tagged = store.index.put_tag, list[str]()

    async def put_tag(key: ManifestKey, tag: TagName, now_ms: int):
        if key.repository == "app":
            there = set(await _manifests(store))
            family = [scene.images["app"], scene.images["index"], scene.images["signature"]]
            assert {each.digest for each in family} <= there, tag
            tagged.append(tag)
        return await real(key, tag, now_ms)

    monkeypatch.setattr(store.index, "put_tag", put_tag)
    assert (await scene.copy()).is_complete
    assert sorted(tagged) == ["1", "latest", "multi"]


async def test_no_reference_is_ahead_of_its_blobs(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever a manifest is asked for, and at every answer of the target, the target is whole."""
    store = scene.target.store
    real, looked = store.index.put_manifest, 0

    async def put_manifest(*rest):
        nonlocal looked
        result = await real(*rest)
        # The copy brings what a manifest needs before it puts it: nothing is found missing by trying.
        assert not result.missing
        assert await find_broken(store) == []
        looked += 1
        return result

    monkeypatch.setattr(store.index, "put_manifest", put_manifest)
    assert (await scene.copy()).is_complete
    assert looked >= 11


async def test_a_tag_that_the_target_moves_under_the_copy_stays(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """A push to the target in the middle of a long copy is newer than what the source has."""
    target, is_first = scene.target, True
    ours = await target.push_image(b"config t", [b"of the target"], repository="app")
    real = target.store.index.put_manifest

    async def put_manifest(*rest):
        nonlocal is_first
        if is_first:
            is_first = False
            await target.store.repository("app").tag(ours.digest, "1")
        return await real(*rest)

    monkeypatch.setattr(target.store.index, "put_manifest", put_manifest)
    report = await scene.copy()
    assert [(str(each), each.target) for each in report.tags_newer] == [("app:1", ours.digest)]
    assert (await target.store.repository("app").find_manifest("1")).key.digest == ours.digest


async def test_what_the_source_loses_meanwhile_is_no_error(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that is deleted there, and collected, under the copy is left out; the others are copied."""
    source, is_first = scene.source, True
    real = scene.target.store.index.start_upload

    async def start_upload(*rest):
        nonlocal is_first
        if is_first:
            is_first = False
            await source.store.repository("team/other").remove()
            await source.store.repository("app").delete_manifest(scene.images["untagged"].digest)
            source.clock.advance(3 * DAY_MS)
            for _ in range(2):
                await source.collector(AT_ONCE).run(is_full=True)
        return await real(*rest)

    _one_at_a_time(monkeypatch)
    monkeypatch.setattr(scene.target.store.index, "start_upload", start_upload)
    report = await scene.copy()
    assert report.is_complete
    assert report.gone >= 1
    assert (await scene.target.store.repository("app").get_manifest("1")).body == scene.images["app"].body
    again = await scene.copy(deletes_extra=True)
    assert again.is_complete
    expected, found = await picture(source.store), await picture(scene.target.store)
    assert found["manifests"] == expected["manifests"]


async def test_bytes_that_vanish_under_a_read_are_looked_for_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Collected and pushed anew in the middle of a download: the new bytes are sent."""
    source, is_first = scene.source, True
    blob = await source.store.stat_blob(Digest.of(BIG))
    real = source.store.backend.read

    async def breaking(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        yield await anext(chunks)
        await source.store.backend.delete(blob.names)
        await source.store.index.suspect_blob(blob.digest, blob.generation)
        await source.push_blob(BIG)
        raise KeyUnknown("asked for the rest, the server knows nothing of it")

    @asynccontextmanager
    async def read(key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        nonlocal is_first
        async with real(key, start, stop) as chunks:
            if key == blob.names[0] and is_first:
                is_first = False
                yield breaking(chunks)
            else:
                yield chunks

    monkeypatch.setattr(source.store.backend, "read", read)
    assert (await scene.copy()).is_complete
    await scene.assert_alike()


async def test_an_error_of_the_storage_ends_the_copy(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no damage: it is told as it is, and nothing is called left out."""

    @asynccontextmanager
    async def read(*_: object) -> AsyncIterator[AsyncIterator[bytes]]:
        raise TransientError("the endpoint is gone")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(scene.source.store.backend, "read", read)
        with pytest.raises(TransientError):
            await scene.copy()
    report: CopyReport = await scene.copy()
    assert report.is_complete
    await scene.assert_alike()


async def test_pins_are_copied_side_by_side(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, and counted once, though many are under way; one that is damaged at the target is healed."""
    for number in range(40):
        async with await scene.source.store.open_pinned_upload() as upload:
            await upload.write(b"pin %d" % number)
            await upload.commit()
    await damage(scene.source.store, Digest.of(b"pin 7"))
    under_way = most = 0
    real = scene.target.store.open_pinned_upload

    async def open_pinned_upload():
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return await real()

    monkeypatch.setattr(scene.target.store, "open_pinned_upload", open_pinned_upload)
    report = await scene.copy()
    assert most > 1
    assert report.pins_copied == 40
    assert [failure.digest for failure in report.failures] == [Digest.of(b"pin 7")]
    blob = await scene.target.store.stat_blob(Digest.of(PINNED))
    await lose(scene.target.store, blob.digest)
    await scene.target.store.index.suspect_blob(blob.digest, blob.generation)
    assert (await scene.copy()).blobs_copied == 1
    async with scene.target.store.open_blob(blob.digest) as reader:
        assert await reader.read() == PINNED
