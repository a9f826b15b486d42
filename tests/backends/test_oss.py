"""The client of OSS, against the stand-in: each request does what it says, and says what went wrong."""

import asyncio
import os
import secrets
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastcrc import crc64

from blobstore.abc.backend import CHUNK_BYTES, ObjectInfo
from blobstore.backends import _oss_connection, oss
from blobstore.backends._object_client import ObjectClient, OpenMultipart, Part
from blobstore.backends._part_pieces import Pieces
from blobstore.backends.oss import PART_MIN_BYTES, OssClient, OssSettings
from blobstore.errors import (
    KeyUnknown,
    RangeInvalid,
)
from tests.servers.oss_standin import KEY_ID, REGION, SECRET, OssStandin, oss_process, oss_server

__all__ = ["oss_process", "oss_server"]
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's network settings."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OSS_") or name.endswith("CA_BUNDLE"):
            monkeypatch.delenv(name)


def settings_for(server: OssStandin, bucket: str, **fields: Any) -> OssSettings:
    return OssSettings(
        **{
            "bucket": bucket,
            "endpoint": server.endpoint,
            "region": REGION,
            "access_key_id": KEY_ID,
            "access_key_secret": SECRET,
            "read_timeout_s": 20,
            **fields,
        }
    )


@asynccontextmanager
async def opened(settings: OssSettings) -> AsyncIterator[OssClient]:
    client = OssClient(settings)
    await client.open()
    try:
        yield client
    finally:
        await client.aclose()


@pytest.fixture(params=["v4", "v1"])
async def client(oss_server: OssStandin, request: pytest.FixtureRequest) -> AsyncIterator[OssClient]:
    async with opened(settings_for(oss_server, oss_server.new_bucket(), signature=request.param)) as client:
        yield client


async def read(client: ObjectClient, key: str, start: int = 0, stop: int | None = None) -> tuple[int, bytes]:
    async with client.get(key, start, stop) as (size, chunks):
        return size, b"".join([chunk async for chunk in chunks])


async def send_parts(client: ObjectClient, key: str, contents: list[bytes]) -> tuple[str, list[Part]]:
    multipart_id = await client.start_multipart(key)
    return multipart_id, [
        await client.put_part(key, multipart_id, number, content) for number, content in enumerate(contents, 1)
    ]


# What requests do


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, 5 * CHUNK_BYTES + 17])
async def test_put_and_get(client: OssClient, size: int) -> None:
    """What is read is what was put, whole and with its size."""
    data = secrets.token_bytes(size)
    assert await client.put("blobs/x", data, is_new=False)
    assert await read(client, "blobs/x") == (size, data)
    assert await client.head("blobs/x") == ObjectInfo("blobs/x", size)


async def test_a_put_of_a_new_object_replaces_none(client: OssClient) -> None:
    """False, and nothing changed, where one is; of many at once exactly one is told True."""
    told = await asyncio.gather(*[client.put("x", bytes([each]) * 100, is_new=True) for each in range(16)])
    assert told.count(True) == 1
    assert await read(client, "x") == (100, bytes([told.index(True)]) * 100)
    assert await client.put("x", bytearray(b"replaced"), is_new=False)
    assert await read(client, "x") == (8, b"replaced")


async def test_ranges(client: OssClient) -> None:
    """Any start and stop; a stop beyond the end is the end, a start there is refused."""
    data = secrets.token_bytes(3 * CHUNK_BYTES + 5)
    size = len(data)
    await client.put("x", data, is_new=False)
    for start, stop in ((0, 1), (5, None), (CHUNK_BYTES - 1, CHUNK_BYTES + 1), (size - 1, None), (7, size + 100)):
        assert await read(client, "x", start, stop) == (size, data[start:stop])
    for start in (size, size + 1):
        with pytest.raises(RangeInvalid):
            await read(client, "x", start)


async def test_what_is_not_there(client: OssClient) -> None:
    """By every request that asks for an object or an upload."""
    for work in (client.head("nothing"), read(client, "nothing"), read(client, "nothing", 5)):
        with pytest.raises(KeyUnknown):
            await work
    for multipart in (
        client.put_part("nothing", "0" * 32, 1, b"x"),
        client.list_parts("nothing", "0" * 32),
        client.complete("nothing", "0" * 32, [Part(1, 1, "0" * 32)]),
    ):
        with pytest.raises(KeyUnknown):
            await multipart
    await client.abort("nothing", "0" * 32)


async def test_keys_of_all_kinds(client: OssClient) -> None:
    """Characters that URLs, XML and signatures treat in their own ways."""
    keys = sorted(["a b", "a+b", "a%2Fb", "a&b=c", "a/b", "a/b/", "é/ü", "a<b>", "~a", "a:b@c,d", "x" * 1000, "?q"])
    for key in keys:
        assert await client.put(key, key.encode(), is_new=True)
        assert await read(client, key) == (len(key.encode()), key.encode())
    assert [info.key async for info in client.list("")] == keys
    assert await client.delete(keys) == set(keys)


