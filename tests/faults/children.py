"""Work in a forked child: each point of failure gets a process of its own, and so do the checks that follow it."""

from __future__ import annotations

import asyncio
import faulthandler
import json
import logging
import os
import sys
import traceback
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, NoReturn

HANGS_AFTER_S = 60

Tell = Callable[..., None]
"""Tells the parent something by name, at once: what was told before a kill is known."""


class Told(NamedTuple):
    """What a child told before it ended, and its wait status; a crash of the child's own is told as `crash`."""

    said: dict[str, Any]
    status: int


def in_child(work: Callable[[Tell], Awaitable[None]]) -> Told:
    """Run `work` on an event loop in a forked child, and wait for its end. This process must have no threads and no open store:
    LMDB does not survive a fork."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _run(work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    said: dict[str, Any] = {}
    for line in lines:
        said.update(json.loads(line))
    if status != 0 and not os.WIFSIGNALED(status) and "crash" not in said:
        said["crash"] = f"the process ended with status {status}, or hung for {HANGS_AFTER_S} s: see its trace above"
    return Told(said, status)


def _run(work: Callable[[Tell], Awaitable[None]], writing: int) -> NoReturn:
    def tell(**what: Any) -> None:
        os.write(writing, json.dumps(what).encode() + b"\n")

    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
    # asyncio's complaints of errors that nobody asked for any more.
    logging.disable()
    try:
        asyncio.run(work(tell))
    except BaseException:  # noqa: BLE001 - it is told to the parent, which fails the point
        tell(crash=traceback.format_exc())
    os._exit(0)
