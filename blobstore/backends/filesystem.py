"""Bytes in files of a local file system."""

from __future__ import annotations

from blobstore.abc.backend import BackendProperties
from blobstore.backends._file_backend import FileBackend
from blobstore.backends._file_calls import FileCalls
from blobstore.pool import WorkerPool

THREADS = 8


class FilesystemBackend(FileBackend):
    """Files below `root`, on a local file system of this machine."""

    def __init__(self, root: str, threads: int = THREADS) -> None:
        properties = BackendProperties(name="filesystem", recheck_s=1)
        super().__init__(root, FileCalls(), properties, WorkerPool("files", threads))
