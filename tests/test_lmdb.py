"""The LMDB index: what only an environment on a disk, with one writing thread, can get wrong."""

import asyncio
import contextlib
import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import lmdb
import pytest

from blobstore.digest import Digest
from blobstore.errors import (
    BlobstoreError,
    BlobUnknown,
    FormatUnsupported,
    IndexDamaged,
    IndexMissing,
    IndexOnNetwork,
    IndexPoisoned,
    StorageFull,
    StoreBusy,
)
from blobstore.index import _mount, _uploads
from blobstore.index import _records as records
from blobstore.index._mount import name_if_unsafe, unsafe_filesystem
from blobstore.index._tables import Table, Transaction
from blobstore.index.lmdb import LmdbIndex, exclusive_lock
from blobstore.index.memory import MemoryIndex
from blobstore.names import UploadId
from blobstore.testing._index_scene import ALPHA, BOOT, IDENTITY, Scene

BALLAST = 1024 * 1024


def _index(path: Path) -> LmdbIndex:
    return LmdbIndex(str(path), ballast_bytes=BALLAST)


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[LmdbIndex]:
    opened = _index(tmp_path / "index")
    await opened.open(create=True)
    await opened.initialise(IDENTITY)
    yield opened
    await opened.aclose()


def _start(index: LmdbIndex):
    return index.start_upload(UploadId.random(), ALPHA, None, 1, BOOT)


# Where it may lie


@pytest.mark.parametrize(
    ("kind", "name"),
    [(0x6969, "NFS"), (0xFF534D42, "CIFS"), (0xFF534D42 - 2**32, "CIFS"), (0x65735546, "FUSE"), (0x01021997, "9p"),
     (0xEF53, None), (0x58465342, None), (0x9123683E, None), (0x01021994, None), (0x794C7630, None)],
)  # fmt: skip
def test_network_filesystems_are_known(kind: int, name: str | None) -> None:
    """By `f_type`, signed or not; ext4, XFS, btrfs, tmpfs and overlayfs are local."""
    assert name_if_unsafe(kind) == name


def test_a_path_that_is_not_there_is_judged_by_its_parent(tmp_path: Path) -> None:
    """An index is refused before its directory is made."""
    assert unsafe_filesystem(str(tmp_path / "a" / "b" / "c")) == unsafe_filesystem(str(tmp_path))


