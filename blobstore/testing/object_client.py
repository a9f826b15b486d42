"""An object store in memory whose requests fail as they are told to: for what stands above a vendor."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from blobstore.abc.backend import CHUNK_BYTES, ObjectInfo
from blobstore.backends._object_client import Abilities, Limits, ObjectClient, OpenMultipart, Part
from blobstore.errors import BlobstoreError, KeyUnknown, RangeInvalid, StorageFailed

PAGE_KEYS = 1000


class Fault(msgspec.Struct, frozen=True):
    """What goes wrong with one request."""

    error: BlobstoreError
    is_done: bool = False
    """The request takes effect all the same, and only its answer is lost."""
    after: int = 0
    """A body breaks off behind so many bytes, a listing behind so many entries."""


class Unconfirmed(msgspec.Struct, frozen=True):
    """A delete that leaves some keys where they are, without an error."""

    keys: frozenset[str]


class MemoryObjectClient(ObjectClient):
    """Objects in a dict. `faults[verb]` are used up one a request, None for one that goes well; `requests` counts by verb.

    Each request takes `turns` turns of the event loop before it takes effect and as many before it is answered, so that it can be
    cancelled at either.
    """

    def __init__(self, *, part_min_bytes: int = 1, delete_max: int = 1000, creates_once: bool = True) -> None:
        self._limits = Limits(part_min_bytes=part_min_bytes, part_max_bytes=2**32, delete_max=delete_max)
        self._creates_once = creates_once
        self.objects: dict[str, bytes] = {}
        self.multiparts: dict[tuple[str, str], dict[int, bytes]] = {}
        self.faults: defaultdict[str, deque[Fault | Unconfirmed | None]] = defaultdict(deque)
        self.requests: Counter[str] = Counter()
        self.turns = 1
        self.under_way = self.under_way_max = 0
        self._started = 0

    @property
    def vendor(self) -> str:
        """See `ObjectClient.vendor`."""
        return "memory"

    @property
    def location(self) -> str:
        """See `ObjectClient.location`."""
        return "an object store in memory"

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
        async with self._request("probe"):
            assert scratch_key
            return Abilities(creates_once=self._creates_once, checks_sha256=True)

    async def put(self, key: str, data: bytes, *, is_new: bool, sha256: bytes | None = None) -> bool:
        """See `ObjectClient.put`."""
        async with self._request("put"):
            if sha256 is not None and hashlib.sha256(data).digest() != sha256:
                raise StorageFailed(f"put {key}: the body does not hash to what was announced")
            if is_new and self._creates_once and key in self.objects:
                return False
            self.objects[key] = bytes(data)
            return True

    @asynccontextmanager
    async def get(
        self, key: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """See `ObjectClient.get`."""
        async with self._request("get") as fault:
            data = self._object(key)
            if not 0 <= start < len(data) or (stop is not None and stop < start):
                raise RangeInvalid(f"bytes {start} to {stop} of {len(data)}")
        yield len(data), _body(data[start:stop], fault)

    async def head(self, key: str) -> ObjectInfo:
        """See `ObjectClient.head`."""
        async with self._request("head"):
            return ObjectInfo(key, len(self._object(key)))

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        """See `ObjectClient.delete`."""
        assert len(keys) <= self._limits.delete_max, len(keys)
        async with self._request("delete") as fault:
            stays = fault.keys if isinstance(fault, Unconfirmed) else frozenset[str]()
            for key in set(keys) - stays:
                self.objects.pop(key, None)
            return frozenset(keys) - stays

    async def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        """See `ObjectClient.list`. One request a thousand."""
        while True:
            async with self._request("list") as fault:
                found = sorted(key for key in self.objects if key.startswith(prefix) and (after is None or key > after))
                page = [ObjectInfo(key, len(self.objects[key])) for key in found[:PAGE_KEYS]]
            for number, info in enumerate(page):
                _break_off(fault, number)
                yield info
            if len(found) <= PAGE_KEYS:
                return
            after = page[-1].key

    async def start_multipart(self, key: str) -> str:
        """See `ObjectClient.start_multipart`."""
        async with self._request("start_multipart"):
            self._started += 1
            multipart_id = f"multipart-{self._started}"
            self.multiparts[key, multipart_id] = {}
            return multipart_id

    async def put_part(self, key: str, multipart_id: str, number: int, data: bytes | bytearray) -> Part:
        """See `ObjectClient.put_part`."""
        async with self._request("put_part"):
            assert 1 <= number <= self._limits.parts_max, number
            self._multipart(key, multipart_id)[number] = bytes(data)
            return _part(number, data)

    async def list_parts(self, key: str, multipart_id: str) -> Sequence[Part]:
        """See `ObjectClient.list_parts`."""
        async with self._request("list_parts"):
            parts = self._multipart(key, multipart_id)
            return [_part(number, parts[number]) for number in sorted(parts)]

    async def complete(self, key: str, multipart_id: str, parts: Sequence[Part]) -> None:
        """See `ObjectClient.complete`. As real servers do, refuses parts it doesn't have and small ones before the last."""
        async with self._request("complete"):
            sent = self._multipart(key, multipart_id)
            for part in parts:
                if part.number not in sent or part != _part(part.number, sent[part.number]):
                    raise StorageFailed(f"complete {key}: part {part.number} is not what was sent")
            if not parts or any(part.size_bytes < self._limits.part_min_bytes for part in parts[:-1]):
                raise StorageFailed(f"complete {key}: no parts, or too small ones")
            numbers = [part.number for part in parts]
            assert numbers == sorted(set(numbers)), numbers
            self.objects[key] = b"".join(sent[number] for number in numbers)
            del self.multiparts[key, multipart_id]

    async def abort(self, key: str, multipart_id: str) -> None:
        """See `ObjectClient.abort`."""
        async with self._request("abort"):
            self.multiparts.pop((key, multipart_id), None)

    async def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        """See `ObjectClient.list_multiparts`."""
        async with self._request("list_multiparts") as fault:
            found = sorted(names for names in self.multiparts if names[0].startswith(prefix))
        for number, (key, multipart_id) in enumerate(found):
            _break_off(fault, number)
            yield OpenMultipart(key, multipart_id)

    async def presign(self, key: str, valid_s: int) -> str:
        """See `ObjectClient.presign`."""
        return f"memory:{key}?valid_s={valid_s}"

    @asynccontextmanager
    async def _request(self, verb: str) -> AsyncIterator[Fault | Unconfirmed | None]:
        self.requests[verb] += 1
        fault = self.faults[verb].popleft() if self.faults[verb] else None
        fails = isinstance(fault, Fault) and not fault.after
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            await self._turn()
            if isinstance(fault, Fault) and fails and not fault.is_done:
                raise fault.error
            yield fault
            await self._turn()
            if isinstance(fault, Fault) and fails:
                raise fault.error
        finally:
            self.under_way -= 1

    async def _turn(self) -> None:
        for _ in range(self.turns):
            await asyncio.sleep(0)

    def _object(self, key: str) -> bytes:
        if key not in self.objects:
            raise KeyUnknown(f"nothing under {key}")
        return self.objects[key]

    def _multipart(self, key: str, multipart_id: str) -> dict[int, bytes]:
        if (key, multipart_id) not in self.multiparts:
            raise KeyUnknown(f"no upload {multipart_id} of {key}")
        return self.multiparts[key, multipart_id]


def _break_off(fault: Fault | Unconfirmed | None, told: int) -> None:
    if isinstance(fault, Fault) and fault.after == told > 0:
        raise fault.error


async def _body(data: bytes, fault: Fault | Unconfirmed | None) -> AsyncIterator[bytes]:
    stop = min(len(data), fault.after) if isinstance(fault, Fault) and fault.after else len(data)
    for at in range(0, stop, CHUNK_BYTES):
        yield data[at : min(at + CHUNK_BYTES, stop)]
    _break_off(fault, stop)


def _part(number: int, data: bytes | bytearray) -> Part:
    return Part(number, len(data), hashlib.sha256(data).hexdigest())
