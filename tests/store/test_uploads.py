"""Uploads: hashed while written, resumable, cancelled, cut off, and never published twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import blobstore
from blobstore.abc.records import Blob
from blobstore.digest import Algorithm, Digest
from blobstore.errors import (
    DigestMismatch,
    SizeMismatch,
    StorageFull,
    UploadBusy,
    UploadInterrupted,
    UploadUnknown,
)
from blobstore.layout import blob_key
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image
from tests.store.pushing import push_blob, small_disk

MIB = 1024 * 1024


async def files(store: Store) -> set[str]:
    listings = [store.backend.list(prefix) for prefix in ("blobs/", "uploads/")]
    return {info.key for listing in listings for info in [each async for each in listing]}


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, MIB - 1, MIB, MIB + 1, 5 * MIB + 3])
@pytest.mark.parametrize("piece", [1000, 256 * 1024, 3 * MIB])
async def test_what_was_written_is_read_back(store: Store, size: int, piece: int) -> None:
    """At every border between memory, one chunk and several, however the bytes come in."""
    data = os.urandom(size)
    async with store.repository("app").open_upload() as upload:
        for at in range(0, size, piece):
            await upload.write(memoryview(data)[at : at + piece])
        assert upload.offset == size
        descriptor = await upload.commit(Digest.of(data), size)
    assert (descriptor.digest, descriptor.size_bytes) == (Digest.of(data), size)
    async with store.repository("app").open_blob(descriptor.digest) as blob:
        assert await blob.read() == data
    assert (await store.stat_blob(descriptor.digest)).blake3 == Digest.of(data, Algorithm.BLAKE3).value


async def test_a_buffer_may_be_reused_as_soon_as_write_returns(store: Store) -> None:
    """Mutable data is copied before it is queued."""
    buffer = bytearray(b"a" * MIB)
    async with store.repository("app").open_upload() as upload:
        for letter in b"abc":
            buffer[:] = bytes([letter]) * MIB
            await upload.write(buffer)
        descriptor = await upload.commit()
    assert descriptor.digest == Digest.of(b"a" * MIB + b"b" * MIB + b"c" * MIB)


@pytest.mark.parametrize("size", [100, 3 * MIB])
async def test_a_commit_with_the_wrong_digest_leaves_nothing_visible(store: Store, size: int) -> None:
    """The upload is over, its bytes go, and the next one works."""
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"x" * size)
        with pytest.raises(DigestMismatch, match=str(Digest.of(b"y"))):
            await upload.commit(Digest.of(b"y"))
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"x" * size)
        with pytest.raises(SizeMismatch):
            await upload.commit(size_bytes=size + 1)
    await push_blob(store, b"x" * size)
    await store.parts.cleaner.aclose()
    assert len(await files(store)) == 1
    assert (await store.totals()).uploads == 0


@pytest.mark.parametrize("algorithm", [Algorithm.SHA512, Algorithm.BLAKE3])
@pytest.mark.parametrize("size", [10, 2 * MIB])
async def test_a_digest_of_another_algorithm_is_checked_and_remembered(
    store: Store, algorithm: Algorithm, size: int
) -> None:
    """The blob is stored once under its sha256; the alias leads to it, in other repositories too once they have it."""
    data = os.urandom(size)
    async with store.repository("app").open_upload() as upload:
        await upload.write(data)
        descriptor = await upload.commit(Digest.of(data, algorithm))
    assert descriptor.digest == Digest.of(data)
    assert (await store.repository("app").stat_blob(Digest.of(data, algorithm))).digest == descriptor.digest
    async with store.repository("app").open_upload() as upload:
        await upload.write(data)
        with pytest.raises(DigestMismatch):
            await upload.commit(Digest.of(b"else", algorithm))


async def test_a_duplicate_is_never_published(store: Store) -> None:
    """Its bytes go, the first ones stay where they are, and both repositories see the blob."""
    data = os.urandom(3 * MIB)
    await push_blob(store, data, "first")
    before = await files(store)
    await push_blob(store, data, "second")
    await store.parts.cleaner.aclose()
    assert await files(store) == before
    await store.repository("second").stat_blob(Digest.of(data))
    assert (await store.totals()).trash == 0


@pytest.mark.parametrize("cut", [0, 10, MIB, 2 * MIB + 7])
async def test_an_upload_goes_on_in_another_open_store(place: str, cut: int) -> None:
    """Offset and hash are where they were, and the commit verifies the whole."""
    data = os.urandom(3 * MIB)
    async with blobstore.open(place, create=True) as store, store.repository("app").open_upload() as upload:
        await upload.write(data[:cut])
    async with blobstore.open(place) as store:
        with pytest.raises(UploadUnknown):
            async with store.repository("other").resume_upload(upload.upload_id):
                pass
        async with store.repository("app").resume_upload(upload.upload_id) as again:
            assert again.offset == cut
            await again.write(data[cut:])
            assert (await again.commit(Digest.of(data))).size_bytes == len(data)
        with pytest.raises(UploadUnknown):
            async with store.repository("app").resume_upload(upload.upload_id):
                pass


async def test_two_sessions_of_one_upload_are_refused(store: Store) -> None:
    """The second is told; the first goes on."""
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"x" * 2 * MIB)
        with pytest.raises(UploadBusy):
            async with store.repository("app").resume_upload(upload.upload_id):
                pass
        await upload.commit()


async def test_bytes_behind_the_last_sync_are_dropped_after_the_machine_was_down(place: str) -> None:
    """Only what was made durable counts when the boot id is another; the rest is sent again."""
    data = os.urandom(2 * MIB)
    async with blobstore.open(place, create=True) as store:
        async with store.repository("app").open_upload() as upload:
            await upload.write(data[:MIB])
        intent = await store.index.find_upload(upload.upload_id)
        await store.index.renew_upload(
            intent.upload, 1, store.parts.terms, offset=MIB, hash_state=intent.hash_state, boot="an earlier boot"
        )
        with open(f"{place}/uploads/{intent.generation}", "ab") as file:
            file.write(b"not synced")
        async with store.repository("app").resume_upload(upload.upload_id) as again:
            assert again.offset == MIB
            await again.write(data[MIB:])
            await again.commit(Digest.of(data))


KILLED = """
import asyncio, os, sys
import blobstore

