"""The backend suite, values: what is put is what is read, under every key that may be one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from blobstore.abc.backend import CHUNK_BYTES, Backend, ObjectInfo, read_all
from blobstore.errors import InvalidInput, KeyUnknown, RangeInvalid
from blobstore.testing._backend_stage import MIB, BackendTests, content, found_keys, key_of, read_range

KEY = key_of(0)
CONTENTS = {
    "nothing": b"",
    "one byte": b"a",
    "32 bytes": bytes(range(32)),
    "text": "зелёный чай, 緑茶, 🍵".encode(),
    "no text": b"\x80\x80\x80\x80",
    "line ends": b"\r\n\n\r\0\x1a\r\n",
}
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
    "blobs/é",
    "blobs/%2e",
    "blobs/" + "x" * 256,
    "blobs" + "/x" * 254,
)
ODD_KEYS = tuple(
    f"journal/{name}"
    for name in (
        "a+b",
        "a=b",
        "+",
        "=",
        ":",
        "~",
        "@",
        ",",
        "-",
        "_",
        "0",
        "00",
        "sha256:ab",
        "a..b",
        "a.",
        "a--b",
        "_.abc",
        "docker",
        "Docker",
        "DOCKER",
        "a,b",
        "-rf",
        "~root",
        "1.2.3.4.5-6_zyx",
        "x" * 255,
    )
)


class ValueTests(BackendTests):
    """Small values, ranges, and the keys they lie under."""

    async def test_an_empty_backend_has_nothing(self, backend: Backend) -> None:
        """No key is found, whether it is read from any byte on, asked for or listed."""
        with pytest.raises(KeyUnknown):
            await backend.stat(KEY)
        for start, stop in ((0, None), (64, None), (0, 0), (5, 10)):
            with pytest.raises(KeyUnknown):
                await read_range(backend, KEY, start, stop)
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

    async def test_another_sees_all_at_once(self, backend: Backend, another: Backend) -> None:
        """What one process put, replaced and deleted is so for another at once, and the other way round."""
        for number, (one, other) in enumerate([(backend, another), (another, backend)]):
            key = key_of(number)
            with pytest.raises(KeyUnknown):
                await other.stat(key)
            await one.put(key, b"old")
            assert await content(other, key) == b"old"
            await one.put(key, b"longer")
            assert await other.stat(key) == ObjectInfo(key, 6)
            assert await content(other, key) == b"longer"
            assert await found_keys(other, "blobs/") == [key]
            await one.delete([key])
            assert await content(other, key) is None
            assert await found_keys(other, "") == []

    @pytest.mark.parametrize("kind", CONTENTS)
    async def test_any_bytes(self, backend: Backend, kind: str) -> None:
        """They are bytes, whatever they look like."""
        await backend.put(KEY, CONTENTS[kind])
        assert await read_all(backend, KEY) == CONTENTS[kind]
        assert await backend.put_new(key_of(1), CONTENTS[kind]) is True
        assert await read_all(backend, key_of(1)) == CONTENTS[kind]

    @pytest.mark.parametrize("size", [0, 1, 32, MIB - 1, MIB, MIB + 1])
    async def test_put_and_read(self, backend: Backend, size: int) -> None:
        """Whatever the size, what is read is what was put."""
        data = secrets.token_bytes(size)
        await backend.put(KEY, data)
        assert await read_all(backend, KEY) == data
        assert await backend.stat(KEY) == ObjectInfo(KEY, size)

    async def test_put_replaces_the_whole(self, backend: Backend) -> None:
        """A shorter value leaves nothing of a longer one, a longer one nothing of a shorter."""
        for data in (b"x" * MIB, b"y" * 1024, b"", b"z" * 5000):
            await backend.put(KEY, data)
            assert await read_all(backend, KEY) == data
            assert await backend.stat(KEY) == ObjectInfo(KEY, len(data))
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

    async def test_one_of_many_puts_wins(self, backend: Backend, another: Backend) -> None:
        """32 at once on one key, from two sides: exactly one is told True, and its bytes are what lies there."""
        puts = [(backend, another)[each % 2].put_new(KEY, bytes([each]) * 1000) for each in range(32)]
        told = await asyncio.gather(*puts)
        assert told.count(True) == 1
        assert await read_all(backend, KEY) == bytes([told.index(True)]) * 1000
        assert await found_keys(backend, "") == [KEY]

    async def test_puts_at_once_leave_one_of_them(self, backend: Backend) -> None:
        """16 that replace each other: all succeed, and what lies there is whole."""
        values = [bytes([each]) * (1000 + each) for each in range(16)]
        await asyncio.gather(*[backend.put(KEY, value) for value in values])
        assert await read_all(backend, KEY) in values
        assert await found_keys(backend, "") == [KEY]

    async def test_ranges(self, backend: Backend) -> None:
        """Any start and stop within; a stop beyond the end is the end."""
        data = secrets.token_bytes(2 * CHUNK_BYTES + 100)
        await backend.put(KEY, data)
        size = len(data)
        edges = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, size - 1, size]
        for start in edges:
            assert await read_range(backend, KEY, start) == data[start:]
            for stop in [each for each in edges if each >= start] + [size + 5]:
                assert await read_range(backend, KEY, start, stop) == data[start:stop]

    async def test_ranges_outside_are_refused(self, backend: Backend) -> None:
        """Before the beginning, beyond the end, backwards: on entering. A start at the end reads nothing."""
        await backend.put(KEY, b"0123456789")
        assert await read_range(backend, KEY, 9) == b"9"
        assert await read_range(backend, KEY, 10) == b""
        assert await read_range(backend, KEY, 10, 10) == b""
        assert await read_range(backend, KEY, 10, 15) == b""
        assert await read_range(backend, KEY, 4, 4) == b""
        for start, stop in ((-1, None), (11, None), (11, 12), (5, 4), (-2, -1), (0, -1), (2**63, None)):
            with pytest.raises(RangeInvalid):
                async with backend.read(KEY, start, stop):
                    pytest.fail("it was entered")

    async def test_an_empty_object_has_one_range(self, backend: Backend) -> None:
        """From 0, and none behind."""
        await backend.put(KEY, b"")
        assert await read_range(backend, KEY, 0) == b""
        assert await read_range(backend, KEY, 0, 5) == b""
        with pytest.raises(RangeInvalid):
            await read_range(backend, KEY, 1)

    async def test_chunks_are_bounded(self, backend: Backend) -> None:
        """No chunk is larger than `CHUNK_BYTES`, none is empty."""
        await backend.put(KEY, b"x" * (3 * CHUNK_BYTES + 1))
        async with backend.read(KEY) as chunks:
            sizes = [len(chunk) async for chunk in chunks]
        assert sum(sizes) == 3 * CHUNK_BYTES + 1
        assert 0 < min(sizes) <= max(sizes) <= CHUNK_BYTES

    async def test_a_prefix_is_no_object(self, backend: Backend) -> None:
        """What only begins other keys can be neither read nor asked for, and deleting it deletes nothing."""
        await backend.put_new("blobs/sha256/ab/x", b"x")
        for prefix in ("blobs", "blobs/sha256", "blobs/sha256/ab"):
            with pytest.raises(KeyUnknown):
                await backend.stat(prefix)
            with pytest.raises(KeyUnknown):
                await read_all(backend, prefix)
            await backend.delete([prefix])
        assert await content(backend, "blobs/sha256/ab/x") == b"x"

    async def test_odd_keys(self, backend: Backend) -> None:
        """Whatever a key may be made of: each is a name of its own, also to a URL, a shell and a disk that is blind to case."""
        for key in ODD_KEYS:
            assert await backend.put_new(key, key.encode()) is True
        for key in ODD_KEYS:
            assert await read_all(backend, key) == key.encode()
            assert await backend.stat(key) == ObjectInfo(key, len(key))
        assert await found_keys(backend, "journal/") == sorted(ODD_KEYS)
        for key in ODD_KEYS:
            assert await found_keys(backend, key) == sorted(other for other in ODD_KEYS if other.startswith(key))
            assert await found_keys(backend, "", key) == sorted(other for other in ODD_KEYS if other > key)
        for key in ODD_KEYS[::2]:
            assert await backend.delete([key]) == {key}
        assert await found_keys(backend, "") == sorted(ODD_KEYS[1::2])

    @pytest.mark.parametrize("key", BAD_KEYS, ids=lambda key: ascii(key)[:20])
    async def test_bad_keys_are_refused(self, backend: Backend, key: str) -> None:
        """Empty components, absolute ones, those that climb or hide, those that are too long: by every verb that takes a key."""
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
