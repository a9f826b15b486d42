"""Lists: tags, the catalog and referrers, page by page."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest

from blobstore.server.protocol import _referrers
from blobstore.server.protocol.access import Action
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store
from blobstore.testing.fakes import image
from tests.spec.access import Granted
from tests.spec.client import NAME, OCI_INDEX, OCI_MANIFEST, Client, digest

TAGS = f"/v2/{NAME}/tags/list"
NAMES = ["1", "10", "2", "A", "Z", "_x", "a", "a.b", "a_b", "latest", "z" * 128]
"""In byte order."""


@pytest.fixture
async def tagged(client: Client) -> Client:
    named = await client.push_image()
    for tag in reversed(NAMES):
        body = (await client.get(f"/v2/{NAME}/manifests/{named}")).body
        await client.push_manifest(body, tag)
    return client


async def follow(client: Client, url: str, key: str) -> list[list[Any]]:
    """All pages from an address on."""
    pages: list[list[Any]] = []
    while True:
        answer = await client.get(url)
        assert answer.status == 200, answer
        pages.append(answer.json[key])
        if answer.get("Link") is None:
            return pages
        url = answer.next


async def test_all_tags(tagged: Client) -> None:
    """In byte order, with their repository."""
    answer = await tagged.get(TAGS)
    assert (answer["Content-Type"], answer.json) == ("application/json", {"name": NAME, "tags": NAMES})
    assert answer.get("Link") is None
    assert (await tagged.head(TAGS))["Content-Length"] == str(len(answer.body))


@pytest.mark.parametrize("count", [1, 2, 5, 10, 11, 12, 999_999_999])
async def test_pages_of_tags(tagged: Client, count: int) -> None:
    """As many as were asked for, and a link while there are more."""
    pages = await follow(tagged, f"{TAGS}?n={count}", "tags")
    assert [tag for page in pages for tag in page] == NAMES
    assert [len(page) for page in pages[:-1]] == [count] * (len(pages) - 1)
    assert pages[-1]


async def test_a_link(tagged: Client) -> None:
    """In the form that all clients read."""
    answer = await tagged.get(TAGS, n="3")
    assert answer["Link"] == f'<{TAGS}?last=2&n=3>; rel="next"'


@pytest.mark.parametrize(
    ("last", "first"),
    [
        ("0", "1"),
        ("1", "10"),
        ("5", "A"),
        ("a", "a.b"),
        ("a.b", "a_b"),
        ("b", "latest"),
        ("", "1"),
        ("a b", "a.b"),
        ("y" * 200, "z" * 128),
        ("aü", "latest"),
        ("\0", "1"),
        ("a\n", "a.b"),
        ("Zzz" + "~" * 600, "_x"),
    ],
)
async def test_tags_behind_any_text(tagged: Client, last: str, first: str) -> None:
    """`last` need not be a tag, nor be one that could."""
    assert (await tagged.get(TAGS, last=last)).json["tags"] == NAMES[NAMES.index(first) :]


@pytest.mark.parametrize("last", ["", "\0", "a" * 5000, "z" * 128, "~" * 128, "ü" * 128, "a/" * 400, "/" * 255])
async def test_an_index_has_keys_of_limited_length(files: Store, last: str) -> None:
    """No text is too long for it."""
    client = Client(Registry(files))
    await client.push_image("z" * 128, "z" * 255)
    for url, key, name in (
        (f"/v2/{'z' * 255}/tags/list", "tags", "z" * 128),
        ("/v2/_catalog", "repositories", "z" * 255),
    ):
        answer = await client.get(url, last=last)
        assert answer.json[key] == ([name] if last.encode() < name.encode() else [])


async def test_tags_behind_all(tagged: Client) -> None:
    """None, and no link."""
    for last in ("z" * 128, "zz", "~", "ü", "z" * 5000, "\x7f"):
        answer = await tagged.get(TAGS, last=last)
        assert (answer.json["tags"], answer.get("Link")) == ([NAMES[-1]] if last == "zz" else [], None)


async def test_no_tags_at_all(tagged: Client) -> None:
    """n=0 is an empty list without a link."""
    answer = await tagged.get(TAGS, n="0")
    assert (answer.json["tags"], answer.get("Link")) == ([], None)


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "", "1e3", "0x1", " 1", "٣", "9" * 20, "+1"])
async def test_a_count_that_is_none(tagged: Client, count: str) -> None:
    """400, for each list."""
    for url in (TAGS, "/v2/_catalog", f"/v2/{NAME}/referrers/{digest(b'')}"):
        answer = await tagged.get(url, n=count)
        assert (answer.status, answer.code) == (400, "UNSUPPORTED")


async def test_a_page_has_a_limit(tagged: Client) -> None:
    """However many are asked for, or none said (CVE-2023-2253)."""
    tagged.registry.settings = RegistrySettings(tags_page_max=4)
    for query in ("", "?n=1000000000000"):
        pages = await follow(tagged, TAGS + query, "tags")
        assert [len(page) for page in pages] == [4, 4, 3]


async def test_a_repository_without_tags(client: Client) -> None:
    """Has an empty list; one without manifests is unknown."""
    await client.push_image()
    assert (await client.get(TAGS)).json == {"name": NAME, "tags": []}
    for count in ({}, {"n": "0"}, {"n": "5"}):
        answer = await client.get("/v2/no/such/tags/list", **count)
        assert (answer.status, answer.code) == (404, "NAME_UNKNOWN")
    await client.push(b"only a blob", "blobs/alone")
    assert (await client.get("/v2/blobs/alone/tags/list")).status == 404


# The catalog


async def fill(client: Client) -> list[str]:
    names = ["a", "a/b", "a-b", "b", "library/nginx", "z"]
    for name in names:
        await client.push_image("v1", name)
    return sorted(names, key=str.encode)


async def test_the_catalog(client: Client) -> None:
    """In byte order, page by page."""
    assert (await client.get("/v2/_catalog")).json == {"repositories": []}
    names = await fill(client)
    assert (await client.get("/v2/_catalog")).json == {"repositories": names}
    for count in (1, 4, 5, 6, 7):
        pages = await follow(client, f"/v2/_catalog?n={count}", "repositories")
        assert [name for page in pages for name in page] == names
        assert [len(page) for page in pages[:-1]] == [count] * (len(pages) - 1)
    answer = await client.get("/v2/_catalog", n="0")
    assert (answer.json["repositories"], answer.get("Link")) == ([], None)
    assert (await client.get("/v2/_catalog", last="a/b")).json["repositories"] == ["b", "library/nginx", "z"]
    assert (await client.get("/v2/_catalog", last="x" * 9000)).json["repositories"] == ["z"]


async def test_the_catalog_has_pages_of_its_own(client: Client) -> None:
    """A default size, and a largest one."""
    names = await fill(client)
    client.registry.settings = RegistrySettings(catalog_page_default=2, catalog_page_max=4)
    assert [len(page) for page in await follow(client, "/v2/_catalog", "repositories")] == [2, 2, 2]
    assert [len(page) for page in await follow(client, "/v2/_catalog?n=5000", "repositories")] == [4, 2]
    assert names


async def test_the_catalog_names_what_one_may_pull(store: Store) -> None:
    """No other name, in no page and no link; and pages are full all the same."""
    await fill(Client(Registry(store)))
    access = Granted({"a/b": {Action.PULL}, "library/nginx": {Action.PULL}, "b": {Action.PUSH}, "z": {Action.PULL}})
    client = Client(Registry(store, RegistrySettings(catalog_page_max=2), access))
    pages = await follow(client, "/v2/_catalog", "repositories")
    assert pages == [["a/b", "library/nginx"], ["z"]]
    assert (await client.get("/v2/_catalog", n="2"))["Link"] == '</v2/_catalog?last=library%2Fnginx&n=2>; rel="next"'
    assert access.asked[0][0][0].repository is None


# Referrers


ARTIFACTS = ["application/vnd.example.sbom+json", "application/vnd.example.signature"]


async def push_referrers(client: Client, count: int, subject: str, size: int = 0) -> list[str]:
    """As many, of each kind in turn; in order of digest."""
    await client.push(b"{}")
    found = []
    for number in range(count):
        document = json.loads(image(b"{}", []).body)
        document |= {"artifactType": ARTIFACTS[number % 2], "annotations": {"n": str(number), "x": "x" * size}}
        document |= {"subject": {"mediaType": OCI_MANIFEST, "digest": subject, "size": 7}}
        found.append(await client.push_manifest(json.dumps(document).encode()))
    return sorted(found)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_pages_of_referrers(client: Client, algorithm: str) -> None:
    """Each an image index of its own; all of them once."""
    subject = digest(b"a subject", algorithm)
    expected = await push_referrers(client, 7, subject)
    url = f"/v2/{NAME}/referrers/{subject}"
    for count in (1, 3, 6, 7, 8):
        pages = await follow(client, f"{url}?n={count}", "manifests")
        assert [each["digest"] for page in pages for each in page] == expected
        assert all(len(page) == count for page in pages[:-1])
    client.registry.settings = RegistrySettings(referrers_page_max=2)
    answer = await client.get(url)
    assert (len(answer.json["manifests"]), answer["Content-Type"]) == (2, OCI_INDEX)
    assert answer.json["schemaVersion"] == 2


@pytest.mark.parametrize("kind", [ARTIFACTS[0], ARTIFACTS[0].replace("+", " "), quote(ARTIFACTS[0], safe="")])
async def test_a_filter(client: Client, kind: str) -> None:
    """A plus that came as a blank, or encoded, is a plus; pages keep the filter."""
    expected = await push_referrers(client, 9, digest(b"a subject"))
    url = f"/v2/{NAME}/referrers/{digest(b'a subject')}?artifactType={kind.replace(' ', '+')}"
    answer = await client.get(url)
    assert answer["OCI-Filters-Applied"] == "artifactType"
    assert {each["artifactType"] for each in answer.json["manifests"]} == {ARTIFACTS[0]}
    assert len(answer.json["manifests"]) == 5
    client.registry.settings = RegistrySettings(referrers_page_max=2)
    pages = await follow(client, url, "manifests")
    assert [len(page) for page in pages] == [2, 2, 1]
    assert {each["digest"] for page in pages for each in page} < set(expected)
    assert [each for page in pages for each in page] == answer.json["manifests"]


async def test_a_filter_that_nothing_passes(client: Client) -> None:
    """An empty index, filtered."""
    await push_referrers(client, 3, digest(b"a subject"))
    answer = await client.get(f"/v2/{NAME}/referrers/{digest(b'a subject')}", artifactType="no/such")
    assert (answer.json["manifests"], answer["OCI-Filters-Applied"]) == ([], "artifactType")


async def test_a_filter_looks_at_so_many_at_once(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says where to go on, though it found nothing yet: no request costs more than its share."""
    monkeypatch.setattr(_referrers, "_SCAN", 2)
    monkeypatch.setattr(_referrers, "_SCANS_MAX", 2)
    await push_referrers(client, 9, digest(b"a subject"))
    url = f"/v2/{NAME}/referrers/{digest(b'a subject')}"
    pages = await follow(client, f"{url}?artifactType=no/such", "manifests")
    assert pages == [[], [], []]
    found = await follow(client, f"{url}?artifactType={ARTIFACTS[1]}", "manifests")
    assert sum(map(len, found)) == 4


