"""Documents as JSON: manifests, collection plans, the marker of a store."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from blobstore import manifest as limits
from blobstore.abc.records import Drop, IndexIdentity, ManifestKey, Totals
from blobstore.backends.memory import MemoryBackend
from blobstore.descriptor import WireDescriptor
from blobstore.digest import Digest
from blobstore.errors import ForeignStore, FormatUnsupported, ManifestInvalid, ManifestTooLarge, StoreFrozen
from blobstore.gc.plan import Abandoned, Candidate, Due, Later, Plan, Seconds, decode_plan, encode_plan
from blobstore.gc.policy import GcPolicy
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.layout import MARKER_KEY
from blobstore.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX_TYPES,
    MANIFEST_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    Manifest,
    parse_manifest,
)
from blobstore.marker import _encode, check_marker, new_marker, read_marker
from blobstore.names import RepositoryName, UploadId
from tests.fuzz.attempts import finished, taken

SENT_AS = (None, OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST, "application/json")


def fuzz_manifest(data: bytes) -> None:
    """The first byte says which type it was sent as. What is taken is one kind of document under every reading of it, within
    the limits, can be written again, and fits into a row."""
    if not data:
        return
    sent_as, body = SENT_AS[data[0] % len(SENT_AS)], data[1:]
    is_large = len(body) > limits.manifest_size_max_bytes
    manifest = taken(parse_manifest, body, sent_as, raises=ManifestTooLarge if is_large else ManifestInvalid)
    if manifest is None:
        return
    assert not is_large
    assert (manifest.body, manifest.digest, manifest.size_bytes) == (body, Digest.of(body), len(body))
    _check_kind(manifest, sent_as)
    _check_references(manifest)
    row = records.ManifestRow(manifest.media_type, manifest.listed_artifact_type, None, len(body), 1, 1, 0, 1, False)
    assert records.MANIFEST.decode(records.encode(row)) == row


def _check_kind(manifest: Manifest, sent_as: str | None) -> None:
    document = json.loads(manifest.body)
    assert document["schemaVersion"] == 2
    assert manifest.media_type in MANIFEST_TYPES
    assert {sent_as, document.get("mediaType")} <= {None, manifest.media_type}
    present = {key for key in ("config", "layers", "manifests", "fsLayers") if document.get(key) is not None}
    assert present == ({"manifests"} if manifest.media_type in INDEX_TYPES else {"config", "layers"})


def _check_references(manifest: Manifest) -> None:
    named = [*manifest.layers, *manifest.manifests]
    assert len(named) <= limits.manifest_references_max
    named += [each for each in (manifest.config, manifest.subject) if each is not None]
    for descriptor in named:
        written = msgspec.json.decode(msgspec.json.encode(descriptor.to_json()), type=WireDescriptor)
        again = written.checked("it")
        # What is empty is left out.
        assert again == msgspec.structs.replace(descriptor, artifact_type=descriptor.artifact_type or None)
        assert 0 <= descriptor.size_bytes < 2**63
    kept = [reference.digest for reference in manifest.references]
    assert len(kept) == len(set(kept))
    needed = {each.digest for each in named if each is not manifest.subject}
    assert set(kept) == needed


def fuzz_plan(data: bytes) -> None:
    """A plan that is taken is written the same again."""
    plan = taken(decode_plan, data, raises=FormatUnsupported)
    if plan is not None:
        assert decode_plan(encode_plan(plan)) == plan
        assert len(plan.drops) == sum(map(len, plan.groups))


def fuzz_marker(data: bytes) -> None:
    """A marker says whose store this is, or is refused; a damaged one never lets an index go on."""
    backend = MemoryBackend()
    backend._objects[MARKER_KEY] = data
    marker = taken(lambda: finished(read_marker(backend)), raises=FormatUnsupported)
    identity = IndexIdentity("store-1", "index-1")
    if marker is None:
        # Refused again, wherever it is asked for.
        assert taken(lambda: finished(check_marker(backend, identity)) or True, raises=FormatUnsupported) is None
        return
    is_ours = taken(lambda: finished(check_marker(backend, identity)) or True, raises=(ForeignStore, StoreFrozen))
    assert bool(is_ours) == (marker.identity == identity and marker.state == "ready")
    backend._objects[MARKER_KEY] = _encode(marker)
    assert finished(read_marker(backend)) == marker


def _plan() -> Plan:
    digest, repository = Digest.of(b"x"), RepositoryName("a/b")
    key = ManifestKey(repository, digest)
    return Plan(
        run="0123456789abcdef",
        store_id="store-1",
        now_ms=1_700_000_000_000,
        is_full=True,
        policy=GcPolicy(),
        totals=Totals(*[0] * len(Totals.__struct_fields__)),
        groups=((Drop(key, "untagged"),),),
        candidates=(Candidate(digest, 5, "unreferenced", 7, key, True),),
        due=(Due(None, Generation(1, 2), 5), Due(digest, Generation(1, 3), 6)),
        later=Later(1, 2),
        abandoned=(Abandoned(UploadId("0123456789abcdef" * 2), 5),),
        untagged_kept=1,
        untagged_kept_bytes=None,
        seconds=Seconds(),
    )


def _seed(sent_as: str | None, document: dict[str, Any]) -> bytes:
    return bytes([SENT_AS.index(sent_as)]) + json.dumps(document).encode()


def _described(media_type: str, digit: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digit * 64}", "size": 3, **more}


_CONFIG = _described("application/vnd.oci.image.config.v1+json", "0", digest=str(Digest.of(b"{}")), size=2, data="e30=")
_FOREIGN = _described("application/vnd.oci.image.layer.nondistributable.v1.tar", "1", urls=["https://a.example"])
_LAYER = _described("application/vnd.oci.image.layer.v1.tar", "2", annotations={"a": "b"})
_CHILD = _described(OCI_MANIFEST, "3", platform={"os": "linux", "architecture": "arm", "variant": "v7"})
_IMAGE = {"schemaVersion": 2, "config": _CONFIG, "layers": [_LAYER, _FOREIGN], "annotations": {"k": "v"}}
_INDEX = {"schemaVersion": 2, "manifests": [_CHILD, _LAYER]}

MANIFEST_SEEDS = [
    _seed(None, _IMAGE),
    _seed(None, _INDEX),
    _seed(OCI_MANIFEST, {**_IMAGE, "mediaType": OCI_MANIFEST, "subject": _CHILD, "artifactType": "a/b"}),
    _seed(OCI_INDEX, {**_INDEX, "mediaType": OCI_INDEX}),
    _seed(DOCKER_MANIFEST, {**_IMAGE, "mediaType": DOCKER_MANIFEST}),
    _seed(DOCKER_LIST, {**_INDEX, "mediaType": DOCKER_LIST}),
    *(_seed(sent_as, {**_IMAGE, **_INDEX, "mediaType": sent_as}) for sent_as in SENT_AS[:5]),
    _seed(None, {"schemaVersion": 2, "config": _CONFIG, "layers": [_described("t", f"{n:x}") for n in range(16)]}),
    _seed(None, {**_IMAGE, "x": [[[[{"a": "\ud800"}]]]]}),
]
PLAN_SEEDS = [encode_plan(_plan()), msgspec.json.encode(json.loads(encode_plan(_plan())))]
MARKER_SEEDS = [
    _encode(new_marker(IndexIdentity("store-1", "index-1"))),
    _encode(new_marker(IndexIdentity("store-1", "index-2"), "rebuilding")),
    b'{"format":2,"store_id":"a","index_id":"b"}',
]
