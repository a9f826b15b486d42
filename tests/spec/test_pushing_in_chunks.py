"""Pushing blobs: sessions, chunks and streams, and what becomes of those that break off."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from blobstore.abc.records import IndexIdentity
from blobstore.errors import StorageFailed, UploadUnknown
from blobstore.names import RepositoryName, UploadId
from blobstore.server.protocol._upload_ids import UploadIds
from blobstore.server.protocol.access import Principal
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store
from tests.spec.access import Granted
from tests.spec.client import NAME, OTHER, Body, Client, chunk, digest

DATA = b"0123456789" * 100
BIG = os.urandom(4096) * 700
UPLOADS = f"/v2/{NAME}/blobs/uploads/"


async def open_uploads(store: Store) -> int:
    return (await store.totals()).uploads


async def test_a_session(any_client: Client) -> None:
    """202, no body, an id that proxies find in the path, and a range that Docker's client can read."""
    for url in (UPLOADS, UPLOADS.rstrip("/")):
        answer = await any_client.post(url, headers={"Content-Type": "application/json"})
        assert (answer.status, answer.body, answer["Range"]) == (202, b"", "0-0")
        prefix, _, name = answer["Location"].rpartition("/")
        assert (prefix, name) == (UPLOADS.rstrip("/"), answer["Docker-Upload-UUID"])
        assert name.replace(".", "").isalnum()
        assert answer.get("OCI-Chunk-Min-Length") is None


async def test_a_least_length_of_chunks(store: Store) -> None:
    """Is told, and shorter ones are taken all the same."""
    client = Client(Registry(store, RegistrySettings(chunk_min_bytes=5_000_000)))
    answer = await client.post(UPLOADS)
    assert answer["OCI-Chunk-Min-Length"] == "5000000"
    assert (await client.patch(answer["Location"], DATA[:10], headers=chunk(0, DATA[:10]))).status == 202


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3", "md5", "SHA256", ""])
async def test_a_session_for_an_algorithm(any_client: Client, algorithm: str) -> None:
    """Those of ours begin; the last PUT may still name another. Unknown ones are refused."""
    answer = await any_client.post(UPLOADS, **{"digest-algorithm": algorithm})
    if algorithm not in ("sha256", "sha512", "blake3"):
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        return
    assert (await any_client.put(answer["Location"], DATA, digest=digest(DATA, algorithm))).status == 201


async def test_the_status_of_a_session(any_client: Client) -> None:
    """GET and HEAD tell how far it has come, as often as they are asked."""
    location = await any_client.begin()
    for expected, piece in (("0-0", DATA[:1]), ("0-0", DATA[1:10]), ("0-9", DATA[10:]), ("0-999", b"")):
        for method in ("GET", "HEAD", "GET"):
            answer = await any_client.ask(method, location)
            assert (answer.status, answer["Range"], answer["Location"]) == (204, expected, location)
            assert answer["Docker-Upload-UUID"] in location
        assert (await any_client.patch(location, piece)).status == 202
    assert (await any_client.put(location, digest=digest(DATA))).status == 201
    assert (await any_client.get(location)).code == "BLOB_UPLOAD_UNKNOWN"


@pytest.mark.parametrize("size", [1, 100_000, len(BIG)])
async def test_a_stream_in_pieces_of_any_size(any_client: Client, size: int) -> None:
    """Appended in several PATCHes without a range, and closed with the rest."""
    data = BIG if size > 1 else DATA
    third = len(data) // 3
    location = await any_client.begin()
    for start in (0, third):
        part = data[start : start + third]
        pieces = [part[at : at + size] for at in range(0, len(part), size)]
        answer = await any_client.patch(location, Body(*pieces), sized=False)
        assert (answer.status, answer["Range"]) == (202, f"0-{start + third - 1}")
    answer = await any_client.put(location, data[2 * third :], digest=digest(data, "sha512"))
    assert answer.status == 201
    assert answer["Docker-Content-Digest"] == digest(data, "sha512")
    assert (await any_client.get(answer["Location"])).body == data
    assert (await any_client.get(f"/v2/{NAME}/blobs/{digest(data)}")).body == data