async def main(place):
    async with blobstore.open(place, create=True) as store, store.repository("app").open_upload() as upload:
        for _ in range(3):
            await upload.write(b"x" * 1024 * 1024)
        await upload._staged.drain()
        print(upload.upload_id, flush=True)
        await asyncio.sleep(60)

asyncio.run(main(sys.argv[1]))
"""


async def test_an_upload_survives_the_kill_of_its_process(place: str) -> None:
    """Offset and digest are derived again from the bytes; a resumed commit verifies them."""
    process = subprocess.Popen([sys.executable, "-c", KILLED, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    upload_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    async with blobstore.open(place) as store, store.repository("app").resume_upload(upload_id) as upload:
        assert upload.offset == 3 * MIB
        await upload.write(b"y")
        await upload.commit(Digest.of(b"x" * 3 * MIB + b"y"))


@pytest.mark.parametrize("size", [100, 2 * MIB], ids=["small", "large"])
async def test_what_a_dead_session_published_is_not_published_again(store: Store, size: int) -> None:
    """It died between its publication and its commit. Who resumes is told to start anew, and touches none of its bytes: it may
    be alive after all."""
    data = os.urandom(size)
    async with store.repository("app").open_upload() as upload:
        upload_id = upload.upload_id
    intent = await store.index.find_upload(upload_id)
    assert intent is not None
    key = blob_key(Digest.of(data), intent.generation)
    assert await store.backend.put_new(key, data)
    async with store.repository("app").resume_upload(upload_id) as upload:
        await upload.write(data)
        with pytest.raises(UploadInterrupted):
            await upload.commit()
    with pytest.raises(UploadUnknown):
        async with store.repository("app").resume_upload(upload_id):
            pass
    await store.parts.cleaner.aclose()
    assert await files(store) == set()
    async with store.open_blob((await push_blob(store, data)).digest) as blob:
        assert await blob.read() == data


@pytest.mark.parametrize(("announced", "refusal"), [(None, UploadInterrupted), (b"first", DigestMismatch)])
async def test_a_late_session_with_other_bytes_takes_no_blob_away(
    store: Store, announced: bytes | None, refusal: type[Exception]
) -> None:
    """It is fenced, and what it wrote goes. A name that the upload was begun with is a blob by then, and stays."""
    digest = Digest.of(announced) if announced is not None else None
    async with store.repository("app").open_upload(digest) as upload:
        upload_id = upload.upload_id
    async with store.repository("app").resume_upload(upload_id) as late:
        async with store.repository("app").resume_upload(upload_id) as first:
            await first.write(b"first")
            await first.commit()
        await late.write(b"other")
        with pytest.raises(refusal):
            await late.commit()
    await store.parts.cleaner.aclose()
    async with store.open_blob(Digest.of(b"first")) as blob:
        assert await blob.read() == b"first"
    assert len(await files(store)) == 1


async def test_what_a_session_leaves_behind_the_end_of_its_upload_is_found(store: Store) -> None:
    """No row knows those bytes any more, so a listing is asked for."""
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"x" * MIB)
        await store.index.cancel_upload(upload.upload_id, 0)
    assert (await store.index.guards()).is_orphan_scan_due


async def test_a_session_behind_the_end_of_its_upload_takes_no_more(store: Store) -> None:
    """What it wrote would be nobody's; it leaves nothing."""
    async with store.repository("app").open_upload() as upload:
        upload_id = upload.upload_id
    async with store.repository("app").resume_upload(upload_id) as late:
        await store.index.cancel_upload(upload_id, 0)
        with pytest.raises(UploadInterrupted):
            await late.write(b"x" * MIB)
    assert await files(store) == set()


