"""Pacing: leaves a share of the time to those who push, while a long piece of work goes through index and storage."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from blobstore.abc.backend import Backend
from blobstore.abc.index import Index
from blobstore.clock import stopwatch_s

Part = TypeVar("Part", Index, Backend)

_REST_LEAST_S = 0.002
_REST_MAX_S = 0.5


class Pacer:
    """Rests after each step for as long as its share says: with 0.5 as long as it worked.

    Steps that took less than a few milliseconds are added up, so that a walk of point reads isn't slowed down a thousand times.
    """

    def __init__(self, share: float, sleep: Callable[[float], Awaitable[object]] = asyncio.sleep) -> None:
        assert 0 < share <= 1, share
        self._rest_per_s, self._sleep = (1 - share) / share, sleep
        self._owed_s = 0.0
        self.rested_s = 0.0
        """In all; for reports and tests."""

    async def worked(self, seconds: float) -> None:
        """A step was done, and took so long."""
        self._owed_s += seconds * self._rest_per_s
        if self._owed_s < _REST_LEAST_S:
            return
        # One that waited long for others to commit has left them their time already.
        rest_s, self._owed_s = min(self._owed_s, _REST_MAX_S), 0.0
        self.rested_s += rest_s
        await self._sleep(rest_s)


class _Paced:
    """An index or a backend whose every verb is followed by a rest. A verb is one transaction: nothing is held meanwhile."""

    def __init__(self, inner: Index | Backend, pacer: Pacer) -> None:
        self._inner, self._pacer = inner, pacer

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._inner, name)
        if not inspect.iscoroutinefunction(verb):
            return verb

        @functools.wraps(verb)
        async def paced(*args: Any, **kwargs: Any) -> Any:
            start_s = stopwatch_s()
            result = await verb(*args, **kwargs)
            await self._pacer.worked(stopwatch_s() - start_s)
            return result

        # Found once.
        self.__dict__[name] = paced
        return paced


def paced(inner: Part, pacer: Pacer) -> Part:
    """The same index or backend, for one who is in no hurry."""
    return cast("Part", _Paced(inner, pacer))
