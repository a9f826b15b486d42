"""Manifests: hostile documents are refused before anything is made of them."""

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.digest import Algorithm, Digest
from blobstore.errors import ManifestInvalid, ManifestTooLarge
from blobstore.index import _records as records
from blobstore.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    manifest_references_max,
    manifest_size_max_bytes,
    parse_manifest,
)
from blobstore.testing.fakes import FOREIGN_TYPE, image, image_index, layer

CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": f"sha256:{'0' * 64}", "size": 2}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": f"sha256:{'1' * 64}", "size": 3}


def _image(**fields: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": CONFIG, "layers": [LAYER], **fields}


def _index(**fields: Any) -> dict[str, Any]:
    child = {"mediaType": OCI_MANIFEST, "digest": f"sha256:{'2' * 64}", "size": 9}
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child], **fields}


def _body(document: object) -> bytes:
    return json.dumps(document).encode()


def test_an_image_manifest() -> None:
    """Its parts, its exact bytes, its digest."""
    body = b"  " + _body(_image(annotations={"a": "b"})) + b"\n"
    manifest = parse_manifest(body, OCI_MANIFEST)
    assert (manifest.body, manifest.digest, manifest.size_bytes) == (body, Digest.of(body), len(body))
    assert [reference.kind for reference in manifest.references] == ["blob", "blob"]
    assert manifest.annotations == {"a": "b"}
    assert manifest.listed_artifact_type == CONFIG["mediaType"]
    assert not manifest.is_image_index


def test_an_image_index() -> None:
    """Children that are manifests are told from layers that BuildKit lists; attestations are no platform."""
    children = [
        {**LAYER, "mediaType": OCI_MANIFEST, "platform": {"os": "linux", "architecture": "arm64", "variant": "v8"}},
        {**CONFIG, "mediaType": OCI_MANIFEST, "platform": {"os": "unknown", "architecture": "unknown"}},
        {"mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": f"sha256:{'3' * 64}", "size": 1},
    ]
    manifest = parse_manifest(_body(_index(manifests=children)))
    assert [reference.kind for reference in manifest.references] == ["manifest", "manifest", "blob"]
    assert [str(platform) for platform in manifest.platforms] == ["linux/arm64/v8"]


def test_each_digest_is_referred_to_once() -> None:
    """Also where it is config and layer at once; the subject is no reference."""
    manifest = parse_manifest(
        _body(_image(layers=[CONFIG, LAYER, LAYER], subject={**LAYER, "digest": f"sha256:{'9' * 64}"}))
    )
    assert [str(reference.digest) for reference in manifest.references] == [CONFIG["digest"], LAYER["digest"]]
    assert manifest.subject is not None


def test_foreign_layers_need_urls_and_a_foreign_type() -> None:
    """Neither alone makes a layer one that need not be here."""
    urls = ["https://example.test/x"]
    layers = [
        {**LAYER, "mediaType": FOREIGN_TYPE, "digest": f"sha256:{'3' * 64}", "urls": urls},
        {**LAYER, "mediaType": FOREIGN_TYPE, "digest": f"sha256:{'4' * 64}"},
        {**LAYER, "digest": f"sha256:{'5' * 64}", "urls": urls},
        {
            **LAYER,
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest": f"sha256:{'6' * 64}",
            "urls": urls,
        },
    ]
    kinds = [reference.kind for reference in parse_manifest(_body(_image(layers=layers))).references]
    assert kinds == ["blob", "foreign", "blob", "blob", "foreign"]


def test_builders_make_manifests() -> None:
    """What the fakes build is what they say."""
    child = image(b"{}", [b"one", layer(b"two", is_foreign=True)])
    parent = image_index([child, layer(b"three")], subject=child)
    assert [reference.digest for reference in parent.references] == [child.digest, Digest.of(b"three")]
    assert parent.subject is not None
    assert parent.subject.digest == child.digest


