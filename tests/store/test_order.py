"""The order of things: promise, bytes durable, index durable, journal durable, answer; row gone, bytes gone, trash row gone."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import lmdb
import pytest

import blobstore
from blobstore.abc.records import Content, Intent, ManifestKey
from blobstore.app import make_collector, rebuild_index
from blobstore.digest import Digest
from blobstore.errors import CollectionRefused, StorageFailed
from blobstore.gc import GcPolicy
from blobstore.index.lmdb import LmdbIndex
from blobstore.journal import list_journal, recover
from blobstore.layout import blob_key
from blobstore.names import RepositoryName, UploadId
from blobstore.promises import HoldTerms
from blobstore.store import Store
from blobstore.testing._index_scene import ALPHA, BOOT, IDENTITY
from blobstore.testing.fakes import FakeClock, image
from tests.store.pushing import push_blob
from tests.store.recording import Diary, record

AT_ONCE = GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True)
SMALL, LARGE = b"small", b"0123456789abcdef" * (3 * 65536)
"""One is put in one call, the other is staged and linked."""
JOURNALED = ["sync file in journal", "name in journal", "sync directory in journal"]


@pytest.fixture
async def store(place: str) -> AsyncIterator[Store]:
    async with blobstore.open(place, create=True) as opened:
        await push_blob(opened, b"config")
        await opened.repository("app").put_manifest(image(b"config").body, tag="t")
        yield opened


@pytest.fixture
def diary(store: Store, monkeypatch: pytest.MonkeyPatch) -> Diary:
    return record(store, monkeypatch)


# Pushing


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_push_is_promised_then_durable_then_committed(store: Store, diary: Diary, data: bytes) -> None:
    """The intent stands before the first byte; the file is synced before it has its name, and its name before the index
    knows of it."""
    await push_blob(store, data)
    diary.note("answer")
    assert diary.read("remove from uploads") == [
        "start_upload", "sync file in uploads" if data is LARGE else "sync file in blobs",
        "name in blobs", "sync directory in blobs", "commit_blob", "answer",
    ]  # fmt: skip


async def test_a_manifest_is_durable_then_committed_then_journaled(store: Store, diary: Diary) -> None:
    """Its answer waits for the journal, too."""
    await store.repository("app").put_manifest(image(b"config", [b"config"]).body, tag="t")
    diary.note("answer")
    assert diary.read() == [
        "start_upload", "sync file in blobs", "name in blobs", "sync directory in blobs", "put_manifest", *JOURNALED,
        "answer",
    ]  # fmt: skip


async def _pin(store: Store) -> None:
    async with await store.open_pinned_upload() as upload:
        await upload.write(b"config")
        await upload.commit()


async def _unpin(store: Store) -> None:
    await store.unpin(Digest.of(b"config"))


CHANGES: dict[str, Callable[[Store], Awaitable[object]]] = {
    "put_tag": lambda store: store.repository("app").tag("t", "another"),
    "delete_tag": lambda store: store.repository("app").untag("t"),
    "delete_manifest": lambda store: store.repository("app").delete_manifest(image(b"config").digest),
    "hide_repository": lambda store: store.repository("app").remove(),
    "commit_blob": _pin,
    "unpin_blob": _unpin,
}


@pytest.mark.parametrize("verb", CHANGES)
async def test_a_change_of_references_is_committed_then_journaled_then_answered(
    store: Store, diary: Diary, verb: str
) -> None:
    """Tags, pins, deletes: what was answered survives the loss of the index."""
    if verb == "unpin_blob":
        await _pin(store)
    diary.clear()
    await CHANGES[verb](store)
    diary.note("answer")
    after = diary.read()[diary.read().index(verb) :]
    assert [line for line in after if line in (verb, *JOURNALED, "answer")] == [verb, *JOURNALED, "answer"]


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_descriptor_whose_sync_failed_is_not_synced_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """The kernel has marked its pages clean: a second call would succeed, and lie. The push fails, nothing is visible."""
    synced: list[int] = []
    fsync = os.fsync

    def fail_once(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            fsync(handle)
            return
        synced.append(os.fstat(handle).st_ino)
        if len(synced) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail_once)
        with pytest.raises(StorageFailed):
            await push_blob(store, data)
    assert synced.count(synced[0]) == 1
    assert await store.index.find_blob(Digest.of(data)) is None


# Collecting


async def test_records_are_journaled_before_bytes_go_and_rows_before_bytes(store: Store, diary: Diary) -> None:
    """Row gone and durable, its number in the journal, bytes gone and durable, trash row gone."""
    await store.repository("app").untag("t")
    diary.clear()
    await make_collector(store, AT_ONCE).run()
    assert diary.read("trim_outbox") == [
        "drop_manifests", *JOURNALED, "condemn", "retire", *JOURNALED,
        "remove from blobs", "sync directory in blobs", "forget_trash",
    ]  # fmt: skip
    assert (await store.totals()).trash == 0


async def test_what_a_dead_process_let_go_is_journaled_before_its_bytes_go(store: Store, diary: Diary) -> None:
    """It was committed and never answered: a rebuilt index would bring a reference without bytes back."""
    key = ManifestKey(RepositoryName("app"), image(b"config").digest)
    await store.index.delete_manifest(key, store.parts.clock.now_ms())
    await make_collector(store, AT_ONCE).run()
    lines = diary.read()
    assert lines.index("sync directory in journal") < lines.index("retire") < lines.index("remove from blobs")


async def test_the_journal_goes_once_a_checkpoint_is_durable(store: Store, diary: Diary) -> None:
    """And only then."""
    for number in range(3):
        await store.repository("app").tag("t", f"t{number}")
        diary.clear()
        await store.checkpoint()
    lines = diary.read("start_upload", "remove from uploads")
    assert lines[:3] == ["sync file in uploads", "name in checkpoint", "sync directory in checkpoint"]
    assert "remove from journal" in lines[3:]


async def test_a_checkpoint_that_fails_takes_no_journal_away(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever step it fails in."""
    for number in range(3):
        await store.repository("app").tag("t", f"t{number}")
        with monkeypatch.context() as patched:
            patched.setattr(os, "link", _refuse)
            with pytest.raises(StorageFailed):
                await store.checkpoint()
    recovered = await recover(store.backend)
    assert (recovered.problems, set(recovered.references.repositories["app"].tags)) == ([], {"t", "t0", "t1", "t2"})


