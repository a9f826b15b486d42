"""What one host writes, another sees; what both write is decided by the server. Run inside the guest."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
from pathlib import Path

import pytest

from blobstore.abc.backend import CHUNK_BYTES, ObjectInfo, read_all
from blobstore.backends.nas import NasBackend
from blobstore.errors import ConfigInvalid, IndexOnNetwork, KeyUnknown, StorageFailed
from blobstore.index.lmdb import LmdbIndex
from blobstore.layout import MARKER_KEY
from blobstore.testing._backend_stage import found_keys, key_of
from tests.nas.guest.server import IS_LONG, forget_pages, local_place, place_of

Hosts = tuple[NasBackend, NasBackend]
KEY = key_of(0)
RACES = 1000 if IS_LONG else 50
MIB = 1024 * 1024


async def test_what_one_host_wrote_another_reads(hosts: Hosts) -> None:
    """At once, whole, and with its right size, however it was written."""
    one, two = hosts
    for number in range(20):
        small, large = secrets.token_bytes(100), secrets.token_bytes(MIB)
        await one.put_new(key_of(number), small)
        upload = await one.open_upload(f"{number:032x}")
        await upload.write(large)
        await upload.commit(key_of(100 + number))
        assert await two.stat(key_of(100 + number)) == ObjectInfo(key_of(100 + number), MIB)
        assert (await read_all(two, key_of(number)), await read_all(two, key_of(100 + number))) == (small, large)
    expected = sorted(key_of(number) for number in [*range(20), *range(100, 120)])
    assert await found_keys(two, "blobs/") == expected


async def test_a_name_that_was_looked_for_before_it_came_is_found(hosts: Hosts) -> None:
    """The client remembers that it wasn't there; it is made to ask anew."""
    one, two = hosts
    for number in range(20):
        with pytest.raises(KeyUnknown):
            await two.stat(key_of(number))
        with pytest.raises(KeyUnknown):
            await read_all(two, key_of(number))
        await one.put_new(key_of(number), b"came")
        assert (await two.stat(key_of(number))).size_bytes == 4
        assert await read_all(two, key_of(number)) == b"came"


async def test_a_listing_shows_what_another_host_wrote(hosts: Hosts) -> None:
    """Also when that directory was listed just before."""
    one, two = hosts
    for number in range(20):
        shard = key_of(number).rpartition("/")[0]
        assert key_of(number) not in await found_keys(two, shard)
        await one.put_new(key_of(number), b"x")
        assert key_of(number) in await found_keys(two, shard)


async def test_a_name_is_given_once_among_hosts(hosts: Hosts) -> None:
    """Of two that create it, one is told True, and its bytes are there."""
    for at, host in enumerate(hosts):
        # What it finds staged when it begins to write was left by a host that had the store before, and goes.
        await host.put_new(key_of(RACES + at), b"first")
    for number in range(RACES):
        told = await asyncio.gather(*[host.put_new(key_of(number), bytes([at])) for at, host in enumerate(hosts)])
        assert sorted(told) == [False, True]
        assert [await read_all(host, key_of(number)) for host in hosts] == [bytes([told.index(True)])] * 2


async def test_the_marker_is_read_as_it_was_put_last(hosts: Hosts) -> None:
    """It is the one name that is written twice."""
    one, two = hosts
    for number in range(20):
        value = b"x" * number
        await one.put(MARKER_KEY, value)
        assert await read_all(two, MARKER_KEY) == value


async def test_bytes_deleted_by_another_host_never_end_early(hosts: Hosts) -> None:
    """A reader gets all of them or an error: v4 servers keep an open file, v3 ones know nothing of it."""
    one, two = hosts
    data = secrets.token_bytes(24 * MIB)
    upload = await one.open_upload("0" * 32)
    await upload.write(data)
    await upload.commit(KEY)
    got, failed = b"", ""
    try:
        async with two.read(KEY) as chunks:
            async for chunk in chunks:
                if not got:
                    assert await one.delete([KEY]) == {KEY}
                    forget_pages()
                got += chunk
    except StorageFailed as error:
        failed = str(error)
    assert got == data if not failed else data.startswith(got)
    assert "tale" in failed or not failed
    with pytest.raises(KeyUnknown):
        await two.stat(KEY)


