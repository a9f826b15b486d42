"""Opening a store, and everything that must not be opened."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import blobstore
from blobstore.app import make_collector, rebuild_index
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.blocking import BlockingStore
from blobstore.digest import Digest
from blobstore.errors import (
    BlobDamaged,
    BlobUnknown,
    CollectionRefused,
    ConfigInvalid,
    ForeignStore,
    FormatUnsupported,
    IndexDamaged,
    IndexMissing,
    ManifestInvalid,
    RangeInvalid,
    StillReferenced,
    StoreBusy,
    StoreFrozen,
    StoreUnknown,
    TransientError,
)
from blobstore.gc import GcPolicy
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image, image_index
from blobstore.testing.invariants import find_broken
from tests.store.pushing import push_blob, small_disk


async def open_and_close(place: str, **options: object) -> None:
    async with blobstore.open(place, **options):  # type: ignore[arg-type]
        pass


async def push_image(store: Store, number: int, repository: str = "app") -> blobstore.Digest:
    for data in (b"config %d" % number, b"layer %d" % number, b"shared"):
        await push_blob(store, data, repository)
    manifest = image(b"config %d" % number, [b"layer %d" % number, b"shared"])
    await store.repository(repository).put_manifest(manifest.body, tag=f"v{number}")
    return manifest.digest


async def test_a_mistyped_place_makes_nothing(place: str) -> None:
    """Opening without create names the place and leaves it untouched."""
    with pytest.raises(StoreUnknown, match=place):
        await open_and_close(place)
    assert not os.path.exists(place)
    for url in ("s3:///prefix", "ftp://host", "file://host/path", ""):
        with pytest.raises(ConfigInvalid):
            await open_and_close(url)


async def test_an_open_that_fails_late_holds_nothing(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last thing that is asked for is a listing: should that fail, the same process opens the store with its next try, and
    another one may rebuild."""
    await open_and_close(place, create=True)

    def fail(*_: object) -> None:
        raise TransientError("no listings just now")

    with monkeypatch.context() as patched:
        patched.setattr(FilesystemBackend, "list", fail)
        with pytest.raises(TransientError):
            await open_and_close(place)
    await open_and_close(place)
    assert not (await rebuild_index(place)).problems


async def test_a_store_whose_index_is_lost_is_not_given_an_empty_one(place: str) -> None:
    """Also not with create; the error names the rebuild."""
    await open_and_close(place, create=True)
    shutil.rmtree(f"{place}/index")
    for create in (False, True):
        with pytest.raises(IndexMissing, match="index rebuild"):
            await open_and_close(place, create=create)


async def test_another_stores_index_is_refused(place: str) -> None:
    """Whichever way they are mixed up."""
    await open_and_close(place, create=True)
    await open_and_close(f"{place}2", create=True)
    with pytest.raises(ForeignStore):
        await open_and_close(place, index=f"lmdb://{place}2/index")


@pytest.mark.parametrize("marker", [b'{"format":99,"store_id":"a","index_id":"b"}', b"garbage", b"", b"[]"])
async def test_a_marker_of_another_version_is_refused(place: str, marker: bytes) -> None:
    """And one that is no marker at all."""
    await open_and_close(place, create=True)
    Path(place, "blobstore.json").write_bytes(marker)
    with pytest.raises(FormatUnsupported):
        await open_and_close(place)


async def test_an_index_of_garbage_is_refused(place: str) -> None:
    """With the way out."""
    await open_and_close(place, create=True)
    Path(place, "index", "data.mdb").write_bytes(os.urandom(8192))
    with pytest.raises(IndexMissing, match="rebuild"):
        await open_and_close(place)


async def test_an_index_that_was_cut_is_refused(place: str) -> None:
    """Its memory map would end the process."""
    await open_and_close(place, create=True)
    os.truncate(f"{place}/index/data.mdb", 12_288)
    with pytest.raises((IndexDamaged, IndexMissing), match="rebuild"):
        await open_and_close(place)


async def test_a_store_is_not_scattered_over_somebodys_files(tmp_path: Path) -> None:
    """A directory with other things in it is refused; what a first try left is not."""
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigInvalid, match="photos"):
        await open_and_close(str(tmp_path), create=True)
    assert os.listdir(tmp_path) == ["photos"]
    (tmp_path / "new" / "blobs").mkdir(parents=True)
    await open_and_close(str(tmp_path / "new"), create=True)


async def test_a_rebuild_of_a_mistyped_place_makes_nothing(place: str) -> None:
    """Neither directory nor lock."""
    with pytest.raises(StoreUnknown):
        await rebuild_index(place)
    assert not os.path.exists(place)


