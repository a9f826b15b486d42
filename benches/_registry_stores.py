"""The same images in two stores on one server: in Docker Distribution's layout, and in ours; half of them were deleted."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from _harness import SEED

from blobstore.backends.s3 import S3Client
from blobstore.digest import Digest
from blobstore.store import Store
from tests.servers.processes import S3Server, clean_environment
from tests.tools import require_tool

OCI = "application/vnd.oci.image"
LAYERS = 3
BLOBS_OF_AN_IMAGE = LAYERS + 2
REPOSITORIES = 20
AT_ONCE = 32
ROOT = "distribution/docker/registry/v2"
_CONFIG = """\
version: 0.1
storage:
  s3:
    accesskey: {server.access_key}
    secretkey: {server.secret_key}
    region: us-east-1
    regionendpoint: {server.endpoint}
    bucket: {server.bucket}
    secure: false
    v4auth: true
    rootdirectory: /distribution
  delete:
    enabled: true
  redirect:
    disable: true
"""
_SUMMARY = re.compile(r"(\d+) blobs marked, (\d+) blobs and (\d+) manifests eligible for deletion")


class Image(msgspec.Struct, frozen=True):
    """One that shares nothing, so that it is known how many blobs go with it; tagged in a repository, or deleted."""

    repository: str
    tag: str
    config: bytes
    layers: tuple[bytes, ...]
    manifest: bytes
    is_deleted: bool


def images(count: int) -> Iterator[Image]:
    """Every second one is deleted."""
    for number in range(count):
        config = json.dumps({"os": "linux", "architecture": "amd64", "created_by": f"{SEED} {number}"}).encode()
        layers = tuple(hashlib.shake_128(f"{SEED} {number} {at}".encode()).digest(100) for at in range(LAYERS))
        document = {
            "schemaVersion": 2,
            "mediaType": f"{OCI}.manifest.v1+json",
            "config": _descriptor(config, f"{OCI}.config.v1+json"),
            "layers": [_descriptor(layer, f"{OCI}.layer.v1.tar") for layer in layers],
        }
        # Neighbours differ in their repository: each has some of both.
        repository = f"team/app-{number // 2 % REPOSITORIES:02d}"
        yield Image(repository, f"v{number}", config, layers, json.dumps(document).encode(), number % 2 == 1)


def _descriptor(data: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(data)), "size": len(data)}


# Ours


async def push_all(store: Store, of: Iterable[Image]) -> None:
    """Push all, then delete what is to be deleted."""
    free = asyncio.Semaphore(AT_ONCE)

    async def push(image: Image) -> None:
        async with free:
            repository = store.repository(image.repository)
            for data in (image.config, *image.layers):
                async with repository.open_upload(Digest.of(data)) as upload:
                    await upload.write(data)
                    await upload.commit()
            await repository.put_manifest(image.manifest, tag=image.tag)
            if image.is_deleted:
                await repository.delete_manifest(Digest.of(image.manifest))

    await asyncio.gather(*[push(image) for image in of])


# Docker Distribution's


def distribution_objects(of: Iterable[Image]) -> Iterator[tuple[str, bytes]]:
    """What its release 2.8 leaves in a bucket: of a deleted manifest the data, and the links of its layers."""
    for image in of:
        at = f"{ROOT}/repositories/{image.repository}"
        for data in (image.manifest, image.config, *image.layers):
            name = hashlib.sha256(data).hexdigest()
            yield f"{ROOT}/blobs/sha256/{name[:2]}/{name}/data", data
            if data is not image.manifest:
                yield f"{at}/_layers/sha256/{name}/link", f"sha256:{name}".encode()
        if image.is_deleted:
            continue
        name = hashlib.sha256(image.manifest).hexdigest()
        for link in (
            f"_manifests/revisions/sha256/{name}",
            f"_manifests/tags/{image.tag}/current",
            f"_manifests/tags/{image.tag}/index/sha256/{name}",
        ):
            yield f"{at}/{link}/link", f"sha256:{name}".encode()


async def put_all(client: S3Client, objects: Iterable[tuple[str, bytes]]) -> None:
    """Put them, some at a time."""
    free = asyncio.Semaphore(AT_ONCE)

    async def put(key: str, data: bytes) -> None:
        async with free:
            await client.put(key, data, is_new=False)

    await asyncio.gather(*[put(key, data) for key, data in objects])


class Collected(msgspec.Struct, frozen=True):
    """What its collector said."""

    marked: int
    deleted: int


def garbage_collect(server: S3Server, directory: Path) -> Collected:
    """Run its collector; it wants no other to write meanwhile."""
    program = require_tool("docker-registry")
    config = directory / "registry.yml"
    config.write_text(_CONFIG.format(server=server))
    done = subprocess.run(
        [program, "garbage-collect", str(config)],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(),
        timeout=3600,
    )
    summary = _SUMMARY.search(done.stdout)
    assert done.returncode == 0, (done.stdout[-500:], done.stderr[-2000:])
    assert summary is not None, done.stdout[-500:]
    return Collected(int(summary[1]), int(summary[2]))
