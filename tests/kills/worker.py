"""A process of the kill tests, run by the parent as `python -m tests.kills.worker`: works until it is killed."""

from __future__ import annotations

import asyncio
from pathlib import Path

from blobstore.app import make_collector
from blobstore.errors import CollectionRefused
from blobstore.store import Store
from tests.kills.content import MIXES, Alarms, Mix, make_store, seeded
from tests.kills.processes import Lines, worker_arguments
from tests.kills.pushing import Pusher

COLLECT_PAUSE_S_MAX = 0.1


async def work(place: str, mix: str, role: str, slot: int, seed: str) -> None:
    """Push, or collect, for ever."""
    alarms, folder = Alarms(), Path(place)
    async with make_store(folder, MIXES[mix], alarms) as store:
        if role == "push":
            pusher = Pusher(store, MIXES[mix], slot, folder, seed)
            while not alarms:
                await pusher.step()
        else:
            await _collect(store, MIXES[mix], Lines(folder / f"collect-{slot}.counts"), seed, alarms)
    raise AssertionError(alarms)


async def _collect(store: Store, mix: Mix, report: Lines, seed: str, alarms: Alarms) -> None:
    collector, rng = make_collector(store, mix.policy, events=alarms), seeded(seed)
    while not alarms:
        try:
            done = await collector.run(is_full=rng.random() < 0.3)
        except CollectionRefused:
            # The index was just rebuilt: nothing is condemned for one grace.
            await asyncio.sleep(COLLECT_PAUSE_S_MAX)
        else:
            report.append({"collections": 1, "freed": done.freed_blobs, "condemned": done.condemned_blobs})
        await asyncio.sleep(rng.random() * COLLECT_PAUSE_S_MAX)


if __name__ == "__main__":
    asyncio.run(work(**worker_arguments()))