async def test_reading_ranges(store: Store) -> None:
    """The end is clamped, the start is not."""
    descriptor = await push_blob(store, b"0123456789")
    for start, stop, expected in ((0, 3, b"012"), (8, 100, b"89"), (10, None, b""), (4, 4, b"")):
        async with store.repository("app").open_blob(descriptor.digest, start, stop) as blob:
            assert await blob.read() == expected
    for start, stop in ((11, None), (-1, 3), (5, 4)):
        with pytest.raises(RangeInvalid):
            async with store.repository("app").open_blob(descriptor.digest, start, stop):
                pass


async def test_damaged_bytes_never_arrive_in_full(store: Store, place: str) -> None:
    """The last chunk is withheld until the whole is verified; vanished bytes are told as damage too."""
    data = os.urandom(3 * 1024 * 1024)
    descriptor = await push_blob(store, data)
    path = Path(place, (await store.stat_blob(descriptor.digest)).names[0])
    path.chmod(0o600)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    seen: list[int] = []

    async def read() -> None:
        async with store.open_blob(descriptor.digest) as blob:
            async for chunk in blob:
                seen.append(len(chunk))  # noqa: PERF401 - what arrived before the error counts

    with pytest.raises(BlobDamaged):
        await read()
    assert sum(seen) < len(data)
    path.unlink()
    with pytest.raises(BlobDamaged, match="missing"):
        async with store.open_blob(descriptor.digest):
            pass


async def test_a_repository_sees_only_its_own_blobs(store: Store) -> None:
    """Knowing a digest gives nothing; a mount does, if the source sees the blob."""
    descriptor = await push_blob(store, b"secret", "theirs")
    with pytest.raises(BlobUnknown):
        await store.repository("ours").stat_blob(descriptor.digest)
    with pytest.raises(BlobUnknown):
        await store.repository("ours").mount_blob(descriptor.digest, "ours")
    await store.repository("ours").mount_blob(descriptor.digest, "theirs")
    async with store.repository("ours").open_blob(descriptor.digest) as blob:
        assert await blob.read() == b"secret"


async def test_what_is_referred_to_is_not_deleted(store: Store) -> None:
    """A child of an image index, and a blob of a manifest: refused, naming what refers to them."""
    digest = await push_image(store, 1)
    child = await store.repository("app").get_manifest(digest)
    parent = image_index([child])
    await store.repository("app").put_manifest(parent.body)
    with pytest.raises(StillReferenced, match=str(parent.digest)):
        await store.repository("app").delete_manifest(digest)
    with pytest.raises(StillReferenced, match=str(digest)):
        await store.repository("app").delete_blob(Digest.of(b"shared"))
    await store.repository("app").delete_manifest(parent.digest)
    await store.repository("app").delete_manifest(digest)
    await store.repository("app").delete_blob(Digest.of(b"shared"))
    with pytest.raises(BlobUnknown):
        await store.repository("app").stat_blob(Digest.of(b"shared"))


async def test_referrers_are_listed_whether_their_subject_is_here_or_not(store: Store) -> None:
    """With artifact type and annotations, filtered on demand."""
    subject = image(b"never pushed", [])
    await push_blob(store, b"{}")
    body = json.loads(image(b"{}", [], subject=subject).body)
    body |= {"artifactType": "application/x.sbom", "annotations": {"made-by": "us"}}
    await store.repository("app").put_manifest(json.dumps(body).encode())
    found = [each async for each in store.repository("app").referrers(subject.digest)]
    assert [(each.artifact_type, each.annotations) for each in found] == [("application/x.sbom", {"made-by": "us"})]
    assert [each async for each in store.repository("app").referrers(subject.digest, "application/other")] == []


async def test_a_refused_manifest_leaves_no_trace(store: Store) -> None:
    """Neither record nor bytes nor upload."""
    with pytest.raises(ManifestInvalid):
        await store.repository("app").put_manifest(b"{}")
    await store.parts.cleaner.aclose()
    totals = await store.totals()
    assert (totals.manifests, totals.uploads, totals.trash, totals.present_blobs) == (0, 0, 0, 0)


async def everything(store: Store) -> object:
    """All that a rebuild must bring back."""
    names = [name async for name in store.repositories()]
    tags = {
        name: [(entry.tag, entry.digest, entry.updated_at_ms) async for entry in store.repository(name).tags()]
        for name in names
    }
    nodes = [node.record.key async for node in scan(store)]
    pins = list(await store.index.list_pins(None, 100))
    blobs = [each.blob.digest for each in (await store.index.scan_references(None, 1000)).items]
    return names, tags, sorted(nodes), pins, blobs


