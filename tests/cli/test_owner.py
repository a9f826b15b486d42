"""Root, and a store that is another user's: what root wrote there its user could not read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.cli.conftest import Cli, Images

ZEROS = "sha256:" + "0" * 64
OTHER = 54321
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def foreign(images: Images) -> Images:
    """Two images in a store of a user who has no name."""
    _give(images.store)
    return images


def _give(store: Path) -> None:
    for path in (store, *store.rglob("*")):
        os.chown(path, OTHER, OTHER)


def _roots(store: Path) -> list[Path]:
    return [path for path in store.rglob("*") if path.stat().st_uid != OTHER]


@pytest.mark.parametrize(
    "argv",
    [
        ["put", "file"],
        ["import", "../layout", "a/b"],
        ["tag", "library/app:a", "c"],
        ["untag", "library/app:a"],
        ["rm", "library/app"],
        ["unpin", ZEROS],
        ["gc"],
        ["gc", "undo", "x"],
        ["check"],
        ["index", "rebuild"],
        ["copy", "../other", "../store"],
        ["serve", "--listen", "127.0.0.1:0"],
    ],
    ids=" ".join,
)
def test_root_writes_nothing_into_the_store_of_another_user(cli: Cli, foreign: Images, argv: list[str]):
    """It is told how to become that user, and nothing of root's is there."""
    Path("file").write_text("x")
    assert cli("init", "--store", "../other").status == 0
    result = cli(*argv)
    assert (result.status, result.out) == (2, "")
    assert f"belongs to the user #{OTHER}" in result.err
    assert f"sudo -u '#{OTHER}' blobstore" in result.err
    assert result.err.count("\n") == 1
    assert _roots(foreign.store) == []


def test_root_may_look(cli: Cli, foreign: Images):
    """And leaves nothing behind."""
    for argv in (
        ["ls"],
        ["du"],
        ["stats"],
        ["gc", "--dry-run"],
        ["gc", "runs"],
        ["get", foreign.a, "-o", "blob"],
        ["init"],
    ):
        assert cli(*argv).status == 0, argv
    assert _roots(foreign.store) == []


def test_a_mount_that_gives_all_to_one_user_is_roots_too(cli: Cli, foreign: Images, monkeypatch: pytest.MonkeyPatch):
    """As those of some virtual machines do: what root makes there belongs to that user like everything else."""
    make = tempfile.TemporaryFile

    @contextmanager
    def made(dir: str) -> Iterator[BinaryIO]:  # noqa: A002
        with make(dir=dir) as file:
            os.chown(file.fileno(), OTHER, OTHER)
            yield file

    monkeypatch.setattr(tempfile, "TemporaryFile", made)
    assert cli("tag", "library/app:a", "c").status == 0
