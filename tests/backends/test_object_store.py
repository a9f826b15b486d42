"""What an object store's uploads do when requests fail, sessions die and clients stall; on a bucket in memory."""

import asyncio
import gc
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from blobstore.abc.backend import BackendUpload, read_all
from blobstore.backends._multipart import PartBudget
from blobstore.backends._object_client import Part
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.errors import ConfigInvalid, InvalidInput, KeyUnknown, StorageFailed, TransientError
from blobstore.generation import Generation
from blobstore.layout import data_key, record_key
from blobstore.testing._backend_stage import found_keys, key_of, published, upload_id_of
from blobstore.testing.object_client import LOST, SLOW_DOWN, TIMED_OUT, FakeObjectClient, Fault

PART = 1024
DATA = os.urandom(10 * PART + 7)
KEY, UPLOAD = key_of(1), upload_id_of(1)
NAMES = (data_key(Generation(1, 1)), record_key(KEY))


async def no_wait(_: float) -> None:
    """For pauses between attempts."""
    await asyncio.sleep(0)


class Scene:
    """A bucket, and stores on it."""

    def __init__(self, directory: Path) -> None:
        self.client = FakeObjectClient(part_min_bytes=PART)
        self.spool = str(directory / "spool")

    def backend(self, *, is_retrying: bool = False, budget: PartBudget | None = None) -> ObjectStoreBackend:
        """Another process, as far as the bucket can tell."""
        client = RetryingClient(self.client, sleep=no_wait) if is_retrying else self.client
        return ObjectStoreBackend(client, prefix="s/", spool_directory=self.spool, part_bytes=PART, budget=budget)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_big_blob_is_parts_and_a_record(scene: Scene) -> None:
    """Its own name was not known when they were sent."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    assert await upload.commit(KEY) == NAMES
    assert await read_all(backend, NAMES[0]) == DATA
    assert await read_all(backend, NAMES[1]) == b""
    assert scene.client.calls["put_part"] == 11
    assert scene.client.calls["put"] == 1


async def test_a_known_blob_goes_straight_to_its_name(scene: Scene) -> None:
    """No record; and nowhere else."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD, key=KEY)
    await upload.write(DATA)
    assert await upload.commit(KEY) == (KEY,)
    assert await read_all(backend, KEY) == DATA
    upload = await backend.open_upload(UPLOAD, key=KEY)
    await upload.write(DATA)
    with pytest.raises(InvalidInput):
        await upload.commit(key_of(2))
    assert await found_keys(backend, "") == [KEY]


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART])
async def test_less_than_a_part_is_one_request(scene: Scene, size: int) -> None:
    """At the commit, to its name."""
    backend = scene.backend()
    await backend.prepare()
    scene.client.calls.clear()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[:size])
    assert not sum(scene.client.calls.values())
    assert await upload.commit(KEY) == (KEY,)
    assert dict(scene.client.calls) == {"put": 1}
    assert await read_all(backend, KEY) == DATA[:size]


async def test_a_short_blob_that_another_session_put_outlives_a_put_that_fails(scene: Scene) -> None:
    """One that sent less than comes here puts without the spool, so under no lock: what lies there may be a blob by now."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[:PART])
    assert await backend.put_new(KEY, DATA[:PART])
    scene.client.faults["put"].append(LOST)
    with pytest.raises(TransientError):
        await upload.commit(KEY)
    assert await read_all(backend, KEY) == DATA[:PART]
    assert await found_keys(backend, "") == [KEY]


class _ReplacingClient(FakeObjectClient):
    """As S3, whose completions know no condition."""

    async def complete(self, key: str, multipart_id: str, parts: Sequence[Part], *, is_new: bool = False) -> bool:
        del is_new
        return await super().complete(key, multipart_id, parts)


async def test_what_another_session_published_outlives_one_that_reads_its_own(scene: Scene) -> None:
    """To be read parts are joined early, under the same name: what lies there may be a blob by now."""
    scene.client = _ReplacingClient(part_min_bytes=PART)
    backend = scene.backend()
    first = await backend.open_upload(UPLOAD)
    await first.write(DATA)
    assert await first.commit(KEY) == NAMES
    second = await backend.open_upload(UPLOAD)
    await second.write(os.urandom(3 * PART))
    with pytest.raises(KeyUnknown, match="another session"):
        await anext(second.read(0, PART))
    await second.abort()
    assert await read_all(backend, NAMES[0]) == DATA
    assert not scene.client.multiparts


@pytest.mark.parametrize("read_at", [2 * PART + 5, 3 * PART])
async def test_a_point_at_which_all_was_joined_has_no_tail(scene: Scene, read_at: int) -> None:
    """Once more bytes follow, to go back to it is to send again: what is short of it must not be taken for all of it."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[:read_at])
    assert b"".join([chunk async for chunk in upload.read(0, read_at)]) == DATA[:read_at]
    await upload.aclose()
    upload = await backend.open_upload(UPLOAD, resume=True)
    await upload.write(DATA[read_at : read_at + 2 * PART])
    await upload.aclose()
    upload = await backend.open_upload(UPLOAD, resume=True)
    await upload.truncate(read_at)
    assert upload.offset == read_at
    await upload.write(DATA[read_at:])
    await upload.commit(KEY)
    assert await published(backend, 1) == DATA


