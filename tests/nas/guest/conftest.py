"""Two hosts on one export."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from blobstore.backends.nas import NasBackend
from tests.nas.guest.server import VERSIONS, local_place, new_place, place_of


@pytest.fixture(params=VERSIONS, ids=lambda version: f"v{version}")
def version(request: pytest.FixtureRequest) -> int:
    """The version of NFS."""
    return request.param


@pytest_asyncio.fixture
async def hosts(version: int) -> AsyncIterator[tuple[NasBackend, NasBackend]]:
    """One store as two hosts have it; locks are each host's own."""
    place = new_place()
    backends = [NasBackend(str(place_of(client, version) / place), str(local_place())) for client in ("one", "two")]
    for backend in backends:
        await backend.open()
    await backends[0].prepare()
    yield backends[0], backends[1]
    for backend in backends:
        await backend.aclose()