async def test_an_index_on_a_network_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is made there."""
    monkeypatch.setattr(_mount, "_filesystem_type", lambda _: 0x6969)
    with pytest.raises(IndexOnNetwork, match="NFS"):
        await _index(tmp_path / "index").open(create=True)
    assert list(tmp_path.iterdir()) == []


async def test_a_missing_index_is_not_made(tmp_path: Path) -> None:
    """Unless that is asked for: a mistyped path does not become an empty store."""
    with pytest.raises(IndexMissing):
        await _index(tmp_path / "index").open()
    assert list(tmp_path.iterdir()) == []


async def test_a_file_that_is_no_index_is_refused(tmp_path: Path) -> None:
    """Whatever lies where the environment should be."""
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "data.mdb").write_bytes(b"not an environment" * 1000)
    with pytest.raises(IndexMissing):
        await _index(tmp_path / "index").open()


@pytest.mark.parametrize("size", [0, 1, 4096, 8191])
async def test_an_index_that_was_half_made_is_made_anew(tmp_path: Path, size: int) -> None:
    """LMDB writes its first two pages before anything else, with one call."""
    whole = _index(tmp_path / "index")
    await whole.open(create=True)
    await whole.aclose()
    data = tmp_path / "index" / "data.mdb"
    os.truncate(data, size)
    if size:
        with pytest.raises((IndexMissing, IndexDamaged)):
            await _index(tmp_path / "index").open()
    again = _index(tmp_path / "index")
    await again.open(create=True)
    await again.initialise(IDENTITY)
    assert await again.identity() == IDENTITY
    await again.aclose()


async def test_a_maker_that_lives_is_not_disturbed(tmp_path: Path) -> None:
    """A second process finds but half of the first pages while the first writes them."""
    (tmp_path / "index").mkdir()
    data = tmp_path / "index" / "data.mdb"
    data.write_bytes(b"half a page")
    with (tmp_path / "index.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        with pytest.raises(IndexMissing):
            await _index(tmp_path / "index").open(create=True)
    assert data.read_bytes() == b"half a page"


async def test_what_was_written_is_there_again(tmp_path: Path) -> None:
    """Closed and opened."""
    first = _index(tmp_path / "index")
    await first.open(create=True)
    await first.initialise(IDENTITY)
    intent = await _start(first)
    await first.aclose()
    await first.aclose()
    second = _index(tmp_path / "index")
    await second.open()
    assert await second.identity() == IDENTITY
    assert await second.find_upload(intent.upload) == intent
    await second.aclose()


# Who has it open


async def test_a_process_opens_it_once(index: LmdbIndex) -> None:
    """A second environment over the same file in one process corrupts: refused, and the first works on."""
    with pytest.raises(StoreBusy):
        await _index(Path(index.path)).open()
    await _start(index)


async def test_a_rebuild_wants_it_alone(index: LmdbIndex) -> None:
    """The exclusive lock is refused while it is open, and refuses others while it lasts."""
    with pytest.raises(StoreBusy):
        async with exclusive_lock(index.path):
            pass
    await index.aclose()
    async with exclusive_lock(index.path):
        with pytest.raises(StoreBusy):
            await _index(Path(index.path)).open()
        with pytest.raises(StoreBusy):
            async with exclusive_lock(index.path):
                pass
    again = _index(Path(index.path))
    await again.open()
    await again.aclose()


FORK = """
import asyncio, os, sys
from blobstore.errors import IndexPoisoned
from blobstore.index.lmdb import LmdbIndex
from blobstore.names import RepositoryName, UploadId

async def use(index):
    await index.start_upload(UploadId.random(), RepositoryName("r"), None, 1, "b")

async def main():
    index = LmdbIndex(sys.argv[1], ballast_bytes=4096)
    await index.open(create=True)
    await use(index)
    child = os.fork()
    if child == 0:
        refused = 0
        for verb in (lambda: use(index), index.totals, lambda: index.list_uploads(9, 9)):
            coroutine = verb()
            try:
                coroutine.send(None)
            except IndexPoisoned:
                refused += 1
        os._exit(refused)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 3, status
    await use(index)
    assert (await index.totals()).uploads == 2
    await index.aclose()

asyncio.run(main())
"""


def test_a_forked_child_is_refused(tmp_path: Path) -> None:
    """Reads, scans and writes in the child; the parent goes on."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK, str(tmp_path / "index")],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# One commit for many


async def test_many_verbs_share_a_commit(index: LmdbIndex) -> None:
    """64 at once need far fewer synced commits than 64, and all are there."""
    before = index.commits
    intents = await asyncio.gather(*[_start(index) for _ in range(64)])
    assert index.commits - before < 16
    assert len({intent.generation for intent in intents}) == 64
    assert (await index.totals()).uploads == 64


async def test_more_verbs_than_a_batch_holds(index: LmdbIndex) -> None:
    """None is lost or left waiting."""
    await asyncio.gather(*[_start(index) for _ in range(2500)])
    assert (await index.totals()).uploads == 2500


def _write_then_raise(tx: Transaction) -> None:
    tx.put(Table.META, b"left behind", b"x")
    tx.add("pushed_bytes", 1000)
    raise BlobUnknown("on purpose")


def _count_then_raise(tx: Transaction) -> None:
    tx.add("pushed_bytes", 1000)
    raise BlobUnknown("on purpose")


def _get(tx: Transaction, key: bytes) -> bytes | None:
    return tx.get(Table.META, key)


