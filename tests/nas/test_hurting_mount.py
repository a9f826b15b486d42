"""The NAS backend on a file system that loses answers, goes stale, lists what isn't so, and fails late."""

from __future__ import annotations

import contextlib
import os
import random  # noqa: TID251 - from a printed seed
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from blobstore.abc.backend import Backend, read_all
from blobstore.app import make_collector
from blobstore.backends.nas import NasBackend
from blobstore.digest import Digest
from blobstore.errors import CollectionRefused, StorageFailed, StorageFull, TagUnknown
from blobstore.gc import GcPolicy
from blobstore.generation import Generation
from blobstore.index.lmdb import LmdbIndex
from blobstore.layout import MARKER_KEY, blob_key
from blobstore.reconcile import find_orphans
from blobstore.store import Store
from blobstore.testing._backend_stage import found_keys
from blobstore.testing.backend_suite import BackendSuite
from blobstore.testing.fakes import image
from blobstore.testing.invariants import find_broken, find_garbage
from tests.nas.conftest import HurtingMount

MASKED = {
    "create-lost": 0.05,
    "rename-lost": 0.1,
    "rename-lost-eio": 0.1,
    "link-lost": 0.05,
    "link-lost-estale": 0.05,
    "unlink-lost": 0.05,
    "unlink-lost-estale": 0.05,
    "unlink-lost-etimedout": 0.05,
    "open-estale": 0.03,
    "open-estale-twice": 0.01,
    "read-estale": 0.03,
    "list-extra": 0.3,
    "close-late": 0.02,
    "write-short": 0.1,
}
"""Nobody above the backend notices these."""
TOLD = {"fsync-eio": 0.04, "close-edquot": 0.03, "write-enospc": 0.03, "unlink-eio": 0.05, "link-eio": 0.05}
"""These end a push, which the client begins again; some are mended by a second try."""
AT_ONCE = GcPolicy(grace_s=0, quarantine_s=0, delete_untagged=True, max_share=1)
KEY = blob_key(Digest.of(b"0"), Generation(1, 0))
UPLOAD_ID = "0" * 32


@pytest.fixture
def seed(capsys: pytest.CaptureFixture[str]) -> int:
    """What the faults follow from; BLOBSTORE_SEED plays one again."""
    drawn = int(os.environ.get("BLOBSTORE_SEED", secrets.randbelow(2**32)))
    print(f"BLOBSTORE_SEED={drawn}")
    return drawn


@pytest.fixture
def place(hurting: HurtingMount) -> Iterator[str]:
    """A new directory of the mount, and no faults afterwards."""
    name = f"store-{secrets.token_hex(4)}"
    yield name
    hurting.relent()


class TestHurtingMount(BackendSuite):
    """All that every backend promises, with each fault that can be masked."""

    LISTED_KEYS = 1100
    BIG_BYTES = 8 * 1024 * 1024
    SEVERAL_PARTS_BYTES = 1024 * 1024
    CANCELLED_AWAITS = 2

    @pytest.fixture(autouse=True)
    def _hurt(self, hurting: HurtingMount, place: str, seed: int) -> None:
        self._root = str(hurting.place / place)
        hurting.hurt(MASKED, seed)

    def make_backend(self, directory: Path) -> Backend:
        return NasBackend(self._root, str(directory / "state"))


def test_every_fault_came(hurting: HurtingMount) -> None:
    """The suite before this was hurt by each of them."""
    assert set(MASKED) <= set(hurting.counts())


@pytest_asyncio.fixture
async def backend(hurting: HurtingMount, place: str, tmp_path: Path) -> AsyncIterator[NasBackend]:
    opened = NasBackend(str(hurting.place / place), str(tmp_path / "state"))
    await opened.open()
    await opened.prepare()
    yield opened
    hurting.relent()
    await opened.aclose()


async def _commit(backend: Backend, data: bytes = b"bytes") -> None:
    upload = await backend.open_upload(UPLOAD_ID)
    await upload.write(data)
    await upload.commit(KEY)


async def _put_new(backend: Backend) -> None:
    assert await backend.put_new(KEY, b"bytes")


async def _put(backend: Backend) -> None:
    await backend.put(KEY, b"bytes")


WRITES: dict[str, Callable[[Backend], Awaitable[None]]] = {"commit": _commit, "put_new": _put_new, "put": _put}
LOST = [
    ("commit", "create-lost"),
    ("commit", "link-lost"),
    ("commit", "link-lost-estale"),
    ("commit", "unlink-lost"),
    ("commit", "unlink-lost-estale"),
    ("commit", "open-estale"),
    ("commit", "open-estale-twice"),
    ("put_new", "create-lost"),
    ("put_new", "link-lost"),
    ("put_new", "link-lost-estale"),
    ("put", "create-lost"),
    ("put", "rename-lost"),
    ("put", "rename-lost-eio"),
]
NEVER_DONE = [("commit", "link-eio"), ("commit", "unlink-eio"), ("put_new", "link-eio"), ("put", "rename-eio")]


