"""Pulling blobs: bytes, ranges, conditions, and the ways in which bytes leave."""

from __future__ import annotations

import email
import errno
import os
from pathlib import Path

import pytest

from blobstore.app import make_collector
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.errors import StorageFailed
from blobstore.events import Alarm, Event
from blobstore.gc import GcPolicy
from blobstore.index.memory import MemoryIndex
from blobstore.names import RepositoryName
from blobstore.promises import HoldTerms
from blobstore.server.protocol.messages import FileSpan, Request, Stream
from blobstore.server.protocol.observing import Answered
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import Delivery, RegistrySettings
from blobstore.store import Store
from tests.spec.client import NAME, OTHER, Client, digest

DATA = bytes(range(256)) * 16
NAMED = digest(DATA)
URL = f"/v2/{NAME}/blobs/{NAMED}"


async def test_headers_of_a_blob(any_client: Client) -> None:
    """HEAD and GET say the same; clients seek only where they see Accept-Ranges."""
    await any_client.push(DATA)
    head, found = await any_client.head(URL), await any_client.get(URL)
    for answer in (head, found):
        assert answer.status == 200
        assert answer["Content-Type"] == "application/octet-stream"
        assert answer["Accept-Ranges"] == "bytes"
        assert answer["ETag"] == f'"{NAMED}"'
        assert answer["Docker-Content-Digest"] == NAMED
        assert answer.get("Content-Encoding") is None
    assert head["Content-Length"] == str(len(DATA))
    assert found.body == DATA
    assert found["Cache-Control"] == "max-age=31536000"


async def test_files_leave_by_the_kernel_and_objects_as_streams(store: Store, files: Store) -> None:
    """What a host gets is a part of an open file, or bytes that are made while they are sent."""
    for opened, kind in ((store, Stream), (files, FileSpan)):
        registry = Registry(opened)
        await Client(registry).push(DATA)
        answer = await registry.answer(Request(method="GET", path=URL))
        assert type(answer.payload) is kind
        if isinstance(answer.payload, FileSpan):
            answer.payload.close()


async def test_another_repositorys_blob_is_unknown(any_client: Client) -> None:
    """Also to DELETE, and in the same words as one that is nowhere."""
    await any_client.push(DATA, OTHER)
    nowhere = digest(b"nowhere")
    for method in ("GET", "HEAD", "DELETE"):
        answer = await any_client.ask(method, URL)
        other = await any_client.ask(method, f"/v2/{NAME}/blobs/{nowhere}")
        assert (answer.status, answer.headers) == (404, other.headers)
        assert answer.body.replace(NAMED.encode(), b"") == other.body.replace(nowhere.encode(), b"")
    assert (await any_client.get(f"/v2/{OTHER}/blobs/{NAMED}")).status == 200


@pytest.mark.parametrize("text", ["sha256:short", f"sha256:{'A' * 64}", f"md5:{'a' * 32}", "sha256:", ":", "sha384:aa"])
async def test_what_is_no_digest(client: Client, text: str) -> None:
    """400, with the code for it."""
    for method in ("GET", "HEAD", "DELETE"):
        answer = await client.ask(method, f"/v2/{NAME}/blobs/{text}")
        assert answer.status == 400
    assert answer.code == "DIGEST_INVALID"


@pytest.mark.parametrize("text", ["..", "../../../etc/passwd", "sha256:../../x", f"{NAMED}/..", "%2e%2e", "a" * 5000])
async def test_traversal(client: Client, text: str) -> None:
    """No path leads to a file: only bytes of a digest travel inward."""
    await client.push(DATA)
    assert (await client.get(f"/v2/{NAME}/blobs/{text}")).status in (400, 404)


# Conditions


@pytest.mark.parametrize("given", [f'"{NAMED}"', NAMED, f'W/"{NAMED}"', f'"x", "{NAMED}"', "*"])
async def test_unchanged(any_client: Client, given: str) -> None:
    """Docker sends the digest without quotes."""
    await any_client.push(DATA)
    for method in ("GET", "HEAD"):
        answer = await any_client.ask(method, URL, headers={"If-None-Match": given})
        assert (answer.status, answer["ETag"]) == (304, f'"{NAMED}"')


