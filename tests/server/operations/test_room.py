"""A disk that is nearly full takes no new uploads, while pulls, deletes and collections go on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from blobstore.backends.filesystem import FilesystemBackend
from blobstore.config import Config
from blobstore.digest import Digest
from blobstore.gc import Collector
from blobstore.index.lmdb import LmdbIndex
from blobstore.server.daemon.assembling import room
from blobstore.server.daemon.config import ServerConfig
from blobstore.server.daemon.plan import StorePlan
from blobstore.server.protocol.messages import FileSpan, Request, Response
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.room import DiskRoom, EndlessRoom
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.gc.scene import AT_ONCE, Bench
from tests.store.pushing import small_disk

MIB = 1024 * 1024
LOW_WATER_BYTES = 6 * MIB


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    mounted = small_disk(tmp_path, "24m")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)


async def ask(registry: Registry, method: str, path: str, body: bytes | None = None, **query: str) -> Response:
    async def chunks(data: bytes) -> AsyncIterator[bytes]:
        yield data

    request = Request(
        method=method,
        path=path,
        query=list(query.items()),
        body=chunks(body) if body is not None else None,
        size_bytes=len(body) if body is not None else None,
    )
    response = await registry.answer(request)
    if isinstance(response.payload, FileSpan):
        response.payload.close()
    return response


async def test_below_the_mark_only_new_bytes_are_refused(disk: Path) -> None:
    """507 for who begins an upload; who pulls, deletes or collects goes on, and makes the room for the next upload."""
    clock = FakeClock()
    store = Store(
        FilesystemBackend(str(disk / "data")), LmdbIndex(str(disk / "index"), ballast_bytes=4096), clock=clock
    )
    await store.open(create=True)
    try:
        registry = Registry(store, room=DiskRoom([str(disk)], LOW_WATER_BYTES, clock))
        layer, upload = os.urandom(8 * MIB), "/v2/app/blobs/uploads/"
        assert (await ask(registry, "POST", upload, layer, digest=str(Digest.of(layer)))).status == 201
        manifest = await Bench(store, clock).push_image(b"config", [layer], "1")
        (disk / "somebody's").write_bytes(bytes(_free(disk) - LOW_WATER_BYTES + MIB))
        clock.advance(1000)
        assert (await ask(registry, "POST", upload)).status == 507
        assert (await ask(registry, "POST", upload, b"x", digest=str(Digest.of(b"x")))).status == 507
        assert (await ask(registry, "GET", f"/v2/app/blobs/{Digest.of(layer)}")).status == 200
        assert (await ask(registry, "GET", "/v2/app/manifests/1")).status == 200
        assert (await ask(registry, "DELETE", f"/v2/app/manifests/{manifest.digest}")).status == 202
        report = await Collector(store.index, store.backend, AT_ONCE, clock=clock).run()
        assert report.freed_bytes > 8 * MIB
        # It is looked at once a second.
        assert (await ask(registry, "POST", upload)).status == 507
        clock.advance(1000)
        assert (await ask(registry, "POST", upload)).status == 202
    finally:
        await store.aclose()


def _free(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


async def test_a_small_disk_is_used_for_the_most_part(disk: Path) -> None:
    """Unless somebody said how much is to be left."""
    plan = StorePlan(str(disk), None, Config())
    usual, said = room(ServerConfig(), plan), room(ServerConfig(free_space_min="1GiB"), plan)
    assert not await usual.is_short()
    assert await said.is_short()
    (disk / "somebody's").write_bytes(bytes(_free(disk) - MIB))
    fuller = room(ServerConfig(), plan)
    assert (await fuller.is_short(), await fuller.is_exhausted()) == (True, False)
    (disk / "more").write_bytes(bytes(_free(disk) - MIB // 2))
    assert await room(ServerConfig(), plan).is_exhausted()


async def test_a_disk_that_is_gone_has_no_room(tmp_path: Path) -> None:
    """Any of them counts; an object store has no end that can be seen."""
    clock = FakeClock()
    assert not await DiskRoom([str(tmp_path)], 1, clock).is_short()
    assert await DiskRoom([str(tmp_path), str(tmp_path / "gone")], 1, clock).is_short()
    assert await DiskRoom([str(tmp_path)], 2**62, clock).is_short()
    assert not await EndlessRoom().is_short()


async def test_a_share_whose_server_is_away_holds_up_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks meanwhile waits for the same answer; one that gives up leaves it to the others."""
    clock, looks, is_back = FakeClock(), [], threading.Event()
    statvfs = os.statvfs

    def waiting(path: str) -> os.statvfs_result:
        looks.append(path)
        assert is_back.wait(30)
        return statvfs(path)

    monkeypatch.setattr(os, "statvfs", waiting)
    room = DiskRoom([str(tmp_path)], 1, clock)
    asking = []
    for _ in range(4):
        asking.append(asyncio.ensure_future(room.is_short()))
        await asyncio.sleep(0)
        clock.advance(5000)
    asking.pop(0).cancel()
    await asyncio.sleep(0)
    is_back.set()
    assert await asyncio.gather(*asking) == [False] * 3
    assert len(looks) == 1
    assert not await room.is_short()
    assert len(looks) == 2


def test_the_disk_of_the_index_counts_too(tmp_path: Path) -> None:
    """Also where the bytes are in a bucket: every push writes to it."""

    def of(url: str, index_path: str | None) -> object:
        return room(ServerConfig(free_space_min="1KiB"), StorePlan(url, None, Config()), index_path)

    assert isinstance(of("s3://bucket/prefix", None), EndlessRoom)
    assert isinstance(of("s3://bucket/prefix", str(tmp_path)), DiskRoom)
    assert isinstance(of(str(tmp_path), None), DiskRoom)
