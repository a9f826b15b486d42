"""Makes two small OCI images of real files, so that the demo needs no network and no image tool."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

LIBRARY = Path(json.__file__).parent.parent


def main(destination: str) -> None:
    """Write the layouts `red` and `blue` below a directory."""
    shared = layer("json")
    for name, package in (("red", "email"), ("blue", "unittest")):
        write_image(Path(destination) / name, [shared, layer(package)])
        print(f"{name}: layers of {LIBRARY / 'json'} and {LIBRARY / package}")


def layer(package: str) -> bytes:
    """A compressed layer with the source files of a package of Python's library."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in sorted((LIBRARY / package).rglob("*.py")):
            info = tarfile.TarInfo(f"usr/lib/python/{path.relative_to(LIBRARY)}")
            info.size = path.stat().st_size
            with path.open("rb") as file:
                tar.addfile(info, file)
    return gzip.compress(archive.getvalue(), mtime=0)


def write_image(layout: Path, layers: list[bytes]) -> None:
    """Write an OCI image layout with one image."""

    def add(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    described = [add(data, "application/vnd.oci.image.layer.v1.tar+gzip") for data in layers]
    diff_ids = ["sha256:" + hashlib.sha256(gzip.decompress(data)).hexdigest() for data in layers]
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
        "layers": described,
    }
    entry = add(json.dumps(manifest).encode(), str(manifest["mediaType"]))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


if __name__ == "__main__":
    main(sys.argv[1])
