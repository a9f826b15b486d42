"""What a copy did, or would do."""

from __future__ import annotations

import msgspec

from blobstore.abc.records import ManifestKey
from blobstore.digest import Digest
from blobstore.names import RepositoryName, TagName


class TagDifference(msgspec.Struct, frozen=True):
    """A tag that was not the same at both stores. `source` or `target` is None where there was none."""

    repository: RepositoryName
    tag: TagName
    source: Digest | None
    target: Digest | None

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


class BlobFailure(msgspec.Struct, frozen=True):
    """A blob or manifest whose bytes at the source are missing or wrong."""

    digest: Digest
    why: str


class CopyReport(msgspec.Struct):
    """What was done; after a dry run, what a run would do.

    `tags_moved` named something else at the target; `tags_newer` were moved there later than at the source, and stay.
    `tags_extra` and `manifests_extra` are at the target alone, and stay unless deleting was asked for. `gone` counts what the
    source lost while it was read.
    """

    source: str
    target: str
    is_dry_run: bool = False
    blobs_copied: int = 0
    bytes_copied: int = 0
    blobs_present: int = 0
    manifests_copied: int = 0
    manifests_present: int = 0
    tags_copied: int = 0
    tags_moved: list[TagDifference] = []
    tags_newer: list[TagDifference] = []
    tags_extra: list[TagDifference] = []
    manifests_extra: list[ManifestKey] = []
    is_extra_deleted: bool = False
    pins_copied: int = 0
    aliases_copied: int = 0
    gone: int = 0
    failures: list[BlobFailure] = []
    left_out: list[ManifestKey] = []

    @property
    def is_complete(self) -> bool:
        """Whether the target has all that the source has."""
        return not (self.failures or self.left_out)