async def test_a_session_that_comes_late_takes_no_blob_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sessions of one upload, as a client's that gave up waiting: the second fails, the first's blob stays."""
    data = os.urandom(1000)
    async with store.repository("app").open_upload() as upload:
        upload_id = upload.upload_id
    async with store.repository("app").resume_upload(upload_id) as late:
        await late.write(data)
        async with store.repository("app").resume_upload(upload_id) as first:
            await first.write(data)
            descriptor = await first.commit()
        # Its look at the index came before the first one's commit.
        looks = iter([None])
        find = store.index.find_blob

        async def find_nothing_once(digest: Digest) -> Blob | None:
            return next(looks) if digest == descriptor.digest else await find(digest)

        monkeypatch.setattr(store.index, "find_blob", find_nothing_once)
        with pytest.raises(UploadInterrupted):
            await late.commit()
        monkeypatch.undo()
    await store.parts.cleaner.aclose()
    async with store.open_blob(descriptor.digest) as blob:
        assert await blob.read() == data
    assert len(await files(store)) == 1


async def test_a_cancelled_upload_leaves_nothing(store: Store) -> None:
    """Neither bytes nor intent nor trash."""
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"x" * 2 * MIB)
        await upload.cancel()
    await store.parts.cleaner.aclose()
    assert await files(store) == set()
    assert (await store.totals()).uploads == (await store.totals()).trash == 0


async def test_cancelling_a_commit_anywhere_leaves_all_or_nothing(place: str) -> None:
    """The task is cancelled after each number of steps of the loop; a blob is there whole or not at all, and nothing leaks."""
    async with blobstore.open(place, create=True) as store:
        for steps in range(60):
            data = b"%d" % steps + os.urandom(MIB + 5)
            task = asyncio.create_task(push_blob(store, data))
            for _ in range(steps):
                await asyncio.sleep(0)
            await asyncio.sleep(steps / 20_000)
            task.cancel()
            await asyncio.wait([task])
            found = await store.index.find_blob(Digest.of(data))
            if not task.cancelled():
                assert found is not None
            if found is not None:
                async with store.open_blob(found.digest) as blob:
                    assert await blob.read() == data
    async with blobstore.open(place) as store:
        known = (await store.totals()).present_blobs
        kept = {info.key async for info in store.backend.list("blobs/")}
        assert len(kept) == known


async def test_an_upload_nobody_got_is_not_left_open(store: Store) -> None:
    """Cancelled while it is being started: the intent that is committed all the same is taken back."""
    for steps in range(8):
        task = asyncio.create_task(store.repository("app").open_upload().__aenter__())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            upload = task.result()
            await upload.cancel()
        assert (await store.totals()).uploads == 0


@pytest.mark.parametrize("what", ["commit", "manifest", "start"])
async def test_what_is_cancelled_while_it_gives_up_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The end of one of several uploads ends the others, and again those that were giving up: no intent stays for a day."""
    index, reached = store.index, asyncio.Event()
    real = index.cancel_upload

    async def cancel_slowly(*rest):
        reached.set()
        await asyncio.sleep(0)
        return await real(*rest)

    async def refuse(*_: object):
        raise StorageFull("no space left")

    async def work() -> None:
        if what == "manifest":
            await store.repository("app").put_manifest(image(b"not here").body)
        else:
            async with store.repository("app").open_upload() as upload:
                await upload.commit()

    monkeypatch.setattr(index, "cancel_upload", cancel_slowly)
    if what != "start":
        monkeypatch.setattr(store.backend, "put_new", refuse)
    task = asyncio.create_task(work())
    if what == "start":
        await asyncio.sleep(0)
        task.cancel()
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert (await store.totals()).uploads == 0