async def scan(store: Store):  # type: ignore[no-untyped-def]
    for node in (await store.index.scan_manifests(None, 1000)).items:
        yield node


@pytest.mark.parametrize("with_checkpoint", [False, True])
async def test_the_index_is_rebuilt_from_the_backend_alone(place: str, with_checkpoint: bool) -> None:
    """Every blob, manifest, tag, pin and alias; deletions stay deleted; uploads go on working after it."""
    async with blobstore.open(place, create=True) as store:
        for number in range(3):
            await push_image(store, number)
        await push_image(store, 7, "other/repository")
        await push_image(store, 8, "removed")
        if with_checkpoint:
            await store.checkpoint()
        await store.repository("app").untag("v0")
        await store.repository("app").tag("v1", "latest")
        await store.repository("app").delete_manifest((await store.repository("app").find_manifest("v2")).key.digest)
        await store.repository("removed").remove()
        async with await store.open_pinned_upload() as upload:
            await upload.write(b"pinned")
            await upload.commit(Digest.of(b"pinned", blobstore.Algorithm.SHA512))
        async with await store.open_pinned_upload() as upload:
            await upload.write(b"unpinned")
            await store.unpin((await upload.commit()).digest)
        before = await everything(store)
    shutil.rmtree(f"{place}/index")
    report = await rebuild_index(place)
    assert report.problems == []
    async with blobstore.open(place) as store:
        assert await everything(store) == before
        assert (await store.stat_blob(Digest.of(b"pinned", blobstore.Algorithm.SHA512))).size_bytes == 6
        await push_image(store, 9)
        collected = await make_collector(store, GcPolicy(grace_s=0, quarantine_s=0)).run()
        assert collected.freed_blobs == 7
        assert len([entry async for entry in store.repository("app").tags()]) == 3
    await rebuild_index(place)
    async with blobstore.open(place) as store:
        assert len([entry async for entry in store.repository("app").tags()]) == 3


async def test_a_rebuild_tells_what_is_lost_and_a_push_heals_it(place: str) -> None:
    """A layer whose bytes are gone makes its image suspect, not invisible."""
    async with blobstore.open(place, create=True) as store:
        await push_image(store, 1)
        path = Path(place, (await store.stat_blob(Digest.of(b"layer 1"))).names[0])
    path.unlink()
    report = await rebuild_index(place)
    assert len(report.problems) == 1
    assert str(Digest.of(b"layer 1")) in report.problems[0]
    async with blobstore.open(place) as store:
        await store.repository("app").get_manifest("v1")
        with pytest.raises(BlobUnknown):
            await store.repository("app").stat_blob(Digest.of(b"layer 1"))
        await push_blob(store, b"layer 1")
        await store.repository("app").stat_blob(Digest.of(b"layer 1"))
        assert (await make_collector(store, GcPolicy(grace_s=0, quarantine_s=0)).run()).freed_blobs == 0


async def test_of_several_copies_the_rebuild_takes_one_that_hashes_right(place: str) -> None:
    """The others are trash, freed once the first grace is over."""
    async with blobstore.open(place, create=True) as store:
        await push_image(store, 1)
        path = Path(place, (await store.stat_blob(Digest.of(b"layer 1"))).names[0])
    damaged = path.with_name(path.name[:-32] + "0" * 31 + "1")
    damaged.write_bytes(b"lAyer 1")
    report = await rebuild_index(place)
    assert (report.superfluous, report.problems) == (1, [])
    async with blobstore.open(place) as store, store.open_blob(Digest.of(b"layer 1")) as blob:
        assert await blob.read() == b"layer 1"


async def test_a_pin_outlives_its_bytes_and_a_push_heals_it(place: str) -> None:
    """It was not taken back: any push of the bytes is pinned again, after however many rebuilds."""
    digest = Digest.of(b"pinned")
    async with blobstore.open(place, create=True) as store:
        async with await store.open_pinned_upload() as upload:
            await upload.write(b"pinned")
            await upload.commit()
        path = Path(place, (await store.stat_blob(digest)).names[0])
    path.unlink()
    for _ in range(2):
        report = await rebuild_index(place)
        assert report.pins == 1
        assert [text for text in report.problems if str(digest) in text] == report.problems != []
    at_once = GcPolicy(grace_s=0, quarantine_s=0)
    async with blobstore.open(place) as store:
        await make_collector(store, at_once).run()
        await push_blob(store, b"pinned")
        await make_collector(store, at_once).run()
        async with store.open_blob(digest) as blob:
            assert await blob.read() == b"pinned"
        await store.unpin(digest)
        assert (await make_collector(store, at_once).run()).freed_blobs == 1


