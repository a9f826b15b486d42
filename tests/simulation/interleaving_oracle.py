"""The oracle: what was answered to clients, and so is owed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from blobstore.digest import Digest
from blobstore.testing.fakes import FakeClock

Promised = tuple[str, Digest]


class Question(msgspec.Struct, eq=False):
    """Asked, and not yet answered: anything may happen between what decides the answer and its arrival."""

    key: Promised
    since_ms: int
    """From when on a yes is owed."""
    owed_until_ms: int
    """Until when a no breaks a promise that was made before. One that others are given meanwhile may come behind the no."""
    is_void: bool
    """Somebody let go of it since, before or after the answer was decided: neither a yes nor a no says anything."""


class Oracle:
    """Promises by repository and digest, each with its end; and tags that nobody is going to take away.

    A promise is counted cautiously: from when the question was asked; and, where an edge stood behind it, from the time the one
    who took that edge away read on his clock. Where somebody lets go of a blob or a repository while a question about it is under
    way, nothing follows from the answer.
    """

    def __init__(self, clock: FakeClock, grace_s: float, *, owes: bool) -> None:
        self._clock, self._grace_ms = clock, int(grace_s * 1000)
        self._owes = owes
        """Whether all collectors of the scene leave promises their whole grace."""
        self._promises: dict[Promised, int] = {}
        self._questions: list[Question] = []
        self._letting_go: Counter[str | Promised] = Counter()
        self._edges_go: Counter[int] = Counter()
        self.kept: dict[tuple[str, str], Digest] = {}
        """What tags must name, for ever."""

    def ask(self, repository: str, digest: Digest) -> Question:
        """A client asks for this now."""
        key, now_ms = (repository, digest), self._clock.now_ms()
        is_void = bool(self._letting_go[repository] or self._letting_go[key])
        owed_until_ms = self._promises.get(key, 0) if self._owes else 0
        question = Question(key, min([now_ms, *self._edges_go.elements()]), owed_until_ms, is_void)
        self._questions.append(question)
        return question

    def promise(self, question: Question) -> None:
        """The answer was yes."""
        self._questions.remove(question)
        if not question.is_void:
            until_ms = question.since_ms + self._grace_ms
            self._promises[question.key] = max(until_ms, self._promises.get(question.key, 0))

    def breaks_promise(self, question: Question) -> bool:
        """Whether it must not have been answered with no."""
        self._questions.remove(question)
        return not question.is_void and self._clock.now_ms() < question.owed_until_ms

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
        for question in self._questions:
            if question.key[0] == repository and digest in (None, question.key[1]):
                question.is_void = True

    def edges_go(self, now_ms: int, *, is_over: bool) -> None:
        """Holds take the place of edges, as of `now_ms`; one that never is over may still happen."""
        self._edges_go[now_ms] += -1 if is_over else 1
        for key, until_ms in self._promises.items():
            self._promises[key] = min(until_ms, now_ms + self._grace_ms)
        for question in self._questions:
            question.since_ms = min(question.since_ms, now_ms)
            question.owed_until_ms = min(question.owed_until_ms, now_ms + self._grace_ms)

    def keep(self, repository: str, tag: str, digest: Digest) -> None:
        """A push was answered that nobody takes back."""
        self.kept[repository, tag] = digest