async def test_long_annotations(client: Client) -> None:
    """A page stays as small as a manifest may be."""
    expected = await push_referrers(client, 5, digest(b"a subject"), size=1_500_000)
    pages = await follow(client, f"/v2/{NAME}/referrers/{digest(b'a subject')}", "manifests")
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [each["digest"] for page in pages for each in page] == expected


async def test_referrers_of_what_was_never_here(client: Client) -> None:
    """Never 404: clients would fall back to tags."""
    for name in ("no/such", NAME):
        answer = await client.get(f"/v2/{name}/referrers/sha256:{'0' * 64}")
        assert (answer.status, answer.json["manifests"]) == (200, [])
        assert answer["Content-Type"] == OCI_INDEX
        assert answer.get("OCI-Filters-Applied") is None
    head = await client.head(f"/v2/{NAME}/referrers/sha256:{'0' * 64}")
    assert (head.status, head["Content-Length"]) == (200, str(len(answer.body)))


@pytest.mark.parametrize("text", ["sha256:short", "latest", "", f"md5:{'a' * 32}"])
async def test_referrers_of_no_digest(client: Client, text: str) -> None:
    """400."""
    for url in (f"/v2/{NAME}/referrers/{text}", f"/v2/{NAME}/referrers/{digest(b'x')}?last={text or 'x'}"):
        answer = await client.get(url)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")


