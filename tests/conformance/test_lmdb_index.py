"""The LMDB index keeps what every index promises."""

from pathlib import Path

from blobstore.abc.index import Index
from blobstore.index.lmdb import LmdbIndex
from blobstore.testing.index_suite import IndexSuite


class TestLmdbIndex(IndexSuite):
    def make_index(self, directory: Path) -> Index:
        return LmdbIndex(str(directory / "index"), ballast_bytes=1024 * 1024)
