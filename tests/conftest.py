"""Real servers, each started once a session, when a test first asks for it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.servers.processes import FOREIGN_VARIABLES, S3Server


def pytest_configure() -> None:
    """A shell starts what it runs in the background with interrupts ignored, and then so would be each process of a test."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS."""
    from tests.servers.weed import running_weed

    with running_weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(scope="session")
def ceph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Ceph's gateway."""
    from tests.servers.ceph import running_ceph

    with running_ceph(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Python's own S3."""
    from tests.servers.moto import running_moto

    with running_moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the environment points the SDKs to somebody's cloud."""
    without_cloud(monkeypatch)


def without_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `no_cloud`, for fixtures that serve more than one test."""
    import os

    for name in list(os.environ):
        if name.upper().startswith(FOREIGN_VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
