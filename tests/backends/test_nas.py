"""What the NAS backend asks of a mount, of a disk of its own, and of what a dead process left. Over real mounts: tests/nas."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

import blobstore
from blobstore.abc.backend import CHUNK_BYTES, read_all
from blobstore.app import make_collector
from blobstore.backends import _mounts, nas
from blobstore.backends._local_locks import LocalLocks
from blobstore.backends._mounts import Mount, mount_of, parse_mounts
from blobstore.backends.nas import NasBackend, PatientPool, notice_of, refuse_soft, refuse_unmounted
from blobstore.digest import Digest
from blobstore.errors import (
    ConfigInvalid,
    ForeignStore,
    IndexMissing,
    KeyUnknown,
    StorageFailed,
    StoreFrozen,
    StoreUnknown,
    UploadBusy,
)
from blobstore.events import Alarm, Event
from blobstore.index.lmdb import LmdbIndex
from blobstore.store import Store
from blobstore.testing._backend_stage import found_keys, key_of
from blobstore.testing.fakes import image

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard
32 27 0:27 / /mnt/v3 rw,relatime shared:7 master:2 - nfs 10.0.0.1:/srv/export rw,vers=3,hard,nolock,proto=tcp,timeo=600
33 27 0:28 / /mnt/two\\040words rw,relatime - nfs4 nas:/images rw,vers=4.2,soft,proto=tcp
34 27 0:29 / /mnt/softerr rw,relatime - nfs4 nas:/images rw,vers=4.2,softerr
35 27 0:30 /images /mnt/sshfs rw,nosuid - fuse.sshfs me@host: rw,user_id=0
36 27 0:31 / /mnt/cifs rw - cifs //nas/images rw,vers=3.1.1,soft
37 27 0:32 / /mnt/nocto rw,relatime - nfs4 nas:/images rw,vers=4.2,hard,nocto
"""


def test_mounts_are_read_as_the_kernel_tells_them() -> None:
    """With optional fields or without, names with blanks, and the options of both kinds."""
    mounts = parse_mounts(MOUNTS)
    assert {number: mount.kind for number, mount in mounts.items()} == {
        22: "proc", 27: "ext4", 32: "nfs", 33: "nfs4", 34: "nfs4", 35: "fuse.sshfs", 36: "cifs", 37: "nfs4",
    }  # fmt: skip
    assert mounts[33].place == "/mnt/two words"
    assert mounts[32].source == "10.0.0.1:/srv/export"
    assert {"relatime", "nolock", "hard"} <= set(mounts[32].options)


def test_the_mount_of_a_directory_is_found(tmp_path: Path) -> None:
    """Also of one that is not there yet, and it is the one that its files are made on."""
    assert mount_of(str(tmp_path / "a" / "b")) == mount_of(str(tmp_path))
    assert mount_of("/proc/self").kind == "proc"


def test_a_mount_that_is_not_told_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a sandbox: nothing is refused for it, and the operator is told."""
    monkeypatch.setattr(_mounts, "parse_mounts", lambda _: {})
    mount = mount_of(str(tmp_path))
    refuse_soft(mount, str(tmp_path))
    assert "is on unknown" in (notice_of(mount, str(tmp_path)) or "")


@pytest.mark.parametrize(("number", "option"), [(33, "soft"), (34, "softerr")])
def test_soft_mounts_are_refused(number: int, option: str) -> None:
    """With the mount's place, the option, and what to write instead."""
    mount = parse_mounts(MOUNTS)[number]
    with pytest.raises(ConfigInvalid, match=f"nas:/images.*{mount.place}.*`{option}`.*mount -t nfs -o hard"):
        refuse_soft(mount, f"{mount.place}/store")


@pytest.mark.parametrize("number", [33, 34])
async def test_a_store_on_a_soft_mount_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Nor made there. Over real mounts: tests/nas."""
    soft = parse_mounts(MOUNTS)[number]
    monkeypatch.setattr(nas, "mount_of", lambda path: soft if path.startswith(f"{tmp_path}/store") else mount_of(path))
    backend = NasBackend(str(tmp_path / "store"), str(tmp_path / "state"))
    with pytest.raises(ConfigInvalid, match="writes are lost"):
        await backend.open()
    await backend.aclose()
    with pytest.raises(ConfigInvalid, match="writes are lost"):
        async with blobstore.open(f"nas://{tmp_path}/store", index=str(tmp_path / "index"), create=True):
            pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (32, None),
        (27, "is the right one mounted"),
        (35, "tested over NFS"),
        (36, "tested over NFS"),
        (37, "`nocto`: what one host writes another may not see"),
    ],
)
def test_what_is_not_as_it_should_be_is_used_with_a_word(number: int, said: str | None) -> None:
    """None on NFS as it is wanted. A `soft` of another kind of file system is not NFS's."""
    mount = parse_mounts(MOUNTS)[number]
    refuse_soft(mount, "/mnt/store")
    notice = notice_of(mount, "/mnt/store")
    assert notice is None if said is None else notice is not None and said in notice


