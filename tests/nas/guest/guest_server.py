"""The server goes and comes back under hard mounts: calls wait, and what was done stays done. It is full. Run in the guest."""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from blobstore.abc.backend import read_all
from blobstore.backends.nas import NasBackend
from blobstore.errors import StorageFull
from blobstore.testing._backend_stage import found_keys, key_of
from tests.nas.guest import server
from tests.nas.guest.server import EXPORT, forget_pages

Hosts = tuple[NasBackend, NasBackend]
KEY = key_of(0)
LARGE, PIECE = 8 * 1024 * 1024, 1024 * 1024
WAIT_S = 60
REACH_S = 6
TRIES = 8
"""How often a call is tried whose own question was kept back by another, as the client was asked to wait too long."""


async def test_work_waits_for_the_server(hosts: Hosts) -> None:
    """It is stopped under pushes, reads and deletes, and started again: none fails, all is there."""
    _, two = hosts
    contents: dict[str, bytes] = {}
    ended = asyncio.Event()

    async def work(first: int) -> None:
        number = first
        while not ended.is_set():
            small, large, gone = (key_of(number + 1000 * kind) for kind in range(3))
            contents[small], contents[large] = secrets.token_bytes(100), secrets.token_bytes(300_000)
            assert await two.put_new(small, contents[small])
            assert await two.put_new(gone, b"x")
            upload = await two.open_upload(f"{number:032x}")
            await upload.write(contents[large])
            await upload.commit(large)
            assert await two.delete([gone]) == {gone}
            assert await read_all(two, small) == contents[small]
            number += 4

    async with asyncio.TaskGroup() as group:
        for first in range(4):
            group.create_task(work(first))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(1)
        await asyncio.to_thread(server.start)
        done = len(contents)
        async with asyncio.timeout(WAIT_S):
            while len(contents) < done + 16:
                await asyncio.sleep(0.1)
        ended.set()
    assert {key: await read_all(two, key) for key in contents} == contents
    assert await found_keys(two, "") == sorted(contents)


async def test_an_upload_bears_a_restart_in_its_middle(hosts: Hosts) -> None:
    """Some of its bytes are with the server, some on their way, and the rest is written while there is none."""
    one, two = hosts
    data = secrets.token_bytes(LARGE)
    upload = await two.open_upload("0" * 32)
    for at in range(0, LARGE, PIECE):
        if at == LARGE // 2:
            await asyncio.to_thread(server.stop)
            starting = asyncio.get_running_loop().call_later(1, server.start)
        await upload.write(data[at : at + PIECE])
    assert await upload.commit(KEY) == (KEY,)
    starting.cancel()
    forget_pages()
    assert await read_all(one, KEY) == data


async def test_a_full_export_is_told(hosts: Hosts) -> None:
    """As such, with nothing visible and nothing lost; deleting goes on, and once there is room again so does all else."""
    one, two = hosts
    await two.put_new(KEY, b"kept")
    await two.put_new(key_of(1), b"x" * LARGE)
    with server.full():
        with pytest.raises(StorageFull):
            await two.put_new(key_of(2), b"x" * LARGE)
        upload = await two.open_upload("0" * 32)
        await upload.write(b"x" * LARGE)
        with pytest.raises(StorageFull):
            await upload.commit(key_of(2))
        assert await found_keys(one, "") == sorted([KEY, key_of(1)])
        assert await two.delete([key_of(1)]) == {key_of(1)}
    await _commit(two, key_of(2))
    assert await found_keys(one, "") == sorted([KEY, key_of(2)])
    assert await read_all(one, KEY) == b"kept"


async def _commit(two: NasBackend, key: str) -> None:
    upload = await two.open_upload("0" * 32)
    await upload.write(b"bytes")
    await upload.drain()
    await upload.commit(key)


async def _put_new(two: NasBackend, key: str) -> None:
    assert await two.put_new(key, b"bytes")


async def _put(two: NasBackend, key: str) -> None:
    await two.put(key, b"bytes")


async def _delete(two: NasBackend, key: str) -> None:
    assert await two.delete([key]) == {key}


VERBS: dict[str, tuple[Callable[[NasBackend, str], Awaitable[None]], str, int]] = {
    "commit": (_commit, "link", errno.EEXIST),
    "put_new": (_put_new, "link", errno.EEXIST),
    "put": (_put, "rename", errno.ENOENT),
    "delete": (_delete, "unlink", errno.ENOENT),
}
"""For each: the call whose answer is lost, and the error that comes for its repetition."""


@pytest.mark.parametrize("verb", VERBS)
async def test_an_answer_that_was_lost_is_no_failure(hosts: Hosts, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server does what it is asked, and goes down before its answer arrives; it comes back without knowing that it did. The
    client asks again, and is told of an error. The verb looks, and succeeds."""
    one, two = hosts
    act, call, expected = VERBS[verb]
    for number in range(TRIES):
        key = key_of(number)
        if verb == "delete":
            await one.put_new(key, b"bytes")
        losing = _Losing(call, Path(two.location))
        with monkeypatch.context() as patched:
            patched.setattr(os, call, losing)
            await act(two, key)
        if verb == "delete":
            assert await found_keys(one, "blobs/") == []
        else:
            assert await read_all(one, key) == await read_all(two, key) == b"bytes"
            assert await found_keys(one, "blobs/") == sorted(map(key_of, range(number + 1)))
        if losing.told:
            break
    assert losing.told == [expected]
    assert await found_keys(one, "uploads/") == []
    staging = Path(one.location) / ".staging"
    assert not staging.exists() or os.listdir(staging) == []


class _Losing:
    """A call of the system, the first time with its answer lost."""

    def __init__(self, name: str, mounted: Path) -> None:
        self._name, self._call, self._mounted = name, getattr(os, name), mounted
        self._is_done = False
        self.told: list[int] = []
        """What the call raised."""

    def __call__(self, *args: str, **options: object) -> None:
        if self._is_done:
            self._call(*args, **options)
            return
        self._is_done = True
        for path in args:
            # So that the client needs to ask for nothing but the call itself.
            _warm(path)
        there = EXPORT / self._mounted.name / Path(args[-1]).relative_to(self._mounted)
        raised: list[OSError] = []

        def run() -> None:
            try:
                self._call(*args, **options)
            except OSError as error:
                raised.append(error)

        thread = threading.Thread(target=run)
        with server.answers_lost():
            thread.start()
            deadline = time.monotonic() + REACH_S
            while (is_lost := there.exists() != (self._name == "unlink")) is False and time.monotonic() < deadline:
                time.sleep(0.01)
            if is_lost:
                server.stop()
        if is_lost:
            server.start()
        thread.join(WAIT_S)
        assert not thread.is_alive(), f"{self._name} never returned"
        if raised:
            self.told.append(raised[0].errno or 0)
            raise raised[0]


def _warm(path: str) -> None:
    for place in (os.path.dirname(path), path):
        try:
            os.close(os.open(place, os.O_RDONLY))
            os.stat(place)
            os.access(place, os.R_OK | os.W_OK)
        except FileNotFoundError:
            continue
