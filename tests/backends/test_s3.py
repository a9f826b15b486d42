"""The S3 client: what it signs, what it makes of refusals, and what it asks real servers for."""

import asyncio
import hashlib
import os
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from blobstore.backends import _s3_bodies
from blobstore.backends._object_client import Part
from blobstore.backends._s3_signing import S3Credentials, query_text, quoted_path, signed_headers
from blobstore.backends.s3 import S3Client, S3Settings
from blobstore.errors import (
    AccessDenied,
    BlobstoreError,
    BucketUnknown,
    ConfigInvalid,
    KeyUnknown,
    RangeInvalid,
    SlowDown,
    StorageFailed,
    StorageFull,
    TransientError,
)
from tests.backends.stubs import serving
from tests.servers.processes import S3Server, make_bucket, sdk_of

pytestmark = pytest.mark.usefixtures("no_cloud")
MIB = 1024 * 1024


def settings_of(server: S3Server, **more: Any) -> S3Settings:
    given = {"bucket": server.bucket, "endpoint": server.endpoint, "region": "us-east-1"}
    return S3Settings(**{**given, "access_key": server.access_key, "secret_key": server.secret_key, **more})


@asynccontextmanager
async def opened(settings: S3Settings) -> AsyncIterator[S3Client]:
    client = S3Client(settings)
    try:
        await client.open()
        yield client
    finally:
        await client.aclose()


async def content(client: S3Client, key: str) -> bytes:
    async with client.get(key) as (_, chunks):
        return b"".join([chunk async for chunk in chunks])


# Signatures


@pytest.mark.parametrize("token", [None, "a/token=="])
@pytest.mark.parametrize("key", ["plain", "with/slash", "a+b=c:d@e,f~g", "ab.cd_ef-1"])
def test_signatures_are_those_of_the_sdk(key: str, token: str | None) -> None:
    """Header by header, whatever is in the key, the query and the token."""
    query = query_text({"uploadId": "x+/=", "partNumber": "3"})
    payload = hashlib.sha256(b"body").hexdigest()
    ours = signed_headers(
        "PUT",
        quoted_path(f"/bucket/{key}"),
        query,
        {"Host": "example.com:9000", "content-length": "4", "x-amz-storage-class": " STANDARD_IA "},
        payload_sha256=payload,
        credentials=S3Credentials("access", "secret", token),
        region="eu-west-1",
        now=datetime.now(UTC),
    )
    sent = {"content-length": "4", "x-amz-storage-class": " STANDARD_IA ", "host": "example.com:9000"}
    request = AWSRequest("PUT", f"http://example.com:9000{quoted_path(f'/bucket/{key}')}?{query}", sent, b"body")
    for _ in range(3):
        theirs = AWSRequest(request.method, request.url, dict(sent), b"body")
        S3SigV4Auth(Credentials("access", "secret", token), "s3", "eu-west-1").add_auth(theirs)
        if theirs.headers["X-Amz-Date"] == ours["x-amz-date"]:
            break
        # The second turned between the two.
        ours = signed_headers(
            "PUT",
            quoted_path(f"/bucket/{key}"),
            query,
            sent,
            payload_sha256=payload,
            credentials=S3Credentials("access", "secret", token),
            region="eu-west-1",
            now=datetime.now(UTC),
        )
    assert ours["authorization"] == theirs.headers["Authorization"]


# Real servers


@pytest.fixture(params=["weed", "moto"])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


async def test_what_servers_honour(weed: S3Server, moto: S3Server) -> None:
    """SeaweedFS checks what it is sent."""
    async with opened(settings_of(weed)) as client:
        found = await client.probe("probe/x")
        assert (found.creates_once, found.checks_sha256, found.is_versioned) == (True, True, False)
        assert [info async for info in client.list("probe/")] == []
    async with opened(settings_of(moto)) as client:
        assert (await client.probe("probe/x")).creates_once