async def test_an_operator_is_told_once_an_opening(tmp_path: Path) -> None:
    """Here, as the place is no share."""
    said: list[str] = []
    backend = NasBackend(str(tmp_path / "store"), str(tmp_path / "state"), notify=said.append)
    await backend.open()
    await backend.aclose()
    assert len(said) == 1
    assert f"file://{tmp_path}/store" in said[0]


async def test_a_root_that_is_a_file_is_no_store(tmp_path: Path) -> None:
    """Told as such."""
    (tmp_path / "store").write_bytes(b"")
    backend = NasBackend(str(tmp_path / "store"), str(tmp_path / "state"))
    with pytest.raises(StoreUnknown):
        await backend.open()
    await backend.aclose()


async def test_a_server_that_is_silent_is_told() -> None:
    """Once for each time, while the call waits for it; nothing is given up."""
    said: asyncio.Queue[str] = asyncio.Queue()
    pool = PatientPool(4, 0.01, lambda: said.put_nowait("silent"))
    for _ in range(2):
        answer = threading.Event()
        calls = [asyncio.ensure_future(pool.run(answer.wait)) for _ in range(3)]
        assert await said.get() == "silent"
        answer.set()
        assert await asyncio.gather(*calls) == [True] * 3
        assert said.empty()
    await pool.aclose()


