"""The backend suite, uploads: streamed, committed whole and once, many at a time."""

from __future__ import annotations

import asyncio
import hashlib
import secrets

import pytest

from blobstore.abc.backend import Backend, BackendUpload, ObjectInfo, read_all
from blobstore.errors import BlobstoreError, InvalidInput, KeyUnknown, RangeInvalid, UploadBusy
from blobstore.layout import UPLOADS_PREFIX, blob_key, parse_blob_key
from blobstore.testing._backend_stage import (
    MIB,
    BackendTests,
    content,
    found_keys,
    key_of,
    possible_names,
    published,
    read_range,
    upload_id_of,
    write_pieces,
)
from blobstore.testing._backend_values import CONTENTS

UPLOAD_ID = upload_id_of(1)
KEY = key_of(1)


class UploadTests(BackendTests):
    """An upload in one session. What it published is read under the names that its commit returned."""

    async def test_bytes_are_visible_once_committed(self, backend: Backend) -> None:
        """Under no name before, whole right after, under the names that are told."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"some ")
        await upload.write(b"bytes")
        await upload.drain()
        await _assert_invisible(backend, 1)
        names = await upload.commit(KEY)
        await _assert_published(backend, names, b"some bytes")

    @pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
    async def test_several_parts_are_visible_once_committed(
        self, backend: Backend, another: Backend, *, is_known: bool
    ) -> None:
        """Though most of them were sent before; for another process, too. Where the key is known ahead it is the name."""
        data = secrets.token_bytes(self.SEVERAL_PARTS_BYTES)
        upload = await backend.open_upload(UPLOAD_ID, key=KEY if is_known else None)
        await write_pieces(upload, data, 777_777)
        assert upload.offset == len(data)
        await upload.drain()
        await _assert_invisible(backend, 1)
        names = await upload.commit(KEY)
        if is_known:
            assert names == (KEY,)
        await _assert_published(another, names, data)
        await _assert_published(backend, names, data)
        assert await backend.delete(names) == set(names)
        assert await found_keys(another, "") == []

    @pytest.mark.parametrize("kind", CONTENTS)
    @pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
    async def test_small_uploads(self, backend: Backend, kind: str, *, is_known: bool) -> None:
        """Nothing, a byte and a few are committed like any others."""
        upload = await backend.open_upload(UPLOAD_ID, key=KEY if is_known else None)
        if CONTENTS[kind]:
            await upload.write(CONTENTS[kind])
        names = await upload.commit(KEY)
        if is_known:
            assert names == (KEY,)
        await _assert_published(backend, names, CONTENTS[kind])
        with pytest.raises(RangeInvalid):
            await read_range(backend, names[0], len(CONTENTS[kind]) + 1)

    async def test_pieces_of_any_size(self, backend: Backend) -> None:
        """Empty ones, single bytes and large ones among each other, also ones that are changed after they were taken."""
        upload, taken = await backend.open_upload(UPLOAD_ID), bytearray()
        sizes = [0, 1, 0, 65_536, 1, self.SEVERAL_PARTS_BYTES // 2, 0, 3, MIB - 1, MIB + 1, 5, 0]
        for size in sizes:
            piece = secrets.token_bytes(size)
            await upload.write(piece)
            taken += piece
            assert upload.offset == len(taken)
        names = await upload.commit(KEY)
        assert await read_all(backend, names[0]) == bytes(taken)

    async def test_big_objects(self, backend: Backend) -> None:
        """`BIG_BYTES` in pieces of a MiB, and read back equal: whole, and by ten readers from offsets of their own at once."""
        block, size = secrets.token_bytes(MIB + 7), self.BIG_BYTES
        upload, hasher = await backend.open_upload(UPLOAD_ID), hashlib.sha256()
        for at in range(0, size, len(block)):
            piece = block[: size - at]
            await upload.write(piece)
            hasher.update(piece)
        name = (await upload.commit(KEY))[0]
        assert await backend.stat(name) == ObjectInfo(name, size)
        again = hashlib.sha256()
        async with backend.read(name) as chunks:
            async for chunk in chunks:
                again.update(chunk)
        assert again.digest() == hasher.digest()

        def expected(start: int, stop: int) -> bytes:
            first = start // len(block)
            return (block * (stop // len(block) - first + 1))[start - first * len(block) :][: stop - start]

        starts = [size - 1, size - MIB, *[secrets.randbelow(size) for _ in range(8)]]
        ranges = [(start, min(size, start + 3 * MIB)) for start in starts]
        parts = await asyncio.gather(*[read_range(backend, name, *each) for each in ranges])
        assert all(part == expected(*each) for part, each in zip(parts, ranges, strict=True))

    async def test_many_uploads_at_once(self, backend: Backend, another: Backend) -> None:
        """Of a MiB each, in small pieces, from two sides, every one equal to what went in."""
        contents = [secrets.token_bytes(MIB + number) for number in range(self.UPLOADS_AT_ONCE)]

        async def push(number: int, data: bytes) -> tuple[str, ...]:
            upload = await (backend, another)[number % 2].open_upload(upload_id_of(number))
            await write_pieces(upload, data, 100_000)
            return await upload.commit(key_of(number))

        names = await asyncio.gather(*[push(number, data) for number, data in enumerate(contents)])
        for each, data in zip(names, contents, strict=True):
            assert await read_all(backend, each[0]) == data
        assert await found_keys(backend, "") == sorted(name for each in names for name in each)

    async def test_one_digest_may_be_committed_many_times_at_once(self, backend: Backend) -> None:
        """Under a name for each generation; deleting one leaves the others."""
        data = secrets.token_bytes(100_000)
        digest = _digest_of_key(KEY)

        async def push(number: int) -> tuple[str, ...]:
            generation = upload_id_of(number)
            upload = await backend.open_upload(generation, key=None if number % 2 else f"{digest}.{generation}")
            await upload.write(data)
            return await upload.commit(f"{digest}.{generation}")

        names = await asyncio.gather(*[push(number) for number in range(8)])
        assert len({each[0] for each in names}) == 8
        await backend.delete(names[3])
        for number, each in enumerate(names):
            assert await content(backend, each[0]) == (None if number == 3 else data)

    async def test_commits_to_one_key_leave_one_of_them(self, backend: Backend) -> None:
        """At once, which a store never does: what is under that key in the end is whole."""
        contents = [bytes([65 + number]) * 100_000 for number in range(6)]
        uploads = [await backend.open_upload(upload_id_of(10 + number), key=KEY) for number in range(6)]
        for upload, data in zip(uploads, contents, strict=True):
            await upload.write(data)
        done = await asyncio.gather(*[upload.commit(KEY) for upload in uploads], return_exceptions=True)
        assert all(names in ((KEY,), ()) or isinstance(names, BlobstoreError) for names in done)
        assert (KEY,) in done
        assert await read_all(backend, KEY) in contents
        assert await found_keys(backend, "") == [KEY]

    async def test_a_commit_is_never_seen_in_part(self, backend: Backend, another: Backend) -> None:
        """Whoever asks while it is under way finds nothing or the whole."""
        data = secrets.token_bytes(self.SEVERAL_PARTS_BYTES)
        for number in (1, 2):
            upload = await backend.open_upload(upload_id_of(number), key=key_of(number) if number == 2 else None)
            await write_pieces(upload, data, MIB)
            commit = asyncio.ensure_future(upload.commit(key_of(number)))
            while not commit.done():
                for name in possible_names(number)[:2]:
                    assert (await content(another, name)) in (None, data)
                for info in [info async for info in another.list("") if info.key in possible_names(number)[:2]]:
                    assert info.size_bytes == len(data)
                await asyncio.sleep(0)
            assert await read_all(another, commit.result()[0]) == data

    async def test_a_committed_name_is_not_put_again(self, backend: Backend) -> None:
        """`put_new` says that something is there."""
        upload = await backend.open_upload(UPLOAD_ID, key=KEY)
        await upload.write(b"committed")
        assert await upload.commit(KEY) == (KEY,)
        assert await backend.put_new(KEY, b"put") is False
        assert await read_all(backend, KEY) == b"committed"

    async def test_an_upload_belongs_to_one_session(self, backend: Backend, another: Backend) -> None:
        """A second one, also of another process, is refused until the first lets go, and does not disturb it."""
        first = await backend.open_upload(UPLOAD_ID)
        await first.write(b"first")
        await first.drain()
        for other in (backend, another):
            with pytest.raises(UploadBusy):
                await other.open_upload(UPLOAD_ID, resume=True)
            with pytest.raises(UploadBusy):
                await other.open_upload(UPLOAD_ID)
        await first.aclose()
        second = await another.open_upload(UPLOAD_ID, resume=True)
        assert second.offset == 5
        assert await read_all(another, (await second.commit(KEY))[0]) == b"first"

    async def test_abort_leaves_nothing(self, backend: Backend) -> None:
        """Neither visible nor resumable nor listed; aborting and closing again do nothing. Its id may be used anew."""
        for size in (0, 1, self.SEVERAL_PARTS_BYTES):
            for key in (None, KEY):
                upload = await backend.open_upload(UPLOAD_ID, key=key)
                await write_pieces(upload, secrets.token_bytes(size), MIB)
                await upload.abort()
                await upload.abort()
                await upload.aclose()
                assert await found_keys(backend, "") == []
                assert await found_keys(backend, UPLOADS_PREFIX) == []
                with pytest.raises(KeyUnknown):
                    await backend.open_upload(UPLOAD_ID, resume=True)

    async def test_what_is_over_takes_nothing(self, backend: Backend) -> None:
        """After a commit, an abort or a close neither bytes nor another commit: that is a mistake, and changes nothing."""
        for end in ("commit", "abort", "aclose"):
            upload = await backend.open_upload(UPLOAD_ID)
            await upload.write(b"x")
            await (upload.commit(KEY) if end == "commit" else getattr(upload, end)())
            before = [info async for info in backend.list("")]
            with pytest.raises(Exception):  # noqa: B017, PT011 - a broken promise of the caller: any error will do
                await upload.write(b"y")
            with pytest.raises(Exception):  # noqa: B017, PT011
                await upload.commit(key_of(2))
            assert [info async for info in backend.list("")] == before
            await backend.delete([UPLOADS_PREFIX + UPLOAD_ID, *possible_names(1)])
            assert await found_keys(backend, "") == []

    async def test_a_commit_replaces_nothing(self, backend: Backend) -> None:
        """Where something is, it is refused: the other bytes stay, the upload is over and its id is free."""
        taken = possible_names(1)[: 1 if backend.properties.renames_uploads else 2]
        for name in taken:
            assert await backend.put_new(name, b"first")
        for size in (1, self.SEVERAL_PARTS_BYTES):
            upload = await backend.open_upload(UPLOAD_ID)
            await write_pieces(upload, b"x" * size, MIB)
            assert not await upload.commit(KEY)
            assert [await read_all(backend, name) for name in taken] == [b"first"] * len(taken)
            assert await found_keys(backend, "") == sorted(taken)

    async def test_a_commit_to_a_bad_key_ends_the_upload(self, backend: Backend) -> None:
        """It is refused, and the upload is over as after any failed commit: nothing is left, the id is free."""
        for size in (1, self.SEVERAL_PARTS_BYTES):
            upload = await backend.open_upload(UPLOAD_ID)
            await write_pieces(upload, b"x" * size, MIB)
            with pytest.raises(InvalidInput):
                await upload.commit("../x")
            try:
                assert await found_keys(backend, "") == []
                with pytest.raises(KeyUnknown):
                    await backend.open_upload(UPLOAD_ID, resume=True)
            finally:
                await upload.abort()

    @pytest.mark.parametrize("upload_id", ["..", "a/../../b", "", "/x", ".x"])
    async def test_bad_upload_ids_are_refused(self, backend: Backend, upload_id: str) -> None:
        """None climbs out of the place for uploads."""
        for resume in (False, True):
            with pytest.raises(BlobstoreError):
                await backend.open_upload(upload_id, resume=resume)

    async def test_a_name_is_as_long_as_it_may_be(self, backend: Backend) -> None:
        """What a store commits to is no longer than a digest and a generation; both ways to it take that."""
        assert parse_blob_key(KEY) is not None
        for number in (2**63, 2**63 + 1):
            generation = upload_id_of(number)
            key = f"{_digest_of_key(KEY)}.{generation}"
            upload: BackendUpload = await backend.open_upload(generation, key=key if number % 2 else None)
            await upload.write(b"x")
            assert await read_all(backend, (await upload.commit(key))[0]) == b"x"


def _digest_of_key(key: str) -> str:
    name = parse_blob_key(key)
    assert name is not None
    return blob_key(name.digest, name.generation).rpartition(".")[0]


async def _assert_invisible(backend: Backend, number: int) -> None:
    for name in possible_names(number):
        with pytest.raises(KeyUnknown):
            await backend.stat(name)
        assert await content(backend, name) is None
    assert [key for key in await found_keys(backend, "") if not key.startswith(UPLOADS_PREFIX)] == []


async def _assert_published(backend: Backend, names: tuple[str, ...], data: bytes) -> None:
    """The first name has the bytes, any others are there, none is told that isn't, and nothing else is left of the upload."""
    assert set(names) <= set(possible_names(1))
    assert await published(backend, 1) == data
    assert await read_all(backend, names[0]) == data
    assert await backend.stat(names[0]) == ObjectInfo(names[0], len(data))
    for name in names[1:]:
        assert await backend.stat(name) == ObjectInfo(name, 0)
    assert await found_keys(backend, "") == sorted(names)
    assert await found_keys(backend, UPLOADS_PREFIX) == []
