"""What the official conformance suite of the specification's main branch asks, row by row, nothing skipped as unsupported."""

from __future__ import annotations

import json
import random  # noqa: TID251 - from a seed
from typing import Any

import pytest

from blobstore.testing.fakes import CONFIG_TYPE, LAYER_TYPE
from tests.spec.client import NAME, OCI_INDEX, OCI_MANIFEST, OTHER, Answer, Body, Client, chunk, digest

SEED = 20261121
ALGORITHMS = pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
UPLOADS = f"/v2/{NAME}/blobs/uploads/"
CHUNK = 1024
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
ARTIFACT = "application/vnd.example.oci.conformance.v1"


def data_of(size: int, salt: object = "") -> bytes:
    return random.Random(f"{SEED} {size} {salt}").randbytes(size)


async def check_pushed(client: Client, answer: Answer, data: bytes, algorithm: str, name: str = NAME) -> None:
    """After each push: the location is the blob, HEAD and GET find it, DELETE ends it."""
    named = digest(data, algorithm)
    assert answer.status == 201, answer
    assert answer["Docker-Content-Digest"] == named
    assert (await client.get(answer["Location"])).body == data
    url = f"/v2/{name}/blobs/{named}"
    head = await client.head(url)
    assert (head.status, head["Content-Length"], head["Docker-Content-Digest"]) == (200, str(len(data)), named)
    found = await client.get(url)
    assert (found.status, found.body, found["Docker-Content-Digest"]) == (200, data, named)
    assert (await client.delete(url)).status == 202
    assert (await client.head(url)).status == 404
    assert (await client.delete(url)).status == 404


async def test_ping(client: Client) -> None:
    assert (await client.get("/v2/")).status == 200


