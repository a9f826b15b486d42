"""What `docker save` wrote before it wrote OCI layouts, and what Skopeo and Podman call docker-archive. All of it blocks.

There is no manifest in it: `manifest.json` names a config and uncompressed layers by path. A Docker schema 2 manifest is made of
them, the same for the same archive. A layer's digest is what the config says of it (`rootfs.diff_ids`), and is verified when
the layer is read.
"""

from __future__ import annotations

from contextlib import ExitStack

import msgspec

from blobstore.descriptor import Descriptor
from blobstore.digest import Digest
from blobstore.errors import ArchiveInvalid, DigestInvalid
from blobstore.importers._sources import Content, Entry, HeldBytes, Source, TarFiles, decode_document, read_small
from blobstore.importers.oci_layout import tag_of_reference
from blobstore.manifest import DOCKER_MANIFEST

MANIFEST_FILE = "manifest.json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar"

docker_images_max = 10_000

_GZIP_MAGIC = b"\x1f\x8b"


class _Image(msgspec.Struct):
    config: str = msgspec.field(name="Config")
    repo_tags: list[str] | None = msgspec.field(name="RepoTags", default=None)
    layers: list[str] | None = msgspec.field(name="Layers", default=None)


class _RootFs(msgspec.Struct):
    diff_ids: list[str] | None = None


class _Config(msgspec.Struct):
    rootfs: _RootFs


class DockerArchive(Source):
    """An archive of the older `docker save` format; nothing was read of it yet."""

    def __init__(self, files: TarFiles) -> None:
        self.location, self._files = files.location, files
        self._contents: dict[Digest, Content] = {}

    def entries(self) -> list[Entry]:
        """See `Source.entries`."""
        images = decode_document(
            self._files.read_json(MANIFEST_FILE), f"{MANIFEST_FILE} in {self.location}", list[_Image]
        )
        if len(images) > docker_images_max:
            raise ArchiveInvalid(f"{self.location} holds {len(images)} images; at most {docker_images_max} are read")
        found: dict[Digest, Entry] = {}
        for image in images:
            entry = self._entry(image)
            known = found.get(entry.descriptor.digest)
            tags = dict.fromkeys((*(known.tags if known is not None else ()), *entry.tags))
            found[entry.descriptor.digest] = Entry(entry.descriptor, tuple(tags))
        return list(found.values())

    def open(self, digest: Digest, stack: ExitStack) -> Content | None:
        """See `Source.open`."""
        del stack
        return self._contents.get(digest)

    def _entry(self, image: _Image) -> Entry:
        config = self._files.open_linked(image.config)
        what = f"{image.config!r:.200} in {self.location}"
        body = read_small(config, what)
        descriptors = [self._note(CONFIG_TYPE, Digest.of(body), config)]
        diff_ids = decode_document(body, what, _Config).rootfs.diff_ids or []
        layers = image.layers or []
        if len(diff_ids) != len(layers):
            raise ArchiveInvalid(f"{what} lists {len(diff_ids)} layers, {MANIFEST_FILE} lists {len(layers)}")
        for path, diff_id in zip(layers, diff_ids, strict=True):
            layer = self._files.open_linked(path)
            if layer.read(0, len(_GZIP_MAGIC)) == _GZIP_MAGIC:
                raise ArchiveInvalid(
                    f"layer {path!r:.200} in {self.location} is compressed; export it as an OCI layout"
                )
            descriptors.append(self._note(LAYER_TYPE, _parsed(diff_id, what), layer))
        manifest = _manifest_body(descriptors[0], descriptors[1:])
        descriptor = self._note(DOCKER_MANIFEST, Digest.of(manifest), HeldBytes(manifest))
        tags = (tag_of_reference(name) for name in image.repo_tags or ())
        return Entry(descriptor, tuple(dict.fromkeys(tag for tag in tags if tag is not None)))

    def _note(self, media_type: str, digest: Digest, content: Content) -> Descriptor:
        known = self._contents.setdefault(digest, content)
        if known.size_bytes != content.size_bytes:
            raise ArchiveInvalid(
                f"{self.location} holds {digest} with {known.size_bytes} and with {content.size_bytes} bytes"
            )
        return Descriptor(media_type, digest, content.size_bytes)


def _parsed(diff_id: str, what: str) -> Digest:
    try:
        return Digest.parse(diff_id)
    except DigestInvalid as error:
        raise ArchiveInvalid(f"{what}: rootfs.diff_ids: {error}") from error


def _manifest_body(config: Descriptor, layers: list[Descriptor]) -> bytes:
    # Order of keys and no spaces: the bytes, hence the digest, depend on the image alone.
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config.to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    return msgspec.json.encode(document)
