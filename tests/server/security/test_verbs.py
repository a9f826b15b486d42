"""S10, S11: what each method of each path needs, and that there is no other way to do it (CVE-2026-31801, CVE-2026-41888)."""

from __future__ import annotations

import itertools

import pytest

from blobstore.server.protocol.registry import HANDLERS
from blobstore.server.protocol.routing import DELETE, NO_RIGHT, PULL, PUSH, RULES, Endpoint
from blobstore.server.protocol.settings import RegistrySettings
from tests.server.security.guest import Guest, House
from tests.spec.client import OCI_MANIFEST, digest

METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "get",
    "Get",
    "",
    "GET ",
    "PURGE",
]
DATA = b"layer one"
PATHS = {
    Endpoint.BLOB: f"/v2/shared/x/blobs/{digest(DATA)}",
    Endpoint.UPLOADS: "/v2/shared/x/blobs/uploads/",
    Endpoint.UPLOAD: "/v2/shared/x/blobs/uploads/abc",
    Endpoint.MANIFEST: "/v2/shared/x/manifests/v1",
    Endpoint.TAGS: "/v2/shared/x/tags/list",
    Endpoint.REFERRERS: f"/v2/shared/x/referrers/{digest(DATA)}",
    Endpoint.REPOSITORY_EXTENSIONS: "/v2/shared/x/_oci/ext/discover",
}


@pytest.fixture
async def home(house: House) -> House:
    await house.root.push_image("v1", "shared/x")
    return house


def test_every_rule_and_every_handler_has_the_other() -> None:
    """A method that is handled without a rule would be open to all."""
    assert {endpoint: set(methods) for endpoint, methods in RULES.items()} == {
        endpoint: set(methods) for endpoint, methods in HANDLERS.items()
    }


def test_the_table_of_rights() -> None:
    """Looks pull, writes push and pull, removals delete; only the ping and the list of extensions need no right."""
    for endpoint, methods in RULES.items():
        for method, rule in methods.items():
            if endpoint in (Endpoint.BASE, Endpoint.EXTENSIONS):
                assert rule.actions == NO_RIGHT
            elif method in ("GET", "HEAD"):
                assert rule.actions == (PUSH if endpoint is Endpoint.UPLOAD else PULL)
            elif method == "DELETE" and endpoint is not Endpoint.UPLOAD:
                assert rule.actions == DELETE
            else:
                assert rule.actions == PUSH
            assert rule.is_write == (method not in ("GET", "HEAD"))


async def state(house: House) -> list[bytes | int]:
    """What is in the repository."""
    urls = [PATHS[Endpoint.BLOB], PATHS[Endpoint.MANIFEST], PATHS[Endpoint.TAGS], "/v2/_catalog"]
    answers = [await house.root.get(url) for url in urls]
    return [each for answer in answers for each in (answer.status, answer.body)]


@pytest.mark.parametrize(
    ("endpoint", "method"), list(itertools.product(PATHS, METHODS)), ids=lambda value: str(value) or "none"
)
async def test_a_method_does_what_its_rule_says_or_nothing(home: House, endpoint: Endpoint, method: str) -> None:
    """For who may only look, for a stranger, and for methods that nobody has heard of; names of methods have their case."""
    before = await state(home)
    rule = RULES[endpoint].get(method)
    for guest, granted in ((home.reader, PULL), (home.alice, PUSH), (home.stranger, NO_RIGHT)):
        if method == "DELETE" or guest is not home.alice:
            answer = await guest.ask(method, PATHS[endpoint], b"x" if method in ("PUT", "PATCH", "POST") else None)
            if rule is None:
                assert answer.status == 405
            elif rule.actions <= granted:
                assert answer.status in (200, 404)
            else:
                assert answer.status == (401 if guest is home.stranger else 403)
    assert await state(home) == before


async def test_a_right_to_push_removes_nothing(home: House) -> None:
    """Neither tags nor manifests nor blobs; zot let a push token delete."""
    manifest = await home.root.get(PATHS[Endpoint.MANIFEST])
    for url in (
        PATHS[Endpoint.BLOB],
        PATHS[Endpoint.MANIFEST],
        f"/v2/shared/x/manifests/{manifest['Docker-Content-Digest']}",
    ):
        assert (await home.alice.delete(url)).status == 403
        assert (await home.root.get(url)).status == 200
    location = await home.alice.begin("shared/x")
    assert (await home.alice.delete(location)).status == 204


async def test_a_method_is_not_smuggled_in(home: House) -> None:
    """No header and no parameter makes a GET into something else."""
    before = await state(home)
    for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert (await home.reader.get(PATHS[Endpoint.MANIFEST], headers={name: "DELETE"})).status == 200
    assert (await home.reader.get(PATHS[Endpoint.MANIFEST], _method="DELETE")).status == 200
    assert await state(home) == before


async def test_a_path_to_another_repository_is_that_repositorys(home: House) -> None:
    """S11: parameters name no repository whose rights aren't asked for."""
    await home.bob.push_image("v1", "team-b/x")
    body = (await home.bob.get("/v2/team-b/x/manifests/v1")).body
    for parameters in (
        {"from": "team-b/x"},
        {"repository": "team-b/x"},
        {"ns": "team-b/x"},
        {"scope": "repository:team-b/x:pull"},
    ):
        answer = await home.alice.get("/v2/team-a/x/manifests/v1", **parameters)
        assert answer.status == 404
    answer = await home.alice.put(
        "/v2/team-b/x/manifests/v2", body, headers={"Content-Type": OCI_MANIFEST}, **{"from": "team-a/x"}
    )
    assert answer.status == 403


async def test_read_only_is_so_for_everybody_and_every_verb(home: House) -> None:
    """Tags, manifests, blobs and uploads alike, also by who may do everything; looking goes on."""
    location = await home.root.begin("shared/x")
    # One of an image is refused in any case.
    await home.root.push(b"loose", "shared/x")
    loose = f"/v2/shared/x/blobs/{digest(b'loose')}"
    home.registry.settings = RegistrySettings(read_only=True)
    before = await state(home)
    for endpoint, method in itertools.product(PATHS, ["POST", "PUT", "PATCH", "DELETE"]):
        url = location if endpoint is Endpoint.UPLOAD else PATHS[endpoint]
        assert (await home.root.ask(method, url, b"x", digest=digest(b"x"))).status == 405
    assert (await home.root.ask("DELETE", loose)).status == 405
    assert await state(home) == before
    for url in (PATHS[Endpoint.MANIFEST], loose):
        assert (await home.reader.get(url)).status == 200


async def test_latest_is_a_tag_as_any_other(home: House) -> None:
    """Who may not push may not move it either (CVE-2026-31801)."""
    body = (await home.root.get(PATHS[Endpoint.MANIFEST])).body
    for guest, status in ((home.reader, 403), (home.stranger, 401), (home.alice, 201)):
        answer = await guest.put("/v2/shared/x/manifests/latest", body, headers={"Content-Type": OCI_MANIFEST})
        assert answer.status == status


async def test_who_is_refused_is_refused_before_the_body(home: House) -> None:
    """A stranger's gigabytes are not read to tell them no."""
    from tests.spec.client import Body

    for guest in (home.stranger, home.reader, Guest(home.registry, ("Authorization", "Basic !"))):
        for method, url in (
            ("POST", PATHS[Endpoint.UPLOADS] + f"?digest={digest(b'x')}"),
            ("PUT", PATHS[Endpoint.MANIFEST]),
        ):
            body = Body(b"x")
            assert (await guest.ask(method, url, body)).status in (401, 403)
            assert not body.was_read