@pytest.mark.parametrize("given", ['"sha256:other"', "", f'"{NAMED}', NAMED[:-1]])
async def test_changed(any_client: Client, given: str) -> None:
    """Anything else is answered in full; and what is not here is not unchanged."""
    missing = await any_client.get(URL, headers={"If-None-Match": f'"{NAMED}"'})
    assert missing.status == 404
    await any_client.push(DATA)
    assert (await any_client.get(URL, headers={"If-None-Match": given})).body == DATA


# Ranges


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [("0-0", 0, 1), ("4095-", 4095, 4096), ("-1", 4095, 4096), ("-9999999999999999999", 0, 4096), (" 5-6 ", 5, 7)],
)
async def test_single_ranges(any_client: Client, wanted: str, start: int, stop: int) -> None:
    """The last byte is the last byte, whatever was asked for."""
    await any_client.push(DATA)
    answer = await any_client.get(URL, headers={"Range": f"bytes={wanted}"})
    assert (answer.status, answer.body) == (206, DATA[start:stop])
    assert answer["Content-Range"] == f"bytes {start}-{stop - 1}/4096"
    assert answer["Docker-Content-Digest"] == NAMED


@pytest.mark.parametrize("wanted", ["4096-", "4096-5000", "-0", "10-9", "9999999999999999999-", "9000-,8000-"])
async def test_ranges_beyond_the_end(any_client: Client, wanted: str) -> None:
    """416, and how long it is."""
    await any_client.push(DATA)
    answer = await any_client.get(URL, headers={"Range": f"bytes={wanted}"})
    assert (answer.status, answer["Content-Range"]) == (416, "bytes */4096")


@pytest.mark.parametrize(
    "text", ["items=0-1", "bytes", "bytes=", "bytes=a-b", "bytes=1", "bytes=--1", "bytes=0x1-2", ""]
)
async def test_what_is_no_range_is_ignored(any_client: Client, text: str) -> None:
    """As RFC 9110 wants."""
    await any_client.push(DATA)
    answer = await any_client.get(URL, headers={"Range": text})
    assert (answer.status, answer.body) == (200, DATA)


async def test_a_range_of_an_empty_blob(any_client: Client) -> None:
    """There is no byte to give; all of it are none."""
    await any_client.push(b"")
    url = f"/v2/{NAME}/blobs/{digest(b'')}"
    answer = await any_client.get(url, headers={"Range": "bytes=0-"})
    assert (answer.status, answer["Content-Range"]) == (416, "bytes */0")
    assert (await any_client.get(url)).body == b""