async def test_old_versions_are_deleted(server: S3Server) -> None:
    """On a versioned bucket a deletion leaves nothing: no version, no marker."""
    bucket = f"versions-{os.urandom(4).hex()}"
    make_bucket(server, bucket)
    with sdk_of(server) as sdk:
        sdk.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        async with opened(settings_of(server, bucket=bucket)) as client:
            assert (await client.probe("probe/x")).is_versioned
            for data in (b"one", b"two"):
                await client.put("a/b", data, is_new=False)
            await client.put("a/b-beside", b"stays", is_new=False)
            sdk.delete_object(Bucket=bucket, Key="a/b")
            assert await client.delete(["a/b", "a/never"]) == {"a/b", "a/never"}
            with pytest.raises(KeyUnknown):
                await client.head("a/b")
        left = sdk.list_object_versions(Bucket=bucket)
        assert [each["Key"] for each in left["Versions"]] == ["a/b-beside"]
        assert not left.get("DeleteMarkers")


async def test_how_objects_are_kept(moto: S3Server) -> None:
    """Storage class and encryption, of single objects and of those in parts."""
    async with opened(settings_of(moto, storage_class="STANDARD_IA", encryption="AES256")) as client:
        await client.put("kept/one", b"x", is_new=True)
        upload = await client.start_multipart("kept/parts")
        await client.complete("kept/parts", upload, [await client.put_part("kept/parts", upload, 1, b"x")])
    with sdk_of(moto) as sdk:
        for key in ("kept/one", "kept/parts"):
            found = sdk.head_object(Bucket=moto.bucket, Key=key)
            assert (found["StorageClass"], found["ServerSideEncryption"]) == ("STANDARD_IA", "AES256")
            assert found["ContentType"] == "application/octet-stream"


async def test_presigned_urls(weed: S3Server) -> None:
    """Anybody gets the bytes; not after it was changed."""
    async with opened(settings_of(weed)) as client:
        await client.put("shared/x", b"for all", is_new=False)
        url = await client.presign("shared/x", 60)

    def get(url: str) -> bytes:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            return bytes(answer.read())

    assert await asyncio.to_thread(get, url) == b"for all"
    with pytest.raises(OSError, match="403"):
        await asyncio.to_thread(get, url.replace("shared/x", "shared/y"))


async def test_presigned_urls_of_another_endpoint(weed: S3Server) -> None:
    """Where clients reach the bucket under another name than we do; only the URLs that are handed out have it."""
    public = weed.endpoint.replace("127.0.0.1", "localhost")
    assert public != weed.endpoint
    async with opened(settings_of(weed, presign_endpoint=public)) as client:
        await client.put("shared/z", b"for all", is_new=False)
        url = await client.presign("shared/z", 60)
        assert client._bodies is not None
        assert client._bodies._base.geturl().startswith(weed.endpoint)
    assert url.startswith(f"{public}/")

    def get() -> bytes:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            return bytes(answer.read())

    assert await asyncio.to_thread(get) == b"for all"


async def test_parts(server: S3Server) -> None:
    """Sent again under its number one takes the other's place, though some servers list both; dropped with the upload."""
    async with opened(settings_of(server)) as client:
        upload = await client.start_multipart("parts/x")
        sent = [
            await client.put_part("parts/x", upload, number, data)
            for number, data in ((2, b"bb"), (1, b"a"), (2, b"BBB"))
        ]
        found = await client.list_parts("parts/x", upload)
        assert set(sent[1:]) <= set(found) <= set(sent)
        assert [part.number for part in found] == sorted(part.number for part in found)
        assert [found.key async for found in client.list_multiparts("parts/")] == ["parts/x"]
        await client.abort("parts/x", upload)
        await client.abort("parts/x", upload)
        with pytest.raises(KeyUnknown):
            await client.list_parts("parts/x", upload)
        assert [found async for found in client.list_multiparts("parts/")] == []


