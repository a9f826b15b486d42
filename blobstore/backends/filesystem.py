"""Bytes in files of a local file system."""

from __future__ import annotations

from blobstore.abc.backend import BackendProperties
from blobstore.backends._file_backend import THREADS, FileBackend
from blobstore.backends._file_calls import FileCalls


class FilesystemBackend(FileBackend):
    """Files below `root`, on a local file system of this machine."""

    def __init__(self, root: str, threads: int = THREADS) -> None:
        super().__init__(root, FileCalls(), BackendProperties(name="filesystem", recheck_s=1), threads)
