"""Passwords checked against a file's hashes, which takes long on purpose, in so few threads that nothing else waits."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

import bcrypt

from blobstore.clock import Clock, random_hex
from blobstore.pool import WorkerPool
from blobstore.server.auth.credentials import BasicCredentials
from blobstore.server.auth.htpasswd_file import Users
from blobstore.server.auth.rate_limit import FailureLimit
from blobstore.server.auth.watched_file import WatchedFile
from blobstore.server.protocol.access import TooManyRequests
from blobstore.server.protocol.sources import source_of

password_max_bytes = 72
"""What bcrypt looks at; a longer one would be as good as its beginning."""
threads = 2
pending_max = 64
"""Passwords that wait for a thread; about two seconds' work at cost 10."""
_CACHED_MAX = 10_000

PUBLISHED = frozenset(
    {
        ("admin", "admin"),
        ("admin", "password"),
        ("admin", "Harbor12345"),
        ("registry", "registry"),
        ("testuser", "testpassword"),
        ("myuser", "mypasswd"),
    }
)
"""Names and passwords of other registries' manuals and defaults. They are the first that are tried, and open nothing here."""


class Passwords:
    """Whose password is right. `cache_ms` long one that was right isn't computed again, as long as its hash stays the same."""

    def __init__(
        self,
        file: WatchedFile[Users],
        clock: Clock,
        *,
        cache_ms: int,
        per_source: FailureLimit,
        per_user: FailureLimit,
    ) -> None:
        self._file, self._clock, self._cache_ms = file, clock, cache_ms
        self._per_source, self._per_user = per_source, per_user
        self._pool = WorkerPool("passwords", threads)
        self._running: dict[bytes, asyncio.Task[bool]] = {}
        self._key = bytes.fromhex(random_hex(32))
        self._good_until_ms: dict[bytes, int] = {}

    async def are_right(self, credentials: BasicCredentials, peer: str) -> bool:
        """Whether a user has this password. It takes as long for one that there isn't.

        Raises:
            TooManyRequests: this user or this source failed too often, or too many others wait.
        """
        users = self._file.current()
        mark = self._mark(credentials, users)
        if self._good_until_ms.get(mark, 0) > self._clock.monotonic_ms():
            return True
        running = self._running.get(mark)
        if running is None:
            # A client's connections all come with the same password at once: one of them computes it.
            running = self._start(credentials, users, source_of(peer), mark)
        return await asyncio.shield(running)

    async def aclose(self) -> None:
        """Wait for what is being computed, end the threads."""
        await self._pool.aclose()

    def _mark(self, credentials: BasicCredentials, users: Users) -> bytes:
        """What stands for these credentials and the hash they are checked against, and can't be turned back into them."""
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for part in (credentials.user.encode(), credentials.password.encode(), users.entry(credentials.user).bcrypt):
            digest.update(len(part).to_bytes(8) + part)
        return digest.digest()

    def _start(self, credentials: BasicCredentials, users: Users, source: str, mark: bytes) -> asyncio.Task[bool]:
        if len(self._running) >= pending_max:
            raise TooManyRequests("too many passwords are being checked; come back in a moment", 1)
        wait_ms = max(self._per_source.wait_ms(source), self._per_user.wait_ms(credentials.user))
        if wait_ms > 0:
            raise TooManyRequests("too many wrong passwords; wait before the next try", -(-wait_ms // 1000))
        # Before it is known to be wrong, so that many at once are counted.
        self._per_source.take(source)
        self._per_user.take(credentials.user)
        task = asyncio.create_task(self._check(credentials, users, source, mark))
        self._running[mark] = task
        task.add_done_callback(lambda _: self._running.pop(mark, None))
        return task

    async def _check(self, credentials: BasicCredentials, users: Users, source: str, mark: bytes) -> bool:
        password = credentials.password.encode()
        is_match = await self._pool.run(bcrypt.checkpw, password, users.entry(credentials.user).bcrypt)
        is_published = (credentials.user, credentials.password) in PUBLISHED
        if not is_match or credentials.user not in users or is_published:
            return False
        self._per_source.give_back(source)
        self._per_user.give_back(credentials.user)
        self._remember(mark)
        return True

    def _remember(self, mark: bytes) -> None:
        now_ms = self._clock.monotonic_ms()
        if len(self._good_until_ms) >= _CACHED_MAX:
            self._good_until_ms = {each: end for each, end in self._good_until_ms.items() if end > now_ms}
        if self._cache_ms and len(self._good_until_ms) < _CACHED_MAX:
            self._good_until_ms[mark] = now_ms + self._cache_ms


def published_users(users: Users) -> list[str]:
    """Those of a file that have the password of somebody's manual; computes some hashes."""
    return [
        user
        for user, password in sorted(PUBLISHED)
        if user in users and bcrypt.checkpw(password.encode(), users.entry(user).bcrypt)
    ]
