"""What is shipped holds the collector, though `blobstore/gc` is a link."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("build", "hatchling")
WANTED = {"blobstore/gc/__init__.py", "blobstore/__init__.py", "blobstore/py.typed", "blobstore/index/lmdb.py"}
IGNORED = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "dist", "blobstore-data", ".hypothesis", ".venv")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, links kept, so that building writes nothing into it."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        (pytest.fail if os.environ.get("REQUIRE_ALL") == "1" else pytest.skip)(f"not installed: {absent}")
    copy = tmp_path_factory.mktemp("source") / "tree"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=IGNORED)
    for name, text in (("README.md", "# blobstore\n"), ("LICENSE", "Apache-2.0\n"), ("CHANGELOG.md", "\n")):
        if not (copy / name).exists():
            (copy / name).write_text(text)
    return copy


def _build(kind: str, source: Path, into: Path) -> Path:
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", f"--{kind}", "--outdir", str(into), str(source)],
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        cwd=into,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = into.iterdir()
    return made


def _names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def from_tree(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the tree."""
    return _build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def from_sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from the sdist."""
    sdist = _build("sdist", source, tmp_path_factory.mktemp("sdist"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(unpacked, filter="data")
    (folder,) = unpacked.iterdir()
    return _build("wheel", folder, tmp_path_factory.mktemp("wheel2"))


@pytest.mark.parametrize("which", ["from_tree", "from_sdist"])
def test_a_wheel_holds_the_collector(which: str, request: pytest.FixtureRequest) -> None:
    """As a folder of the package, each file once, and nothing at the top beside the package."""
    names = _names(request.getfixturevalue(which))
    assert set(names) >= WANTED
    assert len(set(names)) == len(names)
    assert {name.split("/")[0] for name in names} - {"blobstore"} == {
        name.split("/")[0] for name in names if ".dist-info/" in name
    }


def test_both_wheels_hold_the_same(from_tree: Path, from_sdist: Path) -> None:
    """Whichever way it was built."""
    assert sorted(_names(from_tree)) == sorted(_names(from_sdist))


def test_every_module_is_shipped(from_tree: Path) -> None:
    """None of the tree is left out."""
    expected = {str(path.relative_to(ROOT)) for path in ROOT.glob("blobstore/**/*.py") if "gc" not in path.parts}
    expected |= {f"blobstore/{path.relative_to(ROOT)}" for path in ROOT.glob("gc/**/*.py")}
    assert expected <= set(_names(from_tree))
