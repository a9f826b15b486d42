"""The operator's API over HTTP in a thread of its own, for tests that ask it from outside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.index.memory import MemoryIndex
from blobstore.server.operations.collecting import Collecting
from blobstore.server.operations.config import CollectConfig
from blobstore.server.operations.operator import OperatorApi
from blobstore.server.web.application import create_application
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock
from tests.gc.scene import Bench


class ServedOperator:
    """Its address, and the names of things that are there, so that examples aren't all about nothing."""

    def __init__(self) -> None:
        self.url = ""
        self.runs: list[str] = []
        self.digests: list[str] = []
        self._offered = 0

    def offer(self, case: Any) -> None:
        """Put a name that exists into every second example, where it has one that could."""
        self._offered += 1
        if self._offered % 2:
            return
        parameters = case.path_parameters or {}
        if _is_like(parameters.get("run"), 16):
            parameters["run"] = self.runs[self._offered % len(self.runs)]
        if "digest" in parameters and str(parameters["digest"]).startswith("sha256:"):
            parameters["digest"] = self.digests[self._offered % len(self.digests)]

    @classmethod
    @contextmanager
    def running(cls) -> Iterator[ServedOperator]:
        """Serve until the end of this."""
        served, ready = cls(), threading.Event()
        loop = asyncio.new_event_loop()
        stopping = asyncio.Event()
        thread = threading.Thread(target=lambda: loop.run_until_complete(served._serve(ready, stopping)))
        thread.start()
        assert ready.wait(20)
        try:
            yield served
        finally:
            loop.call_soon_threadsafe(stopping.set)
            thread.join()
            loop.close()

    async def _serve(self, ready: threading.Event, stopping: asyncio.Event) -> None:
        clock = FakeClock()
        store = Store(MemoryBackend(), MemoryIndex(), clock=clock)
        await store.open(create=True)
        collecting = Collecting(store, GcPolicy(grace_s=0), CollectConfig(enabled=False))
        await self._fill(Bench(store, clock), collecting)
        runner = web.AppRunner(create_application(OperatorApi(store, collecting).answer), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stopping.wait()
        await runner.cleanup()
        await collecting.aclose()
        await store.aclose()

    async def _fill(self, bench: Bench, collecting: Collecting) -> None:
        """Images, a pin, garbage; runs of every kind, one of them refused."""
        manifest = await bench.push_image(b"config", [b"layer"], "1")
        await bench.push_image(b"untagged", [b"layer"])
        self.digests = [str(manifest.digest), str(Digest.of(b"layer")), str(Digest.of(b"garbage"))]
        for is_full, is_dry in ((True, True), (True, False), (False, False)):
            await bench.push_blob(b"garbage")
            self.runs.append(collecting.start(is_full=is_full, is_dry=is_dry).run)
            await collecting.wait()
            bench.clock.advance(1000)


def _is_like(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length
