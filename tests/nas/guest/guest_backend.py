"""The NAS backend keeps what every backend promises over the real NFS client and server. Run inside the guest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from blobstore.abc.backend import Backend
from blobstore.backends.nas import NasBackend
from blobstore.layout import BLOBS_PREFIX, CHECKPOINT_PREFIX, JOURNAL_PREFIX, UPLOADS_PREFIX
from blobstore.testing.backend_suite import BackendSuite
from tests.nas.guest.server import EXPORT, IS_LONG, place_of

MIB = 1024 * 1024


class _OverNfs(BackendSuite):
    """With fewer and smaller objects than elsewhere, and in the short profile with very few: the guest has one slow processor."""

    LISTED_KEYS = 2500 if IS_LONG else 1100
    BIG_BYTES = (64 if IS_LONG else 4) * MIB
    SEVERAL_PARTS_BYTES = (3 if IS_LONG else 1) * MIB
    CANCELLED_AWAITS = 30 if IS_LONG else 3
    VERSION: ClassVar[int]

    def make_backend(self, directory: Path) -> Backend:
        if not IS_LONG:
            _make_directories(EXPORT / directory.name)
        return NasBackend(str(place_of("one", self.VERSION) / directory.name), str(directory / "state"))


def _make_directories(root: Path) -> None:
    """Those of an empty store, on the server: over NFS they take longer than most tests. Other tests make theirs over NFS."""
    shards = [f"{BLOBS_PREFIX}{shard:02x}" for shard in range(256)]
    for name in (*shards, UPLOADS_PREFIX, JOURNAL_PREFIX, CHECKPOINT_PREFIX):
        os.makedirs(root / name, 0o700, exist_ok=True)


class TestNfs3(_OverNfs):
    """Version 3, mounted with `nolock`."""

    VERSION = 3


class TestNfs4(_OverNfs):
    """Version 4.2."""

    VERSION = 4
