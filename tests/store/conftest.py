"""Stores on a real directory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import blobstore
from blobstore.store import Store


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
async def store(place: str) -> AsyncIterator[Store]:
    async with blobstore.open(place, create=True) as opened:
        yield opened
