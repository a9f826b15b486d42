"""A registry over files behind a port of the loopback, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import blobstore
from blobstore.server.auth.authentication import make_access
from blobstore.server.auth.config import AuthConfig
from blobstore.server.protocol.messages import Request, Response
from blobstore.server.protocol.registry import Registry
from tests.server.hosting import Host


class _Registry:
    """Opened by the loop that serves it, when it is first asked."""

    def __init__(self, place: Path, config: AuthConfig) -> None:
        self._place, self._config = place, config
        self._stack = contextlib.AsyncExitStack()
        self._opening: asyncio.Future[Registry] | None = None

    async def answer(self, request: Request) -> Response:
        """See `Registry.answer`."""
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
        registry = await asyncio.shield(self._opening)
        return await registry.answer(request)

    async def _open(self) -> Registry:
        access = make_access(self._config)
        self._stack.push_async_callback(access.aclose)
        store = await self._stack.enter_async_context(blobstore.open(str(self._place), create=True))
        return Registry(store, access=access)

    async def aclose(self) -> None:
        """Close what was opened."""
        await self._stack.aclose()


@contextlib.contextmanager
def hosted(place: Path, config: AuthConfig, **options: Any) -> Iterator[Host]:
    """A running one."""
    registry = _Registry(place, config)
    with Host(registry.answer, **options) as running:
        try:
            yield running
        finally:
            asyncio.run_coroutine_threadsafe(registry.aclose(), running.loop).result(20)
