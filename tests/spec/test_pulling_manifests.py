"""Pulling manifests: exact bytes and types, by tag and by digest, whatever is accepted."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from blobstore.digest import Digest
from blobstore.manifest import DOCKER_LIST, DOCKER_MANIFEST
from blobstore.names import RepositoryName
from blobstore.server.protocol._manifest_cache import ManifestCache
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image
from tests.spec.client import NAME, OCI_INDEX, OCI_MANIFEST, OTHER, Client, digest

CONFIG, LAYER = b"config", b"layer"


async def push(client: Client, document: dict[str, Any], media_type: str, tag: str = "latest") -> bytes:
    body = json.dumps(document, indent=3).encode() + b"\n"
    for data in (CONFIG, LAYER):
        await client.push(data)
    await client.push_manifest(body, tag, media_type=media_type)
    return body


def docker_image() -> dict[str, Any]:
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": digest(CONFIG), "size": 6}
    layer = {"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "digest": digest(LAYER), "size": 5}
    return {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": config, "layers": [layer]}


@pytest.mark.parametrize("accept", [None, "*/*", OCI_INDEX, "text/html;q=0.1", f"{DOCKER_LIST}, {OCI_INDEX}"])
async def test_nothing_is_converted(any_client: Client, accept: str | None) -> None:
    """Whatever `Accept` says, what is stored comes back, byte for byte, and its type without parameters."""
    body = await push(any_client, docker_image(), DOCKER_MANIFEST)
    headers = {"Accept": accept} if accept is not None else {}
    for reference in ("latest", digest(body)):
        answer = await any_client.get(f"/v2/{NAME}/manifests/{reference}", headers=headers)
        assert (answer.status, answer["Content-Type"], answer.body) == (200, DOCKER_MANIFEST, body)
        assert answer["Docker-Content-Digest"] == digest(body)
        assert answer["ETag"] == f'"{digest(body)}"'


async def test_a_docker_list(any_client: Client) -> None:
    """A manifest list of Docker's is no image index, and stays itself."""
    child = await push(any_client, docker_image(), DOCKER_MANIFEST)
    entry = {"mediaType": DOCKER_MANIFEST, "digest": digest(child), "size": len(child)}
    entry["platform"] = {"architecture": "amd64", "os": "linux"}
    document = {"schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": [entry]}
    body = await push(any_client, document, DOCKER_LIST, "list")
    answer = await any_client.get(f"/v2/{NAME}/manifests/list")
    assert (answer["Content-Type"], answer.body) == (DOCKER_LIST, body)


async def test_the_media_type_loses_its_parameters(client: Client) -> None:
    """What it was sent with besides is ignored."""
    body = await push(client, docker_image(), f"{DOCKER_MANIFEST}; charset=utf-8")
    assert (await client.get(f"/v2/{NAME}/manifests/{digest(body)}"))["Content-Type"] == DOCKER_MANIFEST


@pytest.mark.parametrize("given", ['"{}"', "{}", 'W/"{}"', '"other", "{}"', "*"])
async def test_unchanged(any_client: Client, given: str) -> None:
    """304, by tag and by digest."""
    named = await any_client.push_image("v1")
    for reference in ("v1", named):
        for method in ("GET", "HEAD"):
            url = f"/v2/{NAME}/manifests/{reference}"
            answer = await any_client.ask(method, url, headers={"If-None-Match": given.format(named)})
            assert (answer.status, answer["ETag"]) == (304, f'"{named}"')


async def test_a_tag_that_moved_is_changed(client: Client) -> None:
    """The old digest is no longer what it names."""
    old = await client.push_image("v1")
    new = await client.push_image("v1", text="two")
    url = f"/v2/{NAME}/manifests/v1"
    answer = await client.get(url, headers={"If-None-Match": f'"{old}"'})
    assert (answer.status, answer["Docker-Content-Digest"]) == (200, new)
    assert (await client.get(f"/v2/{NAME}/manifests/{old}")).status == 200


async def test_a_manifest_is_its_repositorys(any_client: Client) -> None:
    """Another one doesn't have it, by tag or digest, though its bytes are in the store and in memory."""
    named = await any_client.push_image("v1")
    assert (await any_client.get(f"/v2/{NAME}/manifests/{named}")).status == 200
    for reference in ("v1", named):
        for method in ("GET", "HEAD", "DELETE"):
            answer = await any_client.ask(method, f"/v2/{OTHER}/manifests/{reference}")
            assert answer.status == 404
    assert answer.code == "MANIFEST_UNKNOWN"


async def test_a_deleted_manifest_is_gone_at_once(any_client: Client) -> None:
    """Its bytes may be remembered; that it is here is asked each time (CVE-2026-35172)."""
    named = await any_client.push_image("v1")
    url = f"/v2/{NAME}/manifests/{named}"
    assert (await any_client.get(url)).status == 200
    assert (await any_client.delete(url)).status == 202
    for reference in ("v1", named):
        assert (await any_client.get(f"/v2/{NAME}/manifests/{reference}")).status == 404
        assert (await any_client.head(f"/v2/{NAME}/manifests/{reference}")).status == 404