async def test_a_manifest_that_a_rebuild_finds_damaged_is_healed_by_a_push(place: str) -> None:
    """Without a scrub: the push must not take what lies there for the manifest."""
    async with blobstore.open(place, create=True) as store:
        path = Path(place, (await store.stat_blob(await push_image(store, 1))).names[0])
    body = path.read_bytes()
    path.write_bytes(body[:-1])
    report = await rebuild_index(place)
    assert (report.manifests, report.tags, len(report.problems)) == (0, 0, 2)
    async with blobstore.open(place) as store:
        await push_image(store, 1)
        assert (await store.repository("app").get_manifest("v1")).body == body
        assert await find_broken(store) == []


async def test_a_blob_of_which_all_copies_are_damaged_is_healed_by_a_push(place: str) -> None:
    """The rebuild has read them, and knows."""
    digest = Digest.of(b"layer 1")
    async with blobstore.open(place, create=True) as store:
        await push_image(store, 1)
        path = Path(place, (await store.stat_blob(digest)).names[0])
    for copy in (path, path.with_name(path.name[:-32] + "0" * 31 + "1")):
        copy.write_bytes(b"lAyer 1")
    report = await rebuild_index(place)
    assert len(report.problems) == 1
    async with blobstore.open(place) as store:
        await push_blob(store, b"layer 1")
        async with store.open_blob(digest) as blob:
            assert await blob.read() == b"layer 1"
        assert await find_broken(store) == []


async def test_an_older_copy_of_the_index_serves_but_does_not_collect(place: str) -> None:
    """What it doesn't know of is never taken for garbage; a rebuild brings the newest state back."""
    async with blobstore.open(place, create=True) as store:
        await push_image(store, 1)
    shutil.copytree(f"{place}/index", f"{place}/backup")
    async with blobstore.open(place) as store:
        await push_image(store, 2)
    shutil.rmtree(f"{place}/index")
    shutil.move(f"{place}/backup", f"{place}/index")
    async with blobstore.open(place) as store:
        await store.repository("app").get_manifest("v1")
        with pytest.raises(StoreFrozen):
            await make_collector(store, GcPolicy(grace_s=0, quarantine_s=0)).run()
    await rebuild_index(place)
    async with blobstore.open(place) as store:
        await store.repository("app").get_manifest("v2")
        assert (await make_collector(store, GcPolicy(grace_s=0, quarantine_s=0)).run()).freed_blobs == 0


async def test_a_rebuilt_referrer_is_orphaned_only_if_its_subject_went_after_it_came(place: str) -> None:
    """One pushed to a subject that was gone already is an untagged manifest, before and after; with a checkpoint too."""
    for with_checkpoint in (False, True):
        async with blobstore.open(place, create=True) as store:
            subject, app = image(b"config", []), store.repository("app")
            for data in (b"config", b"before", b"after"):
                await push_blob(store, data)
            await app.put_manifest(subject.body)
            before = await app.put_manifest(image(b"before", [], subject=subject).body)
            await app.delete_manifest(subject.digest)
            after = await app.put_manifest(image(b"after", [], subject=subject).body)
            if with_checkpoint:
                await store.checkpoint()
        for _ in range(2):
            async with blobstore.open(place) as store:
                app = store.repository("app")
                assert (await app.find_manifest(before.digest)).is_subject_gone
                assert not (await app.find_manifest(after.digest)).is_subject_gone
            await rebuild_index(place)
        shutil.rmtree(place)


async def test_a_layer_lost_under_another_algorithm_is_healed_by_a_push(place: str) -> None:
    """The rebuilt index knows its sha256 from the journal; pushed again, the image keeps it."""
    alias = Digest.of(b"layer", blobstore.Algorithm.SHA512)
    manifest = image(b"config", [blobstore.Descriptor("application/octet-stream", alias, 5)])

    async def push(store: Store) -> None:
        await push_blob(store, b"config")
        async with store.repository("app").open_upload() as upload:
            await upload.write(b"layer")
            await upload.commit(alias)
        await store.repository("app").put_manifest(manifest.body, tag="v1")

    async with blobstore.open(place, create=True) as store:
        await push(store)
        path = Path(place, (await store.stat_blob(alias)).names[0])
    path.unlink()
    assert (await rebuild_index(place)).problems != []
    async with blobstore.open(place) as store:
        await push(store)
        assert (await make_collector(store, GcPolicy(grace_s=0, quarantine_s=0)).run()).freed_blobs == 0
        async with store.open_blob(alias) as blob:
            assert await blob.read() == b"layer"