async def test_several_ranges(any_client: Client) -> None:
    """multipart/byteranges: what zstd:chunked pulls ask for. Those beyond the end are left out."""
    await any_client.push(DATA)
    answer = await any_client.get(URL, headers={"Range": "bytes=0-9, 100-199,-5,5000-"})
    assert answer.status == 206
    message = email.message_from_bytes(b"Content-Type: " + answer["Content-Type"].encode() + b"\r\n\r\n" + answer.body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    assert message.get_content_type() == "multipart/byteranges"
    assert [part["Content-Range"] for part in parts] == [
        f"bytes {each}/4096" for each in ("0-9", "100-199", "4091-4095")
    ]
    assert [part["Content-Type"] for part in parts] == ["application/octet-stream"] * 3
    for part in (DATA[:10], DATA[100:200], DATA[-5:]):
        assert b"\r\n\r\n" + part + b"\r\n--" in answer.body


async def test_one_range_of_several_that_is_there(any_client: Client) -> None:
    """Is answered as one."""
    await any_client.push(DATA)
    answer = await any_client.get(URL, headers={"Range": "bytes=0-9,9000-9001"})
    assert (answer.status, answer.body, answer["Content-Range"]) == (206, DATA[:10], "bytes 0-9/4096")


async def test_too_many_ranges(store: Store) -> None:
    """400 makes clients ask for fewer; ranges that overlap until they are more than the whole are the whole."""
    client = Client(Registry(store, RegistrySettings(ranges_max=3)))
    await client.push(DATA)
    answer = await client.get(URL, headers={"Range": "bytes=0-0,2-2,4-4,6-6"})
    assert (answer.status, answer.code) == (400, "UNSUPPORTED")
    assert (await client.get(URL, headers={"Range": "bytes=0-0,2-2,4-4"})).status == 206
    answer = await client.get(URL, headers={"Range": "bytes=0-,0-,0-"})
    assert (answer.status, answer.body) == (200, DATA)


async def test_a_range_if_it_is_still_that_blob(any_client: Client) -> None:
    """If-Range with the ETag gives the range; with any other, or a date, the whole."""
    await any_client.push(DATA)
    headers = {"Range": "bytes=0-9", "If-Range": f'"{NAMED}"'}
    assert (await any_client.get(URL, headers=headers)).status == 206
    for other in (f'"{digest(b"")}"', f'W/"{NAMED}"', "Sat, 21 Nov 2026 00:00:00 GMT"):
        assert (await any_client.get(URL, headers=headers | {"If-Range": other})).status == 200


async def test_head_knows_no_ranges(any_client: Client) -> None:
    """RFC 9110: a range is of a GET."""
    await any_client.push(DATA)
    answer = await any_client.head(URL, headers={"Range": "bytes=0-9"})
    assert (answer.status, answer["Content-Length"]) == (200, "4096")


# What happens between looking and opening


async def collect(store: Store) -> None:
    """Free at once what no manifest keeps."""
    policy = GcPolicy(grace_s=0, quarantine_s=0)
    await make_collector(store, policy).run()
    await make_collector(store, policy).run()


async def test_a_blob_that_was_pushed_anew_since_it_was_looked_up(
    files: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has another name by then: it is looked for again."""
    client = Client(Registry(files))
    await client.push(DATA)
    old = await files.index.find_blob(Digest.parse(NAMED))
    assert (await client.delete(URL)).status == 202
    await collect(files)
    assert old is not None
    assert not os.path.exists(files.backend.path_of(old.names[0]))  # type: ignore[attr-defined]
    await client.push(DATA)
    view, stale = files.index.view_blob, [old]

    async def late(*args: object) -> object:
        return stale.pop() if stale else await view(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(files.index, "view_blob", late)
    assert (await client.get(URL)).body == DATA
    assert not stale


async def test_a_file_that_cannot_be_opened_is_a_failure_of_the_storage(
    files: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a bug of ours: the log says why, and the client that there is one."""
    told: list[Answered] = []
    client = Client(Registry(files, observer=lambda each: told.append(each) if isinstance(each, Answered) else None))
    await client.push(DATA)

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr("blobstore.server.protocol._blobs.os.open", refuse)
        answer = await client.get(URL)
    assert (answer.status, answer.code) == (500, "UNKNOWN")
    assert isinstance(told[-1].error, StorageFailed)
    assert "Too many open files" in str(told[-1].error)


async def test_a_blob_that_was_collected_since_it_was_looked_up(files: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is unknown, and nobody is alarmed."""
    client = Client(Registry(files))
    await client.push(DATA)
    stale = [await files.index.find_blob(Digest.parse(NAMED))]
    await client.delete(URL)
    await collect(files)
    view = files.index.view_blob

    async def late(*args: object) -> object:
        return stale.pop() if stale else await view(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(files.index, "view_blob", late)
    answer = await client.get(URL)
    assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")


@pytest.mark.parametrize("is_cut", [True, False])
async def test_a_file_that_is_lost_or_cut(tmp_path: Path, is_cut: bool) -> None:
    """500 with no word of where it was, and an alarm for the operator; never too few bytes."""
    import blobstore

    heard: list[Event] = []
    async with blobstore.open(str(tmp_path / "store"), create=True, events=heard.append) as store:
        client = Client(Registry(store))
        await client.push(DATA)
        blob = await store.index.find_blob(Digest.parse(NAMED))
        assert blob is not None
        path = store.backend.path_of(blob.names[0])  # type: ignore[attr-defined]
        os.chmod(path, 0o600)
        os.truncate(path, 100) if is_cut else os.unlink(path)
        answer = await client.get(URL)
        assert (answer.status, answer.code) == (500, "UNKNOWN")
        assert str(tmp_path).encode() not in answer.body
        assert blob.names[0].encode() not in answer.body
        assert [each for each in heard if isinstance(each, Alarm)]


async def test_a_blob_that_is_read_may_be_collected(files: Store) -> None:
    """What is open goes on being sent."""
    registry = Registry(files)
    client = Client(registry)
    await client.push(DATA)
    answer = await registry.answer(Request(method="GET", path=URL))
    await client.delete(URL)
    await collect(files)
    assert isinstance(answer.payload, FileSpan)
    assert os.pread(answer.payload.handle, 9999, 0) == DATA
    answer.payload.close()


async def test_a_yes_is_a_promise(files: Store) -> None:
    """HEAD renews the hold of a blob that nothing else keeps, GET does not: who was told yes will not send the bytes."""
    client = Client(Registry(files))
    await client.push(DATA)
    touched: list[str] = []
    index = files.index
    touch, view = index.touch_blob, index.view_blob

    async def touching(*args: object) -> object:
        touched.append("touch")
        return await touch(*args)  # type: ignore[arg-type]

    async def viewing(*args: object) -> object:
        touched.append("view")
        return await view(*args)  # type: ignore[arg-type]

    index.touch_blob, index.view_blob = touching, viewing  # type: ignore[method-assign,assignment]
    await client.head(URL)
    await client.get(URL)
    assert touched == ["touch", "view"]


# Other ways out


class SigningBackend(MemoryBackend):
    """As an object store: anybody may get an object by its URL."""

    def __init__(self) -> None:
        super().__init__(renames=False)
        self.asked: list[int] = []

    async def presign(self, key: str, valid_s: int) -> str:
        self.asked.append(valid_s)
        return f"https://bucket.example/{key}?signature=secret"


async def test_a_redirect_to_the_object_store(client: Client) -> None:
    """307 for GET alone, of what this repository has; the URL is for its reader only."""
    store = Store(SigningBackend(), MemoryIndex(), terms=HoldTerms(grace_s=3600))
    await store.open(create=True)
    redirecting = Client(Registry(store, RegistrySettings(delivery=Delivery.REDIRECT, redirect_valid_s=42)))
    assert (await redirecting.get(URL)).status == 404
    await redirecting.push(DATA)
    blob = await store.index.find_blob(Digest.parse(NAMED))
    assert blob is not None
    answer = await redirecting.get(URL, headers={"Range": "bytes=0-1"})
    assert (answer.status, answer.body) == (307, b"")
    assert answer["Location"] == f"https://bucket.example/{blob.names[0]}?signature=secret"
    assert answer["Cache-Control"] == "private, no-store"
    assert answer["Referrer-Policy"] == "no-referrer"
    assert answer["Docker-Content-Digest"] == NAMED
    assert store.backend.asked == [42]  # type: ignore[attr-defined]
    assert (await redirecting.get(URL, headers={"If-None-Match": NAMED})).status == 304
    assert (await redirecting.head(URL)).status == 200
    assert (await redirecting.get(f"/v2/{OTHER}/blobs/{NAMED}")).status == 404
    await store.aclose()


async def test_a_redirect_where_there_is_nowhere_to_go(any_store: Store) -> None:
    """Files, and bytes in memory, leave from here."""
    client = Client(Registry(any_store, RegistrySettings(delivery=Delivery.REDIRECT)))
    await client.push(DATA)
    assert (await client.get(URL)).body == DATA


async def test_nginx_sends_the_file(files: Store, store: Store) -> None:
    """The path below its internal location is the one below the store."""
    client = Client(Registry(files, RegistrySettings(delivery=Delivery.ACCEL, accel_prefix="/internal/")))
    await client.push(DATA)
    answer = await client.get(URL, headers={"Range": "bytes=0-1"})
    assert (answer.status, answer.body) == (200, b"")
    # nginx adds its own.
    assert answer.get("Accept-Ranges") is None
    path = answer["X-Accel-Redirect"].removeprefix("/internal/")
    root = files.backend.path_of("x")[:-1]  # type: ignore[attr-defined]
    assert Path(root, path).read_bytes() == DATA
    assert (await client.get(f"/v2/{OTHER}/blobs/{NAMED}")).get("X-Accel-Redirect") is None
    streaming = Client(Registry(store, RegistrySettings(delivery=Delivery.ACCEL)))
    await streaming.push(DATA)
    assert (await streaming.get(URL)).body == DATA


async def test_a_blob_of_megabytes(any_client: Client) -> None:
    """Whole, and a range over the border of its chunks."""
    data = os.urandom(1024) * 3000
    named = await any_client.push(data)
    url = f"/v2/{NAME}/blobs/{named}"
    assert (await any_client.get(url)).body == data
    answer = await any_client.get(url, headers={"Range": "bytes=1048570-1048581"})
    assert answer.body == data[1048570:1048582]


def test_the_name_of_the_repository_is_one() -> None:
    """What these tests use is within the grammar."""
    assert RepositoryName.parse(NAME) == NAME