@pytest.mark.parametrize(("verb", "fault"), LOST + NEVER_DONE)
async def test_a_call_that_seems_to_fail_is_looked_into(
    hurting: HurtingMount, backend: NasBackend, verb: str, fault: str
) -> None:
    """What was done is not done again, what wasn't is: the bytes are there, once."""
    before = hurting.counts().get(fault, 0)
    hurting.hurt_once((fault, ""))
    await WRITES[verb](backend)
    if not fault.startswith("open-estale"):
        assert hurting.counts()[fault] == before + 1
    assert await read_all(backend, KEY) == b"bytes"
    assert await found_keys(backend, "") == [KEY]


@pytest.mark.parametrize("fault", ["unlink-lost", "unlink-lost-estale", "unlink-lost-etimedout", "unlink-eio"])
async def test_a_delete_whose_answer_is_lost_is_confirmed(
    hurting: HurtingMount, backend: NasBackend, fault: str
) -> None:
    """What isn't there any more is gone; what is, goes at the second try."""
    await backend.put_new(KEY, b"bytes")
    hurting.hurt_once((fault, "blobs/"))
    assert await backend.delete([KEY]) == {KEY}
    assert await found_keys(backend, "") == []


@pytest.mark.parametrize("fault", ["fsync-eio", "close-edquot", "write-enospc"])
@pytest.mark.parametrize("verb", WRITES)
async def test_what_fails_late_leaves_nothing(
    hurting: HurtingMount, backend: NasBackend, verb: str, fault: str
) -> None:
    """A sync, a close or a write that fails ends the verb with nothing visible; the next one succeeds."""
    hurting.hurt_once((fault, ""))
    with pytest.raises(StorageFailed if fault == "fsync-eio" else StorageFull):
        await WRITES[verb](backend)
    assert await found_keys(backend, "") == []
    assert os.listdir(hurting.source / Path(backend.location).name / ".staging") == [] if verb != "commit" else True
    await WRITES[verb](backend)
    assert await read_all(backend, KEY) == b"bytes"


async def test_a_quota_that_ends_at_a_pause_is_told(hurting: HurtingMount, backend: NasBackend) -> None:
    """A session that is put aside must be durable: an error of its close is its own."""
    upload = await backend.open_upload(UPLOAD_ID)
    await upload.write(b"some")
    await upload.drain()
    hurting.hurt_once(("close-edquot", "uploads/"))
    with pytest.raises(StorageFull):
        await upload.aclose()
    await (await backend.open_upload(UPLOAD_ID, resume=True)).abort()
    assert await found_keys(backend, "") == []


async def test_an_abort_is_not_kept_from_removing(hurting: HurtingMount, backend: NasBackend) -> None:
    """Bytes that can't be written are not wanted any more."""
    upload = await backend.open_upload(UPLOAD_ID)
    await upload.write(b"some")
    hurting.hurt_once(("close-edquot", "uploads/"))
    await upload.abort()
    assert await found_keys(backend, "") == []


async def test_a_handle_that_goes_stale_is_opened_anew(hurting: HurtingMount, backend: NasBackend) -> None:
    """In the middle of a blob, several times: the reader gets all of it."""
    data = secrets.token_bytes(5 * 1024 * 1024)
    await _commit(backend, data)
    got = b""
    async with backend.read(KEY, 7) as chunks:
        async for chunk in chunks:
            got += chunk
            hurting.hurt_once(("read-estale", "blobs/"))
    assert got == data[7:]


@pytest.mark.parametrize("fault", ["open-estale", "open-estale-twice"])
async def test_what_is_stale_when_it_is_opened_is_opened_again(
    hurting: HurtingMount, backend: NasBackend, fault: str
) -> None:
    """As the marker is for a while to a client of NFSv4 that had it before it was replaced: twice in a row."""
    await backend.put(MARKER_KEY, b"marker")
    before = hurting.counts().get(fault, 0)
    hurting.hurt_once((fault, MARKER_KEY))
    assert await read_all(backend, MARKER_KEY) == b"marker"
    hurting.hurt_once((fault, MARKER_KEY))
    assert (await backend.stat(MARKER_KEY)).size_bytes == 6
    assert hurting.counts()[fault] == before + 2


async def test_a_stale_handle_of_what_is_gone_or_another_is_an_error(
    hurting: HurtingMount, backend: NasBackend
) -> None:
    """The reader is told, rather than given the end of something else."""
    for replacement in (None, b"shorter"):
        await _commit(backend, secrets.token_bytes(5 * 1024 * 1024))
        async with backend.read(KEY) as chunks:
            await anext(chunks)
            below = hurting.source / Path(backend.location).name / KEY
            below.unlink()
            if replacement is not None:
                below.write_bytes(replacement)
            hurting.hurt_once(("read-estale", "blobs/"))
            with pytest.raises(StorageFailed):
                async for _ in chunks:
                    pass
        await backend.delete([KEY])


