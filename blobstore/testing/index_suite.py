"""The promises of `Index`, as tests that every index must pass.

    class TestMyIndex(IndexSuite):
        def make_index(self, directory: Path) -> Index:
            return MyIndex(directory / "index")

Needs pytest and pytest-asyncio. No test sleeps; all tell the index what time it is.
"""

from __future__ import annotations

import pytest

from blobstore.testing._index_blobs import BlobTests
from blobstore.testing._index_collecting import CollectingTests
from blobstore.testing._index_manifests import ManifestPutTests
from blobstore.testing._index_references import ReferenceTests
from blobstore.testing._index_safety import SafetyTests
from blobstore.testing._index_scanning import ScanningTests
from blobstore.testing._index_uploads import UploadTests


@pytest.mark.asyncio
class IndexSuite(UploadTests, BlobTests, ManifestPutTests, ReferenceTests, ScanningTests, CollectingTests, SafetyTests):
    """Inherit, and say how to make an index."""