async def test_a_rebuild_under_a_wrong_clock_does_not_stop_collecting_for_years(place: str) -> None:
    """Put right, the clock is seen to go back: one grace, no more. Two rebuilds in one second are two."""
    clock = FakeClock()
    async with blobstore.open(place, create=True, clock=clock) as store:
        await push_image(store, 1)
    clock.jump(70 * 365 * 24 * 3600 * 1000)
    for _ in range(2):
        await rebuild_index(place, clock=clock)
    clock.jump(-70 * 365 * 24 * 3600 * 1000)
    async with blobstore.open(place, clock=clock) as store:
        with pytest.raises(CollectionRefused):
            await make_collector(store, GcPolicy()).run()
        clock.advance(25 * 3600 * 1000)
        await make_collector(store, GcPolicy()).run()


async def test_a_rebuild_without_a_journal_says_what_that_means(place: str) -> None:
    """Blobs alone say nothing of manifests and tags."""
    async with blobstore.open(place, create=True) as store:
        await push_image(store, 1)
    for part in ("index", "journal", "checkpoint"):
        shutil.rmtree(f"{place}/{part}")
    assert "neither journal nor checkpoint" in (await rebuild_index(place)).problems[0]


async def test_a_full_disk_leaves_room_to_delete(tmp_path: Path) -> None:
    """The ballast of the index serves the journal too: references go, and the collection frees."""
    disk = small_disk(tmp_path, "40m")
    try:
        place = str(disk / "store")
        async with blobstore.open(place, create=True) as store:
            await push_image(store, 1)
            big = await push_blob(store, os.urandom(4 * 1024 * 1024))
            manifest = image(b"config 1", [blobstore.Descriptor("x", big.digest, big.size_bytes)])
            await store.repository("app").put_manifest(manifest.body, tag="big")
            filled = (disk / "filler").open("wb", buffering=0)
            with filled, contextlib.suppress(OSError):
                while True:
                    filled.write(b"x" * 4096)
            await store.repository("app").untag("big")
            policy = GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True)
            assert (await make_collector(store, policy).run()).freed_blobs == 2
            await store.repository("app").get_manifest("v1")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


async def test_a_rebuild_waits_for_nobody(place: str, store: Store) -> None:
    """While a process has the store open it is refused, and nothing is touched."""
    await push_image(store, 1)
    with pytest.raises(StoreBusy):
        await rebuild_index(place)
    await store.repository("app").get_manifest("v1")


async def test_a_rebuild_that_died_is_begun_anew(place: str) -> None:
    """Until then the store is not opened with half an index."""
    async with blobstore.open(place, create=True) as store:
        await push_image(store, 1)
    marker = Path(place, "blobstore.json")
    marker.write_text(marker.read_text().replace('"ready"', '"rebuilding"'))
    with pytest.raises(StoreFrozen, match="rebuild"):
        await open_and_close(place)
    await rebuild_index(place)
    async with blobstore.open(place) as store:
        await store.repository("app").get_manifest("v1")


FORKED = """
import asyncio, os, sys
import blobstore

async def main(place):
    async with blobstore.open(place, create=True) as store:
        child = os.fork()
        if child == 0:
            try:
                await store.totals()
            except blobstore.IndexPoisoned as error:
                os.write(1, b"refused" if b"fork" in str(error).encode() else b"other")
            os._exit(0)
        os.waitpid(child, 0)
        await store.totals()

asyncio.run(main(sys.argv[1]))
"""


def test_a_store_opened_before_a_fork_is_refused_in_the_child(place: str) -> None:
    """LMDB would work there, and corrupt."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED, place], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.returncode) == ("refused", 0), done.stderr


def test_the_blocking_face_does_the_whole_story(place: str, tmp_path: Path) -> None:
    """Put, manifest, tags, get, collect, from a plain script."""
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 * 1024 * 1024))
    with BlockingStore(place, create=True) as store:
        config = store.put(b"config", repository="app")
        with big.open("rb") as file:
            layer = store.put(file, repository="app")
        manifest = image(b"config", [big.read_bytes()])
        put = store.put_manifest("app", manifest.body, tag="v1")
        assert store.get(layer.digest) == big.read_bytes()
        assert (store.repositories(), store.tags("app")) == (["app"], {"v1": put.digest})
        assert store.get_manifest("app", "v1").config.digest == config.digest
        pinned = store.put(b"pinned")
        store.unpin(pinned.digest)
        policy = GcPolicy(grace_s=0, quarantine_s=0)
        assert store.collect(policy, dry_run=True).freed_blobs == store.collect(policy).freed_blobs == 1
    with pytest.raises(StoreUnknown), BlockingStore(str(tmp_path / "none")):
        pass
