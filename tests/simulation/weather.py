"""Weather: a backend whose requests take their time, fail, are repeated, or land after their sender died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol, TypeVar

from blobstore.abc.backend import Backend, BackendProperties, BackendUpload, ObjectInfo
from blobstore.backends.memory import MemoryBackend
from blobstore.errors import StorageFailed, TransientError
from blobstore.layout import UPLOADS_PREFIX
from tests.simulation.schedule import Died, Life, Schedule, Waiting, actor

Result = TypeVar("Result")


class Customs(Protocol):
    """Looks at each request that changes something, when it is sent and when it takes effect."""

    def sends(self, what: str, keys: Sequence[str]) -> None:
        """A process asks for this."""

    def lands(self, what: str, keys: Sequence[str]) -> None:
        """It happens now."""

    def written(self, key: str) -> None:
        """There are bytes under a key, where none were."""


class Sky:
    """What all processes share: the bytes, the requests still on their way, and how rough it is."""

    def __init__(self, schedule: Schedule, customs: Customs) -> None:
        self.schedule, self.customs = schedule, customs
        self.objects = MemoryBackend()
        self.failing = schedule.random.choice([0.0, 0.0, 0.01, 0.05])
        self.repeating = schedule.random.choice([0.0, 0.2, 0.5])
        self.is_calm = False
        self.late = 0
        """How many requests landed after their sender was answered or dead."""
        self._wire = Life("wire")
        self._late_puts: list[tuple[Waiting, Callable[[], object]]] = []

    def fails(self) -> bool:
        """Whether a request fails now."""
        return not self.is_calm and self.schedule.random.random() < self.failing

    def lands_later(self, what: str, keys: Sequence[str], act: Callable[[], object]) -> None:
        """A request goes on without its sender."""

        def land() -> None:
            self.late += 1
            act()

        waiting = self.schedule.add(self._wire, f"late {what}", tuple(keys), land, who=f"late {what}")
        if what != "delete":
            self._late_puts.append((waiting, land))

    def write_new(self, key: str, data: bytes) -> bool:
        """Bytes arrive under a key, unless it is taken."""
        if key in self.objects._objects:
            return False
        self.objects._objects[key] = data
        self.customs.written(key)
        return True

    def settle(self) -> None:
        """What would add bytes does so within the backend's `late_requests_s`, or never; a delete may come any time."""
        for waiting, land in self._late_puts:
            if waiting in self.schedule.waiting:
                self.schedule.waiting.remove(waiting)
                if self.schedule.random.random() < 0.5:
                    self.schedule.tell(f"      {waiting}")
                    land()
        self._late_puts.clear()

    def keys(self, prefix: str) -> dict[str, int]:
        """Every key under a prefix, in order, with its size."""
        present = {**self.objects._objects, **self.objects._uploads}
        return {key: len(present[key]) for key in sorted(present) if key.startswith(prefix)}


