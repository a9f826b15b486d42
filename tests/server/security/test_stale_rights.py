"""S9, S19: a right that was taken away is gone, whatever is remembered; a broken file takes none away and gives none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blobstore.errors import ConfigInvalid
from blobstore.events import Alarm, Event
from blobstore.server.auth.watched_file import WatchedFile, size_max_bytes
from blobstore.server.protocol.access import Principal, Unauthenticated
from blobstore.testing import FakeClock
from tests.server.security.asking import PULL, admit, basic, need
from tests.server.security.htpasswd import Htpasswd, line

NEEDS = [need("a", PULL)]


async def test_a_removed_user_is_refused_although_remembered(htpasswd: Htpasswd, clock: FakeClock) -> None:
    """The cache answers for the hash in the file, not for the user."""
    await admit(htpasswd.access, NEEDS, basic("alice", "wonder"))
    htpasswd.write(line("bob", "builder"))
    clock.advance(1000)
    with pytest.raises(Unauthenticated):
        await admit(htpasswd.access, NEEDS, basic("alice", "wonder"))
    assert await admit(htpasswd.access, NEEDS, basic("bob", "builder")) == Principal("bob")


async def test_a_changed_password_replaces_the_old_one(htpasswd: Htpasswd, clock: FakeClock) -> None:
    """At once, although the old one was remembered."""
    await admit(htpasswd.access, NEEDS, basic("alice", "wonder"))
    htpasswd.write(line("alice", "looking glass"))
    clock.advance(1000)
    with pytest.raises(Unauthenticated):
        await admit(htpasswd.access, NEEDS, basic("alice", "wonder"))
    assert await admit(htpasswd.access, NEEDS, basic("alice", "looking glass")) == Principal("alice")


async def test_a_broken_file_keeps_the_old_rights_and_says_so(htpasswd: Htpasswd, clock: FakeClock) -> None:
    """Once, with the line; and the next good one is taken."""
    htpasswd.write(line("bob", "builder"), "mallory")
    for _ in range(3):
        clock.advance(1000)
        assert await admit(htpasswd.access, NEEDS, basic("alice", "wonder")) == Principal("alice")
    assert [type(each) for each in htpasswd.told] == [Alarm]
    assert "line 2 is not a user" in str(htpasswd.told[0])
    assert "stays in force" in str(htpasswd.told[0])
    htpasswd.write(line("bob", "builder"))
    clock.advance(1000)
    with pytest.raises(Unauthenticated):
        await admit(htpasswd.access, NEEDS, basic("alice", "wonder"))


class Watched:
    """A watched file of one word."""

    def __init__(self, folder: Path) -> None:
        self.path, self.clock, self.told = folder / "word", FakeClock(), list[Event]()
        self.path.write_bytes(b"one")
        self.file = WatchedFile(str(self.path), self._parse, self.clock, self.told.append)

    def now(self) -> bytes:
        """What it holds, a second later."""
        self.clock.advance(1000)
        return self.file.current()

    @staticmethod
    def _parse(data: bytes) -> bytes:
        if b" " in data:
            raise ConfigInvalid("these are two words")
        return data


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_it_is_looked_at_once_a_second(watched: Watched) -> None:
    """Not for every request."""
    watched.path.write_bytes(b"two")
    assert watched.file.current() == b"one"
    assert watched.now() == b"two"


def test_a_change_that_leaves_no_trace_is_seen(watched: Watched) -> None:
    """Of the same length, within one tick of the file system's clock."""
    found = watched.path.stat()
    watched.path.write_bytes(b"two")
    os.utime(watched.path, ns=(found.st_atime_ns, found.st_mtime_ns))
    watched.file._state = watched.file._state and (*watched.file._state[:3], watched.path.stat().st_ctime_ns, 3)
    assert watched.now() == b"two"


def test_a_link_that_is_moved_is_followed(tmp_path: Path) -> None:
    """As Kubernetes replaces a secret."""
    (tmp_path / "one").write_bytes(b"one")
    (tmp_path / "two").write_bytes(b"two")
    link, clock = tmp_path / "link", FakeClock()
    link.symlink_to("one")
    file = WatchedFile(str(link), bytes, clock, lambda _: None)
    assert file.current() == b"one"
    link.unlink()
    link.symlink_to("two")
    clock.advance(1000)
    assert file.current() == b"two"


@pytest.mark.parametrize("how", ["gone", "two words", "too long", "world-writable", "a pipe", "a folder"])
def test_what_cannot_be_used_is_told_once(watched: Watched, how: str) -> None:
    """And again when it breaks again."""
    for times in (1, 2):
        watched.path.unlink(missing_ok=True)
        match how:
            case "two words":
                watched.path.write_bytes(b"two words")
            case "too long":
                watched.path.write_bytes(b"x" * (size_max_bytes + 1))
            case "world-writable":
                watched.path.write_bytes(b"two")
                watched.path.chmod(0o646)
            case "a pipe":
                os.mkfifo(watched.path)
            case "a folder":
                watched.path.mkdir()
        assert [watched.now() for _ in range(3)] == [b"one"] * 3
        assert len(watched.told) == times
        assert str(watched.path) in str(watched.told[-1])
        if watched.path.is_dir():
            watched.path.rmdir()
        watched.path.unlink(missing_ok=True)
        watched.path.write_bytes(b"one")
        assert watched.now() == b"one"


def test_at_the_start_a_broken_file_is_an_error(tmp_path: Path) -> None:
    """There are no old rights to keep."""
    with pytest.raises(ConfigInvalid, match=r"can't be read: No such file"):
        WatchedFile(str(tmp_path / "none"), bytes, FakeClock(), lambda _: None)
    (tmp_path / "open").write_bytes(b"")
    (tmp_path / "open").chmod(0o666)
    with pytest.raises(ConfigInvalid, match="chmod o-w"):
        WatchedFile(str(tmp_path / "open"), bytes, FakeClock(), lambda _: None)
