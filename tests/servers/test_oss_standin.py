"""The stand-in for OSS believes nothing: what it refuses, and what it answers, as far as the client's tests count on it."""

import base64
import datetime as dt
import hashlib
import http.client
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import quote

import pytest
from fastcrc import crc64
from oss2.utils import Crc64

from tests.servers.oss_standin import KEY_ID, REGION, SECRET, OssStandin, oss_process, oss_server, running_standin
from tests.servers.oss_standin.joining import joined
from tests.servers.oss_standin.replies import Refusal
from tests.servers.oss_standin.signatures import Account, Signed, _v1_signature, check

__all__ = ["oss_process", "oss_server"]
NOW = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
LISTEN = "0A"
PART = b"p" * (100 * 1024)


def ask(
    server: OssStandin, method: str, bucket: str, key: str = "", body: bytes = b"", query: str = "", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """A request signed by hand, in the first version; underscores of header names stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("date", format_datetime(dt.datetime.now(dt.UTC), usegmt=True))
    parameters = dict(each.partition("=")[::2] for each in query.split("&") if each)
    signed = Signed(method, bucket, key, parameters, named)
    signature = _v1_signature(signed, Account(KEY_ID, SECRET), named["date"], parameters)
    named.setdefault("authorization", f"OSS {KEY_ID}:{signature}")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, f"/{bucket}/{quote(key)}" + (f"?{query}" if query else ""), body, named)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


@pytest.fixture
def bucket(oss_server: OssStandin) -> str:
    return oss_server.new_bucket()


# Signatures


@pytest.mark.parametrize(
    ("date", "token", "signature"),
    [
        ("20231216T162057Z", None, "e21d18daa82167720f9b1047ae7e7f1ce7cb77a31e8203a7d5f4624fa0284afe"),
        ("20231217T034736Z", "token", "b94a3f999cf85bcdc00d332fbd3734ba03e48382c36fa4d5af5df817395bd9ea"),
    ],
)
def test_known_signatures_of_version_4(date: str, token: str | None, signature: str) -> None:
    """The answers that Alibaba's own SDKs of several languages share in their tests."""
    account = Account("ak", "sk", token)
    headers = {
        "x-oss-head1": "value",
        "abc": "value",
        "content-type": "text/plain",
        "x-oss-content-sha256": "UNSIGNED-PAYLOAD",
        "x-oss-date": date,
        "authorization": f"OSS4-HMAC-SHA256 Credential=ak/{date[:8]}/cn-hangzhou/oss/aliyun_v4_request,Signature={signature}",
        **({"x-oss-security-token": token} if token else {}),
    }
    query = {"param1": "value1", "+param1": "value3", "|param1": "value4", "+param2": "", "|param2": "", "param2": ""}
    now = dt.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    request = Signed("PUT", "bucket", "1234+-/123/1.txt", query, headers)
    assert check(request, {"ak": account}, "cn-hangzhou", now) is account
    for changed in (
        Signed("GET", "bucket", "1234+-/123/1.txt", query, headers),
        Signed("PUT", "other", "1234+-/123/1.txt", query, headers),
        Signed("PUT", "bucket", "1234+-/123/2.txt", query, headers),
        Signed("PUT", "bucket", "1234+-/123/1.txt", {**query, "more": ""}, headers),
        Signed("PUT", "bucket", "1234+-/123/1.txt", query, {**headers, "x-oss-head1": "other"}),
        Signed("PUT", "bucket", "1234+-/123/1.txt", query, {**headers, "content-type": "text/html"}),
    ):
        with pytest.raises(Refusal, match="SignatureDoesNotMatch"):
            check(changed, {"ak": account}, "cn-hangzhou", now)


def test_a_known_signature_of_version_1() -> None:
    """The same, for the older version."""
    headers = {
        "content-md5": "eB5eJF1ptWaXm4bijSPyxw==",
        "content-type": "text/html",
        "x-oss-date": "Wed, 28 Dec 2022 10:27:41 GMT",
        "x-oss-meta-author": "alice",
        "x-oss-meta-magic": "abracadabra",
        "authorization": "OSS ak:kSHKmLxlyEAKtZPkJhG9bZb5k7M=",
    }
    account = Account("ak", "sk")
    now = dt.datetime(2022, 12, 28, 10, 27, 41, tzinfo=dt.UTC)
    assert check(Signed("PUT", "examplebucket", "nelson", {}, headers), {"ak": account}, REGION, now) is account
    with pytest.raises(Refusal, match="SignatureDoesNotMatch"):
        check(Signed("PUT", "examplebucket", "nelson", {"acl": ""}, headers), {"ak": account}, REGION, now)


def _signed_v1(when: dt.datetime, account: Account) -> Signed:
    headers = {"date": format_datetime(when, usegmt=True)}
    request = Signed("GET", "b", "k", {}, headers)
    headers["authorization"] = f"OSS {account.key_id}:{_v1_signature(request, account, headers['date'], {})}"
    return request


def test_dates_are_looked_at() -> None:
    """A quarter of an hour in both directions, and no further."""
    account = Account("ak", "sk")
    for minutes in (-14, 14):
        assert check(_signed_v1(NOW + dt.timedelta(minutes=minutes), account), {"ak": account}, REGION, NOW) is account
    for minutes in (-16, 16):
        with pytest.raises(Refusal, match="RequestTimeTooSkewed"):
            check(_signed_v1(NOW + dt.timedelta(minutes=minutes), account), {"ak": account}, REGION, NOW)


def test_who_is_unknown_or_expired_is_refused() -> None:
    """By what is wrong with them."""
    account = Account("ak", "sk")
    request = _signed_v1(NOW, account)
    with pytest.raises(Refusal, match="InvalidAccessKeyId"):
        check(request, {}, REGION, NOW)
    with pytest.raises(Refusal, match="SecurityTokenExpired"):
        check(request, {"ak": Account("ak", "sk", "token", is_expired=True)}, REGION, NOW)
    with pytest.raises(Refusal, match="InvalidSecurityToken"):
        check(request, {"ak": Account("ak", "sk", "token")}, REGION, NOW)
    with pytest.raises(Refusal, match="SignatureDoesNotMatch"):
        check(request, {"ak": Account("ak", "other")}, REGION, NOW)
    with pytest.raises(Refusal, match="AccessDenied"):
        check(Signed("GET", "b", "k", {}, {}), {"ak": account}, REGION, NOW)


def test_signed_urls_expire() -> None:
    """And the signature covers until when."""
    account = Account("ak", "sk")
    until = int(NOW.timestamp()) + 60
    query = {"OSSAccessKeyId": "ak", "Expires": str(until)}
    query["Signature"] = _v1_signature(Signed("GET", "b", "k", {}, {}), account, str(until), {})
    request = Signed("GET", "b", "k", query, {})
    assert check(request, {"ak": account}, REGION, NOW) is account
    with pytest.raises(Refusal, match="expired"):
        check(request, {"ak": account}, REGION, NOW + dt.timedelta(seconds=61))
    later = Signed("GET", "b", "k", {**query, "Expires": str(until + 600)}, {})
    with pytest.raises(Refusal, match="SignatureDoesNotMatch"):
        check(later, {"ak": account}, REGION, NOW)


# Bodies


def test_checksums_of_bodies(oss_server: OssStandin, bucket: str) -> None:
    """Told of what came; a body with another MD5 or CRC64 than was announced is refused, and nothing is stored."""
    md5 = base64.b64encode(hashlib.md5(b"body").digest()).decode()
    status, headers, _ = ask(oss_server, "PUT", bucket, "k", b"body", content_md5=md5)
    assert status == 200
    assert headers["x-oss-hash-crc64ecma"] == str(crc64.xz(b"body"))
    assert headers["etag"] == f'"{hashlib.md5(b"body").hexdigest().upper()}"'
    for announced in ({"content_md5": md5}, {"x_oss_hash_crc64ecma": str(crc64.xz(b"body"))}):
        status, _, text = ask(oss_server, "PUT", bucket, "other", b"b0dy", **announced)
        assert (status, b"InvalidDigest" in text) == (400, True)
    assert list(oss_server.ask("state", bucket=bucket)["versions"]) == ["k"]


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 1), (3, 5), (65_537, 1000), (1, 262_143)])
def test_checksums_of_parts_are_joined(sizes: tuple[int, int]) -> None:
    """To that of all bytes, and as oss2 does it."""
    first, second = (bytes(range(7, 256)) * (size // 249 + 1) for size in sizes)
    first, second = first[: sizes[0]], second[: sizes[1]]
    whole = joined(crc64.xz(first), crc64.xz(second), len(second))
    assert whole == crc64.xz(first + second)
    assert whole == Crc64().combine(crc64.xz(first), crc64.xz(second), len(second))


def test_long_bodies_are_kept_in_files(oss_server: OssStandin, bucket: str) -> None:
    """With the same checksum, and every range of them right."""
    data = bytes(range(256)) * 4096 * 3
    _, headers, _ = ask(oss_server, "PUT", bucket, "k", data)
    assert headers["x-oss-hash-crc64ecma"] == str(crc64.xz(data))
    for first, last in ((0, len(data) - 1), (5, 4100), (1_048_570, 1_048_580), (len(data) - 1, len(data) - 1)):
        status, headers, got = ask(oss_server, "GET", bucket, "k", range=f"bytes={first}-{last}")
        assert (status, got) == (206, data[first : last + 1])
        assert headers["content-range"] == f"bytes {first}-{last}/{len(data)}"


def test_a_range_that_can_not_be_satisfied(oss_server: OssStandin, bucket: str) -> None:
    """The whole object, as OSS has it, unless standard behaviour was asked for."""
    ask(oss_server, "PUT", bucket, "k", b"0123456789")
    for wanted in ("bytes=10-", "bytes=10-20", "bytes=7-3", "nonsense"):
        status, _, got = ask(oss_server, "GET", bucket, "k", range=wanted)
        assert (status, got) == (200, b"0123456789")
    status, _, _ = ask(oss_server, "GET", bucket, "k", range="bytes=10-", x_oss_range_behavior="standard")
    assert status == 416
    status, _, got = ask(oss_server, "GET", bucket, "k", range="bytes=-3")
    assert (status, got) == (206, b"789")


def test_an_error_to_a_head_has_its_document_in_a_header(oss_server: OssStandin, bucket: str) -> None:
    """As there is no body."""
    status, headers, body = ask(oss_server, "HEAD", bucket, "nothing")
    assert (status, body) == (404, b"")
    assert b"<Code>NoSuchKey</Code>" in base64.b64decode(headers["x-oss-err"])


def test_what_exists_is_not_replaced_if_that_is_forbidden(oss_server: OssStandin, bucket: str) -> None:
    """By a put, by the beginning of a multipart upload, and by its end."""
    _, _, text = ask(oss_server, "POST", bucket, "k", query="uploads")
    upload_id = text.partition(b"<UploadId>")[2].partition(b"<")[0].decode()
    query = f"uploadId={upload_id}"
    _, headers, _ = ask(oss_server, "PUT", bucket, "k", b"part", query=f"partNumber=1&{query}")
    ask(oss_server, "PUT", bucket, "k", b"first")
    forbid = {"x_oss_forbid_overwrite": "true"}
    complete = _complete([(1, headers["etag"])])
    for answer in (
        ask(oss_server, "PUT", bucket, "k", b"second", **forbid),
        ask(oss_server, "POST", bucket, "k", query="uploads", **forbid),
        ask(oss_server, "POST", bucket, "k", complete, query=query, **forbid),
    ):
        assert (answer[0], b"FileAlreadyExists" in answer[2]) == (409, True)
    assert ask(oss_server, "GET", bucket, "k")[2] == b"first"
    assert ask(oss_server, "POST", bucket, "k", complete, query=query)[0] == 200
    assert ask(oss_server, "GET", bucket, "k")[2] == b"part"


def _complete(parts: list[tuple[int, str]]) -> bytes:
    rows = "".join(f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>" for number, etag in parts)
    return f"<CompleteMultipartUpload>{rows}</CompleteMultipartUpload>".encode()


def test_parts_are_judged_when_they_are_joined(oss_server: OssStandin, bucket: str) -> None:
    """Too small, in the wrong order, not there, another than was sent: each has its code; then the upload is still there."""
    _, _, text = ask(oss_server, "POST", bucket, "k", query="uploads")
    query = f"uploadId={text.partition(b'<UploadId>')[2].partition(b'<')[0].decode()}"
    etags = [
        ask(oss_server, "PUT", bucket, "k", body, query=f"partNumber={number}&{query}")[1]["etag"]
        for number, body in ((1, PART), (2, PART[:-1]), (3, b"tail"))
    ]
    for parts, code in (
        ([(1, etags[0]), (2, etags[1]), (3, etags[2])], b"EntityTooSmall"),
        ([(3, etags[2]), (1, etags[0])], b"InvalidPartOrder"),
        ([(1, etags[0]), (4, etags[2])], b"InvalidPart"),
        ([(1, etags[1])], b"InvalidPart"),
        ([], b"MalformedXML"),
    ):
        status, _, text = ask(oss_server, "POST", bucket, "k", _complete(parts), query=query)
        assert (status, code in text) == (400, True), text
    status, headers, _ = ask(oss_server, "POST", bucket, "k", _complete([(1, etags[0]), (3, etags[2])]), query=query)
    assert status == 200
    assert headers["x-oss-hash-crc64ecma"] == str(crc64.xz(PART + b"tail"))
    assert ask(oss_server, "DELETE", bucket, "k", query=query)[0] == 404


def test_deleting_many_needs_a_hash_and_has_a_limit(oss_server: OssStandin, bucket: str) -> None:
    """1,000 keys, with the MD5 of the request."""
    for count, has_hash, expected in ((1000, True, 200), (1001, True, 400), (1, False, 400)):
        rows = "".join(f"<Object><Key>{number}</Key></Object>" for number in range(count))
        body = f"<Delete><Quiet>false</Quiet>{rows}</Delete>".encode()
        md5 = {"content_md5": base64.b64encode(hashlib.md5(body).digest()).decode()} if has_hash else {}
        status, _, text = ask(oss_server, "POST", bucket, "", body, query="delete", **md5)
        assert (status, text.count(b"<Deleted>")) == (expected, count if expected == 200 else 0)


def test_deletes_in_a_versioned_bucket_only_add_markers(oss_server: OssStandin) -> None:
    """Until a version is named."""
    bucket = oss_server.new_bucket("Enabled")
    _, headers, _ = ask(oss_server, "PUT", bucket, "k", b"first")
    first = headers["x-oss-version-id"]
    assert ask(oss_server, "PUT", bucket, "k", b"second", x_oss_forbid_overwrite="true")[0] == 200
    _, headers, _ = ask(oss_server, "DELETE", bucket, "k")
    assert headers["x-oss-delete-marker"] == "true"
    assert ask(oss_server, "GET", bucket, "k")[0] == 404
    assert ask(oss_server, "GET", bucket, "k", query=f"versionId={first}")[2] == b"first"
    for version in oss_server.ask("state", bucket=bucket)["versions"]["k"]:
        assert ask(oss_server, "DELETE", bucket, "k", query=f"versionId={version['id']}")[0] == 204
    assert oss_server.ask("state", bucket=bucket)["versions"] == {}


def test_listings_fold_at_a_delimiter(oss_server: OssStandin, bucket: str) -> None:
    """Folders once each, over all pages."""
    for key in ("a", "b/1", "b/2", "c/1", "d"):
        ask(oss_server, "PUT", bucket, key, b"x")
    found, token = [], ""
    while True:
        query = "list-type=2&delimiter=/&max-keys=1" + (f"&continuation-token={quote(token, safe='')}" if token else "")
        _, _, text = _list(oss_server, bucket, query)
        found += [
            each.partition(b"<")[0].decode() for each in text.replace(b"<Prefix></Prefix>", b"").split(b"<Key>")[1:]
        ]
        found += [each.partition(b"<")[0].decode() for each in text.split(b"<CommonPrefixes><Prefix>")[1:]]
        token = text.partition(b"<NextContinuationToken>")[2].partition(b"<")[0].decode()
        if not token:
            break
    assert found == ["a", "b/", "c/", "d"]


def _list(server: OssStandin, bucket: str, query: str) -> tuple[int, dict[str, str], bytes]:
    """The token is signed as it is, and sent encoded."""
    date = format_datetime(dt.datetime.now(dt.UTC), usegmt=True)
    parameters = dict(each.partition("=")[::2] for each in query.split("&"))
    decoded = {name: value.replace("%3D", "=").replace("%2F", "/") for name, value in parameters.items()}
    signature = _v1_signature(Signed("GET", bucket, "", decoded, {}), Account(KEY_ID, SECRET), date, decoded)
    return ask(server, "GET", bucket, "", b"", query, date=date, authorization=f"OSS {KEY_ID}:{signature}")


def test_it_ends_with_whoever_started_it() -> None:
    """When its standard input is closed, as it is also by a death. It listens on loopback alone."""
    with running_standin() as standin:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = [row[1] for row in rows if row[3] == LISTEN and row[1].endswith(f":{standin.port:04X}")]
        assert listening == [f"0100007F:{standin.port:04X}"]
    with pytest.raises(ConnectionRefusedError):
        standin.ask("counts")