async def test_lists_in_order_page_by_page(
    client: OssClient, oss_server: OssStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """23 keys, ten a page, are three requests; from any text on."""
    monkeypatch.setattr(oss, "PAGE_KEYS", 10)
    keys = [f"blobs/{number:05d}" for number in range(23)]
    await asyncio.gather(*[client.put(key, b"", is_new=True) for key in [*keys, "other", "blob"]])
    oss_server.ask("clear")
    assert [info.key async for info in client.list("blobs/")] == keys
    assert oss_server.ask("counts") == {"ListObjectsV2": 3}
    assert [info.key async for info in client.list("blobs/", "blobs/00004")] == keys[5:]
    assert [info.key async for info in client.list("blobs/0001")] == keys[10:20]
    assert [info.key async for info in client.list("nothing")] == []


async def test_deletes_a_thousand_in_one_request(client: OssClient, oss_server: OssStandin) -> None:
    """Absent keys among them are confirmed; one that the bucket retains is not."""
    keys = [f"k/{number}" for number in range(1000)]
    await asyncio.gather(*[client.put(key, b"x", is_new=True) for key in keys[:50]])
    oss_server.ask("retain", bucket=client.location.removeprefix("oss://"), key=keys[7])
    oss_server.ask("clear")
    assert await client.delete(keys) == set(keys) - {keys[7]}
    assert oss_server.ask("counts") == {"DeleteMultipleObjects": 1}
    assert [info.key async for info in client.list("")] == [keys[7]]
    assert await client.delete([]) == frozenset()


async def test_a_multipart_upload(client: OssClient) -> None:
    """Parts are listed with what they are; complete makes one object of them, abort drops them and may be repeated."""
    contents = [secrets.token_bytes(PART_MIN_BYTES), secrets.token_bytes(2 * MIB), b"tail"]
    multipart_id, parts = await send_parts(client, "big", contents)
    assert await client.list_parts("big", multipart_id) == parts
    assert [part.size_bytes for part in parts] == [len(content) for content in contents]
    other = await client.start_multipart("big")
    assert {each async for each in client.list_multiparts("bi")} == {
        OpenMultipart("big", multipart_id),
        OpenMultipart("big", other),
    }
    with pytest.raises(KeyUnknown):
        await client.head("big")
    await client.complete("big", multipart_id, parts)
    whole = b"".join(contents)
    assert await read(client, "big") == (len(whole), whole)
    await client.abort("big", other)
    await client.abort("big", other)
    assert [each async for each in client.list_multiparts("")] == []


async def test_a_part_in_pieces(client: OssClient) -> None:
    """Is one part, with the checksum of all of it; one without any is empty."""
    pieces = Pieces()
    for size in (PART_MIN_BYTES, 1, MIB + 7, 0, 300):
        pieces.append(memoryview(secrets.token_bytes(size)))
    multipart_id = await client.start_multipart("big")
    part = await client.put_part_in_pieces("big", multipart_id, 1, pieces)
    assert (part.size_bytes, part.checksum) == (pieces.size_bytes, crc64.xz(pieces.joined()))
    empty = await client.put_part_in_pieces("big", multipart_id, 2, Pieces())
    assert await client.list_parts("big", multipart_id) == [part, empty]
    assert await client.complete("big", multipart_id, [part])
    assert await read(client, "big") == (pieces.size_bytes, pieces.joined())


async def test_many_parts_and_uploads_are_listed_page_by_page(
    oss_server: OssStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than fit into one answer."""
    for module in (oss, _oss_connection):
        monkeypatch.setattr(module, "PAGE_KEYS", 10)
    async with opened(settings_for(oss_server, oss_server.new_bucket())) as client:
        multipart_id = await client.start_multipart("many")
        numbers = list(range(1, 32))
        await asyncio.gather(*[client.put_part("many", multipart_id, number, b"x") for number in numbers])
        assert [part.number for part in await client.list_parts("many", multipart_id)] == numbers
        ids = await asyncio.gather(*[client.start_multipart(f"u/{number:04d}") for number in range(25)])
        found = [each async for each in client.list_multiparts("u/")]
        assert found == [OpenMultipart(f"u/{number:04d}", each) for number, each in enumerate(ids)]


async def test_presigned_urls(client: OssClient) -> None:
    """Anybody may read by one, for a while, and only what it names."""
    await client.put("a b/c+d", b"content", is_new=True)
    url = await client.presign("a b/c+d", 60)
    assert SECRET not in url
    assert await asyncio.to_thread(fetch, url) == b"content"
    with pytest.raises(urllib.error.HTTPError, match="403"):
        await asyncio.to_thread(fetch, url.replace("c%2Bd", "other"))


async def test_presigned_urls_of_another_endpoint(oss_server: OssStandin) -> None:
    """Clients that can't reach the endpoint that we use are told one that they can."""
    bucket = oss_server.new_bucket()
    public = "http://oss-cn-hangzhou.aliyuncs.com"
    async with opened(settings_for(oss_server, bucket, presign_endpoint=public)) as client:
        assert (await client.presign("k", 60)).startswith(f"http://{bucket}.oss-cn-hangzhou.aliyuncs.com/k?")


def fetch(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as answer:
        return answer.read()


async def test_class_and_encryption_are_asked_for(oss_server: OssStandin) -> None:
    """For objects put whole and for those of parts."""
    bucket = oss_server.new_bucket()
    fields = {"storage_class": "IA", "server_side_encryption": "KMS", "kms_key_id": "key-1"}
    async with opened(settings_for(oss_server, bucket, **fields)) as client:
        await client.put("small", b"x", is_new=True)
        await client.complete("big", *await send_parts(client, "big", [b"x"]))
    wanted = {
        "x-oss-storage-class": "IA",
        "x-oss-server-side-encryption": "KMS",
        "x-oss-server-side-encryption-key-id": "key-1",
    }
    for versions in oss_server.ask("state", bucket=bucket)["versions"].values():
        assert wanted.items() <= versions[0]["headers"].items()


# Where the bucket is


async def test_a_bucket_in_the_name_of_its_host(oss_server: OssStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the real endpoints have it; `name.test` is looked up on loopback."""
    _resolve_to_loopback(monkeypatch)
    bucket = oss_server.new_bucket()
    endpoint = f"http://oss-cn-hangzhou.test:{oss_server.port}"
    for signature in ("v4", "v1"):
        async with opened(settings_for(oss_server, bucket, endpoint=endpoint, signature=signature)) as client:
            await client.put("a/b c", b"x", is_new=False)
            assert await read(client, "a/b c") == (1, b"x")
            assert await asyncio.to_thread(fetch, await client.presign("a/b c", 60)) == b"x"
            assert [info.key async for info in client.list("a/")] == ["a/b c"]


async def test_a_domain_of_the_buckets_own(oss_server: OssStandin, monkeypatch: pytest.MonkeyPatch) -> None:
    """It names no bucket, but is signed for it."""
    _resolve_to_loopback(monkeypatch)
    bucket = oss_server.new_bucket()
    oss_server.ask("domain", name="images.test", bucket=bucket)
    fields = {"endpoint": f"http://images.test:{oss_server.port}", "addressing": "custom_domain"}
    for signature in ("v4", "v1"):
        async with opened(settings_for(oss_server, bucket, signature=signature, **fields)) as client:
            await client.put("k", b"x", is_new=False)
            assert await read(client, "k") == (1, b"x")


def _resolve_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        assert str(host).endswith(".test") or host == "127.0.0.1", host
        return plain("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


# Versions


async def test_a_versioned_bucket_keeps_nothing_that_was_deleted(oss_server: OssStandin) -> None:
    """All versions go, and the markers: also those of a client that was not told what the bucket is."""
    bucket = oss_server.new_bucket("Enabled")
    keys = ["a", "a-longer", "b", "c"]
    async with opened(settings_for(oss_server, bucket)) as client:
        for key in keys:
            await client.put(key, b"1", is_new=False)
        await client.put("b", b"2", is_new=False)
        await client.complete("big", *await send_parts(client, "big", [b"x" * PART_MIN_BYTES]))
    async with opened(settings_for(oss_server, bucket)) as client:
        assert await client.delete(["a", "b", "absent"]) == {"a", "b", "absent"}
        assert await client.delete(["c", "big", "absent"]) == {"c", "big", "absent"}
    assert list(oss_server.ask("state", bucket=bucket)["versions"]) == ["a-longer"]


@pytest.mark.parametrize("versioning", ["", "Enabled", "Suspended"])
async def test_the_probe_tells_what_the_bucket_does(oss_server: OssStandin, versioning: str) -> None:
    """Where versions are kept nothing is refused for being there; the probe leaves nothing behind."""
    bucket = oss_server.new_bucket(versioning)
    async with opened(settings_for(oss_server, bucket)) as client:
        abilities = await client.probe("probe/x")
    assert abilities.creates_once is not bool(versioning)
    assert abilities.is_versioned is bool(versioning)
    assert abilities.checks_sha256 is False
    assert oss_server.ask("state", bucket=bucket)["versions"] == {}
