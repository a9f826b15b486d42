"""The daemon and its clients, each started once, when a test first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.programs import Program, Skopeo, Storage, running_containerd, running_docker, short_directory
from tests.clients.registry import Registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One process, nobody has to say who they are."""
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def skopeo(tmp_path_factory: pytest.TempPathFactory) -> Skopeo:
    return Skopeo(tmp_path_factory.mktemp("skopeo"))


@pytest.fixture
def podman(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage("podman", tmp_path_factory.mktemp("podman"))


@pytest.fixture
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return Storage("buildah", tmp_path_factory.mktemp("buildah"))


@pytest.fixture(scope="session")
def ctr() -> Iterator[Program]:
    with short_directory() as directory, running_containerd(directory) as found:
        yield found


@pytest.fixture(scope="session")
def docker() -> Iterator[Program]:
    with short_directory() as directory, running_docker(directory) as found:
        yield found


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Where a test makes its image."""
    return tmp_path / "layout"
