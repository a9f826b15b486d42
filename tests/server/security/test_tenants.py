"""S8, S12: what others have can neither be had nor noticed (CVE-2024-39897; Harnik et al. 2010)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from blobstore.testing.fakes import image
from tests.server.security.guest import House
from tests.spec.client import OCI_MANIFEST, Answer, Client, chunk, digest

SECRET = b"a layer that only bob has"
ABSENT = b"a layer that nobody has"


def told(answer: Answer) -> tuple[object, ...]:
    """What an answer tells, but for the names that the client itself put in, and random ids."""
    body = answer.body
    for data in (SECRET, ABSENT):
        body = body.replace(digest(data).encode(), b"<digest>")
    names = sorted(name for name, _ in answer.headers)
    return answer.status, names, body


async def is_hidden(ask: Callable[[bytes], Awaitable[Answer]]) -> Answer:
    """Ask for what somebody else has, and for what nobody has: the answers are alike."""
    found, absent = await ask(SECRET), await ask(ABSENT)
    assert told(found) == told(absent)
    return found


@pytest.fixture
async def pushed(house: House) -> House:
    """Bob has a blob and an image; Alice has neither."""
    await house.bob.push(SECRET, "team-b/x")
    await house.bob.push_image("v1", "team-b/x")
    await house.alice.push_image("v1", "team-a/x")
    return house


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_blob_of_others_is_none_of_mine(pushed: House, method: str) -> None:
    """Knowing its digest doesn't open it in another repository."""
    answer = await is_hidden(lambda data: pushed.alice.ask(method, f"/v2/team-a/x/blobs/{digest(data)}"))
    assert answer.status == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
async def test_a_foreign_repository_says_nothing_of_itself(pushed: House, method: str) -> None:
    """403, the same for one that isn't there; 401 for who is not known."""
    for guest, status in ((pushed.alice, 403), (pushed.stranger, 401)):
        answers = [
            await guest.ask(method, f"/v2/team-b/{name}/blobs/{digest(data)}")
            for name in "xy"
            for data in (SECRET, ABSENT)
        ]
        assert {answer.status for answer in answers} == {status}
        assert len({answer.body.replace(b"team-b/y", b"team-b/x") for answer in answers}) == 1


@pytest.mark.parametrize("path", ["tags/list", "manifests/v1", "referrers/" + digest(SECRET)])
async def test_lists_of_a_foreign_repository_are_closed(pushed: House, path: str) -> None:
    """Whether it is there or not."""
    answers = [await pushed.alice.get(f"/v2/team-b/{name}/{path}") for name in ("x", "nothing")]
    assert [answer.status for answer in answers] == [403, 403]


@pytest.mark.parametrize("source", [{"from": "team-b/x"}, {"from": "team-b/y"}, {"from": "BAD"}, {}], ids=str)
async def test_a_mount_from_what_one_may_not_pull_is_an_upload(pushed: House, source: dict[str, str]) -> None:
    """As if it weren't there, with the same words; also where no source is named."""

    async def mount(data: bytes) -> Answer:
        return await pushed.alice.post("/v2/team-a/x/blobs/uploads/", mount=digest(data), **source)

    assert (await is_hidden(mount)).status == 202
    assert (await pushed.alice.head(f"/v2/team-a/x/blobs/{digest(SECRET)}")).status == 404


async def test_a_mount_needs_the_blob_in_its_source(pushed: House) -> None:
    """A right to pull from the source is none to what others have."""
    await pushed.alice.push(b"mine", "shared/x")
    answer = await is_hidden(
        lambda data: pushed.alice.post("/v2/team-a/x/blobs/uploads/", mount=digest(data), **{"from": "shared/x"})
    )
    assert answer.status == 202


