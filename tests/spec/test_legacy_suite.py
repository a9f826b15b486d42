"""What the official conformance suite of version 1.1.1 asks, workflow by workflow, as its requests come."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from blobstore.testing.fakes import CONFIG_TYPE, LAYER_TYPE
from tests.spec.client import CODES, NAME, OCI_INDEX, OCI_MANIFEST, OTHER, Answer, Client, chunk, digest

LAYER = b"a layer that is no tar" * 20
OCTETS = {"Content-Type": "application/octet-stream"}


def config_of(number: int) -> bytes:
    """Pretty-printed, with an unknown field, as the suite's are."""
    document = {"author": f"{number}", "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}}
    return json.dumps(document | {"newUnspecifiedField": [1]}, indent="\t").encode()


def manifest_of(number: int, **more: Any) -> bytes:
    config = config_of(number)
    layer = {"mediaType": LAYER_TYPE, "digest": digest(LAYER), "size": len(LAYER), "newUnspecifiedField": "x"}
    named = {"mediaType": CONFIG_TYPE, "digest": digest(config), "size": len(config)}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": named, "layers": [layer], **more}
    return json.dumps(document, indent="\t").encode()


def relative(answer: Answer) -> str:
    """All requests that follow one use the path of its location alone."""
    split = urlsplit(answer["Location"])
    return split.path + (f"?{split.query}" if split.query else "")


async def upload(client: Client, data: bytes) -> None:
    answer = await client.post(f"/v2/{NAME}/blobs/uploads/")
    headers = OCTETS | {"Content-Length": str(len(data))}
    answer = await client.put(relative(answer), data, headers=headers, digest=digest(data))
    assert 200 <= answer.status < 300


async def put(client: Client, body: bytes, reference: str, media_type: str = OCI_MANIFEST) -> Answer:
    answer = await client.put(f"/v2/{NAME}/manifests/{reference}", body, headers={"Content-Type": media_type})
    assert answer.status == 201, answer
    return answer


@pytest.fixture
async def full(any_client: Client) -> Client:
    """Two images of one layer each, tagged."""
    for number in range(2):
        await upload(any_client, config_of(number))
    await upload(any_client, LAYER)
    for number in range(2):
        await put(any_client, manifest_of(number), f"tagtest{number}")
    return any_client


async def test_pull_blobs(full: Client) -> None:
    """1 to 4: missing ones, and existing ones with their digest."""
    missing, present = f"/v2/{NAME}/blobs/{digest(b'dummy')}", f"/v2/{NAME}/blobs/{digest(config_of(0))}"
    assert (await full.head(missing)).status == 404
    head = await full.head(present)
    assert (head.status, head["Docker-Content-Digest"]) == (200, digest(config_of(0)))
    assert (await full.get(missing)).status == 404
    assert (await full.get(present)).status == 200


async def test_pull_manifests(full: Client) -> None:
    """5 to 10: a reference outside the grammar is not found; by digest and by tag."""
    for ask in (full.head, full.get):
        assert (await ask(f"/v2/{NAME}/manifests/.INVALID_MANIFEST_NAME")).status == 404
        for reference in (digest(manifest_of(0)), "tagtest0"):
            answer = await ask(f"/v2/{NAME}/manifests/{reference}", headers={"Accept": OCI_MANIFEST})
            assert (answer.status, answer["Docker-Content-Digest"]) == (200, digest(manifest_of(0)))


async def test_pull_error_codes(full: Client) -> None:
    """11: a GET with a body, of what is no digest."""
    answer = await full.ask("GET", f"/v2/{NAME}/manifests/sha256:totallywrong", b"blablabla")
    assert answer.status == 400
    assert answer.code in CODES


async def test_pull_teardown(full: Client) -> None:
    """Manifests first, then blobs; each is gone afterwards."""
    for number in range(2):
        assert (await full.delete(f"/v2/{NAME}/manifests/{digest(manifest_of(number))}")).status == 202
    for data in (config_of(0), config_of(1), LAYER):
        assert (await full.delete(f"/v2/{NAME}/blobs/{digest(data)}")).status == 202
        assert (await full.get(f"/v2/{NAME}/blobs/{digest(data)}")).status == 404


async def test_push_streamed(any_client: Client) -> None:
    """The closing PUT names the length of the blob in a header, and has no body."""
    answer = await any_client.post(f"/v2/{NAME}/blobs/uploads/")
    answer = await any_client.patch(relative(answer), LAYER, headers=OCTETS, sized=False)
    assert answer.status == 202
    headers = OCTETS | {"Content-Length": str(len(LAYER))}
    answer = await any_client.put(relative(answer), headers=headers, digest=digest(LAYER))
    assert answer.status == 201
    assert answer["Location"]


@pytest.mark.parametrize("data", [config_of(1), LAYER], ids=["config", "layer"])
async def test_push_monolithic(any_client: Client, data: bytes) -> None:
    """In one POST, and in POST and PUT."""
    blob = f"/v2/{NAME}/blobs/{digest(data)}"
    assert (await any_client.get(blob)).status == 404
    answer = await any_client.post(f"/v2/{NAME}/blobs/uploads/", data, headers=OCTETS, digest=digest(data))
    assert answer.status == 201
    assert relative(answer)
    assert (await any_client.get(blob)).body == data
    answer = await any_client.post(f"/v2/{NAME}/blobs/uploads/")
    assert answer.status == 202
    answer = await any_client.put(relative(answer), data, headers=OCTETS, digest=digest(data))
    assert answer.status == 201
    assert (await any_client.get(blob)).status == 200


async def test_push_chunked(any_client: Client) -> None:
    """A session that begins with its second chunk; one whose first chunk comes twice, to the location of the POST; then its end
    by way of a GET at that old location."""
    first, second = LAYER[:300], LAYER[300:]
    answer = await any_client.post(f"/v2/{NAME}/blobs/uploads/", headers={"Content-Length": "0"})
    wrong = await any_client.patch(relative(answer), second, headers=chunk(300, second))
    assert wrong.status == 416
    started = await any_client.post(f"/v2/{NAME}/blobs/uploads/", headers={"Content-Length": "0"})
    answer = await any_client.patch(relative(started), first, headers=OCTETS | chunk(0, first))
    assert (answer.status, answer["Range"]) == (202, chunk(0, first)["Content-Range"])
    again = await any_client.patch(relative(started), first, headers=OCTETS | chunk(0, first))
    assert again.status == 416
    status = await any_client.get(relative(started))
    assert (status.status, status["Range"]) == (204, chunk(0, first)["Content-Range"])
    answer = await any_client.patch(relative(status), second, headers=OCTETS | chunk(300, second))
    assert answer.status == 202
    headers = OCTETS | {"Content-Length": "0"}
    answer = await any_client.put(relative(answer), headers=headers, digest=digest(LAYER))
    assert answer.status == 201
    assert (await any_client.get(relative(answer))).body == LAYER


async def test_push_mounts(full: Client) -> None:
    """Of what is nowhere; of what is there, from where it is; and from nowhere in particular."""
    uploads = f"/v2/{OTHER}/blobs/uploads/"
    answer = await full.post(uploads, mount=digest(b"dummy"))
    assert answer.status == 202
    assert relative(answer).startswith(uploads)
    named = digest(config_of(1))
    for parameters in ({"mount": named, "from": NAME}, {"mount": named}):
        answer = await full.post(uploads, **parameters)
        assert (answer.status, relative(answer)) == (201, f"/v2/{OTHER}/blobs/{named}")
        assert (await full.get(relative(answer))).body == config_of(1)


async def test_push_manifests(full: Client) -> None:
    """By tag, and one without layers."""
    assert (await full.get(f"/v2/{NAME}/manifests/nonexistent")).status == 404
    for number in range(4):
        answer = await put(full, manifest_of(1, annotations={"n": str(number)}), f"test{number}")
        assert (await full.get(relative(answer))).status == 200
    answer = await put(full, manifest_of(1, layers=[]), "no-layers")
    assert (await full.get(f"/v2/{NAME}/manifests/{digest(manifest_of(1, layers=[]))}")).status == 200


async def test_content_discovery_of_tags(full: Client) -> None:
    """All, half of them, and what follows."""
    for number in range(4):
        await put(full, manifest_of(0), f"tag{number}")
    answer = await full.get(f"/v2/{NAME}/tags/list")
    tags = answer.json["tags"]
    assert (answer.status, len(tags)) == (200, 6)
    half = (await full.get(f"/v2/{NAME}/tags/list", n="3")).json["tags"]
    assert half == tags[:3]
    assert (await full.get(f"/v2/{NAME}/tags/list", n="3", last=half[-1])).json["tags"] == tags[3:]


async def test_content_discovery_of_referrers(any_client: Client) -> None:
    """Pushed before their subject: four images and an index; one more of a subject that never comes."""
    kinds = ["application/vnd.nhl.peanut.butter.bagel", "application/vnd.nba.strawberry.jam.croissant"]
    for data in (config_of(4), LAYER, b"{}"):
        await upload(any_client, data)
    subject = manifest_of(4)
    refers = {"mediaType": OCI_MANIFEST, "digest": digest(subject), "size": len(subject)}
    for kind in kinds:
        note = {"annotations": {f"test annotation: {kind}": "value"}}
        empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2}
        for more in ({"config": {**empty, "mediaType": kind}}, {"config": empty, "artifactType": kind}):
            body = manifest_of(4, subject=refers, **more, **note)
            assert (await put(any_client, body, digest(body)))["OCI-Subject"] == digest(subject)
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": "application/vnd.food.stand",
        "subject": refers,
    }
    body = json.dumps({**index, "manifests": [], "annotations": {"test annotation: index": "value"}}).encode()
    assert (await put(any_client, body, digest(body), OCI_INDEX))["OCI-Subject"] == digest(subject)
    await put(any_client, subject, digest(subject))
    never = {**refers, "digest": digest(b"never pushed")}
    lonely = manifest_of(4, subject=never, artifactType=kinds[0])
    await put(any_client, lonely, digest(lonely))

    async def referrers(of: str, **parameters: str) -> tuple[Answer, list[Any]]:
        answer = await any_client.get(f"/v2/{NAME}/referrers/{of}", **parameters)
        assert (answer.status, answer["Content-Type"]) == (200, OCI_INDEX)
        return answer, answer.json["manifests"]

    assert (await referrers(digest(b"unknown")))[1] == []
    _, found = await referrers(digest(subject))
    assert len(found) == len({each["digest"] for each in found}) == 5
    assert [len(each["annotations"]) for each in found] == [1] * 5
    answer, found = await referrers(digest(subject), artifactType=kinds[0])
    assert (answer["OCI-Filters-Applied"], len(found)) == ("artifactType", 2)
    assert [each["digest"] for each in (await referrers(digest(b"never pushed")))[1]] == [digest(lonely)]


