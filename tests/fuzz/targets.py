"""Every parser that meets strangers: a name, a function from bytes to nothing, and inputs to begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from blobstore import manifest
from tests.fuzz import archive_targets, document_targets, range_targets, row_targets, text_targets


class Target(msgspec.Struct, frozen=True):
    """A property that must hold for any bytes. `size_max_bytes` is how long inputs may grow."""

    check: Callable[[bytes], None]
    seeds: Sequence[bytes | str]
    size_max_bytes: int = 4096

    @property
    def inputs(self) -> list[bytes]:
        """The seeds as bytes."""
        return [seed.encode() if isinstance(seed, str) else seed for seed in self.seeds]


TARGETS: dict[str, Target] = {
    "digest": Target(text_targets.fuzz_digest, text_targets.DIGEST_SEEDS, 256),
    "names": Target(text_targets.fuzz_names, text_targets.NAME_SEEDS, 512),
    "units": Target(text_targets.fuzz_units, text_targets.UNIT_SEEDS, 64),
    "locations": Target(text_targets.fuzz_locations, text_targets.LOCATION_SEEDS, 256),
    "configuration": Target(text_targets.fuzz_configuration, text_targets.CONFIGURATION_SEEDS),
    "layout": Target(text_targets.fuzz_layout, text_targets.LAYOUT_SEEDS, 256),
    "range": Target(range_targets.fuzz_range, range_targets.RANGE_SEEDS, 128),
    "manifest": Target(document_targets.fuzz_manifest, document_targets.MANIFEST_SEEDS),
    "plan": Target(document_targets.fuzz_plan, document_targets.PLAN_SEEDS),
    "marker": Target(document_targets.fuzz_marker, document_targets.MARKER_SEEDS, 1024),
    "index_row": Target(row_targets.fuzz_index_row, row_targets.INDEX_ROW_SEEDS, 512),
    "digest_key": Target(row_targets.fuzz_digest_key, row_targets.DIGEST_KEY_SEEDS, 128),
    "journal": Target(row_targets.fuzz_journal, row_targets.JOURNAL_SEEDS),
    "hash_state": Target(row_targets.fuzz_hash_state, row_targets.HASH_STATE_SEEDS, 256),
    "tar": Target(archive_targets.fuzz_tar, archive_targets.TAR_SEEDS, 8192),
    "oci_layout": Target(archive_targets.fuzz_oci_layout, archive_targets.OCI_LAYOUT_SEEDS),
    "docker_archive": Target(archive_targets.fuzz_docker_archive, archive_targets.DOCKER_ARCHIVE_SEEDS),
}


def lower_limits(set_attribute: Callable[[Any, str, object], object] = setattr) -> None:
    """Limits that inputs of some kilobytes reach: what holds at 16 references is the same code that holds at 10,000."""
    set_attribute(manifest, "manifest_references_max", 12)
    set_attribute(manifest, "manifest_size_max_bytes", 3000)
