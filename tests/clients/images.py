"""Images that every client can unpack, as image layouts on the disk: tars, compressed, and the config that belongs to them."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import msgspec

from tests.importers.making import LayoutMaker

LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"


class Image(msgspec.Struct, frozen=True):
    """What was made: descriptors as the manifest has them, and the bytes behind them."""

    layout: Path
    tag: str
    digest: str
    blobs: dict[str, bytes]
    layers: list[str]
    diff_ids: list[str]

    @property
    def source(self) -> str:
        """How skopeo, buildah and podman name it."""
        return f"oci:{self.layout}:{self.tag}"


def content_of(size: int, salt: object) -> bytes:
    """Bytes that nobody can compress; the same for the same salt."""
    return hashlib.shake_128(str(salt).encode()).digest(size)


def digest_of(data: bytes) -> str:
    """As the registry names it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def tar_of(**files: bytes) -> bytes:
    """A layer that is not compressed."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def add_image(maker: LayoutMaker, tars: list[bytes], architecture: str = "amd64", **more: Any) -> dict[str, Any]:
    """Put an image of these layers into a layout; returns its descriptor."""
    layers = [maker.blob(gzip.compress(each, 1, mtime=0), LAYER_GZIP) for each in tars]
    config = {
        "architecture": architecture,
        "os": "linux",
        "created": "2026-01-01T00:00:00Z",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in tars]},
        "history": [{"created": "2026-01-01T00:00:00Z", "created_by": f"layer {at}"} for at in range(len(tars))],
    }
    found = maker.image(*layers, config=json.dumps(config).encode(), **more)
    return {**found, "platform": {"architecture": architecture, "os": "linux"}}


def make_image(directory: Path, *sizes: int, salt: object = "", shared: tuple[bytes, ...] = ()) -> Image:
    """A layout with one image, tagged `1`: the shared layers first, then one of each size."""
    tars = [*shared, *(tar_of(**{f"file-{at}": content_of(size, f"{salt} {at}")}) for at, size in enumerate(sizes))]
    maker = LayoutMaker()
    descriptor = add_image(maker, tars)
    maker.enter(descriptor, "1")
    return write(maker, directory, descriptor["digest"], tars)


def write(maker: LayoutMaker, directory: Path, digest: str, tars: list[bytes]) -> Image:
    """Write a layout whose only tag is `1`."""
    maker.write_directory(directory)
    blobs = {f"sha256:{name.rpartition('/')[2]}": data for name, data in maker.files.items() if "/" in name}
    document = json.loads(blobs[digest])
    layers = [each["digest"] for each in document.get("layers", [])]
    return Image(directory, "1", digest, blobs, layers, [digest_of(each) for each in tars])


def blobs_of(layout: Path) -> dict[str, bytes]:
    """All that a layout on the disk holds."""
    return {f"sha256:{each.name}": each.read_bytes() for each in (layout / "blobs" / "sha256").iterdir()}