async def test_an_empty_repository(client: Client) -> None:
    """Its tags are 404, its referrers an empty index."""
    assert (await client.get(f"/v2/{NAME}/tags/list")).status == 404
    answer = await client.get(f"/v2/{NAME}/referrers/{digest(data_of(9))}")
    assert (answer.status, answer["Content-Type"]) == (200, OCI_INDEX)
    assert answer.json == {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


@ALGORITHMS
class TestBlobs:
    async def test_get_missing(self, any_client: Client, algorithm: str) -> None:
        assert (await any_client.get(f"/v2/{NAME}/blobs/{digest(data_of(1), algorithm)}")).status == 404

    @pytest.mark.parametrize("data", [data_of(512), b"", b"{}"], ids=["random", "empty", "emptyJSON"])
    async def test_post_only(self, any_client: Client, algorithm: str, data: bytes) -> None:
        answer = await any_client.post(UPLOADS, data, digest=digest(data, algorithm))
        await check_pushed(any_client, answer, data, algorithm)

    @pytest.mark.parametrize("data", [data_of(512), b"", b"{}"], ids=["random", "empty", "emptyJSON"])
    async def test_post_and_put(self, any_client: Client, algorithm: str, data: bytes) -> None:
        answer = await any_client.put(await any_client.begin(), data, digest=digest(data, algorithm))
        await check_pushed(any_client, answer, data, algorithm)

    @pytest.mark.parametrize("is_stream", [True, False])
    async def test_chunked_single_and_stream(self, any_client: Client, algorithm: str, is_stream: bool) -> None:
        data = data_of(512)
        headers = {} if is_stream else chunk(0, data)
        patched = await any_client.patch(await any_client.begin(), data, headers=headers, sized=not is_stream)
        assert (patched.status, patched["Range"]) == (202, "0-511")
        put = {"Content-Length": "0", "Content-Type": "application/octet-stream"}
        answer = await any_client.put(patched["Location"], headers=put, digest=digest(data, algorithm))
        await check_pushed(any_client, answer, data, algorithm)

    async def test_mount(self, any_client: Client, algorithm: str) -> None:
        data = data_of(512)
        named = digest(data, algorithm)
        assert (await any_client.put(await any_client.begin(OTHER), data, digest=named)).status == 201
        answer = await any_client.post(UPLOADS, mount=named, **{"from": OTHER})
        assert answer["Location"] == f"/v2/{NAME}/blobs/{named}"
        await check_pushed(any_client, answer, data, algorithm)

    async def test_mount_anonymous(self, any_client: Client, algorithm: str) -> None:
        data = data_of(512)
        named = digest(data, algorithm)
        assert (await any_client.put(await any_client.begin(OTHER), data, digest=named)).status == 201
        await check_pushed(any_client, await any_client.post(UPLOADS, mount=named), data, algorithm)

    async def test_mount_missing(self, any_client: Client, algorithm: str) -> None:
        data = data_of(512)
        answer = await any_client.post(UPLOADS, mount=digest(data, algorithm), **{"from": OTHER})
        assert answer.status == 202
        answer = await any_client.put(answer["Location"], data, digest=digest(data, algorithm))
        await check_pushed(any_client, answer, data, algorithm)

    @pytest.mark.parametrize("ends_in_put", [True, False])
    async def test_chunked_multi(self, any_client: Client, algorithm: str, ends_in_put: bool) -> None:
        data = data_of(3 * CHUNK - 5)
        location = await any_client.begin()
        for start in range(0, (2 if ends_in_put else 3) * CHUNK, CHUNK):
            piece = data[start : start + CHUNK]
            answer = await any_client.patch(location, piece, headers=chunk(start, piece))
            assert (answer.status, answer["Range"]) == (202, f"0-{start + len(piece) - 1}")
            location = answer["Location"]
        last = data[2 * CHUNK :] if ends_in_put else None
        headers = chunk(2 * CHUNK, last) if last is not None else {}
        answer = await any_client.put(location, last, headers=headers, digest=digest(data, algorithm))
        await check_pushed(any_client, answer, data, algorithm)

    @pytest.mark.parametrize("ends_in_put", [True, False])
    async def test_chunked_out_of_order(self, any_client: Client, algorithm: str, ends_in_put: bool) -> None:
        """Before each good chunk one that starts too far ahead, the last ones at zero: the session survives them all."""
        data = data_of(3 * CHUNK - 5)
        named = digest(data, algorithm)
        location = await any_client.begin()
        for start in range(0, len(data), CHUNK):
            piece = data[start : start + CHUNK]
            ahead = start + CHUNK if start + CHUNK < len(data) else 0
            bad = data[ahead : ahead + CHUNK]
            is_put = ends_in_put and ahead + CHUNK >= len(data)
            method, parameters = ("PUT", {"digest": named}) if is_put else ("PATCH", {})
            refused = await any_client.ask(method, location, bad, headers=chunk(ahead, bad), **parameters)
            assert (refused.status, refused.code) == (416, "BLOB_UPLOAD_INVALID")
            assert refused["Location"] == location
            status = await any_client.get(location)
            assert status.status == 204
            assert status["Range"] == (f"0-{start - 1}" if start else "0-0") == refused["Range"]
            location = status["Location"]
            is_last = start + CHUNK >= len(data)
            if is_last and ends_in_put:
                answer = await any_client.put(location, piece, headers=chunk(start, piece), digest=named)
            else:
                answer = await any_client.patch(location, piece, headers=chunk(start, piece))
                assert answer.status == 202
                location = answer["Location"]
        if not ends_in_put:
            answer = await any_client.put(location, digest=named)
        await check_pushed(any_client, answer, data, algorithm)

    async def test_post_cancel(self, any_client: Client, algorithm: str) -> None:
        location = await any_client.begin()
        assert (await any_client.delete(location, headers={"Content-Length": "0"})).status == 204
        assert (await any_client.get(location)).status == 404

    @pytest.mark.parametrize(
        ("wanted", "start", "stop"),
        [
            ("500-1499", 500, 1500),
            ("500-", 500, 2048),
            ("-500", 1548, 2048),
            ("2000-5000", 2000, 2048),
        ],
    )
    async def test_range_requests(self, any_client: Client, algorithm: str, wanted: str, start: int, stop: int) -> None:
        data = data_of(2048)
        named = digest(data, algorithm)
        await any_client.put(await any_client.begin(), data, digest=named)
        answer = await any_client.get(f"/v2/{NAME}/blobs/{named}", headers={"Range": f"bytes={wanted}"})
        assert (answer.status, answer.body) == (206, data[start:stop])
        assert answer["Content-Range"] == f"bytes {start}-{stop - 1}/2048"

    @pytest.mark.parametrize("wanted", ["500-0", "5000-10000"])
    async def test_range_requests_of_nothing(self, any_client: Client, algorithm: str, wanted: str) -> None:
        data = data_of(2048)
        named = digest(data, algorithm)
        await any_client.put(await any_client.begin(), data, digest=named)
        answer = await any_client.get(f"/v2/{NAME}/blobs/{named}", headers={"Range": f"bytes={wanted}"})
        assert (answer.status, answer["Content-Range"]) == (416, "bytes */2048")

    @pytest.mark.parametrize("way", ["post only", "post and put", "chunked", "chunked and put chunk", "stream"])
    async def test_bad_digest(self, any_client: Client, algorithm: str, way: str) -> None:
        """The body has five bytes more than what its digest names."""
        good = data_of(512)
        data, named = good + b"12345", digest(good, algorithm)
        if way == "post only":
            answer = await any_client.post(UPLOADS, data, digest=named)
        else:
            location = await any_client.begin()
            last: bytes | None = data
            headers: dict[str, str] = {}
            if way in ("chunked", "stream"):
                patch = chunk(0, data) if way == "chunked" else {}
                assert (await any_client.patch(location, data, headers=patch)).status == 202
                last = None
            elif way == "chunked and put chunk":
                assert (await any_client.patch(location, data[:100], headers=chunk(0, data[:100]))).status == 202
                last, headers = data[100:], chunk(100, data[100:])
            answer = await any_client.put(location, last, headers=headers, digest=named)
        assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
        assert (await any_client.head(f"/v2/{NAME}/blobs/{named}")).status == 404
        assert (await any_client.head(f"/v2/{NAME}/blobs/{digest(data, algorithm)}")).status == 404


# Data sets


class Document:
    """A manifest or index on its way: bytes, tags and what it needs."""

    def __init__(self, algorithm: str, media_type: str, document: dict[str, Any], *tags: str) -> None:
        self.algorithm, self.media_type, self.tags, self.document = algorithm, media_type, tags, document
        self.body = json.dumps(document, indent=1).encode()
        self.digest = digest(self.body, algorithm)
        self.subject = document.get("subject", {}).get("digest")

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": len(self.body)}


class DataSet:
    """Blobs and documents, pushed in their order, read back and deleted backwards."""

    def __init__(self, algorithm: str = "sha256") -> None:
        self.algorithm = algorithm
        self.blobs: dict[str, bytes] = {}
        self.documents: list[Document] = []

    def blob(self, content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        named = digest(content, self.algorithm)
        self.blobs[named] = content
        return {"mediaType": media_type, "digest": named, "size": len(content), **more}

    def image(self, *tags: str, salt: str = "", layers: list[dict[str, Any]] | None = None, **more: Any) -> Document:
        config = self.blob(b'{"architecture": "amd64", "salt": "%s"}' % salt.encode(), CONFIG_TYPE)
        if layers is None:
            layers = [self.blob(data_of(1024, f"{salt} {each}"), LAYER_TYPE) for each in range(2)]
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers, **more}
        return self.add(OCI_MANIFEST, document, *tags)

    def artifact(self, *tags: str, kind: str = ARTIFACT, **more: Any) -> Document:
        config = self.blob(b"{}", EMPTY_TYPE)
        layers = more.pop("layers", None) or [self.blob(data_of(512, kind), kind)]
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": kind, "config": config}
        return self.add(OCI_MANIFEST, {**document, "layers": layers, **more}, *tags)

    def index(self, *tags: str, children: list[Document], **more: Any) -> Document:
        entries = [each.descriptor for each in children]
        return self.add(OCI_INDEX, {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, **more}, *tags)

    def add(self, media_type: str, document: dict[str, Any], *tags: str) -> Document:
        self.documents.append(Document(self.algorithm, media_type, document, *tags))
        return self.documents[-1]


def image_set() -> DataSet:
    made = DataSet()
    made.image("image")
    return made


def uncompressed_set() -> DataSet:
    made = DataSet()
    made.image("image-uncompressed", layers=[made.blob(data_of(1024), "application/vnd.oci.image.layer.v1.tar")])
    return made


def large_set() -> DataSet:
    made = DataSet()
    made.image("large-manifest", annotations={f"key-{each}": "x" * 10_000 for each in range(390)})
    return made


def index_set(algorithm: str = "sha256", *, tagged: bool = True) -> DataSet:
    made = DataSet(algorithm)
    children = [made.image(salt=each) for each in ("amd64", "arm64")]
    made.index(*(["index"] if tagged else []), children=children)
    return made


def nested_set() -> DataSet:
    made = DataSet()
    inner = [made.index(children=[made.image(salt=f"{each} {at}") for at in range(2)]) for each in "ab"]
    made.index("nested-index", children=inner)
    return made


def empty_index_set() -> DataSet:
    made = DataSet()
    made.index("empty-index", children=[])
    return made


def artifact_set() -> DataSet:
    made = DataSet()
    made.artifact("artifact")
    return made


def artifact_index_set() -> DataSet:
    made = DataSet()
    made.index("artifact-index", children=[made.artifact()], artifactType=ARTIFACT)
    return made


def without_layers_set() -> DataSet:
    made = DataSet()
    made.artifact("artifact-without-layers", layers=[made.blob(b"{}", EMPTY_TYPE)])
    return made


def subject_set() -> DataSet:
    made = DataSet()
    subject = made.image("image").descriptor
    note = {"org.opencontainers.conformance": "hello"}
    made.image("tagged-artifact1", salt="plain", subject=subject, annotations=note)
    made.artifact("tagged-artifact2", kind=f"{ARTIFACT}1", subject=subject, annotations=note)
    made.artifact("tagged-artifact3", kind=f"{ARTIFACT}2", subject=subject, annotations=note)
    return made


def index_subject_set() -> DataSet:
    made = DataSet()
    subject = made.index("index", children=[made.image(salt="amd64")])
    children = [made.artifact()]
    made.index("artifact", children=children, subject=subject.descriptor, artifactType=ARTIFACT, annotations={"a": "b"})
    return made


def missing_subject_set() -> DataSet:
    made = DataSet()
    made.artifact("tagged-artifact", subject=Document("sha256", OCI_MANIFEST, {"never": "pushed"}).descriptor)
    return made


def data_field_set() -> DataSet:
    made = DataSet()
    made.artifact("data-field", layers=[made.blob(b"{}", EMPTY_TYPE, data="e30=")])
    return made


def foreign_set() -> DataSet:
    made = DataSet()
    foreign = [
        {"mediaType": f"application/vnd.oci.image.layer.nondistributable.v1.tar{kind}", "size": 123456}
        | {"digest": digest(data_of(1, kind)), "urls": ["https://store.example.com/blobs/1"]}
        for kind in ("+gzip", "")
    ]
    made.image("non-distributable-layers", layers=[*foreign, made.blob(data_of(99), LAYER_TYPE)])
    return made


def custom_set() -> DataSet:
    made = DataSet()
    children = [made.image(salt="custom", **{"org.opencontainers.conformance": "hi", "conformance": [1, None]})]
    made.index("custom-fields", children=children, **{"org.opencontainers.conformance": {"a": 1.5}})
    return made


def no_layers_set() -> DataSet:
    made = DataSet()
    made.image("no-layers", layers=[])
    return made


SETS = {
    "image": image_set,
    "image-uncompressed": uncompressed_set,
    "large-manifest": large_set,
    "index": index_set,
    "nested-index": nested_set,
    "empty-index": empty_index_set,
    "artifact": artifact_set,
    "artifact-index": artifact_index_set,
    "artifact-without-layers": without_layers_set,
    "artifacts-with-subject": subject_set,
    "index-with-subject": index_subject_set,
    "missing-subject": missing_subject_set,
    "data-field": data_field_set,
    "non-distributable-layers": foreign_set,
    "custom-fields": custom_set,
    "no-layers": no_layers_set,
    "sha512": lambda: index_set("sha512", tagged=False),
    "blake3": lambda: index_set("blake3", tagged=False),
}


@pytest.mark.parametrize("made", SETS.values(), ids=SETS)
async def test_data_set(client: Client, made: Any) -> None:
    """Pushed by digest and by tag, listed, pulled, its referrers listed, deleted newest first."""
    dataset = made()
    for named, data in dataset.blobs.items():
        assert (await client.put(await client.begin(), data, digest=named)).status == 201
    for document in dataset.documents:
        for reference in (document.digest, *document.tags):
            await put_document(client, document, reference)
    await check_tags(client, dataset)
    await check_pulls(client, dataset)
    await check_referrers(client, dataset)
    await check_deletes(client, dataset)


async def put_document(client: Client, document: Document, reference: str, **parameters: str) -> Answer:
    headers = {"Content-Type": document.media_type}
    answer = await client.put(f"/v2/{NAME}/manifests/{reference}", document.body, headers=headers, **parameters)
    assert answer.status == 201, answer
    # By a tag it is called by its sha256.
    expected = document.digest if ":" in reference else digest(document.body)
    assert answer["Docker-Content-Digest"] == expected
    assert answer.get("OCI-Subject") == document.subject
    found = await client.get(answer["Location"], headers=ACCEPTS)
    assert (found.status, found["Content-Type"], found.body) == (200, document.media_type, document.body)
    return answer


ACCEPTS = [("Accept", OCI_INDEX), ("Accept", OCI_MANIFEST)]


async def check_tags(client: Client, dataset: DataSet) -> None:
    tags = sorted(tag for document in dataset.documents for tag in document.tags)
    assert (await client.get(f"/v2/{NAME}/tags/list")).json == {"name": NAME, "tags": tags}
    if tags:
        middle = tags[len(tags) // 2]
        after = (await client.get(f"/v2/{NAME}/tags/list", last=middle)).json["tags"]
        assert after == [tag for tag in tags if tag > middle]


async def check_pulls(client: Client, dataset: DataSet) -> None:
    for document in dataset.documents:
        for reference in (document.digest, *document.tags):
            url = f"/v2/{NAME}/manifests/{reference}"
            head = await client.head(url, headers=ACCEPTS)
            found = await client.get(url, headers=ACCEPTS)
            assert (head.status, head["Content-Length"]) == (200, str(len(document.body)))
            assert head["Content-Type"] == found["Content-Type"] == document.media_type
            assert head["Docker-Content-Digest"] == found["Docker-Content-Digest"]
            assert head["Docker-Content-Digest"] == (document.digest if ":" in reference else digest(document.body))
            assert found.body == document.body
    for named, data in dataset.blobs.items():
        assert (await client.get(f"/v2/{NAME}/blobs/{named}")).body == data


async def check_referrers(client: Client, dataset: DataSet) -> None:
    subjects = {document.subject for document in dataset.documents} - {None}
    for subject in subjects:
        expected = {
            document.digest: document.descriptor
            | {"annotations": document.document.get("annotations", {})}
            | {"artifactType": document.document.get("artifactType") or document.document["config"]["mediaType"]}
            for document in dataset.documents
            if document.subject == subject
        }
        answer = await client.get(f"/v2/{NAME}/referrers/{subject}")
        assert (answer.status, answer["Content-Type"]) == (200, OCI_INDEX)
        found = {each["digest"]: {"annotations": {}, **each} for each in answer.json["manifests"]}
        assert found == expected
        for kind in {each["artifactType"] for each in expected.values()}:
            filtered = await client.get(f"/v2/{NAME}/referrers/{subject}", artifactType=kind)
            assert filtered["OCI-Filters-Applied"] == "artifactType"
            assert {each["digest"] for each in filtered.json["manifests"]} == {
                named for named, each in expected.items() if each["artifactType"] == kind
            }


async def check_deletes(client: Client, dataset: DataSet) -> None:
    for document in reversed(dataset.documents):
        for tag in document.tags:
            assert (await client.delete(f"/v2/{NAME}/manifests/{tag}")).status == 202
            assert (await client.head(f"/v2/{NAME}/manifests/{tag}")).status == 404
            assert (await client.head(f"/v2/{NAME}/manifests/{document.digest}")).status == 200
    for document in reversed(dataset.documents):
        assert (await client.delete(f"/v2/{NAME}/manifests/{document.digest}")).status == 202
        assert (await client.head(f"/v2/{NAME}/manifests/{document.digest}")).status == 404
    for named in dataset.blobs:
        assert (await client.delete(f"/v2/{NAME}/blobs/{named}")).status == 202
        assert (await client.head(f"/v2/{NAME}/blobs/{named}")).status == 404


async def test_all_data_sets_in_one_repository(client: Client) -> None:
    """One after the other, as the suite does: what one deletes, `{}` above all, the next pushes again."""
    for made in SETS.values():
        await test_data_set(client, made)


@ALGORITHMS
async def test_tag_param(client: Client, algorithm: str) -> None:
    """Each tag comes back in OCI-Tag, and can be pulled."""
    dataset = index_set(algorithm, tagged=False)
    for named, data in dataset.blobs.items():
        assert (await client.put(await client.begin(), data, digest=named)).status == 201
    for at, document in enumerate(dataset.documents):
        tags = [f"tag-{at}", f"more-{at}"]
        url = f"/v2/{NAME}/manifests/{document.digest}?tag={tags[0]}&tag={tags[1]}"
        answer = await client.put(url, document.body, headers={"Content-Type": document.media_type})
        assert (answer.status, answer.every("OCI-Tag")) == (201, tags)
        assert answer["Docker-Content-Digest"] == document.digest
        for tag in tags:
            for method in ("HEAD", "GET"):
                found = await client.ask(method, f"/v2/{NAME}/manifests/{tag}")
                assert found["Docker-Content-Digest"] == document.digest
            assert found.body == document.body


async def test_bad_digest_image(client: Client) -> None:
    """A manifest with two blanks more than the one its digest names."""
    dataset = image_set()
    for data in dataset.blobs.values():
        await client.push(data)
    body = dataset.documents[0].body
    headers = {"Content-Type": OCI_MANIFEST}
    answer = await client.put(f"/v2/{NAME}/manifests/{digest(body)}", body + b"  ", headers=headers)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert (await client.get(f"/v2/{NAME}/manifests/{digest(body)}")).status == 404


async def test_sparse(client: Client) -> None:
    """An image without one of its layers and an index without one of its children are refused, with what is missing."""
    dataset = index_set()
    missing = dataset.documents[0].document["layers"][0]["digest"]
    for named, data in dataset.blobs.items():
        if named != missing:
            await client.push(data)
    for document, absent in ((dataset.documents[0], missing), (dataset.documents[2], dataset.documents[0].digest)):
        headers = {"Content-Type": document.media_type}
        answer = await client.put(f"/v2/{NAME}/manifests/{document.digest}", document.body, headers=headers)
        assert (answer.status, answer.code) == (400, "MANIFEST_BLOB_UNKNOWN")
        assert absent in [each["detail"] for each in answer.json["errors"]]


async def test_missing_manifest(client: Client) -> None:
    for reference in (digest(data_of(7)), "missing-tag"):
        answer = await client.get(f"/v2/{NAME}/manifests/{reference}")
        assert (answer.status, answer.code) == (404, "MANIFEST_UNKNOWN")


async def test_invalid_digest_format(client: Client) -> None:
    """Refused before its body is looked at."""
    body = Body(image_set().documents[0].body)
    answer = await client.put(f"/v2/{NAME}/manifests/sha256:baddigeststring", body)
    assert (answer.status, answer.code) == (400, "DIGEST_INVALID")
    assert not body.was_read
    assert (await client.get(f"/v2/{NAME}/manifests/sha256:baddigeststring")).status == 400