@pytest.mark.parametrize("verb", [_write_then_raise, _count_then_raise])
async def test_a_verb_that_raises_leaves_nothing(index: LmdbIndex, verb) -> None:
    """Neither its rows nor its counts; the verbs that shared its commit are not undone."""
    jobs = [index._write(verb) if at % 7 == 3 else _start(index) for at in range(30)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert [isinstance(result, BlobUnknown) for result in results] == [at % 7 == 3 for at in range(30)]
    intents = [result for result in results if not isinstance(result, BaseException)]
    assert len({intent.generation for intent in intents}) == len(intents)
    for intent in intents:
        assert await index.find_upload(intent.upload) == intent
    assert index._read(_get, b"left behind") is None
    totals = await index.totals()
    assert (totals.uploads, totals.pushed_bytes) == (len(intents), 0)
    assert (await index.guards()).frozen is None
    await _start(index)
    assert (await index.guards()).frozen is None


async def test_a_cancelled_caller_disturbs_nobody(index: LmdbIndex) -> None:
    """Its verb may or may not have run; the others are answered."""
    tasks = [asyncio.ensure_future(_start(index)) for _ in range(10)]
    await asyncio.sleep(0)
    tasks[4].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, asyncio.CancelledError) for result in results) == 1
    assert (await index.totals()).uploads in (9, 10)


# Another format version


def _set_format(tx: Transaction, version: int) -> None:
    tx.put(Table.META, records.META_FORMAT, records.u32(version))


async def test_another_format_version_is_refused(index: LmdbIndex) -> None:
    """At open, before anything is read or written."""
    await index._write(_set_format, 2)
    await index.aclose()
    with pytest.raises(FormatUnsupported):
        await _index(Path(index.path)).open()


async def test_a_format_that_changes_under_a_process_is_told(index: LmdbIndex) -> None:
    """Another process upgraded the index: every write is refused, none waits for ever."""
    await index._write(_set_format, 2)
    for _ in range(2):
        with pytest.raises(FormatUnsupported):
            await asyncio.wait_for(_start(index), 5)


# Failing disks


class _FailingEnvironment:
    """An environment whose transactions fail when they commit, as after a failed sync."""

    def __init__(self, env: lmdb.Environment, error: type[lmdb.Error]) -> None:
        self._env, self._error = env, error
        self.is_failing = True

    def begin(self, **options: object) -> object:
        if self.is_failing and options.get("write"):
            raise self._error("mdb_txn_commit: Input/output error")
        return self._env.begin(**options)

    def __getattr__(self, name: str) -> object:
        return getattr(self._env, name)


async def test_a_failed_commit_poisons(index: LmdbIndex) -> None:
    """What a failed sync left is unknown: nothing is answered any more, not even a read, and a second sync is not tried."""
    assert index._writer is not None
    failing = _FailingEnvironment(index._writer._env, lmdb.Error)
    index._writer._env = failing
    with pytest.raises(IndexPoisoned):
        await _start(index)
    failing.is_failing = False
    for verb in (lambda: _start(index), index.totals, lambda: index.list_uploads(9, 9), index.identity):
        with pytest.raises(IndexPoisoned):
            await verb()


async def test_a_closed_index_answers_nothing(index: LmdbIndex) -> None:
    """With an error of ours."""
    await index.aclose()
    for verb in (lambda: _start(index), index.totals):
        with pytest.raises(BlobstoreError):
            await verb()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(place)], capture_output=True, check=False
    ).returncode == 0  # fmt: skip
    if not mounted:
        why = "a small tmpfs can't be mounted here: that needs root"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(why)
        pytest.skip(why)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert os.statvfs(path.parent).f_bavail == 0


async def _until_refused(index: LmdbIndex) -> BaseException:
    """Push until the disk is full; what the first refused push was told."""
    for _ in range(10_000):
        results = await asyncio.gather(*[_start(index) for _ in range(50)], return_exceptions=True)
        refused = [result for result in results if isinstance(result, BaseException)]
        if refused:
            return refused[0]
    pytest.fail("the disk was never full")


