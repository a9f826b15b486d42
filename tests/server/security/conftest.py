"""Access controls of each kind, under a clock that stands still, and a registry with tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import blobstore
from blobstore.backends.memory import MemoryBackend
from blobstore.index.memory import MemoryIndex
from blobstore.server.auth.config import AuthConfig, HtpasswdConfig
from blobstore.server.protocol.registry import Registry
from blobstore.server.protocol.settings import RegistrySettings
from blobstore.store import Store
from blobstore.testing import FakeClock
from tests.server.security.guest import PASSWORDS, RIGHTS, House
from tests.server.security.htpasswd import Htpasswd, line


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def htpasswd(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Htpasswd]:
    found = Htpasswd(tmp_path, clock)
    yield found
    await found.access.aclose()


@pytest.fixture
async def store(clock: FakeClock) -> AsyncIterator[Store]:
    opened = Store(MemoryBackend(), MemoryIndex(), clock=clock)
    await opened.open(create=True)
    yield opened
    await opened.aclose()


@pytest.fixture
async def tenants(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Htpasswd]:
    """The access control of the house."""
    path = tmp_path / "htpasswd"
    path.write_text("\n".join(line(user, password) for user, password in PASSWORDS.items()))
    config = AuthConfig(method="htpasswd", htpasswd=HtpasswdConfig(file=str(path)), rights=RIGHTS)
    found = Htpasswd(tmp_path, clock, config)
    yield found
    await found.access.aclose()


@pytest.fixture
def house(store: Store, tenants: Htpasswd) -> House:
    return House(Registry(store, RegistrySettings(busy_wait_s=0), tenants.access))


@pytest.fixture
async def on_disk(tmp_path: Path, tenants: Htpasswd) -> AsyncIterator[House]:
    """The house over files."""
    async with blobstore.open(str(tmp_path / "disk" / "store"), create=True) as opened:
        yield House(Registry(opened, RegistrySettings(busy_wait_s=0), tenants.access))
