"""What the tests of a backend stand on: a new one for each test, and short ways to look into it."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from blobstore.abc.backend import Backend
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.layout import blob_key

MIB = 1024 * 1024


class BackendTests(abc.ABC):
    """A new and empty backend for each test."""

    @abc.abstractmethod
    def make_backend(self, directory: Path) -> Backend:
        """A new and empty backend, not yet opened; `directory` is empty and its own."""

    @pytest_asyncio.fixture
    async def backend(self, tmp_path: Path) -> AsyncIterator[Backend]:
        """Opened and prepared; closed after the test."""
        backend = self.make_backend(tmp_path)
        await backend.open()
        await backend.prepare()
        try:
            yield backend
        finally:
            await backend.aclose()


def key_of(number: int) -> str:
    """The key of some blob."""
    return blob_key(Digest.of(str(number).encode()), Generation(1, number))


async def found_keys(backend: Backend, prefix: str, after: str | None = None) -> list[str]:
    """The keys of a listing."""
    return [info.key async for info in backend.list(prefix, after)]
