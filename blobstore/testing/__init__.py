"""Suites that every backend and index must pass, and the fakes they use; needs the `testing` extra."""

import pytest

pytest.register_assert_rewrite(
    "blobstore.testing.backend_suite",
    "blobstore.testing.index_suite",
    "blobstore.testing._backend_cancellation",
    "blobstore.testing._backend_stage",
    "blobstore.testing._backend_uploads",
    "blobstore.testing._index_blobs",
    "blobstore.testing._index_collecting",
    "blobstore.testing._index_manifests",
    "blobstore.testing._index_references",
    "blobstore.testing._index_safety",
    "blobstore.testing._index_scanning",
    "blobstore.testing._index_scene",
    "blobstore.testing._index_uploads",
)

# Only now, as what was imported before can no longer be rewritten.
from blobstore.testing.backend_suite import BackendSuite  # noqa: E402
from blobstore.testing.fakes import FakeClock  # noqa: E402
from blobstore.testing.index_suite import IndexSuite  # noqa: E402

__all__ = ["BackendSuite", "FakeClock", "IndexSuite"]
