"""Access controls of each kind, under a clock that stands still."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blobstore.testing import FakeClock
from tests.server.security.htpasswd import Htpasswd


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def htpasswd(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Htpasswd]:
    found = Htpasswd(tmp_path, clock)
    yield found
    await found.access.aclose()