def _refuse(*_: object) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_the_outbox_is_forgotten_once_the_journal_is_durable(store: Store, diary: Diary) -> None:
    """A row that only the outbox has is the answer's only copy beside the index."""
    await store.repository("app").tag("t", "another")
    await store.parts.journal.aclose()
    lines = diary.read()
    assert lines.index("sync directory in journal") < lines.index("trim_outbox")


# Rebuilding


async def test_a_rebuild_leaves_no_gap_to_the_next(place: str) -> None:
    """What a damaged journal ended is told once; numbers that begin behind the damage stand on a checkpoint."""
    async with blobstore.open(place, create=True) as store:
        await push_blob(store, b"config")
        for number in range(5):
            await store.repository("app").put_manifest(image(b"config").body, tag=f"t{number}")
        names = [name async for name in list_journal(store.backend)]
        await store.backend.delete([names[2].key])
    assert len((await rebuild_index(place)).problems) == 1
    async with blobstore.open(place) as store:
        await store.repository("app").tag("t0", "new")
    assert (await rebuild_index(place)).problems == []
    async with blobstore.open(place) as store:
        await store.repository("app").find_manifest("new")


async def test_what_a_rebuild_found_is_kept_for_one_grace(place: str) -> None:
    """What was promised before the index was lost is not known any more, so all of it is owed."""
    clock = FakeClock()
    async with blobstore.open(place, create=True, clock=clock) as store:
        await push_blob(store, b"promised")
    await rebuild_index(place, clock=clock)
    for hours, is_there in ((12, True), (24, False)):
        clock.advance(hours * 3_600_000)
        async with blobstore.open(place, clock=clock) as store:
            with contextlib.suppress(CollectionRefused):
                await make_collector(store, GcPolicy(quarantine_s=0)).run()
            assert (await store.index.find_blob(Digest.of(b"promised")) is not None) == is_there


# The index


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[LmdbIndex]:
    opened = LmdbIndex(str(tmp_path / "lmdb"), ballast_bytes=4096)
    await opened.open(create=True)
    await opened.initialise(IDENTITY)
    yield opened
    await opened.aclose()