async def test_a_mount_from_what_one_may_pull_moves_no_byte(pushed: House) -> None:
    """With its source named or not, as long as the caller may pull there."""
    for number, source in enumerate(({"from": "shared/x"}, dict[str, str]())):
        data = f"shared {number}".encode()
        await pushed.bob.push(data, "shared/x")
        answer = await pushed.alice.post("/v2/team-a/x/blobs/uploads/", mount=digest(data), **source)
        assert answer.status == 201
        assert (await pushed.alice.get(f"/v2/team-a/x/blobs/{digest(data)}")).body == data
    assert (await pushed.reader.post("/v2/team-a/x/blobs/uploads/", mount=digest(b"shared 0"))).status == 403


async def test_a_blob_that_others_have_is_uploaded_all_the_same(pushed: House) -> None:
    """No short way tells that it is there: every way needs all its bytes, and answers alike."""

    async def whole(data: bytes) -> Answer:
        return await pushed.alice.post("/v2/team-a/x/blobs/uploads/", b"", digest=digest(data))

    async def closed_early(data: bytes) -> Answer:
        location = await pushed.alice.begin("team-a/x")
        await pushed.alice.patch(location, data[:5], headers=chunk(0, data[:5]))
        return await pushed.alice.put(location, digest=digest(data))

    for way in (whole, closed_early):
        found, absent = await way(SECRET), await way(ABSENT)
        assert (found.status, found.code) == (absent.status, absent.code) == (400, "DIGEST_INVALID")
    created = [
        await pushed.alice.post("/v2/team-a/y/blobs/uploads/", data, digest=digest(data)) for data in (SECRET, ABSENT)
    ]
    assert told(created[0])[:2] == told(created[1])[:2]
    assert created[0].status == 201


async def test_a_manifest_takes_nothing_of_others(pushed: House) -> None:
    """Naming a blob that another repository has is as naming none."""
    await pushed.alice.push(b"config", "team-a/x")

    async def put(data: bytes) -> Answer:
        url = f"/v2/team-a/x/manifests/{digest(data)[7:20]}"
        return await pushed.alice.put(url, image(b"config", [data]).body, headers={"Content-Type": OCI_MANIFEST})

    # Their lengths differ by what is in them; only the words are compared.
    found, absent = await put(SECRET), await put(ABSENT)
    assert (found.status, found.code) == (absent.status, absent.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert told(found) == told(absent)


async def test_who_deletes_is_told_of_no_other_repository(pushed: House) -> None:
    """A blob that others still use is deleted here as any other; and one's own image names only one's own parents."""
    data = b"in both"
    for guest, name in ((pushed.alice, "team-a/z"), (pushed.bob, "team-b/z")):
        await guest.push(data, name)
    config = b"config of b"
    await pushed.bob.push(config, "team-b/z")
    await pushed.bob.push_manifest(image(config, [data]).body, "v1", "team-b/z")
    assert (await pushed.alice.delete(f"/v2/team-a/z/blobs/{digest(data)}")).status == 202
    assert (await pushed.bob.get(f"/v2/team-b/z/blobs/{digest(data)}")).body == data
    refused = await pushed.bob.delete(f"/v2/team-b/z/blobs/{digest(data)}")
    assert refused.status == 405
    assert "team-a" not in refused.body.decode()


async def test_the_catalog_lists_what_its_reader_may_pull(pushed: House) -> None:
    """Page by page too: no page, and no link, has a name of others."""
    await pushed.bob.push_image("v1", "shared/x")

    async def names(guest: Client, **parameters: str) -> list[str]:
        answer = await guest.get("/v2/_catalog", **parameters)
        assert answer.status == 200
        assert "team-b" not in (answer.get("Link") or "") or guest is not pushed.alice
        return [str(name) for name in answer.json["repositories"]]

    assert await names(pushed.alice) == ["shared/x", "team-a/x"]
    assert await names(pushed.alice, n="1") == ["shared/x"]
    assert await names(pushed.alice, n="1", last="shared/x") == ["team-a/x"]
    assert await names(pushed.alice, last="team-a/x") == []
    assert await names(pushed.bob) == ["shared/x", "team-b/x"]
    assert await names(pushed.reader) == ["shared/x"]
    assert await names(pushed.root) == ["shared/x", "team-a/x", "team-b/x"]
    assert (await pushed.stranger.get("/v2/_catalog")).status == 401
