"""The oracle: what was answered to clients, and so is owed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from blobstore.digest import Digest
from blobstore.testing.fakes import FakeClock

Promised = tuple[str, Digest]


class Oracle:
    """Promises by repository and digest, each with its end; and tags that nobody is going to take away.

    A promise is counted cautiously: from when the question was asked; and, where an edge stood behind it, from the time the one
    who took that edge away read on his clock. While somebody lets go of a blob or a repository, nothing of it is owed.
    """

    def __init__(self, clock: FakeClock, grace_s: float, *, owes: bool) -> None:
        self._clock, self._grace_ms = clock, int(grace_s * 1000)
        self._owes = owes
        """Whether all collectors of the scene leave promises their whole grace."""
        self._promises: dict[Promised, int] = {}
        self._letting_go: Counter[str | Promised] = Counter()
        self._edges_go: Counter[int] = Counter()
        self.kept: dict[tuple[str, str], Digest] = {}
        """What tags must name, for ever."""

    def promise(self, repository: str, digest: Digest, since_ms: int) -> None:
        """A yes was answered to a question asked at `since_ms`."""
        if not self._letting_go[repository] and not self._letting_go[repository, digest]:
            key = (repository, digest)
            until_ms = min([since_ms, *self._edges_go.elements()]) + self._grace_ms
            self._promises[key] = max(until_ms, self._promises.get(key, 0))

    def is_owed(self, repository: str, digest: Digest) -> bool:
        """Whether a no would break a promise now."""
        return self._owes and self._clock.now_ms() < self._promises.get((repository, digest), 0)

    @contextmanager
    def letting_go(self, repository: str, digest: Digest | None = None) -> Iterator[None]:
        """Somebody ends the promises of a blob, or of a whole repository."""
        key: str | Promised = repository if digest is None else (repository, digest)
        self._letting_go[key] += 1
        self._forget(repository, digest)
        try:
            yield
        except asyncio.CancelledError:
            # What was asked for may happen yet, at any time.
            raise
        except BaseException:
            self._letting_go[key] -= 1
            raise
        self._letting_go[key] -= 1

    def _forget(self, repository: str, digest: Digest | None) -> None:
        for key in list(self._promises):
            if key[0] == repository and digest in (None, key[1]):
                del self._promises[key]

    def edges_go(self, now_ms: int, *, is_over: bool) -> None:
        """Holds take the place of edges, as of `now_ms`; one that never is over may still happen."""
        self._edges_go[now_ms] += -1 if is_over else 1
        for key, until_ms in self._promises.items():
            self._promises[key] = min(until_ms, now_ms + self._grace_ms)

    def keep(self, repository: str, tag: str, digest: Digest) -> None:
        """A push was answered that nobody takes back."""
        self.kept[repository, tag] = digest
