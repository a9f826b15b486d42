"""The memory index keeps what every index promises."""

from pathlib import Path

from blobstore.abc.index import Index
from blobstore.index.memory import MemoryIndex
from blobstore.testing.index_suite import IndexSuite


class TestMemoryIndex(IndexSuite):
    def make_index(self, directory: Path) -> Index:
        return MemoryIndex()
