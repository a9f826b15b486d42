"""Pushing manifests: exact bytes under a tag, a digest or many tags, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from blobstore.manifest import DOCKER_LIST, DOCKER_MANIFEST, manifest_size_max_bytes
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store
from blobstore.testing.fakes import CONFIG_TYPE, LAYER_TYPE, image, layer
from tests.spec.client import NAME, OCI_INDEX, OCI_MANIFEST, Body, Client, digest

CONFIG, LAYER = b"config one", b"layer one"
MANIFESTS = f"/v2/{NAME}/manifests/"
TYPED = {"Content-Type": OCI_MANIFEST}


@pytest.fixture
async def ready(client: Client) -> Client:
    """With the blobs of an image."""
    for data in (CONFIG, LAYER):
        await client.push(data)
    return client


def body_of(**more: Any) -> bytes:
    document = json.loads(image(CONFIG, [LAYER]).body) | more
    return json.dumps(document, indent=2).encode()


async def test_by_tag_and_by_digest(any_client: Client) -> None:
    """201, where it can be pulled by digest, and what it is called."""
    for data in (CONFIG, LAYER):
        await any_client.push(data)
    body = body_of()
    for reference in ("v1", digest(body), digest(body, "sha512")):
        answer = await any_client.put(MANIFESTS + reference, body, headers=TYPED)
        named = reference if ":" in reference else digest(body)
        assert (answer.status, answer["Location"], answer.body) == (201, MANIFESTS + named, b"")
        assert answer["Docker-Content-Digest"] == named
        assert answer.get("OCI-Tag") is None
        assert answer.get("OCI-Subject") is None
        assert (await any_client.get(answer["Location"])).body == body


async def test_a_put_is_repeatable(ready: Client) -> None:
    """And a tag goes to whoever put it last."""
    for text in ("one", "two", "one"):
        body = body_of(annotations={"text": text})
        assert (await ready.put(MANIFESTS + "v1", body, headers=TYPED)).status == 201
        assert (await ready.get(MANIFESTS + "v1")).body == body


@pytest.mark.parametrize("is_announced", [True, False])
async def test_too_large(ready: Client, is_announced: bool) -> None:
    """413; what is announced isn't read at all, what isn't no further than the limit."""
    piece = b" " * (1024 * 1024)
    body = Body(*[piece] * 8)
    taken: list[bytes] = []

    async def counted() -> Any:
        for each in body.pieces:
            taken.append(each)
            yield each

    body.__class__ = type("Counted", (Body,), {"__aiter__": lambda self: counted()})
    answer = await ready.put(MANIFESTS + "v1", body, headers=TYPED, sized=is_announced)
    assert (answer.status, answer.code) == (413, "MANIFEST_INVALID")
    assert len(taken) == (0 if is_announced else 5)


async def test_large_ones_that_arrive_at_once_have_a_limit_together(ready: Client) -> None:
    """429 for what is too much; small ones are taken meanwhile, and large ones again when those before are done."""
    ready.registry.settings = RegistrySettings(manifests_arriving_bytes=1024 * 1024)
    go_on = asyncio.Event()
    large = body_of(annotations={"x": "x" * 700_000})

    class Slow(Body):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield large[:-1]
            await go_on.wait()
            yield large[-1:]

    slow = asyncio.create_task(ready.put(MANIFESTS + "slow", Slow(large), headers=TYPED))
    while ready.registry._core.arriving.size_bytes == 0:
        await asyncio.sleep(0)
    refused = await ready.put(MANIFESTS + "v1", large, headers=TYPED)
    assert (refused.status, refused.code, refused["Retry-After"]) == (429, "TOOMANYREQUESTS", "1")
    assert (await ready.put(MANIFESTS + "v1", body_of(), headers=TYPED)).status == 201
    go_on.set()
    assert (await slow).status == 201
    gone = await ready.put(MANIFESTS + "v1", Body(large[:-1], breaks_off=True), headers=TYPED)
    assert gone.status == 400
    assert (await ready.put(MANIFESTS + "v1", large, headers=TYPED)).status == 201


async def test_the_largest(ready: Client) -> None:
    """4 MiB to the byte are taken and given back; a limit may be lower."""
    body = body_of(annotations={"x": ""})
    body = body_of(annotations={"x": "x" * (manifest_size_max_bytes - len(body))})
    assert len(body) == manifest_size_max_bytes
    assert (await ready.put(MANIFESTS + "v1", body, headers=TYPED)).status == 201
    assert (await ready.get(MANIFESTS + "v1")).body == body
    answer = await ready.put(MANIFESTS + "v1", body + b" ", headers=TYPED)
    assert answer.status == 413
    ready.registry.settings = RegistrySettings(manifest_max_bytes=1000)
    assert (await ready.put(MANIFESTS + "v1", body_of(annotations={"x": "x" * 1000}), headers=TYPED)).status == 413


@pytest.mark.parametrize(
    "content_type",
    [OCI_MANIFEST, f"{OCI_MANIFEST}; charset=utf-8", f"{OCI_MANIFEST};x=y", f" {OCI_MANIFEST} ", None, ""],
)
async def test_the_media_type(ready: Client, content_type: str | None) -> None:
    """Parameters are ignored; without one the document decides."""
    headers = {"Content-Type": content_type} if content_type is not None else {}
    assert (await ready.put(MANIFESTS + "v1", body_of(), headers=headers)).status == 201
    assert (await ready.get(MANIFESTS + "v1"))["Content-Type"] == OCI_MANIFEST


@pytest.mark.parametrize(
    "content_type",
    [OCI_INDEX, DOCKER_MANIFEST, "application/json", "application/vnd.docker.distribution.manifest.v1+json"],
)
async def test_another_media_type_than_its_own(ready: Client, content_type: str) -> None:
    """Refused: two readers could take it for two things."""
    answer = await ready.put(MANIFESTS + "v1", body_of(), headers={"Content-Type": content_type})
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert (await ready.get(MANIFESTS + "v1")).status == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        b'{"schemaVersion": 1}',
        b"[" * 100_000,
        b'{"a": ' * 50_000,
        body_of().replace(b'"layers"', b'"manifests": [], "layers"'),
        body_of().replace(b'"layers"', b'"config": {}, "layers"'),
        b'{"schemaVersion": 2, "config": null, "layers": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe{}",
    ],
    ids=range(11),
)
async def test_what_is_no_manifest(ready: Client, body: bytes) -> None:
    """400 MANIFEST_INVALID, nested however deep, image and index at once, a key twice (CVE-2021-41190)."""
    answer = await ready.put(MANIFESTS + "v1", body, headers=TYPED)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


@pytest.mark.parametrize("tag", [".hidden", "-x", "a" * 129, "ü", "a b", "", "a%0A"])
async def test_what_can_be_no_tag(ready: Client, tag: str) -> None:
    """400, unread."""
    body = Body(body_of())
    answer = await ready.put(MANIFESTS + tag, body, headers=TYPED)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert not body.was_read


async def test_a_body_that_breaks_off(ready: Client) -> None:
    """Nothing is put."""
    body = body_of()
    answer = await ready.put(MANIFESTS + "v1", Body(body, breaks_off=True), headers=TYPED)
    assert answer.status == 400
    assert (await ready.get(MANIFESTS + digest(body))).status == 404


async def test_missing_parts(client: Client) -> None:
    """One error for each, with its digest; foreign layers need not be here."""
    foreign = layer(b"elsewhere", is_foreign=True)
    manifest = image(b"no config", [b"no layer", foreign, b"none either"])
    answer = await client.put(MANIFESTS + "v1", manifest.body, headers=TYPED)
    assert answer.status == 400
    assert {(each["code"], each["detail"]) for each in answer.json["errors"]} == {
        ("MANIFEST_BLOB_UNKNOWN", digest(data)) for data in (b"no config", b"no layer", b"none either")
    }
    for data in (b"no config", b"no layer", b"none either"):
        await client.push(data)
    assert (await client.put(MANIFESTS + "v1", manifest.body, headers=TYPED)).status == 201


async def test_parts_of_another_repository_are_missing(client: Client) -> None:
    """What one can't see one can't refer to: else a manifest would open other people's blobs."""
    for data in (CONFIG, LAYER):
        await client.push(data, "secret/project")
    answer = await client.put(MANIFESTS + "v1", body_of(), headers=TYPED)
    assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert (await client.head(f"/v2/{NAME}/blobs/{digest(LAYER)}")).status == 404


