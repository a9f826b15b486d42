"""The promises of `Backend`, as tests that every backend must pass.

    class TestMyBackend(BackendSuite):
        def make_backend(self, directory: Path) -> Backend:
            return MyBackend(directory / "store")

Needs pytest and pytest-asyncio. Keys are those of a store (see `blobstore.layout`), as a backend may make its folders ahead.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from blobstore.abc.backend import CHUNK_BYTES, Backend, ObjectInfo, read_all
from blobstore.errors import InvalidInput, KeyUnknown, RangeInvalid
from blobstore.testing._backend_cancellation import CancellationTests
from blobstore.testing._backend_stage import MIB, BackendTests, found_keys, key_of
from blobstore.testing._backend_uploads import UploadTests

KEY = key_of(0)
BAD_KEYS = (
    "",
    "/",
    "/x",
    "..",
    "../x",
    "blobs/../x",
    "blobs//x",
    "blobs/",
    ".x",
    "blobs/.x",
    "blobs/x\n",
    "bl\0b",
    "b b",
)
# In byte order, which is not the order of a tree: "-" and "." sort before "/", digits and letters behind.
TRICKY = [f"blobs/sha256/{name}" for name in ("ab+1", "ab-c", "ab.x", "ab/a", "ab/a-b", "ab/b", "ab0", "ac/a", "b")]


class ValueTests(BackendTests):
    """Small values, reading, deleting, listing."""

    async def test_an_empty_backend_has_nothing(self, backend: Backend) -> None:
        """No key is found, whether it is read, asked for or listed."""
        with pytest.raises(KeyUnknown):
            await backend.stat(KEY)
        with pytest.raises(KeyUnknown):
            await read_all(backend, KEY)
        for prefix in ("", "blobs/", "blobs/sha256/", "journal/", "nowhere/", "nowhere/at/all"):
            assert await found_keys(backend, prefix) == []

    async def test_preparing_is_repeatable(self, backend: Backend) -> None:
        """A second time changes nothing."""
        await backend.put_new(KEY, b"x")
        await backend.prepare()
        assert await found_keys(backend, "") == [KEY]

    async def test_its_facts_are_usable(self, backend: Backend) -> None:
        """A name, a place, and a batch of at least one."""
        assert backend.properties.name
        assert backend.location
        assert backend.properties.delete_batch_max >= 1

    @pytest.mark.parametrize("size", [0, 1, 32, MIB - 1, MIB, MIB + 1])
    async def test_put_and_read(self, backend: Backend, size: int) -> None:
        """Whatever the size, what is read is what was put."""
        data = secrets.token_bytes(size)
        await backend.put(KEY, data)
        assert await read_all(backend, KEY) == data
        assert await backend.stat(KEY) == ObjectInfo(KEY, size)

    async def test_put_replaces_the_whole(self, backend: Backend) -> None:
        """A shorter value leaves nothing of a longer one, a longer one nothing of a shorter."""
        for data in (b"x" * 4096, b"y" * 2048, b"", b"z" * 5000):
            await backend.put(KEY, data)
            assert await read_all(backend, KEY) == data
        assert await found_keys(backend, "") == [KEY]

    async def test_put_new_does_not_replace(self, backend: Backend) -> None:
        """True the first time; False, and nothing changed, ever after."""
        assert await backend.put_new(KEY, b"first") is True
        for data in (b"second", b""):
            assert await backend.put_new(KEY, data) is False
        assert await read_all(backend, KEY) == b"first"
        await backend.put(KEY, b"replaced")
        assert await backend.put_new(KEY, b"third") is False
        await backend.delete([KEY])
        assert await backend.put_new(KEY, b"fourth") is True

    async def test_one_of_many_puts_wins(self, backend: Backend) -> None:
        """32 at once on one key: exactly one is told True, and its bytes are what lies there."""
        told = await asyncio.gather(*[backend.put_new(KEY, bytes([each]) * 1000) for each in range(32)])
        assert told.count(True) == 1
        assert await read_all(backend, KEY) == bytes([told.index(True)]) * 1000
        assert await found_keys(backend, "") == [KEY]

    async def test_ranges(self, backend: Backend) -> None:
        """Any start and stop within; a stop beyond the end is the end."""
        data = secrets.token_bytes(2 * CHUNK_BYTES + 100)
        await backend.put(KEY, data)
        size = len(data)
        edges = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, size - 1, size]
        for start in edges:
            assert await _read(backend, start) == data[start:]
            for stop in [each for each in edges if each >= start] + [size + 5]:
                assert await _read(backend, start, stop) == data[start:stop]

    async def test_ranges_outside_are_refused(self, backend: Backend) -> None:
        """Before the beginning, beyond the end, backwards: on entering. A start at the end reads nothing."""
        await backend.put(KEY, b"0123456789")
        assert await _read(backend, 10) == b""
        assert await _read(backend, 10, 10) == b""
        for start, stop in ((-1, None), (11, None), (11, 12), (5, 4), (-2, -1)):
            with pytest.raises(RangeInvalid):
                await _read(backend, start, stop)

    async def test_an_empty_object_has_one_range(self, backend: Backend) -> None:
        """From 0, and none behind."""
        await backend.put(KEY, b"")
        assert await _read(backend, 0) == b""
        with pytest.raises(RangeInvalid):
            await _read(backend, 1)

    async def test_chunks_are_bounded(self, backend: Backend) -> None:
        """No chunk is larger than `CHUNK_BYTES`, none is empty."""
        await backend.put(KEY, b"x" * (3 * CHUNK_BYTES + 1))
        async with backend.read(KEY) as chunks:
            sizes = [len(chunk) async for chunk in chunks]
        assert sum(sizes) == 3 * CHUNK_BYTES + 1
        assert 0 < min(sizes) <= max(sizes) <= CHUNK_BYTES

    async def test_many_read_at_once(self, backend: Backend) -> None:
        """Ten readers at offsets of their own, each gets its tail."""
        data = secrets.token_bytes(10 * MIB)
        await backend.put(KEY, data)
        starts = [secrets.randbelow(len(data)) for _ in range(10)]
        tails = await asyncio.gather(*[_read(backend, start) for start in starts])
        assert all(tail == data[start:] for start, tail in zip(starts, tails, strict=True))

    async def test_a_prefix_is_no_object(self, backend: Backend) -> None:
        """What only begins other keys can be neither read nor asked for."""
        await backend.put_new("blobs/sha256/ab/x", b"x")
        for prefix in ("blobs", "blobs/sha256", "blobs/sha256/ab"):
            with pytest.raises(KeyUnknown):
                await backend.stat(prefix)
            with pytest.raises(KeyUnknown):
                await read_all(backend, prefix)

    @pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
    async def test_bad_keys_are_refused(self, backend: Backend, key: str) -> None:
        """Empty components, absolute ones, those that climb or hide: by every verb that takes a key."""
        verbs: tuple[Callable[[], Coroutine[Any, Any, object]], ...] = (
            lambda: backend.put(key, b"x"),
            lambda: backend.put_new(key, b"x"),
            lambda: read_all(backend, key),
            lambda: backend.stat(key),
            lambda: backend.delete([key]),
        )
        for verb in verbs:
            with pytest.raises(InvalidInput):
                await verb()
        assert await found_keys(backend, "") == []

    async def test_a_deleted_key_is_gone(self, backend: Backend) -> None:
        """And those beside it, also with a name that begins alike, are not."""
        for key in TRICKY:
            await backend.put_new(key, b"x")
        assert await backend.delete([TRICKY[3]]) == {TRICKY[3]}
        with pytest.raises(KeyUnknown):
            await backend.stat(TRICKY[3])
        assert await found_keys(backend, "") == [key for key in TRICKY if key != TRICKY[3]]

    async def test_deletes_of_absent_keys_are_confirmed(self, backend: Backend) -> None:
        """Alone, among others, twice, and none at all."""
        await backend.put_new(KEY, b"x")
        keys = [KEY, key_of(1), "journal/nothing", "nowhere/at/all"]
        assert await backend.delete(keys) == set(keys)
        assert await backend.delete(keys) == set(keys)
        assert await backend.delete([KEY, KEY]) == {KEY}
        assert await backend.delete([]) == frozenset()

    async def test_2500_keys(self, backend: Backend) -> None:
        """Listed in order, from any key on, and deleted in batches."""
        keys = sorted(key_of(number) for number in range(2500))
        for at in range(0, len(keys), 100):
            await asyncio.gather(*[backend.put_new(key, b"x") for key in keys[at : at + 100]])
        assert await found_keys(backend, "blobs/") == keys
        assert await found_keys(backend, "", keys[1234]) == keys[1235:]
        batch = backend.properties.delete_batch_max
        for at in range(0, len(keys), batch):
            assert await backend.delete(keys[at : at + batch]) == set(keys[at : at + batch])
        assert await found_keys(backend, "") == []

    async def test_listings_are_sorted_by_key(self, backend: Backend) -> None:
        """By bytes of the whole key, not component by component."""
        assert sorted(TRICKY) == TRICKY
        for key in reversed(TRICKY):
            await backend.put_new(key, b"x" * len(key))
        found = [info async for info in backend.list("blobs/sha256/")]
        assert found == [ObjectInfo(key, len(key)) for key in TRICKY]

    async def test_a_prefix_may_end_inside_a_component(self, backend: Backend) -> None:
        """It is text, not a directory."""
        for key in TRICKY:
            await backend.put_new(key, b"x")
        for end in ("a", "ab", "ab/", "ab/a", "ab-", "b", "c", "ab/a-b", "ab/a-bc"):
            prefix = f"blobs/sha256/{end}"
            assert await found_keys(backend, prefix) == [key for key in TRICKY if key.startswith(prefix)], end

    async def test_a_listing_begins_behind_any_text(self, backend: Backend) -> None:
        """`after` need not be a key that is there, nor one under the prefix."""
        for key in TRICKY:
            await backend.put_new(key, b"x")
        afters = [*TRICKY, "a", "blobs/", "blobs/sha256/ab", "blobs/sha256/ab/", "blobs/sha256/ab/aa", "c"]
        for after in afters:
            for prefix in ("", "blobs/sha256/ab"):
                expected = [key for key in TRICKY if key.startswith(prefix) and key > after]
                assert await found_keys(backend, prefix, after) == expected, (prefix, after)

    async def test_a_listing_stays_inside(self, backend: Backend) -> None:
        """A prefix that climbs finds nothing."""
        await backend.put_new(KEY, b"x")
        for prefix in ("../", "/", "blobs/../", "/etc/"):
            try:
                assert await found_keys(backend, prefix) == []
            except InvalidInput:
                continue

    async def test_a_listing_owes_what_was_there_all_along(self, backend: Backend) -> None:
        """Keys put and deleted while it runs may come or not; the others come once, in order."""
        stays = [key_of(number) for number in range(0, 300, 3)]
        goes = [key_of(number) for number in range(1, 300, 3)]
        comes = [key_of(number) for number in range(2, 300, 3)]
        for key in stays + goes:
            await backend.put_new(key, b"x")
        found: list[str] = []
        at = 0
        async for info in backend.list("blobs/"):
            found.append(info.key)
            if at < len(goes):
                await backend.delete([goes[at]])
                await backend.put_new(comes[at], b"x")
                at += 1
        assert found == sorted(set(found))
        assert set(stays) <= set(found) <= {*stays, *goes, *comes}

    async def test_a_listing_begun_later_shows_all_that_was_committed(self, backend: Backend) -> None:
        """At once, with no settling time."""
        for number in range(20):
            await backend.put_new(key_of(number), b"x")
            assert key_of(number) in await found_keys(backend, "blobs/")
            await backend.delete([key_of(number)])
            assert await found_keys(backend, "blobs/") == []


async def _read(backend: Backend, start: int, stop: int | None = None) -> bytes:
    async with backend.read(KEY, start, stop) as chunks:
        return b"".join([chunk async for chunk in chunks])


@pytest.mark.asyncio
class BackendSuite(ValueTests, UploadTests, CancellationTests):
    """Inherit, and say how to make a backend."""
