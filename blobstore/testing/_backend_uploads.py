"""The backend suite, uploads: streamed, resumed, truncated, dropped, and many at once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

import pytest

from blobstore.abc.backend import Backend, BackendUpload, read_all
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError, InvalidInput, KeyUnknown, UploadBusy
from blobstore.generation import Generation
from blobstore.layout import UPLOADS_PREFIX, blob_key
from blobstore.testing._backend_stage import MIB, BackendTests, found_keys, key_of

UPLOAD_ID = "0" * 31 + "1"
KEY = blob_key(Digest.of(b""), Generation(1, 1))


class UploadTests(BackendTests):
    """The verbs of `BackendUpload`."""

    async def test_bytes_are_visible_once_committed(self, backend: Backend) -> None:
        """Not under the final name before, whole right after."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"some ")
        await upload.write(b"bytes")
        await upload.drain()
        with pytest.raises(KeyUnknown):
            await backend.stat(KEY)
        assert await found_keys(backend, "blobs/") == []
        await upload.commit(KEY)
        assert await read_all(backend, KEY) == b"some bytes"
        assert (await backend.stat(KEY)).size_bytes == 10
        assert await found_keys(backend, "") == [KEY]

    @pytest.mark.parametrize("size", [0, 1])
    async def test_small_uploads(self, backend: Backend, size: int) -> None:
        """0 bytes and 1 byte are committed like any others."""
        upload = await backend.open_upload(UPLOAD_ID)
        if size:
            await upload.write(b"x" * size)
        await upload.commit(KEY)
        assert await read_all(backend, KEY) == b"x" * size
        assert (await backend.stat(KEY)).size_bytes == size

    async def test_twenty_mebibytes_stream_through(self, backend: Backend) -> None:
        """In pieces of uneven size, read back equal."""
        data = secrets.token_bytes(20 * MIB)
        upload = await backend.open_upload(UPLOAD_ID)
        await _write(upload, data, 777_777)
        assert upload.offset == len(data)
        await upload.commit(KEY)
        assert await read_all(backend, KEY) == data

    @pytest.mark.parametrize("chunk_bytes", [32, 10 * MIB], ids=["32 B", "10 MiB"])
    async def test_an_upload_goes_on_in_another_session(self, backend: Backend, chunk_bytes: int) -> None:
        """Closed and resumed after each of three chunks; the offset tells what was taken."""
        chunks = [secrets.token_bytes(chunk_bytes) for _ in range(3)]
        for at, chunk in enumerate(chunks):
            upload = await backend.open_upload(UPLOAD_ID, resume=at > 0)
            assert upload.offset == at * chunk_bytes
            await upload.write(chunk)
            assert upload.offset == (at + 1) * chunk_bytes
            await upload.aclose()
            assert await found_keys(backend, "blobs/") == []
        upload = await backend.open_upload(UPLOAD_ID, resume=True)
        await upload.commit(KEY)
        assert await read_all(backend, KEY) == b"".join(chunks)

    async def test_an_upload_without_bytes_is_resumed(self, backend: Backend) -> None:
        """Closed before the first byte, it is there at offset 0."""
        await (await backend.open_upload(UPLOAD_ID)).aclose()
        upload = await backend.open_upload(UPLOAD_ID, resume=True)
        assert upload.offset == 0
        await upload.commit(KEY)
        assert await read_all(backend, KEY) == b""

    async def test_resuming_an_unknown_upload(self, backend: Backend) -> None:
        """Never begun, aborted, or committed: unknown."""
        with pytest.raises(KeyUnknown):
            await backend.open_upload(UPLOAD_ID, resume=True)
        await (await backend.open_upload(UPLOAD_ID)).abort()
        with pytest.raises(KeyUnknown):
            await backend.open_upload(UPLOAD_ID, resume=True)
        await (await backend.open_upload(UPLOAD_ID)).commit(KEY)
        with pytest.raises(KeyUnknown):
            await backend.open_upload(UPLOAD_ID, resume=True)

    async def test_an_upload_belongs_to_one_session(self, backend: Backend) -> None:
        """A second one is refused until the first lets go, and does not disturb it."""
        first = await backend.open_upload(UPLOAD_ID)
        await first.write(b"first")
        await first.drain()
        with pytest.raises(UploadBusy):
            await backend.open_upload(UPLOAD_ID, resume=True)
        await first.aclose()
        second = await backend.open_upload(UPLOAD_ID, resume=True)
        assert second.offset == 5
        await second.abort()

    async def test_a_busy_upload_is_not_begun_again(self, backend: Backend) -> None:
        """`open_upload` of an id that another session holds says so, and takes nothing from it."""
        first = await backend.open_upload(UPLOAD_ID)
        await first.write(b"first")
        with pytest.raises(UploadBusy):
            await backend.open_upload(UPLOAD_ID)
        await first.commit(KEY)
        assert await read_all(backend, KEY) == b"first"

    async def test_truncate_forgets_the_end(self, backend: Backend) -> None:
        """Bytes written after it stand where the forgotten ones stood; down to nothing, too."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"0123456789")
        await upload.truncate(4)
        assert upload.offset == 4
        await upload.write(b"abc")
        await upload.drain()
        assert await _read(upload, 0, 7) == b"0123abc"
        await upload.truncate(0)
        await upload.write(b"new")
        await upload.commit(KEY)
        assert await read_all(backend, KEY) == b"new"

    async def test_what_was_taken_can_be_read_back(self, backend: Backend) -> None:
        """Any part of it, across chunks, also in the session that resumes."""
        data = secrets.token_bytes(3 * MIB + 17)
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(data)
        await upload.drain()
        assert await _read(upload, 0, len(data)) == data
        await upload.aclose()
        upload = await backend.open_upload(UPLOAD_ID, resume=True)
        assert await _read(upload, MIB - 1, 2 * MIB + 1) == data[MIB - 1 : 2 * MIB + 1]
        assert await _read(upload, 5, 5) == b""
        await upload.abort()

    async def test_abort_leaves_nothing(self, backend: Backend) -> None:
        """Neither visible nor resumable nor listed; aborting and closing again do nothing."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"x" * MIB)
        await upload.abort()
        await upload.abort()
        await upload.aclose()
        assert await found_keys(backend, "") == []

    async def test_closing_is_repeatable(self, backend: Backend) -> None:
        """Twice, and after a commit, where it takes nothing back."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"x")
        await upload.aclose()
        await upload.aclose()
        upload = await backend.open_upload(UPLOAD_ID, resume=True)
        await upload.commit(KEY)
        await upload.aclose()
        await upload.abort()
        assert await read_all(backend, KEY) == b"x"

    async def test_a_commit_replaces_nothing(self, backend: Backend) -> None:
        """Where something is, it is refused: the other bytes stay, the upload is over."""
        assert await backend.put_new(KEY, b"first")
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"second")
        assert not await upload.commit(KEY)
        assert await read_all(backend, KEY) == b"first"
        assert await found_keys(backend, "") == [KEY]
        upload = await backend.open_upload(UPLOAD_ID)
        assert await upload.commit("blobs/other")

    async def test_a_commit_to_a_bad_key_ends_the_upload(self, backend: Backend) -> None:
        """It is refused, and the upload is over as after any failed commit: nothing is left, the id is free."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"x")
        with pytest.raises(InvalidInput):
            await upload.commit("../x")
        try:
            assert await found_keys(backend, "") == []
            with pytest.raises(KeyUnknown):
                await backend.open_upload(UPLOAD_ID, resume=True)
        finally:
            await upload.abort()

    async def test_open_uploads_are_listed_where_names_say(self, backend: Backend) -> None:
        """What lies under `uploads/` can be deleted by its name, as the trash does."""
        await (await backend.open_upload(UPLOAD_ID)).aclose()
        for key in await found_keys(backend, UPLOADS_PREFIX):
            assert key == UPLOADS_PREFIX + UPLOAD_ID
        assert await backend.delete([UPLOADS_PREFIX + UPLOAD_ID]) == {UPLOADS_PREFIX + UPLOAD_ID}
        assert await found_keys(backend, "") == []

    async def test_many_uploads_at_once(self, backend: Backend) -> None:
        """32 of 1 MiB each, in small pieces, every one equal to what went in."""
        contents = [secrets.token_bytes(MIB) for _ in range(32)]

        async def push(number: int, data: bytes) -> str:
            upload = await backend.open_upload(f"{number:032x}")
            await _write(upload, data, 100_000)
            await upload.commit(key := key_of(number))
            return key

        keys = await asyncio.gather(*[push(number, data) for number, data in enumerate(contents)])
        assert [await read_all(backend, key) for key in keys] == contents
        assert await found_keys(backend, UPLOADS_PREFIX) == []

    @pytest.mark.parametrize("upload_id", ["..", "a/../../b", "", "/x", ".x"])
    async def test_bad_upload_ids_are_refused(self, backend: Backend, upload_id: str) -> None:
        """None climbs out of the place for uploads."""
        for resume in (False, True):
            with pytest.raises(BlobstoreError):
                await backend.open_upload(upload_id, resume=resume)


async def _write(upload: BackendUpload, data: bytes, piece_bytes: int) -> None:
    for at in range(0, len(data), piece_bytes):
        await upload.write(data[at : at + piece_bytes])


async def _read(upload: BackendUpload, start: int, stop: int) -> bytes:
    chunks: Sequence[bytes] = [chunk async for chunk in upload.read(start, stop)]
    return b"".join(chunks)
