"""The roles of operators in a scene: collectors, undo, reconciliation, checkpoints, time; and a saboteur."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from blobstore.app import make_collector
from blobstore.errors import RunUnknown, StorageFailed
from blobstore.gc import GcPolicy
from blobstore.index._tables import Table, Transaction
from blobstore.reconcile import find_missing, find_orphans
from blobstore.store import Store
from tests.simulation.interleaving_clients import Cast, Role


def collector(cast: Cast, policy: GcPolicy, runs: int) -> Role:
    """Collects, full or incremental, some times in a row."""

    async def collect(store: Store) -> None:
        own = make_collector(store, policy)
        for _ in range(runs):
            try:
                report = await own.run(is_full=cast.chance.random() < 0.6)
                cast.count("collections")
                cast.figures["blobs_freed"] = cast.figures.get("blobs_freed", 0) + report.freed_blobs
            except StorageFailed:
                cast.count("collections_failed")

    return collect


def undoer(cast: Cast, policy: GcPolicy) -> Role:
    """Undoes the newest collection."""

    async def undo(store: Store) -> None:
        for _ in range(3):
            runs = await store.index.list_runs(5)
            try:
                if runs:
                    await make_collector(store, policy).undo(cast.chance.choice(runs).run)
                    cast.count("runs_undone")
            except (RunUnknown, StorageFailed):
                continue

    return undo


def reconciler(cast: Cast) -> Role:
    """Compares backend and index both ways, as `check` does."""

    async def reconcile(store: Store) -> None:
        for _ in range(3):
            try:
                await reconcile_once(store)
            except StorageFailed:
                continue
            except BaseExceptionGroup as group:
                if group.split(StorageFailed)[1] is not None:
                    raise

    async def reconcile_once(store: Store) -> None:
        report = await find_orphans(store.index, store.backend, cast.clock)
        assert not report.aliens, "names of nobody were found, in a store that has no other"
        missing = await find_missing(store.index, store.backend, recheck_s=0)
        assert not missing.missing + missing.wrong_size, f"called missing: {missing}"
        cast.count("reconciliations")

    return reconcile


def checkpointer(cast: Cast) -> Role:
    """Writes checkpoints, and so deletes journal objects."""

    async def checkpoint(store: Store) -> None:
        for _ in range(3):
            try:
                await store.checkpoint()
                cast.count("checkpoints")
            except StorageFailed:
                continue

    return checkpoint


class Refusal(Exception):
    """What the saboteur's verb raises."""


def saboteur(cast: Cast) -> Role:
    """Sends verbs that write and refuse then: what shares their commit must not suffer, nor must what they wrote stay."""

    def write_and_refuse(tx: Transaction) -> None:
        tx.put(Table.BLOBS, b"\xff" * 32, b"sabotage")
        tx.add("present_blobs", 1)
        raise Refusal

    async def sabotage(store: Store) -> None:
        for _ in range(6):
            await store.index.totals()
            try:
                # Past the recorder, which knows the engine's verbs alone.
                await type(store.index)._write(store.index, write_and_refuse)  # type: ignore[attr-defined]
            except Refusal:
                cast.count("verbs_refused_late")
                continue
            raise AssertionError("a verb that refused was told that all is well")

    return sabotage


def timekeeper(cast: Cast, advance: Callable[[int], None], turn: Callable[[], Awaitable[Any]], times: int) -> Role:
    """Lets time pass."""

    async def keep(_: Store) -> None:
        for _ in range(times):
            await turn()
            advance(cast.chance.choice([1, 61, 61, 700, 3700, 3700, 7300, 8000]))

    return keep