async def test_a_replaced_part_is_not_in_the_object(server: S3Server) -> None:
    """Whichever of the two the server lists first."""
    async with opened(settings_of(server)) as client:
        for first, second in ((b"old", b"new"), (b"new", b"old")):
            upload = await client.start_multipart("parts/y")
            await client.put_part("parts/y", upload, 1, first)
            await client.complete("parts/y", upload, [await client.put_part("parts/y", upload, 1, second)])
            assert await content(client, "parts/y") == second


async def test_a_part_of_an_upload_that_is_gone(weed: S3Server) -> None:
    """The upload is unknown."""
    async with opened(settings_of(weed)) as client:
        upload = await client.start_multipart("parts/z")
        await client.abort("parts/z", upload)
        with pytest.raises(KeyUnknown):
            await client.put_part("parts/z", upload, 1, b"late")


async def test_wrong_keys(weed: S3Server) -> None:
    """An access key that nobody knows, a secret that doesn't fit: said apart, by every kind of request."""
    for wrong, advice in ({"access_key": "nobody"}, "access key"), ({"secret_key": "wrong"}, "secret_key"):
        async with opened(settings_of(weed, **wrong)) as client:
            for verb in _verbs(client):
                with pytest.raises(AccessDenied) as told:
                    await verb()
                if "head" not in str(told.value):
                    assert advice in str(told.value)


async def test_no_such_bucket(moto: S3Server) -> None:
    """Named, by all but HEAD, whose answers have no text. (SeaweedFS makes it when an administrator writes.)"""
    async with opened(settings_of(moto, bucket="never-made")) as client:
        for verb in _verbs(client):
            with pytest.raises((BucketUnknown, KeyUnknown)) as told:
                await verb()
            assert isinstance(told.value, BucketUnknown) or "head" in str(told.value)
            assert "never-made" in str(told.value)


async def test_no_right(weed: S3Server) -> None:
    """Credentials that may only read: reading works, the rest says what is missing."""
    async with opened(settings_of(weed)) as writer:
        await writer.put("read-only/x", b"x", is_new=False)
    keys = {"access_key": "reader-for-tests", "secret_key": "sk-for-reading-only"}
    async with opened(settings_of(weed, **keys)) as client:
        assert await content(client, "read-only/x") == b"x"
        for verb in (
            lambda: client.put("read-only/y", b"y", is_new=True),
            lambda: client.probe("read-only/probe"),
            lambda: client.start_multipart("read-only/z"),
            lambda: client.delete(["read-only/x"]),
        ):
            with pytest.raises(AccessDenied, match="no right"):
                await verb()


