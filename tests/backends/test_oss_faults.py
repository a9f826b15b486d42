"""Bad weather over OSS: what the client says of it, what it holds on to, and that one layer above it makes it good."""

import asyncio
import functools
import secrets
import threading
import time
from pathlib import Path

import pytest

from blobstore.abc.backend import CHUNK_BYTES, ObjectInfo
from blobstore.backends import oss
from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.digest import Digest
from blobstore.errors import (
    AccessDenied,
    BlobstoreError,
    KeyUnknown,
    SlowDown,
    StorageFailed,
    StorageFull,
    TransientError,
)
from blobstore.generation import Generation
from blobstore.layout import blob_key
from tests.backends.test_oss import opened, plain_environment, read, send_parts, settings_for
from tests.servers.oss_standin import OssStandin, oss_process, oss_server

__all__ = ["oss_process", "oss_server", "plain_environment"]
MIB = 1024 * 1024


@pytest.fixture
def bucket(oss_server: OssStandin) -> str:
    return oss_server.new_bucket()


# What the server says


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (500, "InternalError", TransientError),
        (502, "", TransientError),
        (503, "ServiceUnavailable", TransientError),
        (409, "OperationConflict", TransientError),
        (400, "RequestTimeout", TransientError),
        (503, "SlowDown", SlowDown),
        (503, "QpsLimitExceeded", SlowDown),
        (503, "UploadTrafficRateLimitExceeded", SlowDown),
        (429, "TooManyRequests", SlowDown),
        (400, "Throttling.User", SlowDown),
        (403, "AccessDenied", AccessDenied),
        (403, "UserDisable", AccessDenied),
        (409, "FileImmutable", AccessDenied),
        (403, "QuotaExceeded", StorageFull),
        (403, "InvalidObjectState", StorageFailed),
        (400, "InvalidArgument", StorageFailed),
        (404, "", KeyUnknown),
    ],
)
@pytest.mark.parametrize("operation", ["PutObject", "HeadObject"])
async def test_errors_by_their_code(
    oss_server: OssStandin, bucket: str, operation: str, status: int, code: str, expected: type[BlobstoreError]
) -> None:
    """With a body or, for a HEAD, without one; the text says what was asked, and by which request."""
    oss_server.fault(operation, "refuse", status=status, code=code)
    async with opened(settings_for(oss_server, bucket)) as client:
        put = functools.partial(client.put, "some/key", b"x", is_new=False)
        work = put if operation == "PutObject" else functools.partial(client.head, "some/key")
        with pytest.raises(expected, match=rf"oss://{bucket}/some/key.*request 0") as caught:
            await work()
    assert type(caught.value) is expected


async def test_an_answer_of_something_else(oss_server: OssStandin, bucket: str) -> None:
    """A proxy's page instead of a listing: no parser's error."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nContent-Type: text/html\r\n\r\n<html>Hi!<p>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, opened(settings_for(oss_server, bucket, endpoint=endpoint)) as client:
        with pytest.raises(StorageFailed, match="not one of OSS"):
            await client.start_multipart("k")
        with pytest.raises(StorageFailed, match="tells no CRC64"):
            await client.put("k", b"x", is_new=False)


async def test_a_page_that_says_404(oss_server: OssStandin, bucket: str) -> None:
    """A wrong endpoint, or a proxy that lost its server: nothing is known to be missing there."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 15\r\n\r\n<html>gone<p>!!")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, opened(settings_for(oss_server, bucket, endpoint=endpoint)) as client:
        with pytest.raises(TransientError, match="none of OSS"):
            await read(client, "k")