@pytest.mark.parametrize("closed_at", [0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 5])
async def test_a_session_that_died_is_forgotten_behind_its_last_close(scene: Scene, closed_at: int) -> None:
    """Whatever the dead one sent behind: the next goes on where the one before closed, and ends whole."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[:closed_at])
    await upload.aclose()
    died = await backend.open_upload(UPLOAD, resume=True)
    await died.write(os.urandom(4 * PART))
    await died.drain()
    died._spool.close()  # type: ignore[attr-defined]
    resumed = await scene.backend().open_upload(UPLOAD, resume=True)
    assert resumed.offset == closed_at
    await resumed.write(DATA[closed_at:])
    await resumed.commit(KEY)
    assert await published(backend, 1) == DATA


@pytest.mark.parametrize("cut_to", [0, 5, PART, PART + 5, 4 * PART, 4 * PART + 3, 6 * PART])
@pytest.mark.parametrize("is_closed_between", [False, True])
async def test_truncating_anywhere(scene: Scene, cut_to: int, is_closed_between: bool) -> None:
    """Within the tail, at a part's end, in the middle of what was sent; what follows stands behind it."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[: 6 * PART + 9])
    if is_closed_between:
        await upload.aclose()
        upload = await backend.open_upload(UPLOAD, resume=True)
    await upload.truncate(cut_to)
    assert upload.offset == cut_to
    assert b"".join([chunk async for chunk in upload.read(0, cut_to)]) == DATA[:cut_to]
    other = os.urandom(3 * PART)
    await upload.write(other)
    names = await upload.commit(KEY)
    assert await read_all(backend, names[0]) == DATA[:cut_to] + other
    assert sorted(scene.client.objects) == sorted(f"s/{name}" for name in names)
    assert not scene.client.multiparts