class _Environment:
    """An LMDB environment that asks before it begins, and before it commits, a writing transaction."""

    def __init__(
        self, env: lmdb.Environment, before_begin: Callable[[], None], before_commit: Callable[[], None]
    ) -> None:
        self._env, self._before_begin, self._before_commit = env, before_begin, before_commit

    def begin(self, **options: object) -> object:
        if not options.get("write"):
            return self._env.begin(**options)
        self._before_begin()
        return _Committing(self._env.begin(**options), self._before_commit)

    def __getattr__(self, name: str) -> object:
        return getattr(self._env, name)


class _Committing:
    def __init__(self, txn: lmdb.Transaction, before_commit: Callable[[], None]) -> None:
        self._txn, self._before_commit = txn, before_commit

    def __enter__(self) -> lmdb.Transaction:
        return self._txn.__enter__()

    def __exit__(self, *error: object) -> object:
        self._before_commit()
        return self._txn.__exit__(*error)


def _start(index: LmdbIndex) -> Awaitable[Intent]:
    return index.start_upload(UploadId.random(), ALPHA, None, 1, BOOT)


async def test_the_index_syncs_data_and_meta_page(index: LmdbIndex) -> None:
    """Without either, a power cut takes back what was answered."""
    assert index._env is not None
    flags = index._env.flags()
    assert (flags["sync"], flags["metasync"], flags["map_async"], flags["writemap"]) == (True, True, False, False)


async def test_no_name_is_minted_twice_by_two_processes(index: LmdbIndex) -> None:
    """Each process begins an epoch of its own."""
    minted = [(await _start(index)).generation for _ in range(2)]
    await index.aclose()
    again = LmdbIndex(index.path, ballast_bytes=4096)
    await again.open()
    minted += [(await _start(again)).generation for _ in range(2)]
    await again.aclose()
    assert len(set(minted)) == 4


async def test_a_push_that_shares_a_commit_with_a_removal_is_seen(index: LmdbIndex) -> None:
    """What comes after the removal of a repository, were it in the same transaction, belongs to a new one of that name."""
    manifest = image(b"config")
    for data in (b"config", manifest.body):
        intent, content = await _start(index), Content(Digest.of(data), len(data))
        names = [blob_key(content.digest, intent.generation)]
        if data == b"config":
            await index.commit_blob(intent, content, names, 1, is_pinned=False)
        else:
            await index.put_manifest(intent, content, names, manifest, [], 1, HoldTerms())
    intent, content = await _start(index), Content(Digest.of(b"new"), 3)
    names = [blob_key(content.digest, intent.generation)]
    before = index.commits
    await asyncio.gather(index.hide_repository(ALPHA, 2), index.commit_blob(intent, content, names, 2, is_pinned=False))
    assert index.commits == before + 1
    assert await index.view_blob(ALPHA, content.digest, 2, HoldTerms()) is not None


async def test_no_verb_is_answered_before_its_commit(index: LmdbIndex) -> None:
    """However long that takes."""
    assert index._writer is not None
    loop, is_committing, may_commit = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def before_commit() -> None:
        loop.call_soon_threadsafe(is_committing.set)
        assert may_commit.wait(30)

    index._writer._env = _Environment(index._writer._env, lambda: None, before_commit)
    verb = asyncio.ensure_future(_start(index))
    await is_committing.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    is_answered = verb.done()
    may_commit.set()
    await verb
    assert not is_answered


async def test_the_ballast_is_freed_for_verbs_that_make_room(index: LmdbIndex) -> None:
    """On a full disk they are tried again without it; once there is space it is taken again."""
    assert index._writer is not None
    upload = UploadId.random()
    await index.start_upload(upload, ALPHA, None, 1, BOOT)
    ballast = Path(index.path, "ballast")
    seen: list[bool] = []

    def before_begin() -> None:
        seen.append(ballast.exists())
        if seen[-1]:
            raise lmdb.DiskError("No space left on device")

    env = index._writer._env
    index._writer._env = _Environment(env, before_begin, lambda: None)
    await index.cancel_upload(upload, 1)
    index._writer._env = env
    assert seen == [True, False]
    assert await index.find_upload(upload) is None
    assert ballast.exists()
