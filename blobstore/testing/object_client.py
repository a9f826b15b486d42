"""An object store in memory, with faults on order: for tests of what stands on an `ObjectClient`."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from blobstore.abc.backend import CHUNK_BYTES, ObjectInfo
from blobstore.backends._object_client import Abilities, Limits, ObjectClient, OpenMultipart, Part
from blobstore.errors import BlobstoreError, KeyUnknown, RangeInvalid, SlowDown, StorageFailed, TransientError


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong with one request."""

    error: Callable[[str], BlobstoreError] = TransientError
    """What the caller is told."""
    has_effect: bool = False
    """Whether the server did it all the same: a time-out after the effect."""
    after_bytes: int | None = None
    """Of a `get`: the body breaks off behind so many bytes."""
    is_late: bool = False
    """The caller is told at once; the server does it when `FakeObjectClient.deliver_late` is called."""


Result = TypeVar("Result")

SLOW_DOWN = Fault(SlowDown)
TIMED_OUT = Fault(has_effect=True)
LOST = Fault()


class FakeObjectClient(ObjectClient):
    """Buckets of a dict. `faults[verb]` is a queue: each call of the verb takes one; None lets it pass. `calls` counts
    requests."""

    def __init__(
        self,
        *,
        part_min_bytes: int = 1024,
        creates_once: bool = True,
        delete_max: int = 1000,
        objects: dict[str, bytes] | None = None,
    ) -> None:
        self.objects: dict[str, bytes] = {} if objects is None else objects
        self.multiparts: dict[tuple[str, str], dict[int, bytes]] = {}
        self.faults: defaultdict[str, deque[Fault | None]] = defaultdict(deque)
        self.calls: defaultdict[str, int] = defaultdict(int)
        self.sending = self.sending_max = 0
        self._late: list[Callable[[], object]] = []
        self._limits = Limits(part_min_bytes, 5 * 1024**3, delete_max=delete_max)
        self._creates_once = creates_once
        self._started = 0

    @property
    def vendor(self) -> str:
        """See `ObjectClient.vendor`."""
        return "fake"

    @property
    def location(self) -> str:
        """See `ObjectClient.location`."""
        return "fake://bucket"

    @property
    def limits(self) -> Limits:
        """See `ObjectClient.limits`."""
        return self._limits

    async def open(self) -> None:
        """See `ObjectClient.open`."""

    async def aclose(self) -> None:
        """See `ObjectClient.aclose`."""

    async def probe(self, scratch_key: str) -> Abilities:
        """See `ObjectClient.probe`."""
        return await self._ask("probe", lambda: Abilities(creates_once=self._creates_once, checks_sha256=True))

    def deliver_late(self) -> None:
        """What was under way somewhere arrives at the server now."""
        late, self._late = self._late, []
        for effect in late:
            effect()

    async def put(self, key: str, data: bytes | bytearray, *, is_new: bool, sha256: bytes | None = None) -> bool:
        """See `ObjectClient.put`."""
        if sha256 is not None and hashlib.sha256(data).digest() != sha256:
            raise StorageFailed(f"put {key}: the bytes do not hash to the sha256 that was announced")
        content = bytes(data)

        def effect() -> bool:
            if is_new and self._creates_once and key in self.objects:
                return False
            self.objects[key] = content
            return True

        return await self._ask("put", effect)

    @asynccontextmanager
    async def get(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See `ObjectClient.get`."""
        fault = self.faults["get"].popleft() if self.faults["get"] else None
        self.calls["get"] += 1
        await asyncio.sleep(0)
        if fault is not None and fault.after_bytes is None:
            raise fault.error(f"get {key}")
        if key not in self.objects:
            raise KeyUnknown(f"nothing under {key}")
        data = self.objects[key]
        if start >= len(data) and (start or stop is not None):
            raise RangeInvalid(f"from byte {start} on of {len(data)}")
        yield len(data), _chunks(data[start:stop], fault, key)

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectClient.head`."""

        def effect() -> ObjectInfo:
            if key not in self.objects:
                raise KeyUnknown(f"nothing under {key}")
            return ObjectInfo(key, len(self.objects[key]))

        return await self._ask("head", effect)

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `ObjectClient.delete`."""
        assert 0 < len(keys) <= self._limits.delete_max, len(keys)

        def effect() -> frozenset[str]:
            for key in keys:
                self.objects.pop(key, None)
            return frozenset(keys)

        return await self._ask("delete", effect)

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `ObjectClient.list`."""
        last = after or ""
        while True:
            page = await self._ask("list", functools.partial(self._page, prefix, last))
            for info in page[:1000]:
                yield info
            if len(page) <= 1000:
                return
            last = page[999].key

    def _page(self, prefix: str, after: str) -> Sequence[ObjectInfo]:
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        return [ObjectInfo(key, len(self.objects[key])) for key in keys[:1001]]

    async def start_multipart(self, key: str) -> str:
        """See `ObjectClient.start_multipart`."""

        def effect() -> str:
            self._started += 1
            self.multiparts[key, f"m{self._started}"] = {}
            return f"m{self._started}"

        return await self._ask("start_multipart", effect)

    async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
        """See `ObjectClient.put_part`."""
        content = bytes(data)

        def effect() -> Part:
            self._parts(key, multipart_id)[number] = content
            return Part(number, len(content), _etag(content))

        self.sending += 1
        self.sending_max = max(self.sending, self.sending_max)
        try:
            return await self._ask("put_part", effect)
        finally:
            self.sending -= 1

    async def list_parts(self, key: str, multipart_id: str) -> Sequence[Part]:
        """See `ObjectClient.list_parts`."""

        def effect() -> Sequence[Part]:
            found = sorted(self._parts(key, multipart_id).items())
            return [Part(number, len(data), _etag(data)) for number, data in found]

        return await self._ask("list_parts", effect)

    async def complete(self, key: str, multipart_id: str, parts: Sequence[Part], *, is_new: bool = False) -> bool:
        """See `ObjectClient.complete`."""

        def effect() -> bool:
            found = self._parts(key, multipart_id)
            if is_new and key in self.objects:
                return False
            for at, part in enumerate(parts):
                data = found.get(part.number)
                if data is None or _etag(data) != part.etag or (at and parts[at - 1].number >= part.number):
                    raise StorageFailed(f"complete {key}: part {part.number} is not what was sent")
                if at < len(parts) - 1 and len(data) < self._limits.part_min_bytes:
                    raise StorageFailed(f"complete {key}: part {part.number} is too small")
            self.objects[key] = b"".join(found[part.number] for part in parts)
            del self.multiparts[key, multipart_id]
            return True

        return await self._ask("complete", effect)

    async def abort(self, key: str, multipart_id: str) -> None:
        """See `ObjectClient.abort`."""
        await self._ask("abort", lambda: self.multiparts.pop((key, multipart_id), None))

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """See `ObjectClient.list_multiparts`."""
        for found in await self._ask("list_multiparts", lambda: sorted(self.multiparts)):
            if found[0].startswith(prefix):
                yield OpenMultipart(*found)

    async def presign(self, key: str, valid_s: int) -> str:
        """See `ObjectClient.presign`."""
        return f"{self.location}/{key}?valid_s={valid_s}"

    def _parts(self, key: str, multipart_id: str) -> dict[int, bytes]:
        if (key, multipart_id) not in self.multiparts:
            raise KeyUnknown(f"no multipart upload {multipart_id} of {key}")
        return self.multiparts[key, multipart_id]

    async def _ask(self, verb: str, effect: Callable[[], Result]) -> Result:
        self.calls[verb] += 1
        fault = self.faults[verb].popleft() if self.faults[verb] else None
        # A request takes its time: others run, and this is where it may be cancelled.
        await asyncio.sleep(0)
        if fault is None:
            result = effect()
            await asyncio.sleep(0)
            return result
        if fault.is_late:
            self._late.append(effect)
        elif fault.has_effect:
            effect()
        raise fault.error(f"{verb}: as ordered")


def _etag(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


async def _chunks(data: bytes, fault: Fault | None, key: str) -> AsyncIterator[bytes]:
    end = len(data) if fault is None or fault.after_bytes is None else min(len(data), fault.after_bytes)
    for at in range(0, end, CHUNK_BYTES):
        await asyncio.sleep(0)
        yield data[at : min(end, at + CHUNK_BYTES)]
    if fault is not None:
        raise fault.error(f"get {key}: the body broke off")