@pytest.mark.parametrize("cut_to", [PART // 2, PART, 2 * PART + 3])
async def test_a_point_below_which_was_cut_is_no_point_any_more(scene: Scene, cut_to: int) -> None:
    """A session cuts, sends other bytes, and dies: the next must not take the old offset for good, as its parts were replaced."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[: 5 * PART + 9])
    await upload.aclose()
    died = await backend.open_upload(UPLOAD, resume=True)
    await died.truncate(cut_to)
    await died.write(os.urandom(4 * PART))
    await died.drain()
    died._spool.close()  # type: ignore[attr-defined]
    resumed = await backend.open_upload(UPLOAD, resume=True)
    assert resumed.offset <= cut_to
    await resumed.write(DATA[resumed.offset :])
    await resumed.commit(KEY)
    assert await published(backend, 1) == DATA


async def test_both_last_closes_can_be_gone_back_to(scene: Scene) -> None:
    """The index may know only of the one before; then nothing is sent again."""
    backend = scene.backend()
    for offset in (0, 2 * PART + 5, 4 * PART + 8):
        upload = await backend.open_upload(UPLOAD, resume=offset > 0)
        await upload.write(DATA[upload.offset : {0: 2 * PART + 5, 2 * PART + 5: 4 * PART + 8}.get(offset, offset)])
        await upload.aclose()
    upload = await backend.open_upload(UPLOAD, resume=True)
    scene.client.calls.clear()
    await upload.truncate(2 * PART + 5)
    assert not sum(scene.client.calls.values())
    await upload.write(DATA[2 * PART + 5 :])
    await upload.commit(KEY)
    assert await published(backend, 1) == DATA


async def test_parts_that_the_server_lost(scene: Scene) -> None:
    """A rule of the bucket dropped them: the upload is unknown, not silently short."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    await upload.aclose()
    next(iter(scene.client.multiparts.values())).pop(3)
    with pytest.raises(KeyUnknown, match="part 3"):
        await backend.open_upload(UPLOAD, resume=True)
    scene.client.multiparts.clear()
    with pytest.raises(KeyUnknown):
        await backend.open_upload(UPLOAD, resume=True)
    assert await backend.delete([f"uploads/{UPLOAD}"]) == {f"uploads/{UPLOAD}"}
    assert await found_keys(backend, "") == []


async def test_a_part_that_was_replaced_is_not_taken_for_ours(scene: Scene) -> None:
    """Same number and size, other bytes: whoever sent them, they are not what the offset counts on."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    await upload.aclose()
    next(iter(scene.client.multiparts.values()))[2] = os.urandom(PART)
    with pytest.raises(KeyUnknown, match="part 2"):
        await backend.open_upload(UPLOAD, resume=True)


async def test_a_part_that_fails_ends_the_session_not_the_upload(scene: Scene) -> None:
    """Told at the next write or close; another session goes on where it was closed before."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[: 2 * PART + 1])
    await upload.aclose()
    upload = await backend.open_upload(UPLOAD, resume=True)
    scene.client.faults["put_part"].append(LOST)
    await upload.write(DATA[2 * PART + 1 : 4 * PART])
    with pytest.raises(TransientError):
        await upload.drain()
    with pytest.raises(TransientError):
        await upload.write(b"x")
    with pytest.raises(TransientError):
        await upload.aclose()
    upload = await backend.open_upload(UPLOAD, resume=True)
    assert upload.offset == 2 * PART + 1
    await upload.write(DATA[upload.offset :])
    await upload.commit(KEY)
    assert await published(backend, 1) == DATA


async def test_parts_that_fail_together_are_told_once(scene: Scene) -> None:
    """The error of one is told; those of the others to nobody, and not by the loop as ones that were forgotten."""
    forgotten: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: forgotten.append(context))
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    scene.client.faults["put_part"].extend([LOST] * 4)
    with pytest.raises(TransientError):
        await upload.write(DATA)
    await upload.abort()
    del upload
    gc.collect()
    await asyncio.sleep(0)
    assert forgotten == []
    assert await found_keys(backend, "") == []


@pytest.mark.parametrize("fault", [LOST, TIMED_OUT, SLOW_DOWN], ids=["lost", "timed out", "slow down"])
@pytest.mark.parametrize("verb", ["start_multipart", "put_part", "complete", "put", "list_parts", "abort", "delete"])
async def test_a_fault_that_passes_is_not_noticed(scene: Scene, verb: str, fault: Fault) -> None:
    """Under the layer that repeats, each verb fails twice, with its effect or without."""
    backend = scene.backend(is_retrying=True)
    scene.client.faults[verb].extend([fault, None, fault, fault])
    for number in (1, 2):
        upload = await backend.open_upload(upload_id_of(number))
        await upload.write(DATA[: 5 * PART])
        await upload.aclose()
        upload = await backend.open_upload(upload_id_of(number), resume=True)
        await upload.write(DATA[5 * PART :])
        await upload.commit(key_of(number))
        assert await published(backend, number) == DATA
    dropped = await backend.open_upload(upload_id_of(3))
    await dropped.write(DATA)
    await dropped.abort()
    keys = await found_keys(backend, "")
    assert len(keys) == 4
    assert await backend.delete(keys) == set(keys)
    assert not scene.client.multiparts
    assert not scene.client.objects


@pytest.mark.parametrize("verb", ["start_multipart", "put_part", "complete", "put"])
@pytest.mark.parametrize("fault", [LOST, TIMED_OUT], ids=["lost", "timed out"])
async def test_a_commit_that_fails_leaves_nothing(scene: Scene, verb: str, fault: Fault) -> None:
    """Neither parts nor objects nor a spool, also where what failed had its effect."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    scene.client.faults[verb].append(fault)
    with pytest.raises(TransientError):
        await _write_and_commit(upload)
    await upload.abort()
    if verb == "start_multipart" and fault.has_effect:
        # Its id was never told; the next look at open uploads finds it by its key.
        assert await found_keys(backend, "") == [f"uploads/{UPLOAD}"]
        await backend.delete([f"uploads/{UPLOAD}"])
    assert await found_keys(backend, "") == []
    assert not scene.client.multiparts
    assert os.listdir(scene.spool) == []


async def _write_and_commit(upload: BackendUpload) -> None:
    await upload.write(DATA)
    await upload.commit(KEY)


async def test_an_endpoint_that_is_gone_at_the_commit(scene: Scene) -> None:
    """The first error is told; what is left is an open upload, and deleted as one when the endpoint is back."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    await upload.drain()
    for verb in ("put_part", "complete", "abort", "delete", "put"):
        scene.client.faults[verb].extend([LOST] * 3)
    with pytest.raises(TransientError, match="put_part"):
        await upload.commit(KEY)
    scene.client.faults.clear()
    assert await found_keys(backend, "") == [f"uploads/{UPLOAD}"]
    await backend.delete([f"uploads/{UPLOAD}"])
    assert not scene.client.multiparts
    assert os.listdir(scene.spool) == []


async def test_uploads_of_a_lost_host_are_found_by_their_parts(scene: Scene, tmp_path: Path) -> None:
    """Its spool is gone: listed by name, aborted with one listing whatever their number, and nobody else's are touched."""
    backend = scene.backend()
    for number in range(5):
        upload = await backend.open_upload(upload_id_of(number), key=key_of(number) if number % 2 else None)
        await upload.write(DATA)
        await upload.drain()
        upload._spool.close()  # type: ignore[attr-defined]
    scene.client.multiparts["s/somebody/else", "m0"] = {}
    scene.client.multiparts["other/data/00/" + "0" * 32, "m1"] = {}
    scene.spool = str(tmp_path / "another host")
    other = scene.backend()
    names = [f"uploads/{upload_id_of(number)}" for number in range(5)]
    assert await found_keys(other, "uploads/") == names
    scene.client.calls.clear()
    assert await other.delete(names) == set(names)
    assert scene.client.calls == {"list_multiparts": 1, "abort": 5}
    assert len(scene.client.multiparts) == 2
    with pytest.raises(KeyUnknown):
        await other.open_upload(upload_id_of(1), resume=True)


async def test_a_client_that_stalls_stops_nobody(scene: Scene) -> None:
    """Three hold part-filled buffers for ever; the others go through files, and end."""
    budget = PartBudget(4 * PART)
    backend = scene.backend(budget=budget)
    stalled = [await backend.open_upload(upload_id_of(100 + number)) for number in range(3)]
    for upload in stalled:
        await upload.write(b"x")

    async def push(number: int) -> None:
        upload = await backend.open_upload(upload_id_of(number))
        for at in range(0, len(DATA), 100):
            await upload.write(DATA[at : at + 100])
        await upload.commit(key_of(number))

    await asyncio.wait_for(asyncio.gather(*[push(number) for number in range(8)]), 60)
    for number in range(8):
        assert await published(backend, number) == DATA
    for upload in stalled:
        await upload.abort()
    assert budget.used_bytes == 0


@pytest.mark.parametrize("end", ["commit", "abort", "close", "fail"])
async def test_buffers_are_given_back_however_an_upload_ends(scene: Scene, end: str) -> None:
    """Those on their way, and the one that was being filled."""
    budget = PartBudget(8 * PART)
    upload = await scene.backend(budget=budget).open_upload(UPLOAD)
    if end == "fail":
        scene.client.faults["put_part"].append(LOST)
    await upload.write(DATA[: 3 * PART + 7])
    match end:
        case "commit":
            await upload.commit(KEY)
        case "abort":
            await upload.abort()
        case "close":
            await upload.aclose()
        case _:
            with pytest.raises(TransientError):
                await upload.aclose()
    assert budget.used_bytes == 0


async def test_no_more_than_a_few_parts_are_on_their_way(scene: Scene) -> None:
    """The writer waits."""
    backend = scene.backend(budget=PartBudget(64 * PART))
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    await upload.commit(KEY)
    assert 1 < scene.client.sending_max <= 4


async def test_a_late_part_does_not_outlive_its_abort(scene: Scene) -> None:
    """Cancelled on its way it may arrive behind the abort; it is looked for."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[: 3 * PART])
    await upload.abort()
    assert scene.client.calls["abort"] == 1
    assert scene.client.calls["list_parts"] == 1
    assert not scene.client.multiparts


async def test_a_late_delete_hits_nothing(scene: Scene) -> None:
    """It arrives when the next generation of the blob is there, under a name of its own."""
    backend = scene.backend()
    await backend.put_new(KEY, b"old")
    scene.client.faults["delete"].append(Fault(is_late=True))
    with pytest.raises(TransientError):
        await backend.delete([KEY])
    new = KEY.rpartition(".")[0] + f".{upload_id_of(9)}"
    await backend.put_new(new, b"new")
    scene.client.deliver_late()
    assert await found_keys(backend, "") == [new]


async def test_a_server_that_does_not_create_once(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    """The store says so, and asks before it writes."""
    scene.client = FakeObjectClient(creates_once=False)
    backend = scene.backend()
    with caplog.at_level("INFO"):
        await backend.prepare()
    assert "does not create exclusively" in caplog.text
    assert await backend.put_new(KEY, b"first") is True
    assert await backend.put_new(KEY, b"second") is False
    assert await read_all(backend, KEY) == b"first"


async def test_without_a_spool_there_are_no_uploads(scene: Scene, tmp_path: Path) -> None:
    """Everything else works; and it can be told later."""
    backend = ObjectStoreBackend(scene.client, prefix="s", spool_directory=None)
    assert await backend.put_new(KEY, b"x")
    assert await found_keys(backend, "") == [KEY]
    assert await backend.delete([KEY, f"uploads/{UPLOAD}"]) == {KEY, f"uploads/{UPLOAD}"}
    with pytest.raises(ConfigInvalid, match="spool"):
        await backend.open_upload(UPLOAD)
    backend.use_spool(str(tmp_path / "later"))
    await (await backend.open_upload(UPLOAD)).abort()


async def test_foreign_objects_are_left_alone(scene: Scene) -> None:
    """Other prefixes, and what a console makes for a folder."""
    scene.client.objects |= {"s/": b"", "s/blobs/": b"", "t/x": b"x", "sx": b"x"}
    backend = scene.backend()
    await backend.put_new(KEY, b"x")
    assert await found_keys(backend, "") == [KEY]
    await backend.delete([KEY])
    assert set(scene.client.objects) == {"s/", "s/blobs/", "t/x", "sx"}


async def test_a_listing_out_of_order_is_refused(scene: Scene) -> None:
    """Listings are compared in order: with one that isn't, what is there would look lost."""
    backend = scene.backend()
    scene.client._page = lambda *_: [
        *[  # type: ignore[method-assign]
            type("Info", (), {"key": f"s/{name}", "size_bytes": 1}) for name in ("b", "a")
        ]
    ]
    with pytest.raises(StorageFailed, match="behind"):
        await found_keys(backend, "")


async def test_a_spool_that_lost_its_state(scene: Scene) -> None:
    """As after a power cut: the upload begins at nothing, and its parts go with its name."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    await upload.aclose()
    Path(scene.spool, UPLOAD, "state").write_bytes(b"")
    resumed = await backend.open_upload(UPLOAD, resume=True)
    assert resumed.offset == 0
    await resumed.aclose()
    Path(scene.spool, UPLOAD, "state").write_bytes(b"\xc1")
    assert await backend.delete([f"uploads/{UPLOAD}"]) == {f"uploads/{UPLOAD}"}
    assert not scene.client.multiparts
    assert await found_keys(backend, "") == []


@pytest.mark.parametrize("size", [3, 10 * PART])
async def test_an_upload_whose_name_was_deleted_under_it(scene: Scene, size: int) -> None:
    """It can't be committed, or its bytes are whole: nothing half."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA[:size])
    await backend.delete([f"uploads/{UPLOAD}"])
    try:
        await upload.write(DATA[size : size + 3 * PART])
        await upload.commit(KEY)
    except KeyUnknown:
        await upload.abort()
        assert await found_keys(backend, "") == []
    else:
        assert await published(backend, 1) == DATA[: size + 3 * PART]


async def test_names_of_blobs_only_have_records(scene: Scene) -> None:
    """A big upload that nobody announced becomes a blob or nothing."""
    backend = scene.backend()
    upload = await backend.open_upload(UPLOAD)
    await upload.write(DATA)
    with pytest.raises(InvalidInput):
        await upload.commit("journal/x")
    assert await found_keys(backend, "") == []
