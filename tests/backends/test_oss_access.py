"""Who may do what on OSS, and where it is: credentials, rights, clocks and endpoints that are wrong are told apart."""

import asyncio
import logging

import pytest

from blobstore.abc.backend import ObjectInfo
from blobstore.backends._object_client import Part
from blobstore.backends.oss import OssClient
from blobstore.errors import (
    AccessDenied,
    BlobstoreError,
    BucketUnknown,
    ConfigInvalid,
    KeyUnknown,
    StorageFailed,
    TransientError,
)
from tests.backends.test_oss import fetch, opened, plain_environment, read, settings_for
from tests.servers.oss_standin import SECRET, OssStandin, oss_process, oss_server

__all__ = ["oss_process", "oss_server", "plain_environment"]


async def test_temporary_credentials_from_the_environment(
    oss_server: OssStandin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their token, in headers and in signed URLs; new ones are taken without a new start."""
    bucket = oss_server.new_bucket()
    oss_server.add_account("STS.first", "first secret", token="first/token+=")
    oss_server.add_account("STS.second", "second secret", token="second")
    for signature in ("v4", "v1"):
        fields = {"access_key_id": None, "access_key_secret": None, "signature": signature}
        _set_credentials(monkeypatch, "STS.first", "first secret", "first/token+=")
        async with opened(settings_for(oss_server, bucket, **fields)) as client:
            await client.put("k", b"x", is_new=False)
            assert await asyncio.to_thread(fetch, await client.presign("k", 60)) == b"x"
            oss_server.add_account("STS.first", "first secret", token="first/token+=", is_expired=True)
            with pytest.raises(AccessDenied, match="expired"):
                await client.head("k")
            _set_credentials(monkeypatch, "STS.second", "second secret", "second")
            assert await client.head("k") == ObjectInfo("k", 1)
        oss_server.add_account("STS.first", "first secret", token="first/token+=")


def _set_credentials(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    for name, value in zip(("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"), values, strict=True):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("signature", ["v4", "v1"])
@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"access_key_secret": "a wrong secret"}, "secret is wrong"),
        ({"access_key_id": "nobody"}, "id is unknown"),
        ({"security_token": "none was given"}, "token is wrong"),
    ],
    ids=["secret", "id", "token"],
)
async def test_wrong_credentials(
    oss_server: OssStandin, signature: str, fields: dict[str, str], says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Refused by every request, saying which part is wrong; what is secret is told nowhere."""
    caplog.set_level(logging.DEBUG)
    told = []
    async with opened(settings_for(oss_server, oss_server.new_bucket(), signature=signature, **fields)) as client:
        for error in await _errors_of_all(client):
            assert isinstance(error, AccessDenied)
            told.append(str(error))
            assert says in told[-1]
    secret = fields.get("access_key_secret") or fields.get("security_token") or SECRET
    assert secret not in "".join(told) + caplog.text


async def test_no_such_bucket(oss_server: OssStandin) -> None:
    """Every request says so, with what to do."""
    async with opened(settings_for(oss_server, "not-there")) as client:
        for error in await _errors_of_all(client):
            assert isinstance(error, BucketUnknown), error
            assert "create the bucket" in str(error)


async def _errors_of_all(client: OssClient) -> list[BlobstoreError]:
    """What each request raises."""

    async def listed() -> None:
        async for _ in client.list(""):
            pass

    async def listed_multiparts() -> None:
        async for _ in client.list_multiparts(""):
            pass

    works = [
        client.put("k", b"x", is_new=False),
        read(client, "k"),
        client.head("k"),
        client.delete(["k"]),
        listed(),
        client.start_multipart("k"),
        client.put_part("k", "0" * 32, 1, b"x"),
        client.list_parts("k", "0" * 32),
        client.complete("k", "0" * 32, [Part(1, 1, "0" * 32)]),
        client.abort("k", "0" * 32),
        listed_multiparts(),
        client.probe("probe"),
    ]
    errors = await asyncio.gather(*works, return_exceptions=True)
    for error in errors:
        assert isinstance(error, BlobstoreError), error
    return errors  # type: ignore[return-value]


async def test_no_right(oss_server: OssStandin) -> None:
    """The object that was asked for, and what gives the right to it."""
    bucket = oss_server.new_bucket()
    oss_server.add_account("reader", denied=("oss:PutObject", "oss:DeleteObject"))
    async with opened(settings_for(oss_server, bucket)) as owner:
        await owner.put("k", b"x", is_new=True)
    async with opened(settings_for(oss_server, bucket, access_key_id="reader")) as client:
        assert await client.head("k") == ObjectInfo("k", 1)
        with pytest.raises(AccessDenied, match=f"write oss://{bucket}/k.*RAM policy"):
            await client.put("k", b"x", is_new=False)
        with pytest.raises(AccessDenied, match=f"delete oss://{bucket}/k.*RAM policy"):
            await client.delete(["k"])
        with pytest.raises(AccessDenied, match=f"delete 2 objects of oss://{bucket}: .*RAM policy"):
            await client.delete(["k", "l"])
    oss_server.add_account("writer", denied=("oss:DeleteObject",))
    async with opened(settings_for(oss_server, bucket, access_key_id="writer")) as client:
        with pytest.raises(AccessDenied, match="RAM policy"):
            await client.probe("probe/x")
    assert list(oss_server.ask("state", bucket=bucket)["versions"]) == ["k"]


@pytest.mark.parametrize("signature", ["v4", "v1"])
async def test_a_clock_that_is_wrong(oss_server: OssStandin, signature: str) -> None:
    """It is said that it is the clock, and what the server's says."""
    async with opened(settings_for(oss_server, oss_server.new_bucket(), signature=signature)) as client:
        oss_server.ask("clock", ahead_s=16 * 60)
        with pytest.raises(AccessDenied, match=r"clock is wrong.*its time is .*20\d\d"):
            await client.head("k")
        oss_server.ask("clock", ahead_s=14 * 60)
        with pytest.raises(KeyUnknown):
            await client.head("k")


async def test_the_wrong_region(oss_server: OssStandin) -> None:
    """A signature for another region is refused."""
    fields = {"region": "cn-beijing"}
    async with opened(settings_for(oss_server, oss_server.new_bucket(), **fields)) as client:
        with pytest.raises(StorageFailed, match="cn-hangzhou"):
            await read(client, "k")


async def test_the_wrong_endpoint(oss_server: OssStandin) -> None:
    """The server tells where the bucket is, and so do we."""
    oss_server.fault(
        "GetObject",
        "refuse",
        status=403,
        code="AccessDenied",
        details={"Endpoint": "oss-cn-beijing.aliyuncs.com"},
    )
    async with opened(settings_for(oss_server, oss_server.new_bucket())) as client:
        with pytest.raises(AccessDenied, match="at oss-cn-beijing"):
            await read(client, "k")


async def test_no_credentials(oss_server: OssStandin) -> None:
    """Said when it is opened, before anything is sent."""
    client = OssClient(settings_for(oss_server, "images", access_key_id=None, access_key_secret=None))
    with pytest.raises(ConfigInvalid, match="OSS_ACCESS_KEY_ID"):
        await client.open()
    await client.aclose()
    await client.aclose()


async def test_a_server_that_is_not_oss(oss_server: OssStandin, unused_tcp_port: int) -> None:
    """Nobody at that port: an error that may pass, which names the reason and not a whole request."""
    endpoint = f"http://127.0.0.1:{unused_tcp_port}"
    async with opened(settings_for(oss_server, "images", endpoint=endpoint)) as client:
        with pytest.raises(TransientError, match="no answer: ConnectionRefusedError"):
            await client.head("k")
