"""Mounting blobs from other repositories, only from those that who asks may read."""

from __future__ import annotations

import pytest

from blobstore.server.protocol.access import Action, Need
from blobstore.server.protocol.observing import BlobMounted, Observation
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.routing import PULL, PUSH
from blobstore.store import Store
from tests.spec.access import Granted
from tests.spec.client import NAME, OTHER, Client, digest

DATA = b"a layer that somebody has"
NAMED = digest(DATA)
UPLOADS = f"/v2/{NAME}/blobs/uploads/"
SECRET = "secret/project"


@pytest.fixture
def access() -> Granted:
    """May do all with two repositories, and nothing with a third."""
    return Granted({NAME: {*Action}, OTHER: {*Action}})


@pytest.fixture
def tenant(any_store: Store, access: Granted) -> Client:
    return Client(Registry(any_store, access=access))


@pytest.fixture
def owner(any_store: Store) -> Client:
    return Client(Registry(any_store))


async def test_a_mount(tenant: Client, owner: Client) -> None:
    """201 without a byte, and the blob is this repository's, also after the source let go."""
    await owner.push(DATA, OTHER)
    answer = await tenant.post(UPLOADS, mount=NAMED, **{"from": OTHER, "origin": "registry.example"})
    assert (answer.status, answer["Location"]) == (201, f"/v2/{NAME}/blobs/{NAMED}")
    assert answer["Docker-Content-Digest"] == NAMED
    await owner.delete(f"/v2/{OTHER}/blobs/{NAMED}")
    assert (await tenant.get(answer["Location"])).body == DATA


async def test_a_mount_from_where_one_may_not_read(tenant: Client, owner: Client) -> None:
    """Is a session, in the same words as for a blob that is nowhere; and nothing of it can be read afterwards."""
    await owner.push(DATA, SECRET)
    answers = [
        await tenant.post(UPLOADS, mount=named, **{"from": source})
        for named, source in ((NAMED, SECRET), (digest(b"nowhere"), SECRET), (NAMED, "no/such"), (NAMED, OTHER))
    ]
    for answer in answers:
        assert (answer.status, answer.body) == (202, b"")
        assert [name for name, _ in answer.headers] == [name for name, _ in answers[1].headers]
    assert (await tenant.head(f"/v2/{NAME}/blobs/{NAMED}")).status == 404
    assert (await tenant.put(answers[0]["Location"], DATA, digest=NAMED)).status == 201


async def test_an_automatic_mount(tenant: Client, owner: Client) -> None:
    """From any repository that may be read, not from others."""
    await owner.push(DATA, SECRET)
    assert (await tenant.post(UPLOADS, mount=NAMED)).status == 202
    await owner.push_image(name=OTHER, text="x")
    assert (await tenant.post(UPLOADS, mount=digest(b"layer x"))).status == 201
    await owner.push(DATA, OTHER)
    assert (await tenant.post(UPLOADS, mount=NAMED)).status == 201


async def test_an_upload_of_what_others_have_takes_its_whole_way(tenant: Client, owner: Client) -> None:
    """Its bytes are sent and hashed: to know a digest is not to have the blob."""
    await owner.push(DATA, SECRET)
    location = await tenant.begin()
    assert (await tenant.put(location, digest=NAMED)).status == 400
    assert (await tenant.head(f"/v2/{NAME}/blobs/{NAMED}")).status == 404
    assert (await tenant.post(UPLOADS, DATA, digest=NAMED)).status == 201


async def test_a_mount_of_ones_own(tenant: Client, owner: Client) -> None:
    """201, with its repository named and without."""
    await owner.push(DATA)
    for parameters in ({"from": NAME}, dict[str, str]()):
        assert (await tenant.post(UPLOADS, mount=NAMED, **parameters)).status == 201


@pytest.mark.parametrize(
    ("mount", "source"),
    [("sha256:short", OTHER), ("", OTHER), (NAMED, "UPPER"), (NAMED, ""), (NAMED, "../x"), (f"md5:{'a' * 32}", OTHER)],
)
async def test_a_broken_mount_is_a_session(tenant: Client, mount: str, source: str) -> None:
    """As real registries answer it."""
    answer = await tenant.post(UPLOADS, mount=mount, **{"from": source})
    assert answer.status == 202


async def test_a_mount_by_another_algorithm(tenant: Client, owner: Client) -> None:
    """Of a blob that was pushed by it."""
    named = digest(DATA, "sha512")
    await owner.put(await owner.begin(OTHER), DATA, digest=named)
    answer = await tenant.post(UPLOADS, mount=named, **{"from": OTHER})
    assert (answer.status, answer["Docker-Content-Digest"]) == (201, named)
    assert (await tenant.get(f"/v2/{NAME}/blobs/{named}")).body == DATA


async def test_what_is_asked_of_access_control(tenant: Client, access: Granted) -> None:
    """Pushing to the target is needed, pulling from the source a wish."""
    await tenant.post(UPLOADS, mount=NAMED, **{"from": SECRET})
    ((needs, wishes),) = access.asked
    assert [(need.repository, need.actions) for need in needs] == [(NAME, PUSH)]
    assert [(wish.repository, wish.actions) for wish in wishes] == [(SECRET, PULL)]
    assert not access.may(access.principal, Need(wishes[0].repository, PULL))


async def test_a_mount_is_told(store: Store) -> None:
    """From where, and how many bytes were not sent."""
    heard: list[Observation] = []
    client = Client(Registry(store, observer=heard.append))
    await client.push(DATA, OTHER)
    await client.post(UPLOADS, mount=NAMED, **{"from": OTHER})
    (told,) = [each for each in heard if isinstance(each, BlobMounted)]
    assert (told.repository, told.source, told.size_bytes, str(told.digest)) == (NAME, OTHER, len(DATA), NAMED)


async def test_viewers_beyond_the_limit_are_not_looked_at(
    owner: Client, any_store: Store, access: Granted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob that half the registry shares costs no more than another; then it is uploaded."""
    from blobstore.server.protocol import _uploads

    monkeypatch.setattr(_uploads, "_VIEWERS_MAX", 2)
    for number in range(4):
        await owner.push(DATA, f"tenant{number}/app")
    looked: list[str] = []
    may = access.may
    access.may = lambda who, need: bool(looked.append(str(need.repository))) or may(who, need)  # type: ignore[method-assign]
    tenant = Client(Registry(any_store, access=access))
    assert (await tenant.post(UPLOADS, mount=NAMED)).status == 202
    assert len(looked) == 2