async def test_a_buildkit_cache(ready: Client) -> None:
    """An image index whose entries are layers and a config of its own type: blobs, not manifests."""
    entries = [
        {"mediaType": LAYER_TYPE, "digest": digest(LAYER), "size": len(LAYER)},
        {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": digest(CONFIG), "size": len(CONFIG)},
    ]
    for media_type, tag in ((OCI_INDEX, "cache"), (DOCKER_LIST, "docker-cache")):
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": entries}).encode()
        answer = await ready.put(MANIFESTS + tag, body, headers={"Content-Type": media_type})
        assert answer.status == 201
        assert (await ready.get(MANIFESTS + tag)).body == body
    absent = json.dumps({"schemaVersion": 2, "manifests": [{**entries[0], "digest": digest(b"absent")}]}).encode()
    assert (await ready.put(MANIFESTS + "cache", absent, headers={"Content-Type": OCI_INDEX})).status == 400


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
async def test_a_subject(ready: Client, algorithm: str) -> None:
    """Told in its own words, whether it is here or not, of any algorithm."""
    subject = {"mediaType": OCI_MANIFEST, "digest": digest(b"never", algorithm), "size": 5}
    answer = await ready.put(MANIFESTS + "v1", body_of(subject=subject), headers=TYPED)
    assert (answer.status, answer["OCI-Subject"]) == (201, digest(b"never", algorithm))
    found = (await ready.get(f"/v2/{NAME}/referrers/{digest(b'never', algorithm)}")).json["manifests"]
    assert [each["digest"] for each in found] == [digest(body_of(subject=subject))]


# Many tags at once


async def test_tags_as_parameters(ready: Client) -> None:
    """Each is told back, once."""
    body = body_of()
    answer = await ready.put(f"{MANIFESTS}{digest(body)}?tag=1.2.3&tag=1.2&tag=1&tag=latest&tag=1", body, headers=TYPED)
    assert (answer.status, answer.every("OCI-Tag")) == (201, ["1.2.3", "1.2", "1", "latest"])
    assert (await ready.get(f"/v2/{NAME}/tags/list")).json["tags"] == ["1", "1.2", "1.2.3", "latest"]


async def test_tags_that_are_none(ready: Client) -> None:
    """All or none: one that can't be refuses the put, unread; so do too many."""
    body = body_of()
    for query, status in (("tag=good&tag=.bad", 400), ("tag=", 400), ("&".join(f"tag=t{n}" for n in range(101)), 414)):
        sent = Body(body)
        answer = await ready.put(f"{MANIFESTS}{digest(body)}?{query}", sent, headers=TYPED)
        assert answer.status == status
        assert not sent.was_read
    assert (await ready.get(MANIFESTS + digest(body))).status == 404
    query = "&".join(f"tag=t{n}" for n in range(100))
    answer = await ready.put(f"{MANIFESTS}{digest(body)}?{query}", body, headers=TYPED)
    assert len(answer.every("OCI-Tag")) == 100


async def test_tags_beside_a_tag(ready: Client) -> None:
    """Are ignored, as the specification knows none there; people are told."""
    answer = await ready.put(f"{MANIFESTS}v1?tag=v2", body_of(), headers=TYPED)
    assert answer.status == 201
    assert answer.get("OCI-Tag") is None
    assert answer["Warning"].startswith('299 - "')
    assert (await ready.get(MANIFESTS + "v2")).status == 404


async def test_a_notice_to_people(ready: Client) -> None:
    """What an operator wants to be known is told with each manifest, within the limits of the specification."""
    ready.registry.settings = RegistrySettings(notice='moves "soon" to\nnew.example \\ ' + "x" * 9000)
    answers = [await ready.put(MANIFESTS + "v1?tag=x", body_of(), headers=TYPED)]
    answers += [await ready.get(MANIFESTS + "v1"), await ready.head(MANIFESTS + "v1")]
    for answer in answers:
        assert answer["Warning"].startswith('299 - "moves \\"soon\\" to new.example \\\\ xxx')
        assert answer["Warning"].endswith('x"')
        assert sum(len(each.encode()) for each in answer.every("Warning")) <= 4096


async def test_a_config_of_any_type(ready: Client) -> None:
    """Helm charts and other artifacts: unknown types of what is referred to are no error."""
    config = {"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(CONFIG), "size": len(CONFIG)}
    assert (await ready.put(MANIFESTS + "chart-1.0.0_build", body_of(config=config), headers=TYPED)).status == 201
    assert json.loads((await ready.get(MANIFESTS + "chart-1.0.0_build")).body)["config"] == config
    assert config["mediaType"] != CONFIG_TYPE


async def test_absolute_locations(store: Store) -> None:
    """Where an operator wants them, of the host the client asked."""
    client = Client(Registry(store, RegistrySettings(absolute_locations=True)))
    await client.push(CONFIG)
    location = await client.begin()
    assert location.startswith("https://registry.example/v2/")
    answer = await client.put(location, LAYER, digest=digest(LAYER))
    assert answer["Location"] == f"https://registry.example/v2/{NAME}/blobs/{digest(LAYER)}"
    answer = await client.put(MANIFESTS + "v1", body_of(), headers=TYPED)
    assert answer["Location"] == f"https://registry.example{MANIFESTS}{digest(body_of())}"
    await client.put(MANIFESTS + "v2", body_of(), headers=TYPED)
    assert (await client.get(f"/v2/{NAME}/tags/list?n=1")).next.startswith("https://registry.example/v2/")
