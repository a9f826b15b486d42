"""What lies on the local disk of an upload to an object store: how far it is, and the bytes that are no whole part yet.

Workers of one host share it, so that any of them goes on with an upload that another closed. One directory an upload:
`lock`, held by the session that writes; `state`; `tail-<offset>`, the bytes behind the last whole part when it was closed at
that offset; `current`, what is being filled now and not worth anything after a crash. All methods block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

import msgspec

from blobstore.durable import DIRECTORY_MODE, check_still_there, make_directories, storage_errors, sync_directory
from blobstore.errors import KeyUnknown, UploadBusy

_STATE, _LOCK, _CURRENT, _TAIL = "state", "lock", "current", "tail-"
_STATE_VERSION = 1
_POINTS_KEPT = 2
_FILE_MODE = 0o600


class SpoolState(msgspec.Struct, frozen=True, array_like=True):
    """What another session must know of an upload to go on with it."""

    version: int = _STATE_VERSION
    target: str = ""
    """The whole key that its multipart upload has; empty before the first part."""
    multipart_id: str = ""
    part_bytes: int = 0
    joined_bytes: int | None = None
    """How many bytes were joined to an object already, so that they could be read."""
    etags: tuple[str, ...] = ()
    """Those of the parts before the tail, from the first."""
    points: tuple[int, ...] = ()
    """At which offsets it was closed, the last two; for each there is a tail."""
    is_made: bool = False
    """Whether an object may lie at `target` that is of this upload."""


class UploadSpool:
    """The directory of one upload, locked."""

    def __init__(self, directory: str, lock: int) -> None:
        self._directory, self._lock = directory, lock
        self._current: int | None = None
        self.state = _read_state(directory) or SpoolState()

    def save(self, state: SpoolState, *, is_durable: bool) -> None:
        """Replace the state. Where not durable it survives this process, not the machine."""
        path = self._path(_STATE)
        with _spooling():
            handle = os.open(f"{path}.new", os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, _FILE_MODE)
            try:
                _write_at(handle, msgspec.msgpack.encode(state), 0)
                if is_durable:
                    os.fsync(handle)
            finally:
                os.close(handle)
            os.rename(f"{path}.new", path)
            if is_durable:
                sync_directory(self._directory)
        self.state = state

    def write(self, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Put bytes of the part that is being filled at an offset of it."""
        with _spooling():
            _write_at(self._current_handle(), data, offset)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Bytes of the part that is being filled."""
        with _spooling():
            while buffer:
                count = os.preadv(self._current_handle(), [buffer], offset)
                if not count:
                    raise OSError(0, "the spool is shorter than it was")
                buffer, offset = buffer[count:], offset + count

    def save_point(self, state: SpoolState, offset: int, tail: memoryview | None, tail_bytes: int) -> None:
        """Make the tail durable (what is in `current` if it isn't in memory), then the state that speaks of it."""
        points = (*[each for each in state.points if each < offset][-_POINTS_KEPT + 1 :], offset)
        with _spooling():
            if tail is not None:
                self._drop_current()
                handle = os.open(self._path(_CURRENT), os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, _FILE_MODE)
                self._current = handle
                _write_at(handle, tail[:tail_bytes], 0)
            handle = self._current_handle()
            os.ftruncate(handle, tail_bytes)
            os.fsync(handle)
            os.rename(self._path(_CURRENT), self._path(f"{_TAIL}{offset}"))
        self._close_current()
        self.save(msgspec.structs.replace(state, points=points), is_durable=True)
        with _spooling():
            for name in os.listdir(self._directory):
                if name.startswith(_TAIL) and name not in {f"{_TAIL}{each}" for each in points}:
                    os.unlink(self._path(name))

    def tail(self, offset: int) -> bytes:
        """The bytes behind the last whole part, as they were when it was closed at an offset."""
        with _spooling(), open(self._path(f"{_TAIL}{offset}"), "rb") as file:
            return file.read()

    def close(self) -> None:
        """Let go of it; another session may go on. Repeatable."""
        self._close_current()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def remove(self) -> None:
        """Nothing is left of it. Repeatable."""
        try:
            with _spooling():
                _remove(self._directory)
        finally:
            self.close()

    def _path(self, name: str) -> str:
        return os.path.join(self._directory, name)

    def _current_handle(self) -> int:
        if self._current is None:
            flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
            self._current = os.open(self._path(_CURRENT), flags, _FILE_MODE)
        return self._current

    def _drop_current(self) -> None:
        self._close_current()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(_CURRENT))

    def _close_current(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            os.close(current)


class Spool:
    """The spools of all uploads of this host to one store."""

    def __init__(self, directory: str) -> None:
        self._directory = os.path.abspath(directory)

    def open_upload(self, upload_id: str, *, is_resumed: bool) -> UploadSpool:
        """Begin or take up an upload.

        Raises:
            KeyUnknown: it is to be taken up, and there is none.
            UploadBusy: another session holds it, or it was begun before.
        """
        path = os.path.join(self._directory, upload_id)
        if not is_resumed:
            if not os.path.isdir(self._directory):
                make_directories(self._directory)
            try:
                os.mkdir(path, DIRECTORY_MODE)
            except FileExistsError as error:
                raise UploadBusy("this upload was begun already") from error
        with _spooling():
            lock = _lock(os.path.join(path, _LOCK))
            try:
                return UploadSpool(path, lock)
            except BaseException:
                os.close(lock)
                raise

    def uploads(self) -> list[tuple[str, int]]:
        """The ids of all uploads, and how far each had come when it was last closed."""
        try:
            names = sorted(os.listdir(self._directory))
        except FileNotFoundError:
            return []
        states = [(name, _read_state(os.path.join(self._directory, name))) for name in names]
        return [(name, state.points[-1] if state is not None and state.points else 0) for name, state in states]

    def state_of(self, upload_id: str) -> SpoolState | None:
        """What is known of an upload; None if nothing is."""
        return _read_state(os.path.join(self._directory, upload_id))

    def remove(self, upload_id: str) -> None:
        """Drop an upload's bytes, whoever holds it. Repeatable."""
        with _spooling():
            _remove(os.path.join(self._directory, upload_id))


@contextlib.contextmanager
def _spooling() -> Iterator[None]:
    with storage_errors("spool an upload"):
        try:
            yield
        except FileNotFoundError as error:
            raise KeyUnknown("the upload's spool is gone: it was never begun here, or was ended meanwhile") from error


def _lock(path: str) -> int:
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE_MODE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before us may have ended the upload in between.
        check_still_there(handle, path)
    except BlockingIOError as error:
        os.close(handle)
        raise UploadBusy("another session is writing to this upload") from error
    except BaseException:
        os.close(handle)
        raise
    return handle


def _write_at(handle: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _read_state(directory: str) -> SpoolState | None:
    try:
        with open(os.path.join(directory, _STATE), "rb") as file:
            state = msgspec.msgpack.decode(file.read(), type=SpoolState)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        # Never saved, or lost in a power cut before it was synced: its parts are found by asking the server.
        return None
    return state if state.version == _STATE_VERSION else None


def _remove(directory: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        # The state goes last: as long as it is there, it says what is to be aborted.
        for name in sorted(os.listdir(directory), key=lambda name: name == _STATE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
