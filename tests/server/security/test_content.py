"""S5, S6, S14: bytes are what their name says, documents mean one thing, and nothing small becomes something big."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blobstore.manifest import manifest_references_max, manifest_size_max_bytes
from tests.server.security.guest import House
from tests.spec.client import OCI_INDEX, OCI_MANIFEST, Answer, Body, digest

NAME = "team-a/x"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def descriptor(data: bytes, kind: str = "application/octet-stream") -> dict[str, Any]:
    """How a manifest names some bytes."""
    return {"mediaType": kind, "digest": digest(data), "size": len(data)}


def manifest(**others: Any) -> dict[str, Any]:
    """An image manifest of two blobs."""
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(b"config"),
        "layers": [descriptor(b"layer")],
    } | others


@pytest.fixture
async def home(house: House) -> House:
    for data in (b"config", b"layer"):
        await house.alice.push(data, NAME)
    return house


async def put(
    house: House, body: bytes | Body, media_type: str = OCI_MANIFEST, reference: str = "v1", **options: Any
) -> Answer:
    """Put a manifest as Alice."""
    return await house.alice.put(
        f"/v2/{NAME}/manifests/{reference}", body, headers={"Content-Type": media_type}, **options
    )


async def is_nothing_there(house: House) -> bool:
    """Whether no manifest was stored."""
    return (await house.alice.get(f"/v2/{NAME}/manifests/v1")).status == 404


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
async def test_bytes_of_another_digest_become_no_blob(home: House, algorithm: str) -> None:
    """In one request or in several; afterwards neither digest is here."""
    claimed = digest(b"what it should be", algorithm)
    answer = await home.alice.post(f"/v2/{NAME}/blobs/uploads/", b"poison", digest=claimed)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    location = await home.alice.begin(NAME)
    await home.alice.patch(location, b"poison")
    answer = await home.alice.put(location, digest=claimed)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    for found in (claimed, digest(b"poison"), digest(b"poison", algorithm)):
        assert (await home.alice.head(f"/v2/{NAME}/blobs/{found}")).status == 404


async def test_a_manifest_of_another_digest_is_refused(home: House) -> None:
    """Put by digest, its bytes must hash to it."""
    body = json.dumps(manifest()).encode()
    answer = await put(home, body, reference=digest(body + b" "))
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert (await put(home, body, reference=digest(body))).status == 201


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        (manifest(manifests=[descriptor(b"layer")]), OCI_MANIFEST),
        (manifest(manifests=[]), OCI_MANIFEST),
        (manifest(mediaType=OCI_INDEX, manifests=[]), OCI_INDEX),
        (manifest(), OCI_INDEX),
        (manifest(), DOCKER_MANIFEST),
        (manifest(mediaType=OCI_INDEX), OCI_MANIFEST),
        (manifest(fsLayers=[]), OCI_MANIFEST),
        (manifest(Layers=[descriptor(b"other")]), OCI_MANIFEST),
        (manifest() | {"layer\u017f": [descriptor(b"other")]}, OCI_MANIFEST),
        (
            manifest(config={"digest": digest(b"config"), "Digest": digest(b"other"), "size": 6, "mediaType": "a/b"}),
            OCI_MANIFEST,
        ),
        (manifest(schemaVersion=1), OCI_MANIFEST),
        (manifest(mediaType="text/html"), "text/html"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else None,
)
async def test_a_document_that_means_two_things_is_refused(
    home: House, document: dict[str, Any], media_type: str
) -> None:
    """An image to one and an index to another, or with keys that some read in any case (CVE-2021-41190)."""
    answer = await put(home, json.dumps(document).encode(), media_type)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert await is_nothing_there(home)


WHOLE = json.dumps(manifest())


@pytest.mark.parametrize(
    "body",
    [
        WHOLE.replace('"layers"', '"layers": [], "layers"').encode(),
        WHOLE.replace('"size": 5', '"size": 5, "size": 6').encode(),
        WHOLE.encode("utf-16"),
        b"\xef\xbb\xbf" + WHOLE.encode(),
        WHOLE.encode() + b"\xff",
        WHOLE.replace('"layers"', '"annotations": {"a": "\\ud800"}, "layers"').encode(),
        WHOLE.replace('"size": 5', '"size": NaN').encode(),
        WHOLE.replace('"size": 5', '"size": ' + "9" * 100_000).encode(),
        WHOLE.replace('"size": 5', '"size": 1e400').encode(),
        WHOLE.replace('"size": 5', '"size": -5').encode(),
        (WHOLE[:-1] + ', "x": ' + "[" * 500_000 + "]" * 500_000 + "}").encode(),
        (WHOLE[:-1] + ', "x": ' + '{"a":' * 300_000 + "1" + "}" * 300_000 + "}").encode(),
        b"[" * 1_000_000,
        b"[]",
        b"null",
        b"",
        b"{}",
    ],
    ids=[
        "twice",
        "twice within",
        "utf-16",
        "mark",
        "junk",
        "half a character",
        "nan",
        "long",
        "huge",
        "negative",
        "deep",
        "deep objects",
        "open",
        "list",
        "null",
        "empty",
        "nothing",
    ],
)
async def test_a_document_made_to_break_its_reader_is_refused(home: House, body: bytes) -> None:
    """400 in each case, and the next request is served (CVE-2017-11468, CVE-2020-10735)."""
    answer = await put(home, body)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
    assert len(answer.body) < 2000
    assert await is_nothing_there(home)
    assert (await put(home, WHOLE.encode())).status == 201


class Counted(Body):
    """A body without an end, that counts how much of it was taken."""

    taken = 0

    async def __aiter__(self) -> Any:
        while True:
            self.taken += 65536
            yield b" " * 65536


async def test_a_manifest_without_an_end_is_not_read_to_it(home: House) -> None:
    """413 as soon as it is too long; one that says so isn't read at all."""
    endless = Counted(b"")
    assert (await put(home, endless, sized=False)).status == 413
    assert manifest_size_max_bytes < endless.taken < manifest_size_max_bytes + 3 * 65536
    long = Body(b" " * (manifest_size_max_bytes + 1))
    assert (await put(home, long)).status == 413
    assert not long.was_read


