"""What isn't an image: signatures and SBOMs with a subject, Helm charts, BuildKit's cache."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.clients.images import content_of, digest_of, make_image, tar_of
from tests.clients.programs import Program, Skopeo
from tests.clients.registry import Registry
from tests.importers.making import OCI_INDEX, OCI_MANIFEST

SBOM, SIGNATURE = "application/spdx+json", "application/vnd.dev.cosign.artifact.sig.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"


def require_oras() -> Any:
    """Oras' client for Python."""
    try:
        return importlib.import_module("oras.client")
    except ImportError:
        reason = "oras is not installed: pip install oras"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


def push_artifact(
    registry: Registry, repository: str, reference: str | None, kind: str, layers: list[tuple[str, bytes]], **more: Any
) -> str:
    """By hand, as cosign, helm and others do it; returns the digest of the manifest."""
    with registry.client() as client:
        config, config_type = more.pop("config", b"{}"), more.pop("config_type", EMPTY)
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": kind,
            "config": {"mediaType": config_type, "digest": client.push(repository, config), "size": len(config)},
            "layers": [
                {"mediaType": media_type, "digest": client.push(repository, data), "size": len(data)}
                for media_type, data in layers
            ],
            **more,
        }
        body = json.dumps(document).encode()
        name = reference or digest_of(body)
        target = f"/v2/{repository}/manifests/{name}"
        status, headers, said = client.ask("PUT", target, body, {"Content-Type": OCI_MANIFEST})
        assert status == 201, said
        if "subject" in more:
            assert headers["OCI-Subject"] == more["subject"]["digest"]
        return headers["Docker-Content-Digest"]


def referrers_of(registry: Registry, repository: str, digest: str, query: str = "") -> dict[str, str]:
    """Digest to artifactType, as a client sees them."""
    status, headers, body = registry.get(f"/v2/{repository}/referrers/{digest}{query}")
    assert (status, headers["Content-Type"]) == (200, OCI_INDEX)
    if query:
        assert headers["OCI-Filters-Applied"] == "artifactType"
    return {each["digest"]: each["artifactType"] for each in json.loads(body)["manifests"]}


def test_a_signature_and_an_sbom_live_as_long_as_their_subject(tmp_path: Path, skopeo: Skopeo, layout: Path) -> None:
    """They are listed, also one kind of them alone; collections keep them, untagged as they are; they go with the image."""
    with Registry(tmp_path) as registry:
        image = make_image(layout, 5000, salt="signed")
        skopeo.push(image.source, f"{registry.name}/signed:1")
        size = len(image.blobs[image.digest])
        subject = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": size}
        sbom = push_artifact(registry, "signed", None, SBOM, [(SBOM, b'{"spdxVersion": "SPDX-2.3"}')], subject=subject)
        signature = push_artifact(registry, "signed", None, SIGNATURE, [(SIGNATURE, b"signature")], subject=subject)
        # The SBOM is signed as well.
        of_sbom = {"mediaType": OCI_MANIFEST, "digest": sbom, "size": 1}
        status, headers, _ = registry.get(f"/v2/signed/manifests/{sbom}", "HEAD")
        assert status == 200
        of_sbom["size"] = int(headers["Content-Length"])
        second = push_artifact(registry, "signed", None, SIGNATURE, [(SIGNATURE, b"another")], subject=of_sbom)
        both = {sbom: SBOM, signature: SIGNATURE}
        assert referrers_of(registry, "signed", image.digest) == both
        assert referrers_of(registry, "signed", image.digest, f"?artifactType={SBOM}") == {sbom: SBOM}
        registry.frees_at_once()
        assert referrers_of(registry, "signed", image.digest) == both
        assert referrers_of(registry, "signed", sbom) == {second: SIGNATURE}
        assert registry.blob("signed", digest_of(b"signature")) == b"signature"
        skopeo("delete", "--tls-verify=false", f"docker://{registry.name}/signed:1")
        registry.frees_at_once()
        assert referrers_of(registry, "signed", image.digest) == {}
        # What was signed went in that run at the latest, and what signs it in the next.
        registry.frees_at_once()
        for digest in (sbom, signature, second):
            assert registry.digest_of("signed", digest) is None
        for data in (b"signature", b"another"):
            assert registry.blob("signed", digest_of(data)) is None
        assert registry.command("stats")["blobs"] == 0


