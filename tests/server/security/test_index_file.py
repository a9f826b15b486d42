"""S24: the index is a file that its library trusts, so that nobody else may write it (CVE-2019-16224 to 16228)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import blobstore
from blobstore.errors import StorageFailed


@pytest.fixture
async def made(tmp_path: Path) -> Path:
    """A store that was closed."""
    place = tmp_path / "store"
    async with blobstore.open(str(place), create=True):
        pass
    return place


async def test_a_store_is_its_owners_alone(made: Path) -> None:
    """Whatever the mask of whoever makes it is."""
    for path in [made, *made.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


async def test_a_mask_that_opens_all_opens_nothing_of_the_index(tmp_path: Path) -> None:
    """As some containers have it."""
    before = os.umask(0)
    try:
        async with blobstore.open(str(tmp_path / "store"), create=True):
            pass
    finally:
        os.umask(before)
    found = stat.S_IMODE((tmp_path / "store" / "index" / "data.mdb").stat().st_mode)
    assert found == 0o600
    async with blobstore.open(str(tmp_path / "store")):
        pass


@pytest.mark.parametrize("name", ["index", "index/data.mdb"])
async def test_an_index_that_everybody_may_write_is_not_opened(made: Path, name: str) -> None:
    """It could be anybody's by now."""
    path = made / name
    path.chmod(path.stat().st_mode | stat.S_IWOTH)
    with pytest.raises(StorageFailed, match="every user of this machine"):
        async with blobstore.open(str(made)):
            pass
    path.chmod(path.stat().st_mode & ~stat.S_IWOTH)
    async with blobstore.open(str(made)):
        pass


async def test_an_index_of_another_user_is_not_opened(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it may be readable; but root may look at everybody's, and everybody trusts root."""
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    for path in [made, *made.rglob("*")]:
        os.chown(path, 12345, -1)
    async with blobstore.open(str(made)):
        pass
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(StorageFailed, match="belongs to another user"):
        async with blobstore.open(str(made)):
            pass
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    async with blobstore.open(str(made)):
        pass
