"""Checksums over OSS: what was changed on its way, or stored otherwise than it was sent, is not taken for what it should be."""

import secrets
from pathlib import Path

import pytest
from fastcrc import crc64

from blobstore.abc.backend import CHUNK_BYTES
from blobstore.backends._object_client import Part
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.digest import Digest
from blobstore.errors import KeyUnknown, StorageFailed, TransientError
from blobstore.generation import Generation
from blobstore.layout import blob_key
from tests.backends.test_oss import opened, plain_environment, read, send_parts, settings_for
from tests.backends.test_oss_faults import bucket
from tests.servers.oss_standin import OssStandin, oss_process, oss_server

__all__ = ["bucket", "oss_process", "oss_server", "plain_environment"]
MIB = 1024 * 1024


async def test_a_part_that_was_changed_on_its_way(oss_server: OssStandin, bucket: str) -> None:
    """Is not taken for sent; sent again it replaces the wrong one."""
    content = secrets.token_bytes(300_000)
    async with opened(settings_for(oss_server, bucket)) as client:
        multipart_id = await client.start_multipart("k")
        for kind in ("garble_received", "wrong_crc"):
            oss_server.fault("UploadPart", kind)
            with pytest.raises(TransientError, match=r"part 1 of .*another CRC64"):
                await client.put_part("k", multipart_id, 1, content)
        oss_server.fault("UploadPart", "garble_received")
        part = await RetryingClient(client).put_part("k", multipart_id, 1, content)
        assert part.checksum == crc64.xz(content)
        await client.complete("k", multipart_id, [part])
        assert await read(client, "k") == (len(content), content)


async def test_a_put_that_was_changed_on_its_way(oss_server: OssStandin, bucket: str) -> None:
    """Is refused by the server before anybody sees it, as nothing deletes an object that is wrong."""
    async with opened(settings_for(oss_server, bucket)) as client:
        oss_server.fault("PutObject", "garble_received")
        with pytest.raises(TransientError, match="InvalidDigest"):
            await client.put("k", b"some bytes", is_new=True)
        with pytest.raises(KeyUnknown):
            await client.head("k")


async def test_parts_that_were_joined_wrongly(oss_server: OssStandin, bucket: str) -> None:
    """The whole has the checksum of its parts, also of those that another process sent, or it goes."""
    async with opened(settings_for(oss_server, bucket)) as client:
        multipart_id, _ = await send_parts(client, "k", [b"x" * MIB, b"tail"])
        oss_server.fault("CompleteMultipartUpload", "wrong_crc")
        with pytest.raises(StorageFailed, match="other bytes"):
            await client.complete("k", multipart_id, await client.list_parts("k", multipart_id))
        with pytest.raises(KeyUnknown):
            await client.head("k")


async def test_a_server_that_tells_no_checksums(oss_server: OssStandin, bucket: str) -> None:
    """Is not believed where nothing else would notice; elsewhere it is done without."""
    async with opened(settings_for(oss_server, bucket)) as client:
        multipart_id = await client.start_multipart("k")
        oss_server.fault("UploadPart", "no_crc")
        with pytest.raises(StorageFailed, match="tells no CRC64"):
            await client.put_part("k", multipart_id, 1, b"x")
        part = await client.put_part("k", multipart_id, 1, b"x")
        oss_server.fault("CompleteMultipartUpload", "no_crc")
        with pytest.raises(StorageFailed, match="tells no CRC64"):
            await client.complete("k", multipart_id, [part])
        with pytest.raises(KeyUnknown):
            await client.head("k")
        await client.put("k", b"x", is_new=True)
        oss_server.fault("GetObject", "no_crc")
        assert await read(client, "k") == (1, b"x")


@pytest.mark.parametrize("size", [10, 3 * CHUNK_BYTES])
async def test_a_download_that_was_changed_on_its_way(oss_server: OssStandin, bucket: str, size: int) -> None:
    """Is told at its end."""
    async with opened(settings_for(oss_server, bucket)) as client:
        await client.put("k", b"x" * size, is_new=True)
        for kind in ("garble", "wrong_crc"):
            oss_server.fault("GetObject", kind)
            with pytest.raises(StorageFailed, match="another CRC64"):
                await read(client, "k")
        assert await read(client, "k") == (size, b"x" * size)


async def test_wrong_bytes_are_not_told_by_a_client_before_they_are_compared(
    oss_server: OssStandin, bucket: str
) -> None:
    """The last chunk is held back: who passes chunks on to somebody who knows the length has not passed on the whole."""
    data = b"x" * (3 * CHUNK_BYTES)
    async with opened(settings_for(oss_server, bucket)) as client:
        await client.put("k", data, is_new=True)
        oss_server.fault("GetObject", "garble")
        told = 0
        with pytest.raises(StorageFailed, match="another CRC64"):  # noqa: PT012 - what came before counts
            async with client.get("k") as (_, chunks):
                async for chunk in chunks:
                    told += len(chunk)
        assert told < len(data)
        await client.put("empty", b"", is_new=True)
        oss_server.fault("GetObject", "wrong_crc")
        with pytest.raises(StorageFailed, match="another CRC64"):
            await read(client, "empty")


async def test_a_wrong_whole_that_can_not_be_deleted_is_told_all_the_same(oss_server: OssStandin, bucket: str) -> None:
    """A completion that is repeated because of it would find an upload unknown and an object as long as it should be."""
    async with opened(settings_for(oss_server, bucket)) as client:
        multipart_id, parts = await send_parts(client, "k", [b"x" * MIB, b"tail"])
        oss_server.fault("CompleteMultipartUpload", "wrong_crc")
        oss_server.fault("DeleteMultipleObjects", "reset")
        with pytest.raises(StorageFailed, match="other bytes") as caught:
            await RetryingClient(client).complete("k", multipart_id, parts)
        assert not isinstance(caught.value, TransientError)


async def test_a_completion_without_an_answer_is_compared_too(oss_server: OssStandin, bucket: str) -> None:
    """What lies there then is the whole if it has the checksum of the parts, not if it is as long."""
    async with opened(settings_for(oss_server, bucket)) as client:
        multipart_id, parts = await send_parts(client, "k", [b"x" * MIB, b"tail"])
        oss_server.fault("CompleteMultipartUpload", "lose")
        oss_server.fault("HeadObject", "wrong_crc")
        with pytest.raises(KeyUnknown):
            await RetryingClient(client).complete("k", multipart_id, parts)
        assert await client.is_made_of("k", parts)
        other = [Part(part.number, part.size_bytes, part.etag, (part.checksum or 0) ^ 1) for part in parts]
        assert not await client.is_made_of("k", other)
        assert not await client.is_made_of("nothing", parts)


async def test_an_upload_that_another_session_sent_is_compared_as_a_whole(
    oss_server: OssStandin, bucket: str, tmp_path: Path
) -> None:
    """The checksums of the parts that it finds come from the server, and the commit counts on them."""
    data = secrets.token_bytes(3 * MIB)
    generation = Generation(1, 1)
    key = blob_key(Digest.of(data), generation)
    async with opened(settings_for(oss_server, bucket)) as client:
        store = ObjectStoreBackend(
            RetryingClient(client), prefix="", spool_directory=str(tmp_path / "spool"), part_bytes=MIB
        )
        first = await store.open_upload(str(generation), key=key)
        await first.write(data)
        await first.aclose()
        oss_server.fault("CompleteMultipartUpload", "wrong_crc")
        resumed = await store.open_upload(str(generation), resume=True)
        with pytest.raises(StorageFailed, match="other bytes"):
            await resumed.commit(key)
        assert [info async for info in store.list("")] == []