async def test_an_upload_goes_on_in_another_worker(any_store: Store) -> None:
    """Nothing of a session is in the process that began it but in the store."""
    first, second = Client(Registry(any_store)), Client(Registry(any_store))
    location = await first.begin()
    assert (await second.patch(location, DATA[:500], headers=chunk(0, DATA[:500]))).status == 202
    assert (await first.get(location))["Range"] == "0-499"
    answer = await first.put(location, DATA[500:], headers=chunk(500, DATA[500:]), digest=digest(DATA))
    assert answer.status == 201
    assert (await second.get(answer["Location"])).body == DATA


# What breaks off


@pytest.mark.parametrize("data", [DATA, BIG], ids=["small", "big"])
@pytest.mark.parametrize("is_chunk", [True, False])
async def test_a_patch_that_breaks_off_keeps_what_came(any_client: Client, data: bytes, is_chunk: bool) -> None:
    """And the session goes on behind it."""
    location, half = await any_client.begin(), len(data) // 2
    headers = chunk(0, data) if is_chunk else {}
    answer = await any_client.patch(location, Body(data[:half], breaks_off=True), headers=headers)
    assert answer.status == 400
    status = await any_client.get(location)
    assert status["Range"] == f"0-{half - 1}"
    answer = await any_client.patch(location, data[half:], headers=chunk(half, data[half:]))
    assert answer.status == 202
    answer = await any_client.put(location, digest=digest(data))
    assert (await any_client.get(answer["Location"])).body == data


