"""What tests use instead of the world: a clock that stands still, and small manifests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.manifest import OCI_INDEX, OCI_MANIFEST, Manifest, parse_manifest

START_MS = 1_700_000_000_000
"""When every test begins."""
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN_TYPE = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"


class FakeClock:
    """A `Clock` that only moves when told to."""

    def __init__(self, now_ms: int = START_MS) -> None:
        self._now_ms = now_ms
        self._monotonic_ms = 0

    def now_ms(self) -> int:
        """Wall clock, as far as it was advanced."""
        return self._now_ms

    def monotonic_ms(self) -> int:
        """Milliseconds since the start, as far as it was advanced; no `jump` moves it."""
        return self._monotonic_ms

    def advance(self, ms: int) -> None:
        """Let time pass on both clocks."""
        assert ms >= 0, ms
        self._now_ms += ms
        self._monotonic_ms += ms

    def jump(self, ms: int) -> None:
        """Set the wall clock alone, forward or back, as an administrator would."""
        self._now_ms += ms


def layer(data: bytes, *, is_foreign: bool = False) -> Descriptor:
    """The descriptor of a layer with this content; a foreign one says that its bytes are elsewhere."""
    urls = ("https://layers.example/1",) if is_foreign else ()
    return Descriptor(FOREIGN_TYPE if is_foreign else LAYER_TYPE, Digest.of(data), len(data), urls)


def image(
    config: bytes, layers: Sequence[bytes | Descriptor] = (), *, subject: Manifest | Descriptor | None = None
) -> Manifest:
    """An image manifest over a config and layers, given as content or as descriptors."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": Descriptor(CONFIG_TYPE, Digest.of(config), len(config)).to_json(),
        "layers": [(layer(each) if isinstance(each, bytes) else each).to_json() for each in layers],
    }
    return _parsed(document, subject)


def image_index(children: Sequence[Manifest | Descriptor], *, subject: Manifest | Descriptor | None = None) -> Manifest:
    """An image index over manifests, or over any descriptors, as BuildKit's caches list layers in one."""
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [_descriptor(each).to_json() for each in children],
    }
    return _parsed(document, subject)


def _parsed(document: dict[str, Any], subject: Manifest | Descriptor | None) -> Manifest:
    if subject is not None:
        document["subject"] = _descriptor(subject).to_json()
    return parse_manifest(json.dumps(document).encode())


def _descriptor(named: Manifest | Descriptor) -> Descriptor:
    return Descriptor(named.media_type, named.digest, named.size_bytes)
