"""A process without threads and without chance: the same every time, and three times as fast on a small store."""

from __future__ import annotations

import asyncio
import os
import random  # noqa: TID251 - the same in each child on purpose
import secrets
from collections.abc import Callable
from typing import Any

from blobstore.index import _writer
from blobstore.index._writer import GroupWriter
from blobstore.pool import WorkerPool


def draw_the_same(seed: str) -> None:
    """From now on this process draws the random names that each draws that gave this seed."""
    draw = random.Random(seed)
    secrets.token_hex = lambda nbytes=None: draw.randbytes(nbytes or 16).hex()
    secrets.randbits = draw.getrandbits
    os.urandom = draw.randbytes


def do_at_once() -> None:
    """From now on this process does at once, where it is asked for, what is otherwise done in threads: work on files, reads of
    the index, and its commits, each of the verbs that it would have held."""
    asyncio.BaseEventLoop.run_in_executor = _run_in_executor  # type: ignore[assignment, method-assign]
    for name in ("run", "finish", "obtain", "start"):
        setattr(WorkerPool, name, globals()[f"_{name}"])
    GroupWriter.start = GroupWriter.stop = _nothing  # type: ignore[method-assign]
    GroupWriter._hand_over = _hand_over  # type: ignore[method-assign]


def _run_in_executor(
    loop: asyncio.AbstractEventLoop, executor: object, work: Callable[..., Any], *args: Any
) -> asyncio.Future[Any]:
    del executor
    future = loop.create_future()
    try:
        future.set_result(work(*args))
    except Exception as error:  # noqa: BLE001 - it is raised where the future is waited for
        future.set_exception(error)
    return future


async def _run(pool: WorkerPool, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    del pool
    return work(*args, **kwargs)


_finish = _run


async def _obtain(pool: WorkerPool, work: Callable[[], Any], release: Callable[[Any], object]) -> Any:
    del pool, release
    return work()


def _start(pool: WorkerPool, work: Callable[[], None]) -> None:
    del pool
    work()


def _nothing(writer: GroupWriter) -> None:
    del writer


def _hand_over(writer: GroupWriter, loop: asyncio.AbstractEventLoop) -> None:
    batch = writer._gathered.pop(loop)
    writer._carry_out(batch)
    _writer._resolve(batch)
