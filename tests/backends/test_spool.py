"""The spool of open uploads keeps two sessions apart, whatever happens to its directory between two system calls."""

import fcntl
import shutil
from pathlib import Path

import pytest

from blobstore.backends._spool import Spool, UploadSpool
from blobstore.errors import KeyUnknown, StorageFailed, UploadBusy

UPLOAD = "0" * 32


def test_one_session_at_a_time(tmp_path: Path) -> None:
    """The next comes once the first has let go."""
    spool = Spool(str(tmp_path / "spool"))
    first = spool.open_upload(UPLOAD, is_resumed=False)
    for is_resumed in (True, False):
        with pytest.raises(UploadBusy):
            spool.open_upload(UPLOAD, is_resumed=is_resumed)
    first.close()
    spool.open_upload(UPLOAD, is_resumed=True).close()


def test_a_lock_whose_name_is_another_files_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upload was ended and begun anew by others before we had the lock: they hold the one that counts."""
    spool = Spool(str(tmp_path / "spool"))
    spool.open_upload(UPLOAD, is_resumed=False).close()
    lock = fcntl.flock

    def lock_late(handle: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        shutil.rmtree(tmp_path / "spool" / UPLOAD)
        others.append(spool.open_upload(UPLOAD, is_resumed=False))
        lock(handle, operation)

    others: list[UploadSpool] = []
    monkeypatch.setattr(fcntl, "flock", lock_late)
    with pytest.raises(KeyUnknown):
        spool.open_upload(UPLOAD, is_resumed=True)
    others[0].close()


def test_a_lock_is_let_go_of_where_the_state_can_not_be_read(tmp_path: Path) -> None:
    """A directory in its place is no state, and no reason to keep others out until the process ends."""
    spool = Spool(str(tmp_path / "spool"))
    spool.open_upload(UPLOAD, is_resumed=False).close()
    state = tmp_path / "spool" / UPLOAD / "state"
    state.mkdir()
    with pytest.raises(StorageFailed):
        spool.open_upload(UPLOAD, is_resumed=True)
    state.rmdir()
    spool.open_upload(UPLOAD, is_resumed=True).close()
