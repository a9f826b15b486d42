"""The backend suite, resuming: an upload goes on in another session, and forgets what it is told to."""

from __future__ import annotations

import secrets

import pytest

from blobstore.abc.backend import Backend, read_all
from blobstore.errors import KeyUnknown
from blobstore.layout import UPLOADS_PREFIX
from blobstore.testing._backend_stage import (
    MIB,
    BackendTests,
    found_keys,
    key_of,
    possible_names,
    read_taken,
    upload_id_of,
    write_pieces,
)

UPLOAD_ID = upload_id_of(1)
KEY = key_of(1)


class ResumingTests(BackendTests):
    """Sessions of one upload, one after the other."""

    @pytest.mark.parametrize("kind", ["32 bytes", "several parts"])
    @pytest.mark.parametrize("is_known", [False, True], ids=["unknown", "known"])
    async def test_an_upload_goes_on_in_another_session(
        self, backend: Backend, another: Backend, kind: str, *, is_known: bool
    ) -> None:
        """Closed and resumed after each of three chunks, here and there; the offset tells what was taken."""
        chunk_bytes = 32 if kind == "32 bytes" else self.SEVERAL_PARTS_BYTES
        chunks = [secrets.token_bytes(chunk_bytes) for _ in range(3)]
        key = KEY if is_known else None
        for at, chunk in enumerate(chunks):
            upload = await (backend, another)[at % 2].open_upload(UPLOAD_ID, key=key, resume=at > 0)
            assert upload.offset == at * chunk_bytes
            await write_pieces(upload, chunk, 555_555)
            assert upload.offset == (at + 1) * chunk_bytes
            await upload.aclose()
            for name in possible_names(1):
                with pytest.raises(KeyUnknown):
                    await another.stat(name)
        upload = await backend.open_upload(UPLOAD_ID, key=key, resume=True)
        assert upload.offset == 3 * chunk_bytes
        names = await upload.commit(KEY)
        assert await read_all(another, names[0]) == b"".join(chunks)
        assert await found_keys(backend, "") == sorted(names)

    async def test_an_upload_goes_on_after_its_backend_was_closed(self, backend: Backend, another: Backend) -> None:
        """As after a restart of the process."""
        data = secrets.token_bytes(self.SEVERAL_PARTS_BYTES + 12_345)
        first = await backend.open_upload(UPLOAD_ID)
        await write_pieces(first, data[:-100], MIB)
        await first.aclose()
        await backend.aclose()
        second = await another.open_upload(UPLOAD_ID, resume=True)
        assert second.offset == len(data) - 100
        await second.write(data[-100:])
        assert await read_all(another, (await second.commit(KEY))[0]) == data

    async def test_an_upload_without_bytes_is_resumed(self, backend: Backend) -> None:
        """Closed before the first byte, it is there at offset 0; it may end with none, or with some."""
        for data in (b"", b"0" * 32):
            await (await backend.open_upload(UPLOAD_ID)).aclose()
            upload = await backend.open_upload(UPLOAD_ID, resume=True)
            assert upload.offset == 0
            await upload.write(data)
            names = await upload.commit(KEY)
            assert await read_all(backend, names[0]) == data
            await backend.delete(names)

    async def test_resuming_an_unknown_upload(self, backend: Backend) -> None:
        """Never begun, aborted, committed, or deleted by its name: unknown."""
        with pytest.raises(KeyUnknown):
            await backend.open_upload(UPLOAD_ID, resume=True)
        await (await backend.open_upload(UPLOAD_ID)).abort()
        with pytest.raises(KeyUnknown):
            await backend.open_upload(UPLOAD_ID, resume=True)
        await (await backend.open_upload(UPLOAD_ID)).commit(KEY)
        with pytest.raises(KeyUnknown):
            await backend.open_upload(UPLOAD_ID, resume=True)
        await (await backend.open_upload(UPLOAD_ID)).aclose()
        await backend.delete([UPLOADS_PREFIX + UPLOAD_ID])
        with pytest.raises(KeyUnknown):
            await backend.open_upload(UPLOAD_ID, resume=True)

    async def test_closing_is_repeatable(self, backend: Backend) -> None:
        """Twice, and after a commit, where it takes nothing back."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"x")
        await upload.aclose()
        await upload.aclose()
        upload = await backend.open_upload(UPLOAD_ID, resume=True)
        names = await upload.commit(KEY)
        await upload.aclose()
        await upload.abort()
        assert await read_all(backend, names[0]) == b"x"

    async def test_an_upload_left_open_is_deleted_by_its_name(self, backend: Backend, another: Backend) -> None:
        """As the trash does it, also of one whose parts were sent; listed under no other name, and not twice."""
        for size in (0, 32, self.SEVERAL_PARTS_BYTES):
            upload = await backend.open_upload(UPLOAD_ID)
            await write_pieces(upload, secrets.token_bytes(size), MIB)
            await upload.aclose()
            assert await found_keys(another, UPLOADS_PREFIX) in ([], [UPLOADS_PREFIX + UPLOAD_ID])
            name = UPLOADS_PREFIX + UPLOAD_ID
            for _ in range(2):
                assert await another.delete([name]) == {name}
            assert await found_keys(backend, UPLOADS_PREFIX) == []
            assert await found_keys(backend, "") == []
            with pytest.raises(KeyUnknown):
                await backend.open_upload(UPLOAD_ID, resume=True)

    async def test_truncate_forgets_the_end(self, backend: Backend) -> None:
        """Bytes written after it stand where the forgotten ones stood; down to nothing, too."""
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(b"0123456789")
        await upload.truncate(4)
        assert upload.offset == 4
        await upload.write(b"abc")
        await upload.drain()
        assert await read_taken(upload, 0, 7) == b"0123abc"
        await upload.truncate(0)
        await upload.write(b"new")
        assert await read_all(backend, (await upload.commit(KEY))[0]) == b"new"

    async def test_what_came_after_the_last_close_can_be_forgotten(self, backend: Backend, another: Backend) -> None:
        """Back to where an earlier session was closed, across parts: what a store does with bytes it can't vouch for."""
        kept, lost, new = (secrets.token_bytes(self.SEVERAL_PARTS_BYTES + extra) for extra in (17, 1, 99))
        upload = await backend.open_upload(UPLOAD_ID)
        await write_pieces(upload, kept, MIB)
        await upload.aclose()
        upload = await another.open_upload(UPLOAD_ID, resume=True)
        await write_pieces(upload, lost, MIB)
        await upload.truncate(len(kept))
        assert upload.offset == len(kept)
        await write_pieces(upload, new, MIB)
        assert await read_all(backend, (await upload.commit(KEY))[0]) == kept + new

    async def test_what_was_taken_can_be_read_back(self, backend: Backend) -> None:
        """Any part of it, across chunks, also in the session that resumes."""
        data = secrets.token_bytes(3 * MIB + 17)
        upload = await backend.open_upload(UPLOAD_ID)
        await upload.write(data)
        await upload.drain()
        assert await read_taken(upload, 0, len(data)) == data
        await upload.aclose()
        upload = await backend.open_upload(UPLOAD_ID, resume=True)
        assert await read_taken(upload, MIB - 1, 2 * MIB + 1) == data[MIB - 1 : 2 * MIB + 1]
        assert await read_taken(upload, 5, 5) == b""
        await upload.abort()

    async def test_all_can_be_read_back_before_the_commit(self, backend: Backend) -> None:
        """Also of several parts, as an unusual digest needs it; the commit goes on as ever."""
        data = secrets.token_bytes(self.SEVERAL_PARTS_BYTES + 5)
        upload = await backend.open_upload(UPLOAD_ID)
        await write_pieces(upload, data, MIB)
        await upload.drain()
        assert await read_taken(upload, 0, len(data)) == data
        names = await upload.commit(KEY)
        assert await read_all(backend, names[0]) == data
        assert await found_keys(backend, "") == sorted(names)

    async def test_all_can_be_read_back_and_dropped(self, backend: Backend) -> None:
        """Bytes that turn out to be the wrong ones leave nothing, or what the upload's names can delete."""
        upload = await backend.open_upload(UPLOAD_ID)
        await write_pieces(upload, secrets.token_bytes(self.SEVERAL_PARTS_BYTES), MIB)
        await upload.drain()
        _ = await read_taken(upload, 0, 100)
        await upload.abort()
        assert set(await found_keys(backend, "")) <= set(possible_names(1))
        await backend.delete([UPLOADS_PREFIX + UPLOAD_ID, *possible_names(1)])
        assert await found_keys(backend, "") == []