async def test_a_clock_that_is_wrong(weed: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server refuses what was signed an hour ago; the error says that it is the clock."""

    class Slow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) - timedelta(hours=1)

    monkeypatch.setattr(_s3_bodies, "datetime", Slow)
    async with opened(settings_of(weed)) as client:
        with pytest.raises(AccessDenied, match="clock"):
            await client.put("clock/x", b"x", is_new=False)


def _verbs(client: S3Client) -> list[Callable[[], Awaitable[object]]]:
    async def listed() -> list[object]:
        return [info async for info in client.list("x")]

    return [
        lambda: client.put("x", b"x", is_new=False),
        lambda: content(client, "x"),
        lambda: client.head("x"),
        listed,
        lambda: client.start_multipart("x"),
        lambda: client.probe("probe/x"),
    ]


async def test_no_credentials_at_all(weed: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Neither given nor found: said when it is opened, with what to set."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AccessDenied, match="access_key"):
        async with opened(settings_of(weed, access_key=None, secret_key=None)):
            pass


@pytest.mark.parametrize(
    "wrong",
    [{"endpoint": "not a url"}, {"bucket": "No Bucket!"}, {"profile": "nobody"}],
    ids=lambda wrong: next(iter(wrong)),
)
async def test_settings_that_cannot_be(weed: S3Server, wrong: dict[str, str]) -> None:
    """Said when it is opened."""
    with pytest.raises(ConfigInvalid):
        async with opened(settings_of(weed, **wrong)):
            pass


# A server that misbehaves


class Misbehaving:
    """Answers each request with what `answer` makes of its head; keeps what it was sent."""

    def __init__(self, answer: Callable[[str], bytes | None]) -> None:
        self._answer = answer
        self.heads: list[str] = []
        self.is_connected = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_connected += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                answer = self._answer(head)
                if answer is None:
                    return
                length = next(
                    (int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length:")), 0
                )
                await reader.readexactly(length)
                writer.write(answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if head.startswith("HEAD") else answer)
                await writer.drain()
                if b"Connection: close" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def misbehaving(
    answer: Callable[[str], bytes | None], **settings: Any
) -> AsyncIterator[tuple[S3Client, Misbehaving]]:
    stub = Misbehaving(answer)
    async with serving(stub.serve) as port:
        given = S3Server("stub", f"http://127.0.0.1:{port}")
        async with opened(settings_of(given, **settings)) as client:
            yield client, stub


def answer_of(status: int, body: str = "", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} Told\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


def error_body(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>because</Message></Error>"


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (503, "SlowDown", SlowDown),
        (503, "ServiceUnavailable", TransientError),
        (500, "InternalError", TransientError),
        (502, "", TransientError),
        (409, "ConditionalRequestConflict", TransientError),
        (409, "OperationAborted", TransientError),
        (400, "RequestTimeout", TransientError),
        (400, "BadDigest", TransientError),
        (429, "", SlowDown),
        (400, "ExpiredToken", AccessDenied),
        (403, "RequestTimeTooSkewed", AccessDenied),
        (403, "", AccessDenied),
        (404, "NoSuchBucket", BucketUnknown),
        (404, "NoSuchUpload", KeyUnknown),
        (507, "", StorageFull),
        (403, "QuotaExceeded", StorageFull),
        (301, "PermanentRedirect", ConfigInvalid),
        (400, "AuthorizationHeaderMalformed", ConfigInvalid),
        (400, "InvalidArgument", StorageFailed),
        (501, "NotImplemented", StorageFailed),
    ],
)
async def test_refusals(status: int, code: str, error: type[BlobstoreError]) -> None:
    """One meaning, by whichever way it was asked: a part by us, its upload by the SDK."""
    # AWS tells the bucket's region with every redirection; without it the SDK asks for it for ever.
    headers = "x-amz-bucket-region: eu-west-1\r\n" if status == 301 else ""
    async with misbehaving(lambda _: answer_of(status, error_body(code) if code else "", headers)) as (client, _):
        for verb in (lambda: client.put_part("x", "id", 1, b"part"), lambda: client.start_multipart("x")):
            with pytest.raises(error) as told:
                await verb()
            assert type(told.value) is error
            assert "s3://" in str(told.value)
            assert code in str(told.value)


async def test_an_answer_before_the_body_was_sent() -> None:
    """A server that refuses doesn't read 64 MiB first: what it said is told, not the reset."""

    def refuse(_: str) -> bytes:
        return answer_of(403, error_body("AccessDenied"), "Connection: close\r\n")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(refuse(""))
        await writer.drain()
        await asyncio.sleep(0.2)

    async with serving(serve) as port, opened(settings_of(S3Server("stub", f"http://127.0.0.1:{port}"))) as client:
        with pytest.raises(AccessDenied):
            await client.put_part("x", "id", 1, bytes(64 * MIB))


async def test_nobody_there() -> None:
    """A refused connection passes by."""
    async with misbehaving(lambda _: None) as (client, _):
        pass
    given = S3Settings(bucket="bucket", endpoint="http://127.0.0.1:9", access_key="a", secret_key="s")
    async with opened(given) as client:
        for verb in _verbs(client):
            with pytest.raises(TransientError):
                await verb()


async def test_a_connection_that_ends_without_an_answer() -> None:
    """Whether it had an effect is not known."""
    async with misbehaving(lambda _: None) as (client, _):
        for verb in _verbs(client):
            with pytest.raises(TransientError):
                await verb()


async def test_a_body_that_breaks_off() -> None:
    """Told, never taken for the end."""
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {3 * MIB}\r\nConnection: close\r\n\r\n".encode()
    async with misbehaving(lambda _: head + b"x" * (2 * MIB)) as (client, _):
        got = 0
        with pytest.raises(TransientError):  # noqa: PT012 - what came before it is counted
            async with client.get("x") as (size, chunks):
                assert size == 3 * MIB
                async for chunk in chunks:
                    got += len(chunk)
        assert got <= 2 * MIB


async def test_an_answer_that_never_comes() -> None:
    """The time-out is told, and a cancelled wait ends at once, long before it."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with serving(silent) as port:
        given = S3Server("stub", f"http://127.0.0.1:{port}")
        async with opened(settings_of(given, read_timeout_s=0.2)) as client:
            for verb in _verbs(client):
                with pytest.raises(TransientError):
                    await verb()
        async with opened(settings_of(given, read_timeout_s=300)) as client:
            for verb in (lambda: client.put_part("x", "id", 1, bytearray(MIB)), lambda: content(client, "x")):
                task = asyncio.ensure_future(verb())
                await asyncio.sleep(0.3)
                start = time.monotonic()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.monotonic() - start < 30


async def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    """A server closes what is idle; the next request has a new one, and nobody hears of it."""
    async with misbehaving(lambda _: answer_of(200, "", 'ETag: "e"\r\nConnection: close\r\n')) as (client, stub):
        for number in (1, 2, 3):
            await client.put_part("x", "id", number, b"part")
        assert stub.is_connected == 3
    async with misbehaving(lambda _: answer_of(200, "", 'ETag: "e"\r\n')) as (client, stub):
        for number in (1, 2, 3):
            await client.put_part("x", "id", number, b"part")
        assert stub.is_connected == 1


async def test_ranges(weed: S3Server) -> None:
    """The size is the whole object's; a server that sends all instead of a range is not believed."""
    async with opened(settings_of(weed)) as client:
        await client.put("ranges/x", b"0123456789", is_new=False)
        async with client.get("ranges/x", 3, 6) as (size, chunks):
            assert (size, b"".join([chunk async for chunk in chunks])) == (10, b"345")
        with pytest.raises(RangeInvalid):
            async with client.get("ranges/x", 10):
                pass
    async with misbehaving(lambda _: answer_of(200, "0123456789")) as (client, _):
        with pytest.raises(StorageFailed, match="ranges"):
            async with client.get("x", 3):
                pass


async def test_errors_of_single_keys() -> None:
    """Those keys are not confirmed; if all fail for one reason, it is told."""

    def answer(codes: dict[str, str]) -> bytes:
        errors = "".join(f"<Error><Key>{key}</Key><Code>{code}</Code></Error>" for key, code in codes.items())
        return answer_of(200, f"<DeleteResult>{errors}</DeleteResult>")

    codes: dict[str, str] = {}
    async with misbehaving(
        lambda head: answer_of(200, "<VersioningConfiguration/>") if "?versioning" in head else answer(codes)
    ) as (client, stub):
        assert await client.delete(["a", "b"]) == {"a", "b"}
        codes |= {"a": "InternalError"}
        assert await client.delete(["a", "b"]) == {"b"}
        codes |= {"a": "NoSuchKey"}
        assert await client.delete(["a", "b"]) == {"a", "b"}
        codes |= {"a": "AccessDenied", "b": "AccessDenied"}
        with pytest.raises(AccessDenied, match="all of 2 keys"):
            await client.delete(["a", "b"])
        codes |= {"a": "SlowDown", "b": "SlowDown"}
        with pytest.raises(SlowDown):
            await client.delete(["a", "b"])
        codes |= {"a": "AccessDenied"}
        assert await client.delete(["a", "b"]) == frozenset()
        assert all("content-md5" in head.lower() for head in stub.heads if head.startswith("POST"))


async def test_a_server_without_conditions() -> None:
    """501 at the probe: from then on none is sent."""

    def answer(head: str) -> bytes:
        if "?versioning" in head or "?delete" in head:
            return answer_of(200, "<DeleteResult/>" if "?delete" in head else "<VersioningConfiguration/>")
        stored = answer_of(200, "", 'ETag: "e"\r\n')
        return answer_of(501, error_body("NotImplemented")) if "if-none-match" in head.lower() else stored

    async with misbehaving(answer) as (client, stub):
        found = await client.probe("probe/x")
        assert not found.creates_once
        assert not found.checks_sha256
        assert await client.put("x", b"x", is_new=True) is True
        assert "if-none-match" not in stub.heads[-1].lower()


@pytest.mark.parametrize("page", ["", "<html><body>back soon</body></html>"], ids=["empty", "page"])
async def test_a_success_that_is_none_of_s3s(page: str) -> None:
    """What something in between answers with 200, as a load balancer while the server is away: whatever it says, nothing was
    stored, listed or begun, so that it is asked again."""
    async with misbehaving(lambda _: answer_of(200, page)) as (client, _):

        async def listed(found: AsyncIterator[object]) -> list[object]:
            return [each async for each in found]

        parts = [Part(1, 4, '"e"')]
        for work in (
            client.put("x", b"x", is_new=True),
            client.put("x", b"x", is_new=False),
            client.probe("probe/x"),
            client.start_multipart("x"),
            client.put_part("x", "id", 1, b"part"),
            client.complete("x", "id", parts),
            client.list_parts("x", "id"),
            listed(client.list("x")),
            listed(client.list_multiparts("x")),
        ):
            with pytest.raises(TransientError, match="none of S3"):
                await work


async def test_a_page_that_says_404_is_none_of_s3s() -> None:
    """A wrong endpoint, or a proxy that lost its server: nothing is known to be missing there."""
    async with misbehaving(lambda _: answer_of(404, "<html>not found</html>")) as (client, _):
        with pytest.raises(TransientError, match="none of S3"):
            await content(client, "x")


@pytest.mark.parametrize(
    ("settings", "base"),
    [
        ({"endpoint": None, "region": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com/x?"),
        (
            {"endpoint": None, "region": "eu-west-1", "is_path_style": True},
            "https://s3.eu-west-1.amazonaws.com/bucket/x?",
        ),
        ({"endpoint": "http://store.example:9000"}, "http://store.example:9000/bucket/x?"),
        ({"endpoint": "http://store.example:9000", "is_path_style": False}, "http://bucket.store.example:9000/x?"),
    ],
)
async def test_where_objects_are(settings: dict[str, Any], base: str) -> None:
    """By the region or the endpoint, in the form that is asked for; nothing is sent."""
    async with opened(S3Settings(**{"bucket": "bucket", "access_key": "a", "secret_key": "s", **settings})) as client:
        url = await client.presign("x", 60)
        assert url.startswith(base)
        assert client._bodies is not None
        assert client._bodies._base.geturl() == base.removesuffix("x?")


async def test_temporary_credentials_are_signed_with_their_token() -> None:
    """By us as by the SDK."""
    async with misbehaving(lambda _: answer_of(200, "", 'ETag: "e"\r\n'), session_token="the-token") as (client, stub):
        await client.put_part("x", "id", 1, b"part")
        assert "x-amz-security-token: the-token" in stub.heads[0].lower()
        assert "x-amz-security-token" in stub.heads[0].lower().split("signedheaders=")[1].split(",")[0]
