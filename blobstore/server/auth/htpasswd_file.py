"""A file of users and bcrypt hashes, as htpasswd writes it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

import msgspec

from blobstore.errors import ConfigInvalid
from blobstore.server.auth.rules import ANY_USER

cost_min, cost_max = 4, 16
"""Of bcrypt: what it allows at least, and what takes some seconds for each login."""
cost_advised = 10

_HASH = re.compile(rb"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{53}")


class Entry(msgspec.Struct, frozen=True):
    """What the file says of one user."""

    bcrypt: bytes
    cost: int


class Users:
    """The users of a file. Made by `parse_users`."""

    def __init__(self, entries: Mapping[str, Entry], fingerprint: bytes) -> None:
        self._entries = dict(entries)
        self._names = tuple(entries)
        self._fingerprint = fingerprint

    def __contains__(self, user: object) -> bool:
        return user in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def entry(self, user: str) -> Entry:
        """The entry of a user; for one that isn't there always the same of somebody else, so that checking a password against it
        takes as long as a known user's would. Nobody can tell whose without the file."""
        found = self._entries.get(user)
        if found is not None:
            return found
        draw = hashlib.sha256(self._fingerprint + user.encode("utf-8", "surrogatepass")).digest()
        return self._entries[self._names[int.from_bytes(draw) % len(self._names)]]

    @property
    def weak(self) -> tuple[str, ...]:
        """Those whose hash is computed faster than advised."""
        return tuple(user for user, entry in self._entries.items() if entry.cost < cost_advised)


def parse_users(data: bytes) -> Users:
    """The users of a file's bytes; empty lines and those that begin with `#` are left out.

    Raises:
        ConfigInvalid: a line is none, with its number; or there are no users.
    """
    entries: dict[str, Entry] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith(b"#"):
            user, entry = _parse_line(stripped, number)
            if user in entries:
                raise ConfigInvalid(f"line {number} names {user!r} for the second time")
            entries[user] = entry
    if not entries:
        raise ConfigInvalid("it names no user; add one with: htpasswd -B -C 10 FILE USER")
    return Users(entries, hashlib.sha256(data).digest())


def _parse_line(line: bytes, number: int) -> tuple[str, Entry]:
    """A user and the entry. No message shows a hash."""
    name, colon, rest = line.partition(b":")
    try:
        user = name.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"line {number} is not UTF-8") from error
    if not colon or not user or not user.isprintable() or user == ANY_USER:
        raise ConfigInvalid(f"line {number} is not a user, a colon and a hash")
    match = _HASH.fullmatch(rest.partition(b":")[0])
    if match is None:
        raise ConfigInvalid(
            f"line {number}: the password of {user!r} is not a bcrypt hash ($2y$, $2b$ or $2a$), the only kind that is "
            f"slow enough to guess; make it with: htpasswd -B -C {cost_advised} FILE {user}"
        )
    if not cost_min <= int(match[1]) <= cost_max:
        raise ConfigInvalid(
            f"line {number}: the cost of {user!r} must be between {cost_min} and {cost_max}, not {int(match[1])}"
        )
    return user, Entry(match[0], int(match[1]))