async def test_a_patch_whose_host_gives_up_keeps_what_came(any_client: Client) -> None:
    """A cancelled request is no other than one that broke off."""
    location = await any_client.begin()
    begun = asyncio.Event()

    class Stuck(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield DATA
            begun.set()
            await asyncio.Event().wait()

    running = asyncio.create_task(any_client.patch(location, Stuck(DATA)))
    await begun.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (await any_client.get(location))["Range"] == "0-999"
    assert (await any_client.put(location, digest=digest(DATA))).status == 201


async def test_a_closing_put_that_breaks_off_can_be_sent_again(any_client: Client) -> None:
    """It keeps what came, too."""
    location = await any_client.begin()
    answer = await any_client.put(location, Body(DATA[:300], breaks_off=True), digest=digest(DATA))
    assert answer.status == 400
    assert (await any_client.get(location))["Range"] == "0-299"
    rest = DATA[300:]
    assert (await any_client.put(location, rest, headers=chunk(300, rest), digest=digest(DATA))).status == 201


@pytest.mark.parametrize("data", [DATA, BIG], ids=["small", "big"])
async def test_a_single_request_that_breaks_off_leaves_nothing(any_store: Store, data: bytes) -> None:
    """Nobody knows of it, so nobody could go on."""
    client = Client(Registry(any_store))
    answer = await client.post(UPLOADS, Body(data[: len(data) // 2], breaks_off=True), digest=digest(data))
    assert answer.status == 400
    assert await open_uploads(any_store) == 0
    assert (await client.post(UPLOADS, data, digest=digest(data))).status == 201


async def test_a_put_whose_answer_was_lost(any_client: Client) -> None:
    """Sent again it is a success, for what it was to bring is here; for any other digest the session is unknown."""
    location = await any_client.begin()
    assert (await any_client.put(location, DATA, digest=digest(DATA))).status == 201
    again = await any_client.put(location, Body(DATA), digest=digest(DATA))
    assert (again.status, again["Location"]) == (201, f"/v2/{NAME}/blobs/{digest(DATA)}")
    other = await any_client.put(location, DATA, digest=digest(b"other"))
    assert (other.status, other.code) == (404, "BLOB_UPLOAD_UNKNOWN")


async def test_what_is_here_already(any_store: Store) -> None:
    """Is success too, and its bytes go."""
    client = Client(Registry(any_store))
    for name in (NAME, NAME, OTHER):
        location = await client.begin(name)
        assert (await client.patch(location, BIG)).status == 202
        assert (await client.put(location, digest=digest(BIG))).status == 201
    await any_store.parts.cleaner.aclose()
    assert await open_uploads(any_store) == 0
    totals = await any_store.totals()
    assert (totals.present_blobs, totals.present_bytes) == (1, len(BIG))
    assert [info.key async for info in any_store.backend.list("uploads/")] == []


# What is refused


@pytest.mark.parametrize("text", ["bytes 0-9/10", "0-9/10", "0", "-9", "a-b", "0-", "", "0--1", "0-9,20-29", "٠-٩"])
async def test_what_is_no_content_range(any_client: Client, text: str) -> None:
    """400, and the body isn't read."""
    location, body = await any_client.begin(), Body(DATA[:10])
    for method in ("PATCH", "PUT"):
        answer = await any_client.ask(method, location, body, headers={"Content-Range": text}, digest=digest(DATA))
        assert (answer.status, answer.code) == (400, "BLOB_UPLOAD_INVALID")
        assert not body.was_read
    assert (await any_client.get(location))["Range"] == "0-0"


async def test_a_content_range_that_ends_before_it_begins(any_client: Client) -> None:
    """416, and the body isn't read."""
    location, body = await any_client.begin(), Body(DATA[:10])
    answer = await any_client.patch(location, body, headers={"Content-Range": "9-0"})
    assert answer.status == 416
    assert not body.was_read


async def test_a_content_range_of_another_length(any_client: Client) -> None:
    """400 SIZE_INVALID before the body is read, if its length was announced."""
    location, body = await any_client.begin(), Body(DATA[:10])
    for text in ("0-8", "0-10"):
        answer = await any_client.patch(location, body, headers={"Content-Range": text})
        assert (answer.status, answer.code) == (400, "SIZE_INVALID")
        assert not body.was_read


async def test_a_content_range_without_a_body(any_client: Client) -> None:
    """Is no chunk that was taken."""
    location = await any_client.begin()
    answer = await any_client.patch(location, headers={"Content-Range": "0-9"})
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    assert (await any_client.put(location, DATA, digest=digest(DATA))).status == 201


@pytest.mark.parametrize(("text", "kept"), [("0-8", "0-4"), ("0-10", "0-9")])
async def test_a_body_of_another_length(any_client: Client, text: str, kept: str) -> None:
    """400 if it wasn't announced; no byte behind the range is taken, and the session says how many were."""
    location = await any_client.begin()
    body = Body(DATA[:5], DATA[5:10])
    answer = await any_client.patch(location, body, headers={"Content-Range": text}, sized=False)
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    status = await any_client.get(location)
    assert status["Range"] == kept
    at = int(kept[2:]) + 1
    assert (await any_client.put(location, DATA[at:], headers=chunk(at, DATA[at:]), digest=digest(DATA))).status == 201


@pytest.mark.parametrize(
    "text", [None, "", "sha256:short", f"md5:{'a' * 32}", f"sha256:{'A' * 64}", f"sha384:{'a' * 96}", "\n"]
)
async def test_a_closing_put_without_a_good_digest(any_client: Client, text: str | None) -> None:
    """400 DIGEST_INVALID, unread; the session is still there, and can be closed with a good one."""
    location, body = await any_client.begin(), Body(DATA)
    answer = await any_client.put(location, body, **({"digest": text} if text is not None else {}))
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert not body.was_read
    assert (await any_client.put(location, DATA, digest=digest(DATA))).status == 201


async def test_a_mismatch_ends_the_session(any_store: Store) -> None:
    """As Docker's registry does; nothing is visible or left."""
    client = Client(Registry(any_store))
    location = await client.begin()
    answer = await client.put(location, DATA, digest=digest(b"other"))
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert answer.json["errors"][0]["detail"] == {"claimed": digest(b"other"), "actual": digest(DATA)}
    assert (await client.get(location)).status == 404
    assert await open_uploads(any_store) == 0


async def test_the_location_may_be_followed_by_anything(client: Client) -> None:
    """Unknown parameters are ignored, percent-encoded digests decoded, and the session's own id never changes."""
    location = await client.begin()
    url = f"{location}?_state=x&digest={digest(DATA).replace(':', '%3A')}&ns=docker.io"
    assert (await client.put(url, DATA)).status == 201


# One at a time


@pytest.mark.parametrize("data", [DATA, BIG], ids=["small", "big"])
async def test_two_patches_at_once_never_mix(any_store: Store, data: bytes) -> None:
    """One has the session; the other is told so, whichever comes first to the bytes."""
    client = Client(Registry(any_store, RegistrySettings(busy_wait_s=0)))
    location, may_end, begun = await client.begin(), asyncio.Event(), asyncio.Event()

    class Slow(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield data
            begun.set()
            await may_end.wait()

    first = asyncio.create_task(client.patch(location, Slow(data)))
    await begun.wait()
    second = await client.patch(location, b"x" * len(data))
    may_end.set()
    answers = sorted([(await first).status, second.status])
    assert answers == [202, 409]
    status = await client.get(location)
    assert status["Range"] == f"0-{len(data) - 1}"
    kept = data if second.status == 409 else b"x" * len(data)
    assert (await client.put(location, digest=digest(kept))).status == 201


async def test_a_session_that_is_still_being_closed_is_waited_for(any_store: Store) -> None:
    """A client that broke off and came back doesn't lose to its own old request."""
    client = Client(Registry(any_store, RegistrySettings(busy_wait_s=60)))
    location, may_end, begun = await client.begin(), asyncio.Event(), asyncio.Event()

    class Slow(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield BIG
            begun.set()
            await may_end.wait()

    first = asyncio.create_task(client.patch(location, Slow(BIG)))
    await begun.wait()
    asking = asyncio.create_task(client.get(location))
    await asyncio.sleep(0)
    may_end.set()
    assert (await first).status == 202
    assert (await asking)["Range"] == f"0-{len(BIG) - 1}"


async def test_a_session_that_could_not_be_taken_up_is_not_busy_for_ever(
    any_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A storage that fails while the bytes of the last request are looked at again fails that one request."""

    def fail(*_: object) -> int:
        raise StorageFailed("the disk does not answer")

    client = Client(Registry(any_store, RegistrySettings(busy_wait_s=0)))
    location = await client.begin()
    assert (await client.patch(location, DATA)).status == 202
    with monkeypatch.context() as patched:
        patched.setattr("blobstore.uploads._Hashes.resume", fail)
        assert (await client.patch(location, DATA)).status == 500
    answer = await client.get(location)
    assert (answer.status, answer["Range"]) == (204, "0-999")
    assert (await client.put(location, DATA, digest=digest(DATA * 2))).status == 201


async def test_a_busy_session_is_refused_in_the_end(any_store: Store) -> None:
    """409 and when to come back."""
    client = Client(Registry(any_store, RegistrySettings(busy_wait_s=0)))
    location, may_end, begun = await client.begin(), asyncio.Event(), asyncio.Event()

    class Slow(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield BIG
            begun.set()
            await may_end.wait()

    first = asyncio.create_task(client.patch(location, Slow(BIG)))
    await begun.wait()
    answer = await client.get(location)
    assert (answer.status, answer.code) == (409, "BLOB_UPLOAD_INVALID")
    assert int(answer["Retry-After"]) > 0
    may_end.set()
    await first


# Cancelling


async def test_cancelling(any_store: Store) -> None:
    """204 once; then it is unknown to every method, and its bytes are gone."""
    client = Client(Registry(any_store))
    location = await client.begin()
    await client.patch(location, BIG)
    assert (await client.delete(location)).status == 204
    for method in ("DELETE", "GET", "HEAD", "PATCH", "PUT"):
        body = Body(DATA) if method[0] == "P" else None
        answer = await client.ask(method, location, body, digest=digest(DATA))
        assert answer.status == 404
        assert body is None or not body.was_read
    await any_store.parts.cleaner.aclose()
    assert await open_uploads(any_store) == 0
    assert [info.key async for info in any_store.backend.list("uploads/")] == []


async def test_cancelling_what_somebody_writes_to(any_store: Store) -> None:
    """At once; the writer is told in the end that its upload is gone."""
    client = Client(Registry(any_store))
    location, may_end, begun = await client.begin(), asyncio.Event(), asyncio.Event()

    class Slow(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield BIG
            begun.set()
            await may_end.wait()

    writing = asyncio.create_task(client.put(location, Slow(BIG), digest=digest(BIG)))
    await begun.wait()
    assert (await client.delete(location)).status == 204
    may_end.set()
    assert (await writing).status == 404
    assert (await client.head(f"/v2/{NAME}/blobs/{digest(BIG)}")).status == 404


async def test_open_uploads_have_a_limit(store: Store) -> None:
    """429 until one is over; those that are open go on."""
    client = Client(Registry(store, RegistrySettings(uploads_open_max=2)))
    first, second = await client.begin(), await client.begin()
    answer = await client.post(UPLOADS)
    assert (answer.status, answer.code, answer["Retry-After"]) == (429, "TOOMANYREQUESTS", "60")
    assert (await client.put(first, DATA, digest=digest(DATA))).status == 201
    await client.begin()
    assert (await client.delete(second)).status == 204
    await client.begin()


# Whose session it is


async def test_a_session_belongs_to_who_began_it(any_store: Store) -> None:
    """Another user, another repository, and a guess find nothing, though they may push there (CVE-2026-32589)."""
    access = Granted()
    client = Client(Registry(any_store, access=access))
    access.principal = Principal("alice")
    location = await client.begin()
    await client.patch(location, DATA)
    hijacks = [(Principal("bob"), location), (Principal(), location), (Principal(""), location)]
    alice = Principal("alice")
    hijacks += [(alice, location.replace(NAME, OTHER)), (alice, location[:-1] + "0" * (location[-1] != "0") + "1")]
    bare = location.rpartition("/")[2].partition(".")[0]
    hijacks += [(alice, f"{UPLOADS}{bare}"), (alice, f"{UPLOADS}{bare}.{'0' * 32}"), (alice, UPLOADS + "..%2f" + bare)]
    for principal, url in hijacks:
        access.principal = principal
        for method in ("GET", "HEAD", "PATCH", "PUT", "DELETE"):
            body = Body(b"evil") if method[0] == "P" else None
            answer = await client.ask(method, url, body, digest=digest(DATA + b"evil"))
            assert answer.status == 404, (principal, url, method, answer)
            assert body is None or not body.was_read
    access.principal = alice
    assert (await client.get(location))["Range"] == "0-999"
    assert (await client.put(location, digest=digest(DATA))).status == 201


async def test_a_token_that_was_renewed_is_the_same_user(store: Store) -> None:
    """Only the name counts: tokens last minutes, pushes longer."""
    access = Granted()
    client = Client(Registry(store, access=access))
    access.principal = Principal("alice", grants="old token")
    location = await client.begin()
    access.principal = Principal("alice", grants="new token")
    assert (await client.put(location, DATA, digest=digest(DATA))).status == 201


def test_a_seal_is_over_all_that_a_session_belongs_to() -> None:
    """The upload, its repository, who began it, and the index; nobody is not somebody without a name."""
    upload, name, alice = UploadId.random(), RepositoryName(NAME), Principal("alice")
    ids = UploadIds(IndexIdentity("store", "index"))
    public = ids.public(upload, name, alice)
    assert ids.parse(public, name, alice) == upload
    seal = public.partition(".")[2]
    for each, text, where, who in (
        (ids, public, RepositoryName(OTHER), alice),
        (ids, public, name, Principal("bob")),
        (ids, f"{UploadId.random()}.{seal}", name, alice),
        (ids, ids.public(upload, name, Principal("")), name, Principal()),
        (ids, ids.public(upload, name, Principal()), name, Principal("")),
        (UploadIds(IndexIdentity("store", "another")), public, name, alice),
    ):
        with pytest.raises(UploadUnknown):
            each.parse(text, where, who)


@pytest.mark.parametrize(
    "name", ["x", "..", "0" * 32, f"{'0' * 32}.", f".{'0' * 32}", "a.b.c", "ü" * 65, "é" * 32 + "." + "é" * 32]
)
async def test_what_is_no_session(client: Client, name: str) -> None:
    """404, whatever it is."""
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        answer = await client.ask(method, UPLOADS + name, digest=digest(DATA))
        assert (answer.status, answer.code) == (404, "BLOB_UPLOAD_UNKNOWN")
