"""A store's backend on real S3 servers: what is asked for, how often, and with which headers."""

import asyncio
import secrets
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from blobstore.backends._object_store import ObjectStoreBackend
from blobstore.backends._retrying import RetryingClient
from blobstore.backends.s3 import PART_MIN_BYTES, S3Client, S3Settings
from blobstore.layout import UPLOADS_PREFIX
from blobstore.testing._backend_stage import found_keys, key_of, possible_names, upload_id_of
from tests.backends.test_s3 import answer_of, misbehaving, sdk_of, settings_of
from tests.servers.counting_proxy import counting_proxy
from tests.servers.processes import S3Server, make_bucket

pytestmark = pytest.mark.usefixtures("no_cloud")
MIB = 1024 * 1024
AT_ONCE = 32


@asynccontextmanager
async def opened(settings: S3Settings, directory: Path) -> AsyncIterator[ObjectStoreBackend]:
    client = RetryingClient(S3Client(settings))
    prefix, spool = f"store-{secrets.token_hex(4)}/", str(directory / "spool")
    backend = ObjectStoreBackend(client, prefix=prefix, spool_directory=spool, part_bytes=PART_MIN_BYTES)
    try:
        await backend.open()
        await backend.prepare()
        yield backend
    finally:
        await backend.aclose()


@pytest.mark.parametrize("count", [1001, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(1200)])])
async def test_a_thousand_keys_are_one_request(weed: S3Server, tmp_path: Path, count: int) -> None:
    """To list and to delete; counted on their way to a real server."""
    keys, pages = sorted(key_of(number) for number in range(count)), -(-count // 1000)
    with counting_proxy(urlsplit(weed.endpoint).port or 80) as proxy:
        seen = msgspec.structs.replace(weed, endpoint=f"http://127.0.0.1:{proxy.port}")
        async with opened(settings_of(seen), tmp_path) as backend:
            for at in range(0, count, AT_ONCE):
                await asyncio.gather(*[backend.put_new(key, b"x") for key in keys[at : at + AT_ONCE]])
            assert proxy.requests["PutObject"] >= count
            proxy.forget()
            assert await found_keys(backend, "blobs/") == keys
            assert dict(proxy.requests) == {"ListObjects": pages}
            proxy.forget()
            assert await backend.delete(keys) == set(keys)
            assert dict(proxy.requests) == {"DeleteObjects": pages}
            assert await found_keys(backend, "") == []


async def test_presigned_links_are_of_the_stores_own_keys(weed: S3Server, tmp_path: Path) -> None:
    """Anybody gets the blob with it, and a range of it; whatever the store's prefix is."""
    async with opened(settings_of(weed), tmp_path) as backend:
        await backend.put_new(key_of(1), b"0123456789")
        url = await backend.presign(key_of(1), 60)

    def get(headers: dict[str, str]) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            return bytes(answer.read())

    assert await asyncio.to_thread(get, {}) == b"0123456789"
    assert await asyncio.to_thread(get, {"Range": "bytes=3-5"}) == b"345"


@pytest.mark.parametrize("size", [100, 2 * PART_MIN_BYTES + 1])
async def test_the_versions_that_were_written_are_deleted(weed: S3Server, tmp_path: Path, size: int) -> None:
    """Of a blob in one piece and of one in parts with its record; other keys' versions stay."""
    bucket = f"versions-{secrets.token_hex(4)}"
    make_bucket(weed, bucket)
    with sdk_of(weed) as sdk:
        sdk.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        async with opened(settings_of(weed, bucket=bucket), tmp_path) as backend:
            assert (await backend.abilities()).is_versioned
            names = []
            for number in (1, 2):
                upload = await backend.open_upload(upload_id_of(number))
                await upload.write(bytes(size))
                names.append(await upload.commit(key_of(number)))
            assert set(names[0]) <= set(possible_names(1))
            before = sdk.list_object_versions(Bucket=bucket)["Versions"]
            assert len(before) == len(names[0]) + len(names[1])
            assert await backend.delete(names[0]) == set(names[0])
            left = sdk.list_object_versions(Bucket=bucket)
            assert {each["Key"].partition("/")[2] for each in left["Versions"]} == set(names[1])
            assert not left.get("DeleteMarkers")
            assert await found_keys(backend, UPLOADS_PREFIX) == []


async def test_how_objects_are_to_be_kept_is_sent() -> None:
    """With each object and with each upload in parts, signed; parts are kept as their upload is, and take no such header."""
    kept = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "the-key",
        "x-amz-storage-class": "STANDARD_IA",
    }

    def answer(head: str) -> bytes:
        started = "<InitiateMultipartUploadResult><UploadId>id</UploadId></InitiateMultipartUploadResult>"
        return answer_of(200, started if "?uploads" in head else "", 'ETag: "e"\r\n')

    settings = {"encryption": "aws:kms", "kms_key_id": "the-key", "storage_class": "STANDARD_IA"}
    async with misbehaving(answer, **settings) as (client, stub):
        await client.put("k", b"x", is_new=True)
        assert await client.start_multipart("k") == "id"
        await client.put_part("k", "id", 1, b"part")
    whole, started, part = (head.lower() for head in stub.heads)
    for head in (whole, started):
        signed = head.split("signedheaders=")[1].split(",")[0].split(";")
        assert {name: f"{name}: {value}".lower() in head for name, value in kept.items()} == dict.fromkeys(kept, True)
        assert set(kept) <= set(signed)
    assert not [name for name in kept if name in part]


async def test_what_is_to_be_new_is_put_on_condition() -> None:
    """A server that finds the name taken refuses it, which is no error; what may replace is put as it is."""

    def answer(head: str) -> bytes:
        return answer_of(412 if "if-none-match: *" in head.lower() else 200, "", 'ETag: "e"\r\n')

    async with misbehaving(answer) as (client, stub):
        assert await client.put("k", b"x", is_new=True) is False
        assert await client.put("k", b"x", is_new=False) is True
    assert "if-none-match" in stub.heads[0].lower().split("signedheaders=")[1].split(",")[0]
