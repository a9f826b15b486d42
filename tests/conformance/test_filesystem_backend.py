"""The filesystem backend keeps what every backend promises, and some things that only files can break."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from blobstore.abc.backend import Backend, read_all
from blobstore.backends._file_calls import FileCalls
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.errors import KeyUnknown, StorageFailed, StorageFull, UploadBusy
from blobstore.layout import MARKER_KEY
from blobstore.testing._backend_stage import key_of
from blobstore.testing.backend_suite import KEY, BackendSuite


class TestFilesystemBackend(BackendSuite):
    def make_backend(self, directory: Path) -> Backend:
        return FilesystemBackend(str(directory / "store"))

    async def test_a_root_that_can_not_be_looked_at_is_not_called_a_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever is told that a store is none may make a new one elsewhere."""
        place = tmp_path / "store"
        place.mkdir()
        with monkeypatch.context() as patched:
            patched.setattr(os, "stat", _failing(errno.EIO))
            with pytest.raises(StorageFailed):
                await FilesystemBackend(str(place)).open()
        await FilesystemBackend(str(place)).open()

    @pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
    @pytest.mark.parametrize("call", ["fsync", "rename"])
    async def test_a_put_that_fails_leaves_the_old_value(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, call: str, code: int
    ) -> None:
        """All or nothing: a disk that fails under a new marker does not take the old one away."""
        await backend.put(MARKER_KEY, b"old")
        with monkeypatch.context() as patched:
            patched.setattr(os, call, _failing(code))
            with pytest.raises(StorageFull if code == errno.ENOSPC else StorageFailed):
                await backend.put(MARKER_KEY, b"new")
        assert await read_all(backend, MARKER_KEY) == b"old"

    @pytest.mark.parametrize("call", ["fsync", "link", "pwrite"])
    async def test_a_commit_that_fails_leaves_nothing(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch, call: str
    ) -> None:
        """Whichever step fails, neither name is there afterwards."""
        upload = await backend.open_upload("0" * 32)
        with monkeypatch.context() as patched:
            patched.setattr(os, call, _failing(errno.ENOSPC))
            await upload.write(b"x")
            with pytest.raises(StorageFull):
                await upload.commit(KEY)
        assert [info async for info in backend.list("")] == []
        with pytest.raises(KeyUnknown):
            await backend.stat(KEY)

    async def test_a_delete_tells_which_keys_are_left(self, backend: Backend) -> None:
        """One that can't be unlinked is not confirmed; those before and behind it are gone."""
        keys = [key_of(number) for number in range(3)]
        for key in (keys[0], keys[2]):
            await backend.put_new(key, b"x")
        assert isinstance(backend, FilesystemBackend)
        os.mkdir(backend.path_of(keys[1]))
        assert await backend.delete(keys) == {keys[0], keys[2]}
        assert [info async for info in backend.list("")] == []
        os.rmdir(backend.path_of(keys[1]))
        assert await backend.delete(keys) == set(keys)

    async def test_an_upload_is_held_until_it_is_published(
        self, backend: Backend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second session that came between the sync and the name would write into a blob."""
        first = await backend.open_upload("0" * 32)
        await first.write(b"first")
        tried: list[type[BaseException]] = []
        link = os.link

        def link_while_another_comes(source: str, target: str) -> None:
            for _ in range(2):
                try:
                    FileCalls().open_upload(source, resume=True).close()
                except (UploadBusy, FileNotFoundError) as error:
                    tried.append(type(error))
                if not tried[1:]:
                    link(source, target)

        monkeypatch.setattr(os, "link", link_while_another_comes)
        assert await first.commit(KEY) == (KEY,)
        assert tried == [UploadBusy, UploadBusy]
        assert await read_all(backend, KEY) == b"first"

    async def test_a_put_new_that_fails_leaves_nothing(self, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk makes no half value visible."""
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", _failing(errno.ENOSPC))
            with pytest.raises(StorageFull):
                await backend.put_new(KEY, b"x")
        assert [info async for info in backend.list("")] == []
        assert await backend.put_new(KEY, b"x")


def _failing(code: int):
    def fail(*_args: object, **_kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


async def test_what_was_published_before_its_process_died_is_not_written_to(tmp_path: Path) -> None:
    """Its staged name is a second name of the blob: who resumes the upload starts anew."""
    backend = FilesystemBackend(str(tmp_path / "store"))
    await backend.open()
    await backend.prepare()
    upload = await backend.open_upload("0" * 32)
    await upload.write(b"whole")
    await upload.aclose()
    staged = backend.path_of("uploads/" + "0" * 32)
    os.link(staged, backend.path_of(KEY))
    with pytest.raises(KeyUnknown):
        await backend.open_upload("0" * 32, resume=True)
    assert await read_all(backend, KEY) == b"whole"
    assert not Path(staged).exists()
    await backend.aclose()


async def test_a_file_that_lost_its_name_before_it_was_locked_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another session published it meanwhile, and a third one began anew: the open file is a blob by now."""
    backend = FilesystemBackend(str(tmp_path / "store"))
    await backend.open()
    await backend.prepare()
    await (await backend.open_upload("0" * 32)).aclose()
    staged, blob = backend.path_of("uploads/" + "0" * 32), backend.path_of(KEY)
    lock = fcntl.flock

    def lock_late(handle: int, operation: int) -> None:
        os.rename(staged, blob)
        Path(staged).write_bytes(b"anew")
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(KeyUnknown):
        await backend.open_upload("0" * 32, resume=True)
    assert Path(staged).read_bytes() == b"anew"
    await backend.aclose()
