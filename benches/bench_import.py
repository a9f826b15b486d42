"""How fast does an OCI image layout of many small images come in, and how many synced commits does a blob cost?"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import floors
from _harness import OURS, SEED, opened, race, report, sized

from blobstore.importers import import_image
from blobstore.index.lmdb import LmdbIndex
from blobstore.manifest import OCI_INDEX, OCI_MANIFEST

IMAGES = sized(400, 20)
LAYERS = 3
LAYER_BYTES = 16 * 1024
CONFIG_BYTES = 1500


def _make_layout(path: Path) -> list[Path]:
    """A layout of images of a few small layers each; returns its blobs."""
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def noise(name: str, size: int) -> bytes:
        return hashlib.shake_128(f"{SEED} {name}".encode()).digest(size)

    listed = []
    for number in range(IMAGES):
        config = add(noise(f"config {number}", CONFIG_BYTES), "application/vnd.oci.image.config.v1+json")
        layers = [
            add(noise(f"layer {number} {at}", LAYER_BYTES), "application/vnd.oci.image.layer.v1.tar")
            for at in range(LAYERS)
        ]
        document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
        entry = add(json.dumps(document).encode(), OCI_MANIFEST)
        listed.append(entry | {"annotations": {"org.opencontainers.image.ref.name": f"v{number}"}})
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}))
    return sorted(blobs.iterdir())


def bench_import(benchmark: Any, tmp_path: Path) -> None:
    layout, root = tmp_path / "layout", tmp_path / "store"
    paths = _make_layout(layout)
    commits: list[int] = []

    def make(_: int, name: str) -> None:
        if name == OURS:
            shutil.rmtree(root, ignore_errors=True)
            with opened(root):
                pass

    def bring_in(_: int) -> None:
        with opened(root) as (runner, store):
            runner.run(import_image(store, str(layout), "bench/import"))
            assert isinstance(store.index, LmdbIndex)
            commits.append(store.index.commits)

    ours, timed = race(
        benchmark,
        bring_in,
        {
            "read + hash": lambda _: floors.hash_files(paths),
            "read + hash + synced write": lambda _: floors.copy_synced(paths, tmp_path / "copies"),
        },
        rounds=sized(5, 1),
        before=make,
    )
    each = commits[-1] / len(paths)
    note = f"{each:.2f} index commits a blob"
    case = f"import {IMAGES} images, {len(paths):,} blobs"
    for floor in timed:
        report(f"{case}, beside {floor.name}", ours, [floor], target=None, work=len(paths), unit="blobs", note=note)
