"""`ls`: repositories, and the tags of one."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

from typing import Any

import msgspec

from blobstore.abc.records import TagEntry
from blobstore.cli._common import Common
from blobstore.cli._output import Output
from blobstore.cli._progress import reporting
from blobstore.clock import iso_utc
from blobstore.descriptor import Descriptor, Platform
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError, StorageFailed
from blobstore.manifest import Manifest, manifest_size_max_bytes, parse_manifest
from blobstore.names import RepositoryName
from blobstore.store import Store
from blobstore.units import format_age, format_size

_DEFAULTS = Common()
_CONFIG_TYPES = frozenset(
    {
        "application/vnd.oci.image.config.v1+json",
        "application/vnd.docker.container.image.v1+json",
    }
)


async def ls(repository: str | None = None, /, *, common: Common = _DEFAULTS) -> None:
    """List the repositories, or the tags of one with digest, size, platforms and age.

    Parameters
    ----------
    repository
        The repository; all are listed without it.
    """
    output = Output(common)
    name = RepositoryName.parse(repository) if repository is not None else None
    with reporting(common) as events:
        async with common.open_store(events) as store:
            await (_list_repositories(store, output) if name is None else _list_tags(store, name, output))


async def _list_repositories(store: Store, output: Output) -> None:
    names = [str(name) async for name in store.repositories()]
    output.document({"repositories": names})
    for name in names:
        output.answer(name)
    if not names:
        output.remark("no repositories")


async def _list_tags(store: Store, name: RepositoryName, output: Output) -> None:
    reader = _Reader(store)
    now_ms = store.parts.clock.now_ms()
    rows: list[dict[str, Any]] = []
    ages: list[str] = []
    async for entry in store.repository(name).tags():
        rows.append(await _describe(reader, name, entry))
        ages.append(format_age((now_ms - entry.updated_at_ms) / 1000))
    output.document({"repository": name, "tags": rows})
    if rows:
        output.table(
            ("TAG", "DIGEST", ">SIZE", "PLATFORMS", ">AGE"),
            [
                (
                    row["tag"],
                    row["digest"],
                    "?" if row["size"] is None else format_size(row["size"]),
                    " ".join(row["platforms"]) or "-",
                    age,
                )
                for row, age in zip(rows, ages, strict=True)
            ],
        )
    else:
        output.remark(f"{name} has manifests, but no tags")


async def _describe(reader: _Reader, name: RepositoryName, entry: TagEntry) -> dict[str, Any]:
    row = {"tag": entry.tag, "digest": str(entry.digest), "updated_at": iso_utc(entry.updated_at_ms)}
    record = await reader.store.index.resolve(name, entry.digest)
    media_type = record.media_type if record is not None else None
    try:
        image = await reader.look(entry.digest, media_type)
    except StorageFailed:
        raise
    except BlobstoreError:
        # One damaged image is no reason to show none; `check` says more.
        return {**row, "media_type": media_type, "size": None, "platforms": []}
    return {
        **row,
        "media_type": media_type,
        "size": sum(image.sizes.values()),
        "platforms": [str(platform) for platform in image.platforms],
    }


class _Image(msgspec.Struct):
    """What an image consists of, each blob once."""

    sizes: dict[Digest, int]
    platforms: tuple[Platform, ...]


class _Reader:
    """Looks into images, each once; promises nothing, as listing is not asking for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._known: dict[Digest, _Image] = {}

    async def look(self, digest: Digest, media_type: str | None) -> _Image:
        """One manifest and all below it."""
        if digest not in self._known:
            manifest = parse_manifest(await self._read(digest), media_type)
            self._known[digest] = await self._image(manifest)
        return self._known[digest]

    async def _image(self, manifest: Manifest) -> _Image:
        sizes = {manifest.digest: manifest.size_bytes}
        media_types = {child.digest: child for child in manifest.manifests}
        descriptors = {each.digest: each for each in (*manifest.layers, *manifest.manifests)}
        if manifest.config is not None:
            descriptors[manifest.config.digest] = manifest.config
        for reference in manifest.references:
            if reference.kind == "manifest":
                child = await self.look(reference.digest, media_types[reference.digest].media_type)
                sizes |= child.sizes
            elif reference.kind == "blob":
                sizes[reference.digest] = descriptors[reference.digest].size_bytes
        platforms = manifest.platforms if manifest.is_image_index else await self._own_platform(manifest.config)
        return _Image(sizes, platforms)

    async def _own_platform(self, config: Descriptor | None) -> tuple[Platform, ...]:
        if config is None or config.media_type not in _CONFIG_TYPES:
            return ()
        try:
            platform = msgspec.json.decode(await self._read(config.digest), type=Platform)
        except msgspec.DecodeError:
            # A config is only bytes to this store.
            return ()
        return (platform,) if platform.os else ()

    async def _read(self, digest: Digest) -> bytes:
        async with self.store.open_blob(digest) as blob:
            return await blob.read() if blob.size_bytes <= manifest_size_max_bytes else b""