@pytest.mark.parametrize("step", ["write", "drain"])
async def test_a_server_that_takes_no_bytes_is_told(
    backends: tuple[NasBackend, NasBackend], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """While an upload waits for room to write on, and at its end."""
    backend, _ = backends
    said: asyncio.Queue[str] = asyncio.Queue()
    pool = PatientPool(4, 0.01, lambda: said.put_nowait("silent"))
    monkeypatch.setattr(backend, "_pool", pool)
    upload = await backend.open_upload("0" * 32)
    answer, write = threading.Event(), os.pwrite

    def late(*args: Any) -> int:
        answer.wait()
        return write(*args)

    while not said.empty():
        said.get_nowait()
    monkeypatch.setattr(os, "pwrite", late)
    await upload.write(b"first")
    await upload.write(b"second")
    waiting = asyncio.ensure_future(upload.drain() if step == "drain" else upload.write(b"third"))
    assert await said.get() == "silent"
    answer.set()
    await waiting
    assert await upload.commit(key_of(0)) == (key_of(0),)
    await pool.aclose()


async def test_a_walk_takes_few_turns_of_a_thread(tmp_path: Path) -> None:
    """Each costs more than a small directory; one with many names is listed alone."""
    backend = NasBackend(str(tmp_path / "store"), str(tmp_path / "state"))
    await backend.open()
    await backend.prepare()
    turns: list[int] = []
    run = backend._pool.run

    async def counted(*args: Any, **kwargs: Any) -> Any:
        result = await run(*args, **kwargs)
        turns.append(len(result))
        return result

    backend._pool.run = counted  # type: ignore[method-assign]
    assert await found_keys(backend, "") == []
    assert len(turns) <= 20
    assert sum(turns) >= 256
    turns.clear()
    for shard in ("00", "01", "02"):
        for number in range(1000):
            Path(backend.path_of(f"blobs/sha256/{shard}/{number:04}")).touch()
    found = await found_keys(backend, "blobs/sha256/0")
    assert (len(found), found) == (3000, sorted(found))
    assert turns.count(1) >= 3
    await backend.aclose()


async def test_no_file_of_the_share_is_closed_on_the_loop(
    backends: tuple[NasBackend, NasBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS asks the server, and while that is away everything would stand still, also who might start it again."""
    backend, _ = backends
    closed: list[threading.Thread] = []
    close = os.close

    def noting(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").startswith(backend.location):
            closed.append(threading.current_thread())
        close(handle)

    monkeypatch.setattr(os, "close", noting)
    upload = await backend.open_upload("0" * 32)
    await upload.write(b"x" * 3 * CHUNK_BYTES)
    await upload.commit(key_of(0))
    given_up = await backend.open_upload("1" * 32)
    await given_up.write(b"x")
    await given_up.abort()
    assert await read_all(backend, key_of(0)) == b"x" * 3 * CHUNK_BYTES
    async with backend.read(key_of(0)) as chunks:
        await anext(chunks)
    async with backend.read(key_of(0)):
        pass
    reading = asyncio.ensure_future(read_all(backend, key_of(0)))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert len(closed) >= 6
    assert threading.main_thread() not in closed


FSTAB = """\
# /etc/fstab
UUID=1234 / ext4 errors=remount-ro 0 1
nas:/images  /mnt/images/  nfs  vers=4.2,hard 0 0
nas:/inner   /mnt/images/in\\040ner nfs4
#nas:/gone /mnt/gone nfs hard 0 0
/dev/sdb1 /mnt/disk xfs defaults
me@host: /mnt/sshfs fuse.sshfs defaults
"""
ROOT = Mount("/", "ext4", "/dev/vda1", ())


@pytest.mark.parametrize(
    ("root", "mounted_at", "missing"),
    [
        ("/mnt/images/store", "/", "nas:/images"),
        ("/mnt/images", "/", "nas:/images"),
        ("/mnt/images/store", "/mnt", "nas:/images"),
        ("/mnt/images/in ner/store", "/mnt/images", "nas:/inner"),
        ("/mnt/sshfs/store", "/", "me@host:"),
        ("/mnt/images/store", "/mnt/images", None),
        ("/mnt/images/store", "/mnt/images/store", None),
        ("/mnt/images/in ner/store", "/mnt/images/in ner", None),
        ("/mnt/images2/store", "/", None),
        ("/mnt/gone/store", "/", None),
        ("/mnt/disk/store", "/", None),
    ],
)
def test_a_share_that_should_be_mounted_must_be(root: str, mounted_at: str, missing: str | None) -> None:
    """Or what is written would be on the disk below its place, and hidden once it is mounted."""
    mount = msgspec.structs.replace(ROOT, place=mounted_at)
    if missing is None:
        refuse_unmounted(mount, root, FSTAB)
    else:
        with pytest.raises(ConfigInvalid, match=f"{missing}, which /etc/fstab mounts at .* is not mounted"):
            refuse_unmounted(mount, root, FSTAB)


async def test_nothing_is_made_where_a_share_is_not_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a command that makes stores."""
    monkeypatch.setattr(nas, "read_fstab", lambda: f"nas:/images {tmp_path} nfs hard 0 0")
    with pytest.raises(ConfigInvalid, match=f"run `mount {tmp_path}`"):
        async with blobstore.open(f"nas://{tmp_path}/store", index=str(tmp_path / "index"), create=True):
            pass
    assert os.listdir(tmp_path) == []


# Locks


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    """In one process as among several; each name for itself; free again with its descriptor."""
    locks = LocalLocks(str(tmp_path / "not" / "yet" / "locks"))
    first = locks.take("a")
    assert first is not None
    assert (locks.take("a"), LocalLocks(str(tmp_path / "not" / "yet" / "locks")).take("a")) == (None, None)
    other = locks.take("b")
    assert other is not None
    os.close(first)
    again = locks.take("a")
    assert again is not None
    for handle in (again, other):
        os.close(handle)
    assert os.path.getsize(tmp_path / "not" / "yet" / "locks") == 0


def test_a_dead_process_holds_no_lock(tmp_path: Path) -> None:
    """Nothing has to be cleaned up after it."""
    path = str(tmp_path / "locks")
    code = (
        "import os, sys; from blobstore.backends._local_locks import LocalLocks; "
        "LocalLocks(sys.argv[1]).take('a'); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert LocalLocks(path).take("a") is None
        process.kill()
        process.wait()
    handle = LocalLocks(path).take("a")
    assert handle is not None
    os.close(handle)


async def test_a_state_directory_that_cant_be_used_is_told(tmp_path: Path) -> None:
    """It is the disk of this host that fails, not the share."""
    (tmp_path / "state").write_bytes(b"a file")
    backend = NasBackend(str(tmp_path / "store"), str(tmp_path / "state"))
    await backend.open()
    await backend.prepare()
    with pytest.raises(StorageFailed, match=f"the locks in {tmp_path}/state"):
        await backend.open_upload("0" * 32)
    await backend.aclose()


# What processes of one host share


@pytest_asyncio.fixture
async def backends(tmp_path: Path) -> AsyncIterator[tuple[NasBackend, NasBackend]]:
    """Two processes of one host, as far as the backend can tell."""
    made = [NasBackend(str(tmp_path / "store"), str(tmp_path / "state")) for _ in range(2)]
    for backend in made:
        await backend.open()
    await made[0].prepare()
    yield made[0], made[1]
    for backend in made:
        await backend.aclose()


async def test_an_upload_is_one_processs(backends: tuple[NasBackend, NasBackend]) -> None:
    """Until that one lets go of it, also by publishing."""
    first, second = backends
    upload = await first.open_upload("0" * 32)
    await upload.write(b"some")
    for resume in (False, True):
        with pytest.raises(UploadBusy):
            await second.open_upload("0" * 32, resume=resume)
    await upload.aclose()
    resumed = await second.open_upload("0" * 32, resume=True)
    assert resumed.offset == 4
    await resumed.commit(key_of(0))
    assert await read_all(first, key_of(0)) == b"some"


async def test_what_a_dead_session_published_is_not_taken_up(backends: tuple[NasBackend, NasBackend]) -> None:
    """It died between the blob's name and the end of the upload's: to write to that is to write into the blob."""
    first, second = backends
    upload = await first.open_upload("0" * 32)
    await upload.write(b"bytes")
    await upload.aclose()
    os.link(first.path_of("uploads/" + "0" * 32), first.path_of(key_of(0)))
    for _ in range(2):
        with pytest.raises(KeyUnknown):
            await second.open_upload("0" * 32, resume=True)
    assert await found_keys(first, "") == [key_of(0)]
    assert await read_all(first, key_of(0)) == b"bytes"


async def test_locks_are_shared_however_the_index_is_spelled(tmp_path: Path) -> None:
    """Who shares an index shares the locks beside it, or two would write to one upload."""
    (tmp_path / "spelled").symlink_to(tmp_path / "index")
    url = f"nas://{tmp_path}/store"
    async with blobstore.open(url, index=str(tmp_path / "index"), create=True) as store:
        upload = await store.backend.open_upload("0" * 32)
        backend = store.backend
    for place in ("index", "spelled"):
        async with blobstore.open(url, index=str(tmp_path / place)) as other:
            assert isinstance(other.backend, NasBackend)
            assert isinstance(backend, NasBackend)
            assert other.backend._state_directory == backend._state_directory
            with pytest.raises(UploadBusy):
                await other.backend.open_upload("0" * 32, resume=True)
    del upload


async def test_what_a_dead_process_staged_goes(backends: tuple[NasBackend, NasBackend]) -> None:
    """With the first value that the next one writes; what a living one has there stays. No listing shows any."""
    first, second = backends
    assert await first.put_new(key_of(0), b"x")
    staging = Path(first.location) / ".staging"
    living = staging / f"{first._nas_calls._process}-{'0' * 16}"
    dead = staging / f"{'0' * 16}-{'0' * 16}"
    for file in (living, dead):
        file.write_bytes(b"half")
    assert await found_keys(first, "") == [key_of(0)]
    assert await second.put_new(key_of(1), b"x")
    assert (living.exists(), dead.exists()) == (True, False)


async def test_a_store_made_by_path_is_opened_as_a_share(tmp_path: Path) -> None:
    """The bytes lie as the filesystem backend would lay them."""
    index = str(tmp_path / "index")
    for scheme in (f"{tmp_path}/store", f"nas://{tmp_path}/store", f"file://{tmp_path}/store"):
        async with blobstore.open(scheme, index=index, create=True) as store:
            async with store.repository("app").open_upload() as upload:
                await upload.write(scheme.encode())
                await upload.commit()
            assert (await store.totals()).unreferenced_blobs >= 1


async def test_a_second_host_with_a_copy_of_the_index_is_told(tmp_path: Path) -> None:
    """As one that was cloned: each is told that the other writes, and neither collects any more. What both pushed is there."""
    pushed: dict[Digest, str] = {}

    async def push(index: str) -> list[str]:
        told: list[Event] = []
        url, place = f"nas://{tmp_path}/store", str(tmp_path / index)
        async with blobstore.open(url, index=place, create=index == "one", events=told.append) as store:
            config = f"{index} {len(pushed)}".encode()
            async with store.repository("app").open_upload() as upload:
                await upload.write(config)
                pushed[(await upload.commit()).digest] = index
            await store.repository("app").put_manifest(image(config, []).body, tag=index)
            for digest in [each for each, by in pushed.items() if by == index]:
                async with store.open_blob(digest) as blob:
                    assert (await blob.read()).startswith(index.encode())
            alarms = [event.text for event in told if isinstance(event, Alarm) and "no share" not in event.text]
            if alarms:
                with pytest.raises(StoreFrozen):
                    await make_collector(store).run()
            return alarms

    assert await push("one") == []
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert await push("two") == []
    for index in ("one", "two"):
        (text,) = await push(index)
        assert text.endswith("Or another host writes with a copy of this index: one host alone may")


@pytest.mark.parametrize("has_other", [False, True])
async def test_a_second_hosts_index_is_refused(tmp_path: Path, *, has_other: bool) -> None:
    """Whether it has none or another store's: that another host may have it is likelier than a loss."""

    def store(place: str, index: str) -> Store:
        backend = NasBackend(str(tmp_path / place), str(tmp_path / f"{index}.state"))
        return Store(backend, LmdbIndex(str(tmp_path / index), ballast_bytes=65536))

    for place, index in (("share", "one"), ("other", "two"))[: 1 + has_other]:
        made = store(place, index)
        await made.open(create=True)
        await made.aclose()
    with pytest.raises(ForeignStore if has_other else IndexMissing, match="PostgreSQL index"):
        await store("share", "two").open()
