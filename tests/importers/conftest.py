"""An open store, and layouts written both ways."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import blobstore
from tests.importers.making import LayoutMaker


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[blobstore.Store]:
    async with blobstore.open(str(tmp_path / "store"), create=True) as opened:
        yield opened


@pytest.fixture
def maker() -> LayoutMaker:
    return LayoutMaker()


@pytest.fixture(params=["directory", "tar"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[LayoutMaker], str]:
    """Writes a layout both ways."""

    def written(maker: LayoutMaker) -> str:
        path = tmp_path / f"source-{os.urandom(4).hex()}"
        return maker.write_directory(path) if request.param == "directory" else maker.write_tar(path)

    return written
