"""What observers are told: each push, pull and delete once, and the answer to every request."""

from __future__ import annotations

import json

import pytest

from blobstore.server.protocol import observing
from blobstore.server.protocol.access import Forbidden, Principal
from blobstore.server.protocol.observing import Answered, Observation
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store
from tests.spec.access import Granted
from tests.spec.client import NAME, OCI_MANIFEST, Client, digest

DATA = b"layer one"


class Heard(list[Observation]):
    """All that was told."""

    def take(self) -> list[Observation]:
        """What happened since, without the answers."""
        found = [each for each in self if not isinstance(each, Answered)]
        self.clear()
        return found


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def alice(store: Store, heard: Heard) -> Client:
    access = Granted()
    access.principal = Principal("alice")
    return Client(Registry(store, access=access, observer=heard.append))


async def test_a_push(alice: Client, heard: Heard) -> None:
    """Of blobs in both ways, and of a manifest with its tags."""
    location = await alice.begin()
    (told,) = heard.take()
    assert isinstance(told, observing.UploadStarted)
    await alice.patch(location, DATA)
    assert heard.take() == []
    await alice.put(location, digest=digest(DATA, "sha512"))
    (pushed,) = heard.take()
    assert isinstance(pushed, observing.BlobPushed)
    assert (str(pushed.digest), pushed.size_bytes) == (digest(DATA, "sha512"), len(DATA))
    assert (pushed.repository, pushed.principal.name, pushed.request.method) == (NAME, "alice", "PUT")
    named = await alice.push_image("v1")
    manifest = heard.take()[-1]
    assert isinstance(manifest, observing.ManifestPushed)
    assert (str(manifest.digest), manifest.tags, manifest.media_type) == (named, ("v1",), OCI_MANIFEST)
    assert manifest.size_bytes == len((await alice.get(f"/v2/{NAME}/manifests/v1")).body)
    # Pushed again, as its answer was lost: told once.
    heard.take()
    await alice.put(location, digest=digest(DATA, "sha512"))
    assert heard.take() == []


async def test_a_pull(alice: Client, heard: Heard) -> None:
    """GET, not HEAD, nor what is unchanged."""
    named = await alice.push_image("v1")
    heard.take()
    for reference, tag in (("v1", "v1"), (named, None)):
        url = f"/v2/{NAME}/manifests/{reference}"
        await alice.head(url)
        await alice.get(url, headers={"If-None-Match": named})
        assert heard.take() == []
        await alice.get(url)
        (pulled,) = heard.take()
        assert isinstance(pulled, observing.ManifestPulled)
        assert (str(pulled.digest), pulled.tag) == (named, tag)
    url = f"/v2/{NAME}/blobs/{digest(DATA)}"
    await alice.head(url)
    await alice.get(url, headers={"Range": "bytes=99-"})
    assert heard.take() == []
    await alice.get(url)
    (blob,) = heard.take()
    assert isinstance(blob, observing.BlobPulled)
    assert (str(blob.digest), blob.size_bytes) == (digest(DATA), len(DATA))


async def test_deletes(alice: Client, heard: Heard) -> None:
    """Of a tag, a manifest, a blob and an upload; what wasn't there is not told."""
    named = await alice.push_image("v1")
    location = await alice.begin()
    heard.take()
    urls = [f"/v2/{NAME}/manifests/v1", f"/v2/{NAME}/manifests/{named}", f"/v2/{NAME}/blobs/{digest(DATA)}", location]
    for url in urls * 2:
        await alice.delete(url)
    tag, manifest, blob, upload = heard.take()
    assert isinstance(tag, observing.TagDeleted)
    assert tag.tag == "v1"
    assert isinstance(manifest, observing.ManifestDeleted)
    assert str(manifest.digest) == named
    assert isinstance(blob, observing.BlobDeleted)
    assert str(blob.digest) == digest(DATA)
    assert isinstance(upload, observing.UploadCancelled)


async def test_every_answer(alice: Client, heard: Heard, store: Store) -> None:
    """With a label of few values, who asked, and what went wrong."""
    await alice.get("/v2/")
    await alice.get(f"/v2/{NAME}/manifests/v1")
    await alice.get("/v2/UPPER/tags/list")
    await alice.get("/elsewhere")
    answers = [each for each in heard if isinstance(each, Answered)]
    assert [(each.endpoint, each.status, each.repository) for each in answers] == [
        ("base", 200, None),
        ("manifest", 404, NAME),
        ("tags", 400, None),
        ("none", 404, None),
    ]
    assert [each.principal.name if each.principal else None for each in answers] == ["alice", "alice", None, None]
    assert [type(each.error).__name__ for each in answers] == ["NoneType", "ManifestUnknown", "NameInvalid", "Problem"]
    access = Granted()
    access.refusal = Forbidden("not you")
    heard.clear()
    refused = Client(Registry(store, RegistrySettings(read_only=True), access, observer=heard.append))
    await refused.delete(f"/v2/{NAME}/manifests/v1")
    (told,) = heard
    assert isinstance(told, Answered)
    assert (told.status, told.error) == (403, access.refusal)


async def test_what_is_told_can_be_written(alice: Client, heard: Heard) -> None:
    """Names and digests as text, for a line of a log."""
    await alice.push_image("v1")
    for told in heard.take():
        fields = {name: str(getattr(told, name)) for name in told.__struct_fields__ if name != "request"}
        assert json.loads(json.dumps(fields))["repository"] == NAME