@pytest.mark.parametrize("text", [".INVALID_MANIFEST_NAME", "-x", "a" * 129, "ü", "a b", ""])
async def test_what_can_be_no_tag_is_not_found(client: Client, text: str) -> None:
    """404, as both conformance suites want; to DELETE as well."""
    for method in ("GET", "HEAD", "DELETE"):
        answer = await client.ask(method, f"/v2/{NAME}/manifests/{text}")
        assert answer.status == 404, answer


@pytest.mark.parametrize("is_cut", [True, False])
async def test_damaged_bytes_are_never_served(files: Store, is_cut: bool) -> None:
    """A manifest is hashed when it is read: 500, not other bytes. HEAD and the list of tags go on."""
    client = Client(Registry(files))
    named = await client.push_image("v1")
    blob = await files.index.find_blob(Digest.parse(named))
    assert blob is not None
    path = files.backend.path_of(blob.names[0])  # type: ignore[attr-defined]
    os.chmod(path, 0o600)
    if is_cut:
        os.truncate(path, 10)
    else:
        with open(path, "r+b") as file:
            file.write(b"[")
    answer = await client.get(f"/v2/{NAME}/manifests/v1")
    assert (answer.status, answer.code) == (500, "UNKNOWN")
    assert (await client.head(f"/v2/{NAME}/manifests/v1")).status == 200
    assert (await client.get(f"/v2/{NAME}/tags/list")).json["tags"] == ["v1"]


async def test_manifests_are_read_once(files: Store) -> None:
    """What was verified is remembered: their file isn't opened for each request."""
    client = Client(Registry(files))
    named = await client.push_image("v1")
    first = await client.get(f"/v2/{NAME}/manifests/v1")
    blob = await files.index.find_blob(Digest.parse(named))
    assert blob is not None
    os.unlink(files.backend.path_of(blob.names[0]))  # type: ignore[attr-defined]
    assert (await client.get(f"/v2/{NAME}/manifests/{named}")).body == first.body
    forgetful = Client(Registry(files, RegistrySettings(manifest_cache_bytes=0)))
    assert (await forgetful.get(f"/v2/{NAME}/manifests/v1")).status == 500


def test_what_is_remembered_has_a_limit() -> None:
    """The least used goes first, and what is too large isn't remembered at all."""
    cache = ManifestCache(64)
    bodies = [b"%04d" % each for each in range(20)]
    for body in bodies:
        cache.add(Digest.of(body), body)
        assert cache.get(Digest.of(bodies[0])) == bodies[0]
    kept = [body for body in bodies if cache.get(Digest.of(body)) is not None]
    assert kept == [bodies[0], *bodies[5:]]
    cache.add(Digest.of(b"large"), b"large")
    assert cache.get(Digest.of(b"large")) is None


async def test_a_tag_is_answered_by_what_it_was_pushed_with(any_client: Client) -> None:
    """A digest of another algorithm only where its tag came with it: nobody else can change what a tag is called."""
    body = image(CONFIG, [LAYER]).body
    await push(any_client, json.loads(image(CONFIG, []).body), OCI_MANIFEST)
    await any_client.push_manifest(body, "v1")
    sha512 = digest(body, "sha512")
    headers = {"Content-Type": OCI_MANIFEST}
    await any_client.put(f"/v2/{NAME}/manifests/{sha512}?tag=v2", body, headers=headers)
    for tag, named in (("v1", digest(body)), ("v2", sha512)):
        answer = await any_client.get(f"/v2/{NAME}/manifests/{tag}")
        assert (answer["Docker-Content-Digest"], answer["ETag"]) == (named, f'"{named}"')
        unchanged = await any_client.get(f"/v2/{NAME}/manifests/{tag}", headers={"If-None-Match": named})
        assert unchanged.status == 304


async def test_a_yes_is_a_promise(client: Client, store: Store, clock: FakeClock) -> None:
    """A manifest that nothing holds is kept for another grace when it was asked for, by HEAD or GET; 304 is a yes, too."""
    named = await client.push_image()
    url = f"/v2/{NAME}/manifests/{named}"
    for method, headers in (("HEAD", {}), ("GET", {}), ("GET", {"If-None-Match": named})):
        clock.advance(3000_000)
        assert (await client.ask(method, url, headers=headers)).status in (200, 304)
        record = await store.index.resolve(RepositoryName(NAME), Digest.parse(named))
        assert record is not None
        assert record.lost_at_ms == clock.now_ms()


async def test_a_pull_by_another_algorithm(any_client: Client) -> None:
    """A manifest that was pushed by its sha512 is pulled by it, and by its sha256; one that wasn't is unknown by it."""
    body = image(CONFIG, [LAYER]).body
    await push(any_client, json.loads(image(CONFIG, []).body), OCI_MANIFEST)
    url = f"/v2/{NAME}/manifests/"
    assert (await any_client.get(url + digest(body, "sha512"))).status == 404
    await any_client.push_manifest(body, digest(body, "sha512"))
    for algorithm in ("sha256", "sha512"):
        answer = await any_client.get(url + digest(body, algorithm))
        assert (answer.status, answer["Docker-Content-Digest"]) == (200, digest(body, algorithm))
        assert answer["ETag"] == f'"{digest(body, algorithm)}"'
    assert (await any_client.get(url + digest(body, "blake3"))).status == 404
