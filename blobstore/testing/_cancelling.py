"""Cancelling a coroutine at a chosen await: exact where it waits, and as late as it can be."""

from __future__ import annotations

import asyncio
import os
import types
from collections.abc import Coroutine, Generator
from typing import Any

import msgspec


class Point(msgspec.Struct, frozen=True):
    """At which await a verb is cancelled (0: at none), and how many turns of the event loop later; None: when it is over."""

    await_number: int
    turns: int | None


NOWHERE = Point(0, 0)
"""The verb runs to its end."""


def points_of(awaits: int, wanted: int) -> list[Point]:
    """Each await, as it begins and as it ends; then later and later within it, for what goes on in threads meanwhile."""
    found = [Point(each, turns) for turns in (0, None, 1, 2, 4, 8, 16, 32) for each in range(1, awaits + 1)]
    found = found[: max(wanted, 2 * awaits)]
    return [found[at * len(found) // wanted] for at in range(wanted)] if len(found) > wanted else found


async def cancelled_at(point: Point, verb: Coroutine[Any, Any, object]) -> int:
    """Run a verb in a task of its own and cancel it there; how many awaits it came to. Its own errors are raised."""
    awaits = 0

    @types.coroutine
    def watched() -> Generator[Any, Any, None]:
        nonlocal awaits
        task, error = asyncio.current_task(), None
        assert task is not None
        while True:
            try:
                waits_for = verb.send(None) if error is None else verb.throw(error)
            except StopIteration:
                return
            awaits += 1
            if awaits == point.await_number:
                _cancel(task, point, waits_for)
            error = None
            try:
                yield waits_for
            except BaseException as raised:  # noqa: BLE001 - it is the verb's
                error = raised

    async def whole() -> None:
        await watched()

    task = asyncio.ensure_future(whole())
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    return awaits


def _cancel(task: asyncio.Task[None], point: Point, waits_for: asyncio.Future[Any] | None) -> None:
    loop = asyncio.get_running_loop()

    def after(turns: int) -> None:
        os.sched_yield()
        if turns:
            loop.call_soon(after, turns - 1)
        else:
            task.cancel()

    if point.turns is not None:
        loop.call_soon(after, point.turns)
    elif waits_for is None:
        task.cancel()
    else:
        # Before the task hears of it: it wakes up to the cancellation, and the result is lost.
        waits_for.add_done_callback(lambda _: task.cancel())