async def test_a_deleted_referrer_is_listed_no_more(client: Client) -> None:
    """And a deleted subject leaves its referrers, which can be found as before."""
    subject = await client.push_image("v1")
    first, second = await push_referrers(client, 2, subject)
    assert (await client.delete(f"/v2/{NAME}/manifests/{first}")).status == 202
    assert (await client.delete(f"/v2/{NAME}/manifests/{subject}")).status == 202
    answer = await client.get(f"/v2/{NAME}/referrers/{subject}")
    assert [each["digest"] for each in answer.json["manifests"]] == [second]


async def test_referrers_of_another_repository(client: Client) -> None:
    """Are its own."""
    await push_referrers(client, 2, digest(b"a subject"))
    assert (await client.get(f"/v2/other/referrers/{digest(b'a subject')}")).json["manifests"] == []


async def test_a_referrer_whose_bytes_are_lost(files: Store) -> None:
    """Is listed by what the index knows of it; the others with all they have."""
    import os

    from blobstore.digest import Digest

    client = Client(Registry(files))
    lost, other = await push_referrers(client, 2, digest(b"a subject"))
    blob = await files.index.find_blob(Digest.parse(lost))
    assert blob is not None
    os.unlink(files.backend.path_of(blob.names[0]))  # type: ignore[attr-defined]
    found = (await client.get(f"/v2/{NAME}/referrers/{digest(b'a subject')}")).json["manifests"]
    assert [(each["digest"], "annotations" in each) for each in found] == [(lost, False), (other, True)]
    assert {each["artifactType"] for each in found} == set(ARTIFACTS)