async def test_a_manifest_of_too_many_references_is_refused(home: House) -> None:
    """Each would be a row of the index."""
    many = [descriptor(b"layer")] * (manifest_references_max + 1)
    answer = await put(home, json.dumps(manifest(layers=many)).encode())
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


async def test_a_manifest_of_missing_layers_says_so_briefly(home: House) -> None:
    """One error for each is what the specification wants; their number is bounded by the manifest's."""
    many = [{"mediaType": "a/b", "digest": f"sha256:{number:064x}", "size": 1} for number in range(5000)]
    answer = await put(home, json.dumps(manifest(layers=many)).encode())
    assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")
    assert len(answer.body) < manifest_size_max_bytes


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda each: (
        st.lists(each, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "config",
                    "layers",
                    "manifests",
                    "subject",
                    "digest",
                    "mediaType",
                    "size",
                    "annotations",
                    "urls",
                    "schemaVersion",
                ]
            )
            | st.text(max_size=5),
            each,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(
    JUNK, st.sampled_from([OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, "", "text/html", "application/json; charset=x"])
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_any_document_is_a_manifest_or_refused(home: House, document: Any, media_type: str) -> None:
    """Whatever its parts are."""
    body = document if isinstance(document, dict) else manifest(subject=document)
    answer = await put(home, json.dumps(body).encode(), media_type)
    assert answer.status in (201, 400)


async def test_nothing_is_decompressed(home: House) -> None:
    """S14: a bomb is a blob as any other, stored and answered as it came, also when it says how it is encoded."""
    bomb = gzip.compress(b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    answer = await home.alice.post(
        f"/v2/{NAME}/blobs/uploads/", bomb, digest=digest(bomb), headers={"Content-Encoding": "gzip"}
    )
    assert answer.status == 201
    found = await home.alice.get(f"/v2/{NAME}/blobs/{digest(bomb)}", headers={"Accept-Encoding": "gzip"})
    assert (found.body, found.get("Content-Encoding")) == (bomb, None)
    body = gzip.compress(WHOLE.encode())
    assert (
        await home.alice.put(
            f"/v2/{NAME}/manifests/v1", body, headers={"Content-Type": OCI_MANIFEST, "Content-Encoding": "gzip"}
        )
    ).status == 400


async def test_what_is_answered_is_no_web_page(home: House) -> None:
    """S25: a blob is bytes, an error is JSON, and both stay so, whatever a browser would make of them."""
    page = b"<script>alert(1)</script>"
    await home.alice.push(page, NAME)
    found = await home.alice.get(f"/v2/{NAME}/blobs/{digest(page)}", headers={"Accept": "text/html"})
    assert found["Content-Type"] == "application/octet-stream"
    for url in ("/v2/<script>/tags/list", f"/v2/{NAME}/manifests/<script>", f"/v2/{NAME}/tags/list?n=<script>"):
        answer = await home.alice.get(url)
        assert answer.status in (400, 404)
        assert answer["Content-Type"] == "application/json"
