"""Image archives made by hand, and looks into a repository."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import blobstore
from blobstore.digest import Algorithm, Digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"


class LayoutMaker:
    """Builds an image layout as a dict of path to bytes, so that a test can spoil any of it before it is written."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
        self.entries: list[dict[str, Any]] = []

    def blob(self, data: bytes, media_type: str = OCI_LAYER, algorithm: Algorithm = Algorithm.SHA256) -> dict[str, Any]:
        digest = Digest.of(data, algorithm)
        self.files[f"blobs/{algorithm.value}/{digest.hex}"] = data
        return {"mediaType": media_type, "digest": str(digest), "size": len(data)}

    def image(self, *layers: dict[str, Any], config: bytes = b"{}", **more: Any) -> dict[str, Any]:
        document = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": self.blob(config, OCI_CONFIG),
            "layers": list(layers),
            **more,
        }
        return self.blob(json.dumps(document).encode(), OCI_MANIFEST)

    def image_index(self, *children: dict[str, Any], **more: Any) -> dict[str, Any]:
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(children), **more}
        return self.blob(json.dumps(document).encode(), OCI_INDEX)

    def enter(self, descriptor: dict[str, Any], ref_name: str | None = None, **annotations: str) -> None:
        noted = {**annotations, **({REF_NAME: ref_name} if ref_name is not None else {})}
        self.entries.append({**descriptor, **({"annotations": noted} if noted else {})})

    def all_files(self) -> dict[str, bytes]:
        index = json.dumps({"schemaVersion": 2, "manifests": self.entries}).encode()
        return {"index.json": index, **self.files}

    def write_directory(self, path: Path) -> str:
        for name, data in self.all_files().items():
            target = path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        return str(path)

    def write_tar(self, path: Path) -> str:
        return write_tar(path, self.all_files())


def write_tar(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> str:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return str(path)


def docker_files(layers: dict[str, bytes], repo_tags: list[str] | None, **config: Any) -> dict[str, bytes]:
    """The files of a `docker save` of before version 25, with one image."""
    diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers.values()]
    body = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}} | config
    )
    name = f"{hashlib.sha256(body.encode()).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": repo_tags, "Layers": list(layers)}]
    return {name: body.encode(), **layers, "manifest.json": json.dumps(manifest).encode()}


async def read_blob(repository: blobstore.Repository, digest: str) -> bytes:
    async with repository.open_blob(Digest.parse(digest)) as blob:
        return await blob.read()


async def tags_of(repository: blobstore.Repository) -> dict[str, str]:
    return {entry.tag: str(entry.digest) async for entry in repository.tags()}


async def open_uploads(store: blobstore.Store) -> int:
    return (await store.totals()).uploads
