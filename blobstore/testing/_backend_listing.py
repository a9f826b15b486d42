"""The backend suite, listing and deleting: in order, complete, and exactly what was named."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from blobstore.abc.backend import Backend, ObjectInfo
from blobstore.errors import InvalidInput, KeyUnknown
from blobstore.testing._backend_stage import BackendTests, content, found_keys, key_of, upload_id_of

KEY = key_of(0)
_PUTS_AT_ONCE = 100


class ListingTests(BackendTests):
    """`list` and `delete`."""

    async def test_a_deleted_key_is_gone(self, backend: Backend) -> None:
        """And those beside it, also with a name that begins alike, are not."""
        left = list(self.TRICKY_KEYS)
        for key in self.TRICKY_KEYS:
            await backend.put_new(key, b"x")
        for key in self.TRICKY_KEYS[::3]:
            assert await backend.delete([key]) == {key}
            with pytest.raises(KeyUnknown):
                await backend.stat(key)
            left.remove(key)
            assert await found_keys(backend, "") == left

    async def test_deletes_of_absent_keys_are_confirmed(self, backend: Backend) -> None:
        """Alone, among others, twice, and none at all."""
        await backend.put_new(KEY, b"x")
        keys = [KEY, key_of(1), "journal/nothing", "nowhere/at/all"]
        assert await backend.delete(keys) == set(keys)
        assert await backend.delete(keys) == set(keys)
        assert await backend.delete([KEY, KEY]) == {KEY}
        assert await backend.delete([]) == frozenset()

    async def test_a_late_delete_hits_its_own_name_alone(self, backend: Backend, another: Backend) -> None:
        """Another generation of the same digest, put while the old one is deleted again and again, stays."""
        old = KEY
        new = old.rpartition(".")[0] + "." + upload_id_of(77)
        await backend.put_new(old, b"same bytes")
        deletes = [another.delete([old]) for _ in range(5)]
        results = await asyncio.gather(*deletes, backend.put_new(new, b"same bytes"), *[backend.delete([old])])
        assert results[5] is True
        assert await another.delete([old]) == {old}
        assert await found_keys(backend, "") == [new]
        assert await content(backend, new) == b"same bytes"

    async def test_a_delete_that_races_a_put_leaves_the_whole_or_nothing(
        self, backend: Backend, another: Backend
    ) -> None:
        """Of one name, which a store never does: even then no half of a value, and listing and reading agree afterwards."""
        data = b"0123456789" * 50_000
        for number in range(10):
            key = key_of(number)
            put, gone = await asyncio.gather(backend.put_new(key, data), another.delete([key]))
            assert put is True
            assert gone == {key}
            found = await content(backend, key)
            assert found in (None, data)
            assert await found_keys(backend, key) == ([] if found is None else [key])

    async def test_thousands_of_keys(self, backend: Backend, another: Backend) -> None:
        """Listed in order, from any key on, also while others are put and deleted; all deleted by one call."""
        keys = sorted(key_of(number) for number in range(self.LISTED_KEYS))
        await _put_all(backend, keys)
        assert await found_keys(backend, "blobs/") == keys
        for at in (0, 998, 999, 1000, 1001, len(keys) - 2, len(keys) - 1):
            assert await found_keys(backend, "", keys[at]) == keys[at + 1 :], at
        prefix = keys[len(keys) // 2][: len("blobs/sha256/ab/")]
        assert await found_keys(another, prefix) == [key for key in keys if key.startswith(prefix)]
        await self._listed_meanwhile(backend, another, keys)
        assert await backend.delete(keys) == set(keys)
        assert await found_keys(backend, "") == []

    async def _listed_meanwhile(self, backend: Backend, another: Backend, keys: Sequence[str]) -> None:
        """Each key that stays is listed once; those that come and go may be."""
        comes = [key_of(self.LISTED_KEYS + number) for number in range(50)]
        goes, stays = keys[25 :: len(keys) // 40], set(keys) - set(keys[25 :: len(keys) // 40])
        found: list[str] = []
        async for info in backend.list("blobs/"):
            if len(found) % (len(keys) // 10) == 0:
                at = len(found) // (len(keys) // 10)
                await another.delete(goes[at * 5 : at * 5 + 5])
                await _put_all(another, comes[at * 5 : at * 5 + 5])
            found.append(info.key)
        assert found == sorted(set(found))
        assert stays <= set(found) <= {*keys, *comes}
        await _put_all(another, goes)
        await another.delete(comes)
        assert await found_keys(backend, "") == list(keys)

    async def test_listings_are_sorted_by_key(self, backend: Backend) -> None:
        """By bytes of the whole key, not component by component."""
        assert sorted(self.TRICKY_KEYS) == list(self.TRICKY_KEYS)
        for key in reversed(self.TRICKY_KEYS):
            await backend.put_new(key, b"x" * len(key))
        found = [info async for info in backend.list("blobs/sha256/")]
        assert found == [ObjectInfo(key, len(key)) for key in self.TRICKY_KEYS]

    async def test_a_prefix_may_end_inside_a_component(self, backend: Backend) -> None:
        """It is text, not a directory."""
        for key in self.TRICKY_KEYS:
            await backend.put_new(key, b"x")
        for end in ("a", "ab", "ab/", "ab/a", "ab-", "b", "c", "ab/a-b", "ab/a-bc"):
            prefix = f"blobs/sha256/{end}"
            assert await found_keys(backend, prefix) == [key for key in self.TRICKY_KEYS if key.startswith(prefix)], end

    async def test_a_listing_begins_behind_any_text(self, backend: Backend) -> None:
        """`after` need not be a key that is there, nor one under the prefix."""
        for key in self.TRICKY_KEYS:
            await backend.put_new(key, b"x")
        for after in (*self.TRICKY_KEYS, *self.TRICKY_AFTERS):
            for prefix in ("", "blobs/sha256/ab"):
                expected = [key for key in self.TRICKY_KEYS if key.startswith(prefix) and key > after]
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
        await _put_all(backend, stays + goes)
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

    async def test_a_listing_begun_later_shows_all_that_was_committed(self, backend: Backend, another: Backend) -> None:
        """At once, with no settling time, to whomever."""
        for number in range(20):
            await backend.put_new(key_of(number), b"x")
            assert key_of(number) in await found_keys((backend, another)[number % 2], "blobs/")
            await backend.delete([key_of(number)])
            assert await found_keys((backend, another)[number % 2], "blobs/") == []


async def _put_all(backend: Backend, keys: Sequence[str]) -> None:
    for at in range(0, len(keys), _PUTS_AT_ONCE):
        await asyncio.gather(*[backend.put_new(key, b"x") for key in keys[at : at + _PUTS_AT_ONCE]])