class Weather(Backend):
    """One process's way to the bytes."""

    def __init__(self, sky: Sky, life: Life) -> None:
        self.sky, self._life = sky, life
        self.is_calm = False
        self.busy: set[str] = set()

    def release(self) -> None:
        """The process is dead: its locks are gone."""
        self.sky.objects._busy -= self.busy

    @property
    def properties(self) -> BackendProperties:
        return self.sky.objects.properties

    @property
    def location(self) -> str:
        return "the weather"

    async def open(self) -> None:
        """Nothing to connect to."""

    async def aclose(self) -> None:
        """Nothing to release."""

    async def prepare(self) -> None:
        """Nothing to make."""

    async def turn(self, what: str, *args: object) -> None:
        """Wait for the next turn; a request that asks may fail then."""
        await self.sky.schedule.turn(self._life, what, *args)
        self.may_fail(what)

    def may_fail(self, what: str) -> None:
        """Fail, if the weather is such."""
        if not self.is_calm and actor.get() != "calm" and self.sky.fails():
            self.sky.schedule.tell(f"      {what} fails")
            error = self.sky.schedule.random.choice([TransientError, StorageFailed])
            raise error(f"{what} failed: the weather is rough")

    async def send(self, what: str, keys: Sequence[str], act: Callable[[], Result]) -> Result:
        """One request that changes something. It is on its way; it takes effect; it is answered. Its sender may be killed at
        each of the two waits: then it may still land, or have landed. A cancelled one has landed or never will."""
        sky, chance = self.sky, self.sky.schedule.random
        sky.customs.sends(what, keys)

        def land() -> Result:
            sky.customs.lands(what, keys)
            return act()

        try:
            await self.turn(what, *keys)
        except Died:
            if chance.random() < 0.5:
                sky.lands_later(what, keys, land)
            raise
        except asyncio.CancelledError:
            if chance.random() < 0.5:
                land()
            raise
        result = land()
        if what == "delete" and not sky.is_calm and chance.random() < sky.repeating:
            sky.lands_later(what, keys, land)
        self.may_fail(f"{what} (done)")
        await sky.schedule.turn(self._life, f"{what} done")
        return result

    async def put(self, key: str, data: bytes) -> None:
        await self.send("put", [key], lambda: self.sky.objects._objects.__setitem__(key, data))

    async def put_new(self, key: str, data: bytes) -> bool:
        return await self.send("put_new", [key], lambda: self.sky.write_new(key, data))

    async def open_upload(self, upload_id: str, *, key: str | None = None, resume: bool = False) -> BackendUpload:
        await self.turn("open_upload", upload_id)
        opened = await self.sky.objects.open_upload(upload_id, key=key, resume=resume)
        self.busy.add(UPLOADS_PREFIX + upload_id)
        return _WeatherUpload(self, self._life, opened, UPLOADS_PREFIX + upload_id)

    @asynccontextmanager
    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        await self.turn("read", key)
        async with self.sky.objects.read(key, start, stop) as chunks:
            yield chunks

    async def stat(self, key: str) -> ObjectInfo:
        await self.turn("stat", key)
        return await self.sky.objects.stat(key)

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        chance = self.sky.schedule.random
        done = [key for key in keys if self.sky.is_calm or chance.random() > self.sky.failing]

        def act() -> frozenset[str]:
            for key in done:
                self.sky.objects._objects.pop(key, None)
                self.sky.objects._uploads.pop(key, None)
            return frozenset(done)

        return await self.send("delete", done, act)

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        await self.turn("list", prefix)
        chance = self.sky.schedule.random
        page = 1000 if self.sky.is_calm else chance.randint(1, 4)
        # What comes or goes while a listing runs may be in it or not.
        before = list(self.sky.keys(prefix).items()) if chance.random() < 0.5 else None
        last = after or ""
        while True:
            listed = before if before is not None else list(self.sky.keys(prefix).items())
            found = [(key, size) for key, size in listed if key > last][:page]
            for key, size in found:
                yield ObjectInfo(key, size)
            if len(found) < page:
                return
            last = found[-1][0]
            await self.turn("list on", last)


class _WeatherUpload(BackendUpload):
    def __init__(self, weather: Weather, life: Life, inner: BackendUpload, key: str) -> None:
        self._weather, self._life, self._inner, self._key = weather, life, inner, key

    @property
    def offset(self) -> int:
        return self._inner.offset

    async def write(self, data: bytes) -> None:
        await self._weather.turn("write", self._key)
        await self._inner.write(data)

    async def drain(self) -> None:
        self._life.check()

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        self._life.check()
        async for chunk in self._inner.read(start, stop):
            yield chunk

    async def truncate(self, offset: int) -> None:
        self._life.check()
        await self._inner.truncate(offset)

    async def commit(self, key: str) -> tuple[str, ...]:
        sky = self._weather.sky
        data = bytes(self._inner._data or b"")  # type: ignore[attr-defined]

        def act() -> bool:
            # As a file is linked, or parts are completed: not once they were deleted and nobody has them open.
            if sky.objects._uploads.pop(self._key, None) is None and self._life.is_dead:
                return False
            return sky.write_new(key, data)

        try:
            return (key,) if await self._weather.send("commit", [key], act) else ()
        finally:
            if not self._life.is_dead:
                await self._let_go()
        return (key,)

    async def abort(self) -> None:
        await self._weather.turn("abort", self._key)
        await self._inner.abort()
        self._weather.busy.discard(self._key)

    async def aclose(self) -> None:
        self._life.check()
        await self._let_go()

    async def _let_go(self) -> None:
        await self._inner.aclose()
        self._weather.busy.discard(self._key)
