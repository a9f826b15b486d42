"""Limits and switches of the registry, each with its name."""

from __future__ import annotations

import enum

import msgspec

from blobstore.manifest import manifest_size_max_bytes


class Delivery(enum.StrEnum):
    """How the bytes of a blob leave."""

    DIRECT = "direct"
    """From this process: by the kernel where there is a file, as a stream otherwise."""
    REDIRECT = "redirect"
    """From the object store, which the client is sent to; as DIRECT where there is none."""
    ACCEL = "accel"
    """From nginx in front of this process, which has the same files; as DIRECT where there are none."""


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator decides of the protocol; all have a default that serves."""

    read_only: bool = False
    """Refuse every write: 405, UNSUPPORTED."""
    absolute_locations: bool = False
    """Answer `Location` with scheme and host of the request; paths alone otherwise, which every present client takes."""
    delivery: Delivery = Delivery.DIRECT
    redirect_valid_s: int = 60
    """How long a presigned URL opens its blob. Shorter than any quarantine, as it can't be taken back."""
    accel_prefix: str = "/blobstore-files/"
    """The internal location of nginx below which the files of the store are, with slashes at both ends."""
    tags_page_max: int = 1000
    catalog_page_default: int = 100
    catalog_page_max: int = 1000
    referrers_page_max: int = 100
    tags_per_put_max: int = 100
    """How many `tag` parameters one manifest put may have; 414 beyond."""
    ranges_max: int = 512
    """How many ranges of a blob one request may ask for; 400 beyond, and clients ask for fewer."""
    manifest_max_bytes: int = manifest_size_max_bytes
    manifests_arriving_bytes: int = 128 * 1024 * 1024
    """How many bytes of large manifests may be arriving at once in a process; 429 beyond, and clients come back."""
    chunk_min_bytes: int = 0
    """Told to clients as `OCI-Chunk-Min-Length` unless 0; shorter chunks are taken all the same."""
    uploads_open_max: int = 100_000
    """How many uploads may be open in the whole store; 429 beyond, until some are finished, cancelled or expired."""
    busy_wait_s: float = 5
    """How long a request waits for an earlier one of the same upload to end, before it is refused: 409."""
    manifest_cache_bytes: int = 8 * 1024 * 1024
    """How many bytes of manifests stay in memory, by digest; whether one is there is asked of the index each time."""
    notice: str | None = None
    """Told to people in a `Warning` of every manifest that is pulled or pushed."""
