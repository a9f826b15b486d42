"""Content management: tags, manifests and blobs go, and what still needs them keeps them."""

from __future__ import annotations

import json

from blobstore.testing.fakes import image
from tests.spec.client import NAME, OCI_INDEX, OTHER, Client, digest


async def test_a_tag(any_client: Client) -> None:
    """Goes alone; what it named stays under its digest and its other tags."""
    named = await any_client.push_image("v1")
    await any_client.push_image("v2")
    answer = await any_client.delete(f"/v2/{NAME}/manifests/v1")
    assert (answer.status, answer.body) == (202, b"")
    for reference, status in (("v1", 404), ("v2", 200), (named, 200)):
        assert (await any_client.get(f"/v2/{NAME}/manifests/{reference}")).status == status
    again = await any_client.delete(f"/v2/{NAME}/manifests/v1")
    assert (again.status, again.code) == (404, "MANIFEST_UNKNOWN")


async def test_a_manifest(any_client: Client) -> None:
    """Goes with all its tags; another repository's stays."""
    named = await any_client.push_image("v1")
    await any_client.push_image("v2")
    await any_client.push_image("v1", OTHER)
    assert (await any_client.delete(f"/v2/{NAME}/manifests/{named}")).status == 202
    for reference in ("v1", "v2", named):
        assert (await any_client.get(f"/v2/{NAME}/manifests/{reference}")).status == 404
    assert (await any_client.delete(f"/v2/{NAME}/manifests/{named}")).status == 404
    assert (await any_client.get(f"/v2/{OTHER}/manifests/v1")).status == 200


async def test_a_manifest_by_another_algorithm(client: Client) -> None:
    """By whatever it was pushed as."""
    await client.push_image("v1")
    body = (await client.get(f"/v2/{NAME}/manifests/v1")).body
    await client.push_manifest(body, digest(body, "sha512"))
    assert (await client.delete(f"/v2/{NAME}/manifests/{digest(body, 'sha512')}")).status == 202
    assert (await client.get(f"/v2/{NAME}/manifests/v1")).status == 404


async def test_a_child_of_an_image_index(client: Client) -> None:
    """Can't be deleted while the index refers to it; the answer says which one does."""
    child = await client.push_image()
    entry = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": child, "size": 1}
    body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    parent = await client.push_manifest(body, "multi", media_type=OCI_INDEX)
    answer = await client.delete(f"/v2/{NAME}/manifests/{child}")
    assert (answer.status, answer.code, answer["Allow"]) == (405, "UNSUPPORTED", "GET, HEAD")
    assert answer.json["errors"][0]["detail"] == {"parents": [f"{NAME}@{parent}"]}
    for reference in (parent, child):
        assert (await client.delete(f"/v2/{NAME}/manifests/{reference}")).status == 202


async def test_a_blob(any_client: Client) -> None:
    """Goes from this repository alone, at once; a missing one is 404."""
    named = await any_client.push(b"data")
    await any_client.push(b"data", OTHER)
    url = f"/v2/{NAME}/blobs/{named}"
    assert (await any_client.delete(url)).status == 202
    for method in ("HEAD", "GET", "DELETE"):
        assert (await any_client.ask(method, url)).status == 404
    assert (await any_client.get(f"/v2/{OTHER}/blobs/{named}")).body == b"data"
    assert await any_client.push(b"data") == named
    assert (await any_client.head(url)).status == 200


async def test_a_blob_of_an_image(client: Client) -> None:
    """Stays while its image does; the parents named are those of this repository only."""
    named = await client.push_image("v1")
    await client.push_image("v1", OTHER)
    layer = digest(b"layer one")
    answer = await client.delete(f"/v2/{NAME}/blobs/{layer}")
    assert (answer.status, answer.code) == (405, "UNSUPPORTED")
    assert answer.json["errors"][0]["detail"] == {"parents": [f"{NAME}@{named}"]}
    await client.delete(f"/v2/{NAME}/manifests/{named}")
    assert (await client.delete(f"/v2/{NAME}/blobs/{layer}")).status == 202
    assert (await client.get(f"/v2/{OTHER}/blobs/{layer}")).body == b"layer one"


async def test_in_a_repository_that_never_was(client: Client) -> None:
    """404, each."""
    for path in ("manifests/latest", f"manifests/{digest(b'')}", f"blobs/{digest(b'')}"):
        assert (await client.delete(f"/v2/no/such/{path}")).status == 404


async def test_what_was_deleted_can_be_pushed_again(client: Client) -> None:
    """The same image, under the same tag."""
    manifest = image(b"config one", [b"layer one"])
    for _ in range(2):
        assert await client.push_image("v1") == str(manifest.digest)
        assert (await client.delete(f"/v2/{NAME}/manifests/{manifest.digest}")).status == 202
        for data in (b"config one", b"layer one"):
            assert (await client.delete(f"/v2/{NAME}/blobs/{digest(data)}")).status == 202