async def test_an_upload_expired_under_its_writer_says_so(place: str) -> None:
    """The writer is told to start anew, on the next renewal or at the commit."""
    clock = FakeClock()
    async with blobstore.open(place, create=True, clock=clock) as store:
        async with store.repository("app").open_upload() as upload:
            await upload.write(b"x")
            await store.index.cancel_upload(upload.upload_id, clock.now_ms())
            with pytest.raises(UploadInterrupted):
                await upload.commit()
        async with store.repository("app").open_upload() as upload:
            await store.index.cancel_upload(upload.upload_id, clock.now_ms())
            clock.advance(61_000)
            with pytest.raises(UploadInterrupted):
                await upload.write(b"x")
        await store.parts.cleaner.aclose()
        assert await files(store) == set()


async def test_a_full_disk_refuses_the_upload_and_nothing_else(tmp_path: Path) -> None:
    """A clear error, nothing visible; reads go on, and with space freed the next push works."""
    disk = small_disk(tmp_path, "24m")
    try:
        index = f"lmdb://{tmp_path}/index"
        async with blobstore.open(str(disk / "store"), index=index, create=True) as store:
            kept = await push_blob(store, os.urandom(4 * MIB))
            for size in (64 * MIB, 30 * MIB):
                with pytest.raises(StorageFull, match="No space left"):
                    await push_blob(store, os.urandom(size))
            await store.parts.cleaner.aclose()
            async with store.open_blob(kept.digest) as blob:
                assert len(await blob.read()) == 4 * MIB
            for upload in await store.index.list_uploads(2**62, 10):
                await store.index.cancel_upload(upload.upload, 0)
            await push_blob(store, b"small")
        async with blobstore.open(str(disk / "store"), index=index) as store:
            assert (await store.totals()).present_blobs == 2
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