@pytest.mark.parametrize(
    ("document", "sent_as", "decided"),
    [
        (_image(), None, OCI_MANIFEST),
        (_image(mediaType=None), None, OCI_MANIFEST),
        (_image(mediaType=None), OCI_MANIFEST, OCI_MANIFEST),
        (_index(mediaType=None), None, OCI_INDEX),
        (_image(mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST, DOCKER_MANIFEST),
        (_index(mediaType=DOCKER_LIST), None, DOCKER_LIST),
        (_index(manifests=[]), None, OCI_INDEX),
        (_image(layers=[]), None, OCI_MANIFEST),
    ],
)
def test_media_types(document: dict[str, Any], sent_as: str | None, decided: str) -> None:
    """What it was sent as, else what it says, else its shape decides."""
    assert parse_manifest(_body(document), sent_as).media_type == decided


@pytest.mark.parametrize(
    ("document", "sent_as"),
    [
        (_image(), OCI_INDEX),
        (_image(), DOCKER_MANIFEST),
        (_image(mediaType=None), DOCKER_MANIFEST),
        (_index(mediaType=None), DOCKER_LIST),
        (_index(), OCI_MANIFEST),
        (_image(mediaType="application/json"), None),
        (_image(mediaType=""), None),
        (_image(mediaType=f"{OCI_MANIFEST}; charset=utf-8"), None),
        (_image(mediaType=OCI_MANIFEST.upper()), None),
        (_image(manifests=[]), None),
        (_image(fsLayers=[]), None),
        (_index(layers=[]), None),
        (_index(config=CONFIG), None),
        (_index(mediaType=None, layers=[LAYER], config=CONFIG), None),
        (_index(mediaType=None, layers=[LAYER], config=CONFIG), OCI_MANIFEST),
        (_image(config=None), None),
        (_image(layers=None), None),
        (_index(manifests=None), None),
        (_image(schemaVersion=1), None),
        (_image(schemaVersion="2"), None),
        ({"mediaType": OCI_MANIFEST, "config": CONFIG, "layers": []}, None),
        (_image(layers={}), None),
        (_image(layers=[[LAYER]]), None),
        (_image(annotations={"a": 1}), None),
        (_image(config={**CONFIG, "size": -1}), None),
        (_image(config={**CONFIG, "size": 2**63}), None),
        (_image(config={**CONFIG, "size": "2"}), None),
        (_image(config={**CONFIG, "size": True}), None),
        (_image(config={**CONFIG, "size": 1.5}), None),
        (_image(config={**CONFIG, "digest": CONFIG["digest"].upper()}), None),
        (_image(config={**CONFIG, "digest": CONFIG["digest"] + "\n"}), None),
        (_image(config={**CONFIG, "digest": ""}), None),
        (_image(config={"digest": CONFIG["digest"], "size": 2}), None),
        (_image(subject={**CONFIG, "digest": "latest"}), None),
        (_image(layers=[LAYER] * (manifest_references_max + 1)), None),
        ([], None),
        ("manifest", None),
        (None, None),
        (2, None),
    ],
)  # fmt: skip
def test_refused(document: object, sent_as: str | None) -> None:
    """Contradictions, wrong types, image and index at once, references that are none."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(_body(document), sent_as)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"{}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{'a': 1}", b"[" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        _body(_image())[:-1] + b', "schemaVersion": 2}',
        _body(_image())[:-1] + b', "x": {"y": {"k": 1, "k": 1}}}',
        _body(_image())[:-1] + b', "config": {}}',
        _body(_image())[:-1] + b', "x": NaN}',
        _body(_image())[:-1] + b', "x": -Infinity}',
        _body(_image())[:-1] + b', "x": ' + b"9" * 10_000 + b"}",
        _body(_image()) + b"{}",
        _body(_image()).decode().encode("utf-16"),
        _body(_image())[:-1] + b', "x": "\xff"}',
        _body(_image())[:-1] + b', "x": "a\nb"}',
    ],
    ids=lambda body: repr(body[-20:]),
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    """Cut, nested too deeply, a key twice at any depth, constants and encodings that JSON does not have."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(body)


@pytest.mark.parametrize(
    "document",
    [
        _image(Layers=[]),
        _image(MANIFESTS=[]),
        {**_image(), "\u017fubject": None},
        _image(config={**CONFIG, "Digest": LAYER["digest"]}),
        _image(layers=[LAYER, {**LAYER, "DIGEST": CONFIG["digest"]}]),
        _image(subject={**LAYER, "mediatype": "a/b"}),
    ],
)
def test_a_key_in_another_case_is_refused(document: dict[str, Any]) -> None:
    """Clients that take `Layers` for `layers` would pull blobs that nothing keeps."""
    with pytest.raises(ManifestInvalid, match="would be taken for"):
        parse_manifest(json.dumps(document).encode())


def test_annotations_may_be_called_what_they_like() -> None:
    """Their keys are the user's own, as are fields that no specification knows."""
    assert (
        parse_manifest(_body(_image(annotations={"Layers": "3", "SIZE": "1"}, Author="me"))).annotations["SIZE"] == "1"
    )


@pytest.mark.parametrize("field", ["artifactType", "annotations", "config", "layers"])
def test_text_that_no_row_can_hold_is_refused(field: str) -> None:
    """A lone surrogate can't be written as UTF-8: refused here, or harmless in the index and in listings."""
    broken: dict[str, Any] = {
        "artifactType": "a\ud800",
        "annotations": {"a": "\udfff"},
        "config": {**CONFIG, "mediaType": "a\ud800"},
        "layers": [{**LAYER, "mediaType": "a\ud800"}],
    }
    body = json.dumps(_image(**{field: broken[field]})).encode()
    with pytest.raises(ManifestInvalid):
        parse_manifest(body)


def test_the_size_limit() -> None:
    """4 MiB are taken, one byte more is not."""
    body = _body(_image())
    whole = body + b" " * (manifest_size_max_bytes - len(body))
    assert parse_manifest(whole).size_bytes == manifest_size_max_bytes
    with pytest.raises(ManifestTooLarge):
        parse_manifest(whole + b" ")


def test_many_references_are_taken() -> None:
    """As many as the limit says."""
    layers = [{**LAYER, "digest": f"sha256:{each + 1:064x}"} for each in range(manifest_references_max)]
    body = json.dumps(_image(layers=layers), separators=(",", ":")).encode()
    assert len(body) < manifest_size_max_bytes
    assert len(parse_manifest(body).references) == manifest_references_max + 1


def test_a_late_duplicate_key_is_found_quickly() -> None:
    """Finding which key stands twice does not take the square of their number."""
    keys = ",".join(f'"{each}":1' for each in range(30_000))
    body = f'{{{keys},"29999":1}}'.encode()
    began = time.process_time()
    with pytest.raises(ManifestInvalid, match="29999"):
        parse_manifest(body)
    assert time.process_time() - began < 2


@pytest.mark.parametrize("algorithm", Algorithm)
def test_inline_data_must_be_the_content(algorithm: Algorithm) -> None:
    """Of the size and digest that the descriptor says, in plain base64."""
    data = b"{}"
    right = {**CONFIG, "digest": str(Digest.of(data, algorithm)), "size": 2, "data": base64.b64encode(data).decode()}
    assert parse_manifest(_body(_image(config=right))).config is not None
    for wrong in (
        {"data": base64.b64encode(b"[]").decode()},
        {"data": base64.b64encode(b"{} ").decode()},
        {"data": ""},
        {"data": "e30"},
        {"data": "e30=\n"},
        {"data": "*"},
        {"data": "é"},
        {"size": 3},
    ):
        with pytest.raises(ManifestInvalid):
            parse_manifest(_body(_image(config={**right, **wrong})))


@given(st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["schemaVersion", "mediaType", "config", "layers", "manifests", "subject", "digest", "size", "urls"]
    ), inner, max_size=4),
    max_leaves=10,
), st.sampled_from([None, OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST]))  # fmt: skip
def test_any_json_is_taken_or_refused(document: object, sent_as: str | None) -> None:
    """There is no other error than ours, and what is taken fits into a row."""
    for each in (document, {"schemaVersion": 2, "config": CONFIG, "layers": document}):
        try:
            manifest = parse_manifest(_body(each), sent_as)
        except ManifestInvalid:
            continue
        records.encode(records.ManifestRow(manifest.media_type, manifest.artifact_type, None, 1, 1, 1, 1, 1, False))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(body: bytes) -> None:
    """There is no other error than ours."""
    with pytest.raises(ManifestInvalid):
        parse_manifest(body)