def test_oras(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files pushed by oras come back byte for byte, and their tag is listed."""
    client = require_oras().OrasClient(hostname=registry.name, insecure=True, tls_verify=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    files = {"report.json": b'{"ok": true}', "large.bin": content_of(3_000_000, "oras")}
    for name, data in files.items():
        (source / name).write_bytes(data)
    monkeypatch.chdir(source)
    answer = client.push(target=f"{registry.name}/by/oras:1", files=list(files))
    assert answer.status_code == 201
    client.pull(target=f"{registry.name}/by/oras:1", outdir=str(target))
    assert {each.name: each.read_bytes() for each in target.iterdir()} == files
    assert client.get_tags(f"{registry.name}/by/oras") == ["1"]


def test_a_helm_chart(registry: Registry, skopeo: Skopeo, tmp_path: Path) -> None:
    """As `helm push` lays it down: a config of its own type, the chart and its provenance as layers."""
    chart, provenance = tar_of(**{"demo/Chart.yaml": b"name: demo\nversion: 0.1.0\n"}), b"-----BEGIN PGP SIGNED"
    config = b'{"name":"demo","version":"0.1.0","apiVersion":"v2"}'
    layers = [
        ("application/vnd.cncf.helm.chart.content.v1.tar+gzip", chart),
        ("application/vnd.cncf.helm.chart.provenance.v1.prov", provenance),
    ]
    helm = "application/vnd.cncf.helm.config.v1+json"
    digest = push_artifact(registry, "charts/demo", "0.1.0", helm, layers, config=config, config_type=helm)
    skopeo.pull(f"{registry.name}/charts/demo:0.1.0", f"oci:{tmp_path / 'back'}:0.1.0")
    found = {each.name: each.read_bytes() for each in (tmp_path / "back" / "blobs" / "sha256").iterdir()}
    assert digest.partition(":")[2] in found
    assert set(found.values()) >= {chart, provenance, config}
    registry.frees_at_once()
    assert registry.blob("charts/demo", digest_of(chart)) == chart


def test_a_buildkit_cache(registry: Registry) -> None:
    """An image index whose `manifests` are layers and a cache's config: taken, kept by collections, and found again."""
    layers = [content_of(2000, f"cache {at}") for at in range(3)]
    cache = json.dumps({"layers": [{"blob": digest_of(each), "parent": -1} for each in layers], "records": []}).encode()
    with registry.client() as client:
        described: list[dict[str, Any]] = [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": client.push("cache", each),
                "size": len(each),
                "annotations": {"containerd.io/uncompressed": digest_of(each)},
            }
            for each in layers
        ]
        kind = "application/vnd.buildkit.cacheconfig.v0"
        described.append({"mediaType": kind, "digest": client.push("cache", cache), "size": len(cache)})
        body = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": described}).encode()
        status, _, said = client.ask("PUT", "/v2/cache/manifests/main", body, {"Content-Type": OCI_INDEX})
        assert status == 201, said
        loose = client.push("cache", b"loose")
    registry.frees_at_once()
    status, headers, found = registry.get("/v2/cache/manifests/main")
    assert (status, headers["Content-Type"], found) == (200, OCI_INDEX, body)
    for data in (*layers, cache):
        assert registry.blob("cache", digest_of(data)) == data
    assert registry.blob("cache", loose) is None
    assert registry.get("/v2/cache/manifests/main", "DELETE")[0] == 202
    registry.frees_at_once()
    for data in (*layers, cache):
        assert registry.blob("cache", digest_of(data)) is None


def test_a_buildkit_cache_is_fetched_by_ctr(registry: Registry, ctr: Program) -> None:
    """An image manifest as BuildKit writes it with `image-manifest=true`."""
    kind = "application/vnd.buildkit.cacheconfig.v0"
    layer = content_of(3000, "image manifest")
    media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    digest = push_artifact(
        registry, "cache2", "main", kind, [(media_type, layer)], config=b'{"layers":[]}', config_type=kind
    )
    name = f"{registry.name}/cache2:main"
    ctr("content", "fetch", "--plain-http", "--all-platforms", name)
    assert digest_of(ctr("content", "get", digest)) == digest
    assert ctr("content", "get", digest_of(layer)) == layer
    ctr("image", "rm", "--sync", name)