async def test_a_full_disk(small_disk: Path) -> None:
    """Pushes are refused, deletes still work through the ballast, and once there is room everything does."""
    index = _index(small_disk / "index")
    await index.open(create=True)
    try:
        await index.initialise(IDENTITY)
        intents = [await _start(index) for _ in range(20)]
        filler = small_disk / "filler"
        _fill(filler)
        refused = await _until_refused(index)
        assert isinstance(refused, StorageFull), repr(refused)
        before = (await index.totals()).uploads
        assert await index.cancel_upload(intents[0].upload, 1) is not None
        assert await index.find_upload(intents[0].upload) is None
        assert (await index.totals()).uploads == before - 1
        assert (await index.totals()).trash == 1
        filler.unlink()
        await _start(index)
        assert (await index.guards()).frozen is None
        assert os.stat(small_disk / "index" / "ballast").st_blocks * 512 >= BALLAST
    finally:
        await index.aclose()


# Minting


def _set_epoch(tx: Transaction, epoch: int, high: int) -> None:
    tx.put(Table.EPOCHS, records.u64(epoch), records.u64(high))


@pytest.fixture(params=["memory", "lmdb"])
async def minting(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Scene]:
    opened = MemoryIndex() if request.param == "memory" else _index(tmp_path / "minting")
    await opened.open(create=True)
    await opened.initialise(IDENTITY)
    yield Scene(opened)
    await opened.aclose()


@pytest.mark.parametrize("change", [-1, 1])
async def test_an_index_that_went_back_freezes(minting: Scene, change: int) -> None:
    """Its epoch row does not hold what this process minted last: frozen, a new epoch, and no name minted twice."""
    index = minting.index
    before = [(await minting.start()).generation for _ in range(3)]
    await index._write(_set_epoch, before[0].epoch, 3 + change)
    after = [(await minting.start()).generation for _ in range(3)]
    assert (await index.guards()).frozen is not None
    assert before[0].epoch not in {generation.epoch for generation in after}
    assert [generation.counter for generation in after] == [1, 2, 3]
    assert len({generation.epoch for generation in after}) == 1


async def test_an_exchanged_index_freezes_in_the_middle_of_a_batch(minting: Scene) -> None:
    """Many at once: all have generations of their own."""
    index = minting.index
    before = (await minting.start()).generation
    jobs = [index._write(_set_epoch, before.epoch, 0), *[minting.start() for _ in range(20)]]
    intents = (await asyncio.gather(*jobs))[1:]
    assert len({intent.generation for intent in intents} | {before}) == 21
    assert (await index.guards()).frozen is not None


async def test_a_refused_verb_that_minted_does_not_freeze(minting: Scene) -> None:
    """What was rolled back was not minted: the next one goes on, and nothing is taken for a restored backup."""
    index = minting.index
    await minting.start()

    def mint_then_raise(tx: Transaction) -> None:
        _uploads.start_upload(tx, index._minter, UploadId.random(), ALPHA, None, 1, BOOT)
        raise BlobUnknown(Digest.of(b""))

    jobs = [minting.start(), index._write(mint_then_raise), minting.start()]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    assert isinstance(results[1], BlobUnknown)
    assert results[0].generation != results[2].generation
    await minting.start()
    assert (await index.guards()).frozen is None


async def test_a_lock_that_can_not_be_closed_cleanly_is_given_up_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds no data: a rebuild that succeeded is not told as failed for it."""
    close = os.close

    def close_and_fail(handle: int) -> None:
        close(handle)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = str(tmp_path / "index")
    async with exclusive_lock(path):
        monkeypatch.setattr(os, "close", close_and_fail)
    monkeypatch.undo()
    async with exclusive_lock(path):
        assert Path(f"{path}.lock").exists()