async def test_a_name_that_went_is_not_listed(hurting: HurtingMount, backend: NasBackend) -> None:
    """Though the directory still shows it."""
    await backend.put_new(KEY, b"bytes")
    await backend.delete([KEY])
    hurting.hurt({"list-extra": 1.0}, 0)
    assert await found_keys(backend, "blobs/") == []
    hurting.hurt({"list-extra": 1.0}, 0)
    assert Path(KEY).name in os.listdir(Path(backend.path_of(KEY)).parent)


async def test_the_marker_is_old_or_new(hurting: HurtingMount, backend: NasBackend) -> None:
    """Whatever fails while it is replaced."""
    await backend.put(MARKER_KEY, b"old")
    for fault in ("fsync-eio", "close-edquot", "write-enospc"):
        hurting.hurt_once((fault, ""))
        with pytest.raises(StorageFailed):
            await backend.put(MARKER_KEY, b"new")
        assert await read_all(backend, MARKER_KEY) == b"old"
    for fault in ("rename-lost", "rename-lost-eio", "rename-eio"):
        hurting.hurt_once((fault, MARKER_KEY))
        await backend.put(MARKER_KEY, fault.encode())
        assert await read_all(backend, MARKER_KEY) == fault.encode()


async def test_silly_names_are_left_out_and_counted(hurting: HurtingMount, backend: NasBackend) -> None:
    """A file deleted while it was open keeps such a name until it is closed."""
    await backend.put_new(KEY, b"bytes")
    directory = (hurting.source / Path(backend.location).name / KEY).parent
    (directory / ".nfs000000000000000700000001").write_bytes(b"open elsewhere")
    assert await found_keys(backend, "blobs/") == [KEY]
    assert backend.silly_names_seen == 1


# A whole store


@pytest_asyncio.fixture
async def store(hurting: HurtingMount, place: str, tmp_path: Path) -> AsyncIterator[Store]:
    backend = NasBackend(str(hurting.place / place), str(tmp_path / "state"))
    opened = Store(backend, LmdbIndex(str(tmp_path / "index"), ballast_bytes=65536))
    await opened.open(create=True)
    yield opened
    hurting.relent()
    await opened.aclose()


async def _push(store: Store, number: int, draw: random.Random) -> list[bytes]:
    """An image, each piece again until it is accepted, as a client does."""
    repository = store.repository("app")
    layers = [draw.randbytes(draw.choice([10, 5000, 1_200_000])) for _ in range(2)]
    config = b'{"number": %d}' % number

    async def blob(data: bytes) -> None:
        async with repository.open_upload() as upload:
            await upload.write(data)
            await upload.commit()

    for data in (config, *layers):
        await _again(lambda data=data: blob(data))
    await _again(lambda: repository.put_manifest(image(config, layers).body, tag=f"t{number}"))
    return [config, *layers]


async def _again(push: Callable[[], Awaitable[object]]) -> None:
    for _ in range(50):
        try:
            await push()
        except StorageFailed:
            continue
        return
    raise AssertionError("it never went through")


async def test_a_store_bears_all_of_it(hurting: HurtingMount, store: Store, seed: int) -> None:
    """Pushes and collections under every fault. What was answered is there and whole; once the weather is good again, two
    collections leave no garbage."""
    draw = random.Random(seed)
    hurting.hurt(MASKED | TOLD | {"list-missing": 0.02}, seed)
    kept: dict[str, list[bytes]] = {}
    refused = 0
    for number in range(16):
        kept[f"t{number}"] = await _push(store, number, draw)
        if draw.random() < 0.4:
            tag = draw.choice(sorted(kept))
            with contextlib.suppress(TagUnknown):
                # It went at the first try, and only the journal failed.
                await _again(lambda tag=tag: store.repository("app").untag(tag))
            del kept[tag]
        if number % 4 == 3:
            try:
                await make_collector(store, AT_ONCE).run()
            except (StorageFailed, CollectionRefused):
                refused += 1
    hurting.relent()
    assert len(set(TOLD) & set(hurting.counts())) >= 3, hurting.counts()
    assert await find_broken(store) == []
    for tag, blobs in kept.items():
        await store.repository("app").find_manifest(tag)
        for data in blobs:
            async with store.open_blob(Digest.of(data)) as blob:
                assert await blob.read() == data
    for _ in range(2):
        await find_orphans(store.index, store.backend, store.parts.clock)
        await make_collector(store, AT_ONCE).run()
    assert await find_garbage(store) == []
    assert refused <= 4


async def test_an_orphan_that_a_listing_leaves_out_is_found_by_the_next(hurting: HurtingMount, store: Store) -> None:
    """A stale listing puts it off; nothing is lost by it."""
    generation = store.index.unrecorded_generation()
    intent_key = blob_key(Digest.of(b"left"), Generation(generation.epoch, 1))
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"x")
        await upload.commit()
    left = hurting.source / Path(store.backend.location).name / intent_key
    left.write_bytes(b"left")
    hurting.hurt({"list-missing": 1.0}, 0)
    assert (await find_orphans(store.index, store.backend, store.parts.clock)).orphans == 0
    hurting.relent()
    assert (await find_orphans(store.index, store.backend, store.parts.clock)).orphans == 1