async def test_an_answer_that_sends_to_another_place(oss_server: OssStandin, bucket: str) -> None:
    """As a rule of the bucket's website does for what isn't there: nobody goes there, nothing of it is taken for an object."""
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        place = oss_server.endpoint.encode()
        writer.write(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + place + b"/elsewhere\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, opened(settings_for(oss_server, bucket, endpoint=endpoint)) as client:
        retrying = RetryingClient(client)
        for work in (retrying.head("k"), read(retrying, "k"), retrying.put("k", b"x", is_new=True)):
            with pytest.raises(StorageFailed, match=f"sends it to '{oss_server.endpoint}/elsewhere'"):
                await work
    assert asked == 3
    assert oss_server.ask("counts") == {}


# What gets lost


@pytest.mark.parametrize("kind", ["reset", "reset_in_body", "lose", "hang", "hang_after", "refuse_after"])
async def test_a_put_whose_outcome_is_open(oss_server: OssStandin, bucket: str, kind: str) -> None:
    """May pass, it is said, whether it took effect or not; repeated by the layer above, its own object is no stranger's."""
    data = secrets.token_bytes(3 * MIB)
    async with opened(settings_for(oss_server, bucket, read_timeout_s=0.5, connect_timeout_s=2)) as client:
        oss_server.fault("PutObject", kind)
        with pytest.raises(TransientError):
            await client.put("alone", data, is_new=True)
        oss_server.fault("PutObject", kind)
        retrying = RetryingClient(client)
        assert await retrying.put("repeated", data, is_new=True)
        assert await read(client, "repeated") == (len(data), data)
        assert not await retrying.put("repeated", data, is_new=True)


@pytest.mark.parametrize("kind", ["reset", "lose", "hang_after", "refuse_after"])
async def test_a_completion_whose_outcome_is_open(oss_server: OssStandin, bucket: str, kind: str) -> None:
    """The upload that is unknown then was completed by us."""
    async with opened(settings_for(oss_server, bucket, read_timeout_s=0.5)) as client:
        multipart_id, parts = await send_parts(client, "k", [b"x" * MIB, b"tail"])
        oss_server.fault("CompleteMultipartUpload", kind)
        await RetryingClient(client).complete("k", multipart_id, parts)
        assert await client.head("k") == ObjectInfo("k", MIB + 4)
        with pytest.raises(KeyUnknown):
            await RetryingClient(client).complete("k", multipart_id, parts[:1])


async def test_a_completion_replaces_nothing(oss_server: OssStandin, bucket: str) -> None:
    """False where an object is, whose bytes stay, as does the upload; what an attempt of our own made is no stranger's."""
    async with opened(settings_for(oss_server, bucket)) as client:
        await client.put("k", b"another's", is_new=True)
        multipart_id, parts = await send_parts(client, "k", [b"x" * MIB, b"tail"])
        retrying = RetryingClient(client)
        assert not await retrying.complete("k", multipart_id, parts, is_new=True)
        oss_server.fault("CompleteMultipartUpload", "reset")
        assert not await retrying.complete("k", multipart_id, parts, is_new=True)
        assert await read(client, "k") == (9, b"another's")
        assert await client.list_parts("k", multipart_id) == parts
        assert await client.complete("k", multipart_id, parts)
        assert await client.head("k") == ObjectInfo("k", MIB + 4)
        oss_server.fault("CompleteMultipartUpload", "lose")
        multipart_id, parts = await send_parts(client, "new", [b"x" * MIB, b"tail"])
        assert await retrying.complete("new", multipart_id, parts, is_new=True)
        # A server that looks at the name before it looks for the upload.
        oss_server.fault("CompleteMultipartUpload", "lose")
        oss_server.fault("CompleteMultipartUpload", "refuse", status=409, code="FileAlreadyExists")
        multipart_id, parts = await send_parts(client, "newer", [b"x" * MIB, b"tail"])
        assert await retrying.complete("newer", multipart_id, parts, is_new=True)


async def test_an_upload_that_was_published_in_the_same_moment(
    oss_server: OssStandin, bucket: str, tmp_path: Path
) -> None:
    """By another session, behind our look whether it is there: theirs stays, ours goes, and the commit says so."""
    generation = Generation(1, 1)
    key = blob_key(Digest.of(b""), generation)
    async with opened(settings_for(oss_server, bucket)) as client:
        store = ObjectStoreBackend(RetryingClient(client), prefix="", spool_directory=str(tmp_path), part_bytes=MIB)
        upload = await store.open_upload(str(generation), key=key)
        await upload.write(secrets.token_bytes(3 * MIB))
        await client.put(key, b"another's", is_new=True)
        oss_server.fault("HeadObject", "refuse", status=404, code="NoSuchKey")
        assert await upload.commit(key) == ()
        assert await read(client, key) == (9, b"another's")
        assert [info.key async for info in store.list("")] == [key]


async def test_a_delete_that_arrives_late(oss_server: OssStandin, bucket: str) -> None:
    """Asked for again it is confirmed; what was held up then finds nothing to do, and does nothing else."""
    async with opened(settings_for(oss_server, bucket, read_timeout_s=0.3)) as client:
        for key in ("gone", "stays"):
            await client.put(key, b"x", is_new=True)
        oss_server.fault("DeleteMultipleObjects", "late", times=2)
        with pytest.raises(TransientError):
            await client.delete(["gone"])
        assert await client.head("gone") == ObjectInfo("gone", 1)
        assert await RetryingClient(client).delete(["gone"]) == {"gone"}
        assert oss_server.ask("release") == 2
        assert [info.key async for info in client.list("")] == ["stays"]


async def test_listings_that_break_off(oss_server: OssStandin, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on behind the last key that was told."""
    monkeypatch.setattr(oss, "PAGE_KEYS", 10)
    keys = [f"k/{number:04d}" for number in range(25)]
    async with opened(settings_for(oss_server, bucket)) as client:
        await asyncio.gather(*[client.put(key, b"", is_new=True) for key in keys])
        oss_server.fault("ListObjectsV2", "refuse", skip=1, status=503, code="ServiceUnavailable")
        assert [info.key async for info in RetryingClient(client).list("")] == keys


# What comes wrong, or in part


async def test_a_server_that_ignores_ranges(oss_server: OssStandin, bucket: str) -> None:
    """Its whole object is not taken for the range."""
    async with opened(settings_for(oss_server, bucket)) as client:
        await client.put("k", b"0123456789", is_new=True)
        oss_server.fault("GetObject", "whole")
        with pytest.raises(StorageFailed, match="ignores ranges"):
            await read(client, "k", 3)


async def test_a_download_that_is_cut(oss_server: OssStandin, bucket: str) -> None:
    """What came came, then it is said; the layer above asks for the rest."""
    data = secrets.token_bytes(6 * CHUNK_BYTES)
    async with opened(settings_for(oss_server, bucket)) as client:
        await client.put("k", data, is_new=True)
        oss_server.fault("GetObject", "cut")
        got = b""
        with pytest.raises(TransientError):  # noqa: PT012 - what came before counts
            async with client.get("k") as (_, chunks):
                async for chunk in chunks:
                    got += chunk
        assert data.startswith(got)
        oss_server.fault("GetObject", "cut", times=3)
        assert await read(RetryingClient(client), "k") == (len(data), data)


# What is cancelled


async def test_a_cancelled_part_lets_go_of_its_buffer(oss_server: OssStandin, bucket: str) -> None:
    """Though the server takes no byte more: when the wait is over nothing reads the buffer, and no thread is left busy."""
    buffer = bytearray(32 * MIB)
    async with opened(settings_for(oss_server, bucket, connect_timeout_s=0.5, threads=2)) as client:
        multipart_id = await client.start_multipart("k")
        oss_server.fault("UploadPart", "hang", times=2)
        started = time.monotonic()
        sending = [asyncio.ensure_future(client.put_part("k", multipart_id, each, buffer)) for each in (1, 2)]
        await asyncio.sleep(0.2)
        for task in sending:
            task.cancel()
        await asyncio.wait(sending)
        assert all(task.cancelled() for task in sending)
        # Both threads are free again.
        buffer[:] = bytes(len(buffer))
        assert await client.list_parts("k", multipart_id) == []
    assert time.monotonic() - started < 15


async def test_a_cancelled_download_does_not_wait_for_the_server(oss_server: OssStandin, bucket: str) -> None:
    """It stalls in the middle, and would be waited for for a minute."""
    async with opened(settings_for(oss_server, bucket, read_timeout_s=60)) as client:
        await client.put("k", b"x" * 6 * CHUNK_BYTES, is_new=True)
        oss_server.fault("GetObject", "stall")
        got = asyncio.Event()

        async def take() -> None:
            async with client.get("k") as (_, chunks):
                async for _ in chunks:
                    got.set()

        started = time.monotonic()
        taking = asyncio.ensure_future(take())
        await got.wait()
        taking.cancel()
        await asyncio.wait([taking])
        assert taking.cancelled()
    assert time.monotonic() - started < 30


async def test_closing_leaves_no_thread(oss_server: OssStandin, bucket: str) -> None:
    """And may be done twice."""
    async with opened(settings_for(oss_server, bucket)) as client:
        await asyncio.gather(*[client.put(f"{each}", b"x", is_new=True) for each in range(32)])
        await asyncio.gather(*[read(client, f"{each}") for each in range(32)])
        assert [each for each in threading.enumerate() if "oss" in each.name]
        await client.aclose()
        assert not [each for each in threading.enumerate() if "oss" in each.name]
