"""A small file of rights that is read again when it changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Generic, TypeAlias, TypeVar

from blobstore.clock import Clock
from blobstore.errors import ConfigInvalid
from blobstore.events import Alarm, EventSink

Value = TypeVar("Value")
_State: TypeAlias = tuple[int, ...] | None

look_every_ms = 1000
size_max_bytes = 4 * 1024 * 1024
_CLOCK_GRAIN_MS = 2000
"""Coarsest time stamps of common file systems: one that changed twice within this may not show it."""


class WatchedFile(Generic[Value]):
    """What a file holds. It is read when this is made; one that can't be used later changes nothing but raises an alarm.

    Args:
        path: of the file; may be a link that is moved, as Kubernetes does it.
        parse: what its bytes mean; raises ConfigInvalid.
        clock: when it was looked at last.
        events: is told of a new file that can't be used.

    Raises:
        ConfigInvalid: it can't be read or used.
    """

    def __init__(self, path: str, parse: Callable[[bytes], Value], clock: Clock, events: EventSink) -> None:
        self._path, self._parse, self._clock, self._events = path, parse, clock, events
        self._state: _State
        self._data, self._state = _read(path)
        self._value = self._parsed(self._data)
        self._looked_at_ms = clock.monotonic_ms()
        self._complaint = ""

    def current(self) -> Value:
        """What it holds now, or held before it was broken or removed; looks at most once a second."""
        now_ms = self._clock.monotonic_ms()
        if now_ms - self._looked_at_ms >= look_every_ms:
            self._looked_at_ms = now_ms
            state = _state_of(self._path)
            if state != self._state or self._is_fresh(state):
                self._state = state
                self._take_up()
        return self._value

    def _take_up(self) -> None:
        try:
            data, self._state = _read(self._path)
            if data != self._data:
                self._value = self._parsed(data)
                self._data = data
            self._complaint = ""
        except ConfigInvalid as error:
            # Once for each way to be broken, not every second.
            if str(error) != self._complaint:
                self._complaint = str(error)
                self._events(Alarm(f"{error}. What the file held before stays in force"))

    def _parsed(self, data: bytes) -> Value:
        try:
            return self._parse(data)
        except ConfigInvalid as error:
            raise ConfigInvalid(f"{self._path}: {error}") from error

    def _is_fresh(self, state: _State) -> bool:
        """Whether it may have changed again without looking different. A file that is gone looks different from any."""
        return state is not None and self._clock.now_ms() < state[2] // 1_000_000 + _CLOCK_GRAIN_MS


def _state_of(path: str) -> _State:
    try:
        return _state(os.stat(path))
    except OSError:
        return None


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _read(path: str) -> tuple[bytes, tuple[int, ...]]:
    try:
        # Without waiting, so that a pipe put in its place stops nobody.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(handle, "rb") as file:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigInvalid(f"{path} is not a file")
            if found.st_mode & stat.S_IWOTH:
                raise ConfigInvalid(f"{path} can be written by every user of this machine; run chmod o-w on it")
            data = file.read(size_max_bytes + 1)
    except OSError as error:
        raise ConfigInvalid(f"{path} can't be read: {error.strerror or error}") from error
    if len(data) > size_max_bytes:
        raise ConfigInvalid(f"{path} is longer than {size_max_bytes} bytes")
    return data, _state(found)
