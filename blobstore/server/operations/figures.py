"""Figures of the store for Prometheus: what it holds, what of it is garbage and since when, how much room is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from blobstore.abc.index import Index
from blobstore.abc.records import Guards, Totals
from blobstore.gc.collector import runs_listed_max
from blobstore.gc.policy import GcPolicy
from blobstore.gc.report import run_document
from blobstore.store import Store

FREE_BYTES_WITHIN_S = 2.0
"""How long the disks are waited for."""
_FRESH_MS = 1000
_LAPSED_LOOKED_AT_MAX = 100


class StoreFigures:
    """Asks the index when it is asked, at most once a second: point reads and a short scan, whatever the store holds.

    Args:
        store: an open store.
        policy: of the collections; tells what is garbage.
        places: directories whose free space is told, by what they are for.
        version: of this package.
    """

    def __init__(self, store: Store, policy: GcPolicy, places: Mapping[str, str], version: str = "") -> None:
        self._store, self._policy, self._places, self._version = store, policy, places, version
        self._looked_ms: int | None = None
        self._asking: asyncio.Future[dict[str, int]] | None = None
        self._found: list[Metric] = []
        self._newest_run: list[tuple[str, int]] = []
        self._runs: dict[str, float] = {}

    async def look(self) -> Iterable[Metric]:
        """See `Figures.look`."""
        now_ms = self._store.parts.clock.monotonic_ms()
        if self._looked_ms is None or now_ms - self._looked_ms >= _FRESH_MS:
            self._found = await self._look()
            self._looked_ms = now_ms
        return self._found

    async def _look(self) -> list[Metric]:
        index, now_ms = self._store.index, self._store.parts.clock.now_ms()
        totals, guards = await index.totals(), await index.guards()
        oldest_s = await oldest_garbage_s(index, self._policy, now_ms)
        runs = await self._last_runs(index)
        free = await self._free_bytes()
        return [*_stock(totals), *_garbage(totals, oldest_s), *_state(guards, runs, free, self._version)]

    async def _free_bytes(self) -> Mapping[str, int]:
        """Nothing while a file server doesn't answer: that is when the other figures are wanted most. One thread at most waits
        for it."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.ensure_future(asyncio.to_thread(_free_bytes, self._places))
        await asyncio.wait([self._asking], timeout=FREE_BYTES_WITHIN_S)
        return self._asking.result() if self._asking.done() else {}

    async def _last_runs(self, index: Index) -> dict[str, float]:
        """When the last run of each kind ended; read anew only when there was one."""
        newest = [(record.run, record.finished_at_ms) for record in await index.list_runs(1)]
        if newest != self._newest_run:
            self._newest_run, self._runs = newest, await _last_runs(index)
        return self._runs


async def oldest_garbage_s(index: Index, policy: GcPolicy, now_ms: int) -> float:
    """For how long the oldest blob that nothing keeps has been kept by nothing; 0 without any. Bounded work: among very many
    holds that lapsed at once it may miss the oldest until a collection swept them."""
    since_ms = now_ms
    # As if all quarantines were over, so that what is in one is among it.
    later_ms = now_ms + policy.quarantine_ms + 1
    for trash in (await index.list_due_trash(later_ms, policy.terms, None, _LAPSED_LOOKED_AT_MAX)).items:
        # Only blobs that a run condemned were given one; what is left of an upload goes at once.
        waited_ms = policy.quarantine_ms if trash.digest is not None and trash.run is not None else 0
        since_ms = min(since_ms, trash.not_before_ms - waited_ms)
    lapsed = await index.list_lapsed_holds(policy.terms, now_ms, None, _LAPSED_LOOKED_AT_MAX)
    for standing in await index.standings(list(dict.fromkeys(lapsed.items)), now_ms, policy.terms):
        if not standing.has_edge and not standing.is_held and standing.held_until_ms:
            since_ms = min(since_ms, standing.held_until_ms)
    return max(0, now_ms - since_ms) / 1000


async def _last_runs(index: Index) -> dict[str, float]:
    """When the last run of each kind ended, seconds since the epoch."""
    found: dict[str, float] = {}
    for record in await index.list_runs(runs_listed_max):
        kind = "full" if run_document(record)["full"] else "incremental"
        found.setdefault(kind, record.finished_at_ms / 1000)
    return found


def _stock(totals: Totals) -> list[Metric]:
    blobs = GaugeMetricFamily("blobstore_blobs", "Blobs that are known, manifests among them.", labels=["state"])
    stored = GaugeMetricFamily("blobstore_stored_bytes", "Bytes of these blobs.", labels=["state"])
    for state in ("present", "condemned", "suspect"):
        blobs.add_metric([state], getattr(totals, f"{state}_blobs"))
        stored.add_metric([state], getattr(totals, f"{state}_bytes"))
    return [
        blobs,
        stored,
        _gauge("blobstore_repositories", "Repositories.", totals.repositories),
        _gauge("blobstore_manifests", "Manifests, counted in each repository.", totals.manifests),
        _gauge(
            "blobstore_untagged_manifests", "Of these, those that nothing keeps but themselves.", totals.loose_manifests
        ),
        _gauge("blobstore_tags", "Tags.", totals.tags),
        _gauge("blobstore_open_uploads", "Uploads that were begun and not ended.", totals.uploads),
        _counter("blobstore_pushed_bytes", "Bytes of all blobs that were ever committed.", totals.pushed_bytes),
    ]


def _garbage(totals: Totals, oldest_s: float) -> list[Metric]:
    blobs = totals.unreferenced_blobs + totals.condemned_blobs
    size_bytes = totals.unreferenced_bytes + totals.condemned_bytes
    return [
        _gauge("blobstore_garbage_blobs", "Blobs that no manifest needs; fresh pushes and pins among them.", blobs),
        _gauge("blobstore_garbage_bytes", "Bytes of these.", size_bytes),
        _gauge(
            "blobstore_oldest_garbage_seconds",
            "How long the oldest blob that nothing keeps has been there since.",
            oldest_s,
        ),
        _counter(
            "blobstore_freed_bytes", "Bytes that were seen gone from the storage, by whomever.", totals.freed_bytes
        ),
        _gauge("blobstore_trash_entries", "Bytes on the storage that wait to be deleted, blobs or not.", totals.trash),
    ]


def _state(guards: Guards, runs: Mapping[str, float], free: Mapping[str, int], version: str) -> list[Metric]:
    last = GaugeMetricFamily(
        "blobstore_last_collection_timestamp_seconds", "When a collection last ended.", labels=["kind"]
    )
    for kind, ended_s in runs.items():
        last.add_metric([kind], ended_s)
    room = GaugeMetricFamily("blobstore_free_bytes", "Room that is left for this user.", labels=["place"])
    for place, size_bytes in free.items():
        room.add_metric([place], size_bytes)
    info = InfoMetricFamily("blobstore_build", "Which version this is.", value={"version": version})
    frozen = _gauge(
        "blobstore_frozen", "1 while nothing is collected until the index is rebuilt.", guards.frozen is not None
    )
    return [last, room, frozen, info]


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _free_bytes(places: Mapping[str, str]) -> dict[str, int]:
    found = {}
    for place, path in places.items():
        try:
            space = os.statvfs(path)
        except OSError:
            # What is wrong there is told by whoever works on it; here it is absent.
            continue
        found[place] = space.f_bavail * space.f_frsize
    return found
