"""The fake object store with what only the retrying layer asks of it: listings that break off, deletes left unconfirmed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from blobstore.abc.backend import ObjectInfo
from blobstore.backends._object_client import OpenMultipart
from blobstore.errors import BlobstoreError
from blobstore.testing.object_client import FakeObjectClient, Fault

Found = TypeVar("Found")
Result = TypeVar("Result")


class Unconfirmed(msgspec.Struct, frozen=True):
    """A delete that leaves some keys where they are, without an error."""

    keys: frozenset[str]


def fault(error: BlobstoreError, *, is_done: bool = False, after: int | None = None) -> Fault:
    """One request that ends with this error; behind so many bytes of a body or entries of a listing."""
    return Fault(lambda _: error, has_effect=is_done, after_bytes=after)


class ScriptedClient(FakeObjectClient):
    """`under_way_max` is how many requests were under way at once."""

    def __init__(self) -> None:
        super().__init__(part_min_bytes=1)
        self.under_way = self.under_way_max = 0

    async def delete(self, keys: Sequence[str]) -> frozenset[str]:
        if not self.faults["delete"] or not isinstance(self.faults["delete"][0], Unconfirmed):
            return await super().delete(keys)
        stays: Any = self.faults["delete"].popleft()
        self.calls["delete"] += 1
        gone = frozenset(keys) - stays.keys
        for key in gone:
            self.objects.pop(key, None)
        return gone

    def list(self, prefix: str, after: str | None = None) -> AsyncIterator[ObjectInfo]:
        return self._broken("list", super().list(prefix, after))

    def list_multiparts(self, prefix: str) -> AsyncIterator[OpenMultipart]:
        return self._broken("list_multiparts", super().list_multiparts(prefix))

    async def _broken(self, verb: str, entries: AsyncIterator[Found]) -> AsyncIterator[Found]:
        faults, told = self.faults[verb], 0
        first = faults[0] if faults else None
        if first is not None and first.after_bytes is not None:
            # Not the first request of it: that one goes well.
            faults[0] = None
        async for entry in entries:
            if first is not None and first.after_bytes == told:
                raise first.error(verb)
            told += 1
            yield entry

    async def _ask(self, verb: str, effect: Callable[[], Result]) -> Result:
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)
        try:
            return await super()._ask(verb, effect)
        finally:
            self.under_way -= 1