async def test_content_management(full: Client) -> None:
    """Tag, manifest, and then the blobs: one that another manifest keeps stays, and is said not to be deletable."""
    before = (await full.get(f"/v2/{NAME}/tags/list")).json["tags"]
    assert (await full.delete(f"/v2/{NAME}/manifests/tagtest0")).status == 202
    assert (await full.delete(f"/v2/{NAME}/manifests/{digest(manifest_of(0))}")).status == 202
    assert (await full.get(f"/v2/{NAME}/manifests/{digest(manifest_of(0))}")).status == 404
    assert len((await full.get(f"/v2/{NAME}/tags/list")).json["tags"]) == len(before) - 1
    assert (await full.delete(f"/v2/{NAME}/blobs/{digest(config_of(0))}")).status == 202
    assert (await full.get(f"/v2/{NAME}/blobs/{digest(config_of(0))}")).status == 404
    kept = await full.delete(f"/v2/{NAME}/blobs/{digest(LAYER)}")
    assert (kept.status, kept.code) == (405, "UNSUPPORTED")
    assert kept.json["errors"][0]["detail"]["parents"] == [f"{NAME}@{digest(manifest_of(1))}"]
    assert (await full.get(f"/v2/{NAME}/blobs/{digest(LAYER)}")).body == LAYER
