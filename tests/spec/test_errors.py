"""Routes and refusals: what is in no table, what is not allowed, and how it is said."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from blobstore.errors import BlobstoreError, IndexPoisoned, StorageFull, TransientError
from blobstore.server.protocol.access import Action, Forbidden, TooManyRequests, Unauthenticated
from blobstore.server.protocol.problems import problem_response
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.room import DiskRoom, EndlessRoom
from blobstore.server.protocol.routing import ALLOWED, RULES, Endpoint, Route, find_route
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.spec.access import Granted
from tests.spec.client import NAME, OCI_MANIFEST, OTHER, Answer, Body, Client, chunk, digest

DATA = b"data"
NAMED = digest(DATA)
EVERYTHING = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "PROPFIND", "")


def paths(name: str) -> dict[Endpoint, str]:
    """One of each."""
    return {
        Endpoint.BASE: "/v2/",
        Endpoint.CATALOG: "/v2/_catalog",
        Endpoint.EXTENSIONS: "/v2/_oci/ext/discover",
        Endpoint.REPOSITORY_EXTENSIONS: f"/v2/{name}/_oci/ext/discover",
        Endpoint.BLOB: f"/v2/{name}/blobs/{NAMED}",
        Endpoint.UPLOADS: f"/v2/{name}/blobs/uploads/",
        Endpoint.UPLOAD: f"/v2/{name}/blobs/uploads/{'0' * 32}.{'0' * 32}",
        Endpoint.MANIFEST: f"/v2/{name}/manifests/v1",
        Endpoint.TAGS: f"/v2/{name}/tags/list",
        Endpoint.REFERRERS: f"/v2/{name}/referrers/{NAMED}",
    }


async def test_determining_support(client: Client) -> None:
    """GET /v2/ is a JSON object; without its slash it is the same, as a redirect would lose what was asked."""
    for url in ("/v2/", "/v2"):
        answer = await client.get(url)
        assert (answer.status, answer.json, answer["Content-Type"]) == (200, {}, "application/json")
        assert (await client.head(url))["Content-Length"] == "2"


async def test_a_storage_that_is_gone_says_nothing_about_what_was_asked_for(files: Store) -> None:
    """As a disk that is not mounted: come again, and nothing of its names."""
    store = Path(files.backend.location)
    for each in ("blobs", "uploads"):
        (store / each).rename(store / f"{each}-away")
    answer = await Client(Registry(files)).post(f"/v2/{NAME}/blobs/uploads/", DATA, digest=NAMED)
    assert (answer.status, answer.code) == (503, "UNAVAILABLE")
    assert b"blobs/" not in answer.body
    for each in ("blobs", "uploads"):
        (store / f"{each}-away").rename(store / each)


async def test_extensions(client: Client) -> None:
    """The document of a registry, and of a repository."""
    for url in ("/v2/_oci/ext/discover", f"/v2/{NAME}/_oci/ext/discover"):
        answer = await client.get(url)
        assert [each["name"] for each in answer.json["extensions"]] == ["_catalog"]
        assert set(answer.json["extensions"][0]) == {"name", "url", "description", "endpoints"}


@pytest.mark.parametrize(
    "name", ["a", "blobs", "a/blobs", "a/tags/list", "uploads", "manifests/manifests", "a/blobs/uploads"]
)
def test_repositories_are_called_as_they_like(name: str) -> None:
    """Paths are read from the right: the words of the API are names, too."""
    for endpoint, path in paths(name).items():
        found = find_route(path)
        assert found.endpoint is endpoint
        assert found.name == (None if path in paths("other").values() else name)


@pytest.mark.parametrize(
    "path",
    [
        *("/", "", "/v1/", "/v2x", "/v22/", "v2/", "//v2/", "/v2//", "/v2/x", "/v2/x/", "/V2/", "/v2/_catalog/"),
        *("/v2/a/tags", "/v2/a/tags/", "/v2/a/tags/list/", "/v2/a/ext/discover", "/v2/a/uploads/x", "/v2/a/blob/x"),
        *(
            "/v2/_oci/ext/other",
            "/v2/blobs",
            "/metrics",
            "/api/v1/stats",
            "/v2/a/_oci/ext/discover/",
            "/v2/_catalog%00",
        ),
    ],
)
async def test_paths_of_nothing(client: Client, path: str) -> None:
    """Refused, whatever the method."""
    assert find_route(path).endpoint is Endpoint.NONE
    for method in ("GET", "HEAD", "PUT", "DELETE"):
        answer = await client.ask(method, path)
        assert answer.status == 404


def test_the_last_slash_of_uploads() -> None:
    """Both spellings begin an upload."""
    for path in ("/v2/a/b/blobs/uploads/", "/v2/a/b/blobs/uploads"):
        assert find_route(path) == Route(Endpoint.UPLOADS, "a/b")


@pytest.mark.parametrize(
    "name", ["UPPER", "a//b", "/a", "a/", "..", "a/../b", "_a", "a" * 256, "a b", "ü", "-a", "a.", ""]
)
async def test_names_outside_the_grammar(client: Client, name: str) -> None:
    """400 NAME_INVALID on every endpoint of a repository, unread and before anybody is asked."""
    access = Granted()
    client = Client(Registry(client.registry._core.store, access=access))
    for endpoint, path in paths(name).items():
        if f"/{name}/" not in path or endpoint in (Endpoint.BASE, Endpoint.CATALOG, Endpoint.EXTENSIONS):
            continue
        method = next(iter(RULES[endpoint]))
        body = Body(DATA)
        answer = await client.ask(method, path, body)
        assert (answer.status, answer.code) == (400, "NAME_INVALID"), path
        assert not body.was_read
    assert not access.asked


def refused_methods() -> Iterator[tuple[Endpoint, str]]:
    """All but those of the table."""
    for endpoint in paths("a"):
        for method in EVERYTHING:
            if method not in RULES[endpoint]:
                yield endpoint, method


@pytest.mark.parametrize(("endpoint", "method"), list(refused_methods()))
async def test_methods_that_are_in_no_table(client: Client, endpoint: Endpoint, method: str) -> None:
    """405, which ones there are, and the body unread."""
    body = Body(DATA)
    answer = await client.ask(method, paths(NAME)[endpoint], body)
    assert (answer.status, answer["Allow"]) == (405, ALLOWED[endpoint])
    assert method == "HEAD" or answer.code == "UNSUPPORTED"
    assert not body.was_read


async def test_an_error_to_head_has_no_body(client: Client) -> None:
    """But says how long it would be, as GET does."""
    for url in (f"/v2/{NAME}/blobs/{NAMED}", f"/v2/{NAME}/manifests/v1", "/v2/x", f"/v2/UPPER/blobs/{NAMED}"):
        head, found = await client.head(url), await client.get(url)
        assert head.status == found.status >= 400
        assert head["Content-Length"] == str(len(found.body))


async def test_ns_is_ignored(client: Client) -> None:
    """The client says which registry it thinks this is."""
    await client.push_image("v1")
    assert (await client.get(f"/v2/{NAME}/manifests/v1?ns=docker.io")).status == 200
    assert (await client.get(f"/v2/{NAME}/blobs/{digest(b'layer one')}?ns=docker.io")).get("OCI-Namespace") is None


# Who may


async def writes(client: Client) -> dict[tuple[str, str], Answer]:
    """Every write there is, none of which may look at its body."""
    location = f"/v2/{NAME}/blobs/uploads/{'0' * 32}.{'0' * 32}"
    asked = [
        ("POST", f"/v2/{NAME}/blobs/uploads/"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?digest={NAMED}"),
        ("POST", f"/v2/{NAME}/blobs/uploads/?mount={NAMED}&from={OTHER}"),
        ("PATCH", location),
        ("PUT", f"{location}?digest={NAMED}"),
        ("DELETE", location),
        ("PUT", f"/v2/{NAME}/manifests/v1"),
        ("DELETE", f"/v2/{NAME}/manifests/v1"),
        ("DELETE", f"/v2/{NAME}/manifests/{NAMED}"),
        ("DELETE", f"/v2/{NAME}/blobs/{NAMED}"),
    ]
    found = {}
    for method, url in asked:
        body = Body(DATA)
        found[method, url] = await client.ask(method, url, body)
        assert not body.was_read, (method, url)
    return found


@pytest.mark.parametrize("endpoint", paths("a"))
async def test_everything_is_asked_for(store: Store, endpoint: Endpoint) -> None:
    """Each method of each endpoint asks for its right before all else: nothing is told to who has it not, nor read."""
    access = Granted()
    client = Client(Registry(store, access=access))
    access.refusal = Forbidden("not you")
    for method, rule in RULES[endpoint].items():
        access.asked.clear()
        body = Body(DATA)
        answer = await client.ask(method, paths(NAME)[endpoint], body, headers=chunk(0, DATA), n="x", digest="x")
        assert answer.status == 403
        assert method == "HEAD" or answer.code == "DENIED"
        assert not body.was_read
        ((needs, _),) = access.asked
        name = None if endpoint is Endpoint.CATALOG else NAME
        expected = [] if endpoint in (Endpoint.BASE, Endpoint.EXTENSIONS) else [(name, rule.actions)]
        assert [(need.repository, need.actions) for need in needs] == expected


def test_the_table_of_rights() -> None:
    """A push token deletes nothing, a pull token pushes nothing; and no write is without a right."""
    for endpoint, rules in RULES.items():
        for method, rule in rules.items():
            assert rule.is_write == (method not in ("GET", "HEAD"))
            if method == "DELETE" and endpoint is not Endpoint.UPLOAD:
                assert rule.actions == {Action.DELETE}
            elif rule.is_write or endpoint is Endpoint.UPLOAD:
                assert rule.actions == {Action.PULL, Action.PUSH}
            else:
                assert rule.actions <= {Action.PULL}


async def test_how_a_refusal_is_said(store: Store) -> None:
    """401 with its challenge, 429 with its time; to HEAD too."""
    access = Granted()
    client = Client(Registry(store, access=access))
    access.refusal = Unauthenticated("who are you", 'Bearer realm="https://auth.example/token"')
    for method in ("GET", "HEAD"):
        answer = await client.ask(method, "/v2/")
        assert (answer.status, answer["WWW-Authenticate"]) == (401, 'Bearer realm="https://auth.example/token"')
    assert (await client.get("/v2/")).code == "UNAUTHORIZED"
    access.refusal = TooManyRequests("slowly", 7)
    answer = await client.get("/v2/")
    assert (answer.status, answer.code, answer["Retry-After"]) == (429, "TOOMANYREQUESTS", "7")
    for answer in (await writes(client)).values():
        assert answer.status == 429


# What an operator switches off


async def test_read_only(store: Store) -> None:
    """405 to every write, unread; everything can be read, and what may be asked is told."""
    client = Client(Registry(store))
    named = await client.push_image("v1")
    location = await client.begin()
    client.registry.settings = RegistrySettings(read_only=True)
    for (_, url), answer in (await writes(client)).items():
        assert (answer.status, answer.code) == (405, "UNSUPPORTED"), url
        assert answer["Allow"] == ("" if url.partition("?")[0].endswith("uploads/") else "GET, HEAD")
    for url in (f"/v2/{NAME}/manifests/{named}", f"/v2/{NAME}/tags/list", "/v2/_catalog", "/v2/"):
        assert (await client.get(url)).status == 200
    assert (await client.get(location)).status == 204
    client.registry.settings = RegistrySettings()
    assert (await client.put(location, DATA, digest=NAMED)).status == 201


async def test_read_only_is_told_to_those_who_may_write(store: Store) -> None:
    """Who may not learns nothing new."""
    access = Granted()
    access.refusal = Forbidden("not you")
    client = Client(Registry(store, RegistrySettings(read_only=True), access))
    for answer in (await writes(client)).values():
        assert answer.status == 403


class Short:
    """No room, or some."""

    def __init__(self) -> None:
        self.is_low, self.is_at_its_end = True, False

    async def is_short(self) -> bool:
        return self.is_low

    async def is_exhausted(self) -> bool:
        return self.is_at_its_end


async def test_below_the_low_water_mark(store: Store) -> None:
    """New bytes are refused with 507, unread; a mount, an end of an upload, pulls and deletes go on."""
    room = Short()
    client = Client(Registry(store, room=room))
    room.is_low = False
    await client.push(DATA, OTHER)
    named, location = await client.push_image("v1"), await client.begin()
    full = await client.begin()
    await client.patch(full, DATA)
    room.is_low = True
    body = Body(DATA)
    for answer in (
        await client.post(f"/v2/{NAME}/blobs/uploads/"),
        await client.post(f"/v2/{NAME}/blobs/uploads/", body, digest=NAMED),
        await client.post(f"/v2/{NAME}/blobs/uploads/", mount=digest(b"nowhere"), **{"from": OTHER}),
        await client.patch(location, body),
    ):
        assert (answer.status, answer.code) == (507, "UNAVAILABLE")
        assert not body.was_read
    assert (await client.post(f"/v2/{NAME}/blobs/uploads/", mount=NAMED, **{"from": OTHER})).status == 201
    assert (await client.put(full, digest=NAMED)).status == 201
    assert (await client.get(f"/v2/{NAME}/blobs/{NAMED}")).body == DATA
    assert (await client.delete(f"/v2/{NAME}/manifests/{named}")).status == 202
    assert (await client.delete(f"/v2/{NAME}/blobs/{NAMED}")).status == 202
    room.is_low = False
    assert (await client.patch(location, DATA)).status == 202


async def test_what_is_under_way_ends_before_the_disk_does(store: Store) -> None:
    """Uploads that began above the mark may be larger than what is below it, and what frees space needs some itself: chunks are
    kept as far as they came, one request is all or nothing, and manifests wait."""
    room = Short()
    room.is_low = False
    client = Client(Registry(store, room=room))
    await client.push(DATA)
    named, location = await client.push_image("v1"), await client.begin()
    manifest = (await client.get(f"/v2/{NAME}/manifests/v1")).body

    class Filling(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            room.is_at_its_end = False
            yield DATA[:1]
            room.is_at_its_end = True
            yield DATA[1:]

    for answer in (
        await client.patch(location, Filling(DATA)),
        await client.post(f"/v2/{NAME}/blobs/uploads/", Filling(DATA), digest=NAMED),
        await client.put(f"/v2/{NAME}/manifests/v2", manifest, headers={"Content-Type": OCI_MANIFEST}),
    ):
        assert (answer.status, answer.code) == (507, "UNAVAILABLE")
    assert (await client.get(location))["Range"] == "0-0"
    assert (await store.totals()).uploads == 1
    assert (await client.delete(f"/v2/{NAME}/manifests/{named}")).status == 202
    room.is_at_its_end = False
    assert (await client.patch(location, DATA[1:])).status == 202
    assert (await client.put(location, digest=NAMED)).status == 201


async def test_room_on_disks(tmp_path: object, clock: FakeClock) -> None:
    """Looked at once a second, on every path; one that is gone has none."""
    place = str(tmp_path)
    assert not await DiskRoom([place], 1, clock).is_short()
    assert await DiskRoom([place], 2**62, clock).is_short()
    assert await DiskRoom([place, f"{place}/no/such"], 2, clock).is_exhausted()
    space = os.statvfs(place)
    half = DiskRoom([place], space.f_bavail * space.f_frsize * 3 // 2, clock)
    assert (await half.is_short(), await half.is_exhausted()) == (True, False)
    assert not await EndlessRoom().is_exhausted()
    first = DiskRoom([place], 1, clock)
    assert await asyncio.gather(first.is_short(), first.is_short()) == [False, False]
    paths = [place]
    room = DiskRoom(paths, 1, clock)
    assert not await room.is_short()
    paths.append(f"{place}/no/such")
    clock.advance(999)
    assert not await room.is_short()
    clock.advance(1)
    assert await room.is_short()


# What is the registry's own fault


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (StorageFull("no space left on /srv/secret"), 507, "UNAVAILABLE"),
        (TransientError("bucket secret at 10.0.0.1"), 503, "UNAVAILABLE"),
        (IndexPoisoned("/srv/secret"), 503, "UNAVAILABLE"),
        (BlobstoreError("/srv/secret"), 500, "UNKNOWN"),
    ],
)
def test_inner_errors_keep_their_words_to_themselves(error: BlobstoreError, status: int, code: str) -> None:
    """Paths and hosts are for the log."""
    response = problem_response(error)
    assert response.status == status
    assert isinstance(response.payload, bytes)
    assert code.encode() in response.payload
    assert b"secret" not in response.payload
    assert (response.header("Retry-After") is not None) == (status == 503)


def _all_errors(kind: type[BlobstoreError]) -> Iterator[type[BlobstoreError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _all_errors(each)


def test_every_error_has_an_answer() -> None:
    """Also those that are none of this part's."""
    from blobstore.server.protocol.problems import _STATUS_AND_CODE

    for kind in _all_errors(BlobstoreError):
        if kind.__name__ == "Problem":
            continue
        status, code = next(_STATUS_AND_CODE[each] for each in kind.__mro__ if each in _STATUS_AND_CODE)
        assert 400 <= status < 600
        assert code.replace("_", "").isupper()