async def test_a_name_that_another_host_took_away_is_missing(hosts: Hosts) -> None:
    """At once, also to a client that has just seen it."""
    one, two = hosts
    for number in range(20):
        await one.put_new(key_of(number), b"x")
        assert (await two.stat(key_of(number))).size_bytes == 1
        await one.delete([key_of(number)])
        with pytest.raises(KeyUnknown):
            await two.stat(key_of(number))
        with pytest.raises(KeyUnknown):
            await read_all(two, key_of(number))


async def test_bytes_deleted_while_the_same_host_reads(hosts: Hosts) -> None:
    """The client renames the file until it is closed: no listing shows that name, and it is counted."""
    one, _ = hosts
    data = secrets.token_bytes(8 * CHUNK_BYTES)
    await one.put_new(KEY, data)
    async with one.read(KEY) as chunks:
        got = [await anext(chunks)]
        assert await one.delete([KEY]) == {KEY}
        assert await found_keys(one, "") == []
        assert one.silly_names_seen >= 1
        got += [chunk async for chunk in chunks]
    assert b"".join(got) == data
    seen = one.silly_names_seen
    assert await found_keys(one, "") == []
    assert one.silly_names_seen == seen


async def test_an_upload_of_another_host_can_be_taken_up_when_that_is_gone(hosts: Hosts) -> None:
    """With the index it would come over, too; what was synced is there."""
    one, two = hosts
    upload = await one.open_upload("0" * 32)
    await upload.write(b"begun ")
    await upload.aclose()
    resumed = await two.open_upload("0" * 32, resume=True)
    assert resumed.offset == 6
    await resumed.write(b"and ended")
    await resumed.commit(KEY)
    assert await read_all(one, KEY) == b"begun and ended"


async def test_a_published_upload_is_not_taken_up(hosts: Hosts) -> None:
    """Its session died between the blob's name and the end of its own: to write to it is to write into the blob."""
    one, two = hosts
    upload = await one.open_upload("0" * 32)
    await upload.write(b"bytes")
    await upload.aclose()
    os.link(one.path_of("uploads/" + "0" * 32), one.path_of(KEY))
    with pytest.raises(KeyUnknown):
        await two.open_upload("0" * 32, resume=True)
    assert await read_all(one, KEY) == await read_all(two, KEY) == b"bytes"
    assert await found_keys(one, "") == [KEY]


async def test_a_soft_mount_is_refused(version: int) -> None:
    """Told with the mount, and with what to write instead."""
    place = Path(f"/mnt/soft-v{version}")
    place.mkdir(exist_ok=True)
    source = "127.0.0.1:/srv/export" if version == 3 else "127.0.0.1:/"
    options = f"vers={version},soft,proto=tcp,mountport=20048,nolock" if version == 3 else "vers=4.2,soft"
    subprocess.run(["mount", "-t", "nfs", "-o", options, source, str(place)], check=True, timeout=60)
    try:
        backend = NasBackend(str(place / "store"), str(local_place()))
        with pytest.raises(ConfigInvalid, match=rf"mounted at {place} with the option `soft`.*hard"):
            await backend.open()
        await backend.aclose()
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


async def test_locks_and_index_stay_off_the_share(version: int) -> None:
    """Both are refused there."""
    share = place_of("one", version)
    backend = NasBackend(str(share / "store"), str(share / "state"))
    with pytest.raises(ConfigInvalid, match=r"never on a share.*--index.*XDG_STATE_HOME"):
        await backend.open()
    await backend.aclose()
    with pytest.raises(IndexOnNetwork, match="NFS"):
        await LmdbIndex(str(share / "index")).open(create=True)


async def test_a_good_mount_is_no_news(version: int) -> None:
    """Nothing is said of it."""
    said: list[str] = []
    backend = NasBackend(str(place_of("one", version) / "store"), str(local_place()), notify=said.append)
    await backend.open()
    await backend.aclose()
    assert said == []


async def test_a_listing_of_many_names_is_whole(hosts: Hosts) -> None:
    """More than one READDIR answers, while the other host deletes every second."""
    one, two = hosts
    directory = Path(one.path_of("journal/x")).parent
    names = [f"{number:04d}" for number in range(1200)]
    for name in names:
        os.close(os.open(directory / name, os.O_CREAT | os.O_WRONLY))
    assert await found_keys(two, "journal/") == [f"journal/{name}" for name in names]
    listing = asyncio.ensure_future(found_keys(two, "journal/"))
    await one.delete([f"journal/{name}" for name in names[::2]])
    assert set(names[1::2]) <= {key.removeprefix("journal/") for key in await listing}
    assert await found_keys(two, "journal/") == [f"journal/{name}" for name in names[1::2]]
