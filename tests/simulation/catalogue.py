"""The few blobs and manifests that the simulation pushes: few, so that repositories, collections and crashes meet in them."""

from __future__ import annotations

from blobstore.descriptor import Descriptor
from blobstore.digest import Algorithm, Digest
from blobstore.manifest import Manifest
from blobstore.testing.fakes import LAYER_TYPE, image, image_index, layer

REPOSITORIES = ("app", "library/base")
TAGS = ("latest", "v1")

_LAYERS = [b"layer %d" % number for number in range(4)]
_CONFIGS = [b"config 0", b"config 1"]
_LARGE = b"large " * 50_000
"""Large enough to be written to the backend before its commit."""
CONTENTS = {content.decode(): content for content in (*_LAYERS, *_CONFIGS)} | {"large": _LARGE, "empty": b""}


def _octets(manifest: Manifest) -> Descriptor:
    return Descriptor("application/octet-stream", manifest.digest, manifest.size_bytes)


def _manifests() -> dict[str, Manifest]:
    found: dict[str, Manifest] = {}
    found["plain"] = image(_CONFIGS[0], _LAYERS[:2])
    found["sibling"] = image(_CONFIGS[0], _LAYERS[1:3])
    found["other"] = image(_CONFIGS[1], _LAYERS[3:])
    found["with a large layer"] = image(_CONFIGS[1], [_LARGE, layer(_LAYERS[0], is_foreign=True)])
    by_sha512 = Descriptor(LAYER_TYPE, Digest.of(_LAYERS[0], Algorithm.SHA512), len(_LAYERS[0]))
    found["by sha512"] = image(_CONFIGS[1], [by_sha512])
    found["keeps bytes of a manifest"] = image(_CONFIGS[0], [_octets(found["other"])])
    found["signature"] = image(_CONFIGS[1], [_LAYERS[2]], subject=found["plain"])
    found["signature of signature"] = image(_CONFIGS[0], [], subject=found["signature"])
    found["platforms"] = image_index([found["plain"], found["sibling"]])
    found["nested"] = image_index([found["platforms"], found["signature"]])
    found["cache"] = image_index([layer(_LAYERS[3]), found["other"]])
    found["signature of platforms"] = image(_CONFIGS[0], [_LAYERS[3]], subject=found["platforms"])
    # A hostile one: each keeps the other.
    found["ring"] = image_index([found["other"]], subject=found["other"])
    return found


MANIFESTS = _manifests()
BY_DIGEST = {manifest.digest: manifest for manifest in MANIFESTS.values()}
DIGESTS = {name: Digest.of(content) for name, content in CONTENTS.items()} | {
    name: manifest.digest for name, manifest in MANIFESTS.items()
}
"""Of all blobs, manifests among them."""
assert len(DIGESTS) == len(CONTENTS) + len(MANIFESTS)
NAMES = {digest: name for name, digest in DIGESTS.items()}
_SHA256 = {Digest.of(content, Algorithm.SHA512): Digest.of(content) for content in CONTENTS.values()}
BYTES = {Digest.of(content): content for content in CONTENTS.values()} | {
    manifest.digest: manifest.body for manifest in MANIFESTS.values()
}
CONTENT_OF = {Digest.of(content, Algorithm.SHA512): content for content in CONTENTS.values()} | BYTES
"""By any digest that a manifest uses."""
BLOBS = tuple(Digest.of(content) for content in CONTENTS.values())


def needs(manifest: Manifest) -> set[Digest]:
    """All that a manifest keeps, itself among it, by sha256."""
    kept = {reference.digest for reference in manifest.references if reference.kind != "foreign"}
    return {_SHA256.get(digest, digest) for digest in kept} | {manifest.digest}


def children(manifest: Manifest) -> list[Manifest]:
    """The manifests that an image index lists as such."""
    return [BY_DIGEST[each.digest] for each in manifest.references if each.kind == "manifest"]


def family(manifest: Manifest) -> list[Manifest]:
    """A manifest and all the manifests below it, the lowest first."""
    return [*(each for child in children(manifest) for each in family(child)), manifest]
