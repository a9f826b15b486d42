"""What Prometheus is told, counted in every process of the daemon and added up where it is asked for.

Several processes write into files of one directory, `PROMETHEUS_MULTIPROC_DIR`, which must be in their environment before they
import this: `prepare_directory`, then start them with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
from collections.abc import Iterable
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from blobstore.events import Alarm, Event, PromiseBroken
from blobstore.server.operations.watching import Exchange
from blobstore.server.protocol.observing import Answered, Observation

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120)
_RUN_BUCKETS_S = (0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 28800)


class Figures(Protocol):
    """Figures that are asked for, not counted: of the store, when somebody wants to know."""

    async def look(self) -> Iterable[Metric]:
        """The figures now."""


class Metrics:
    """The counters of one process. What is counted on the way of a request is found once and kept bound."""

    def __init__(self) -> None:
        self._directory = os.environ.get(DIRECTORY_VARIABLE) or None
        # A second series for each, which says when its counting began; with several processes there are none either.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "blobstore_http_requests", "Requests answered.", ["method", "endpoint", "status"], registry=registry
        )
        self._request_seconds = Histogram(
            "blobstore_http_request_duration_seconds",
            "From a request's head to the last byte of its answer.",
            ["method", "endpoint"],
            buckets=_REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._in_progress = Gauge(
            "blobstore_http_requests_in_progress",
            "Requests under way.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._received = Counter("blobstore_http_received_bytes", "Bytes of bodies received.", registry=registry)
        self._sent = Counter("blobstore_http_sent_bytes", "Bytes of bodies sent.", registry=registry)
        self._actions = Counter(
            "blobstore_registry_actions", "Pushes, pulls and deletes that were done.", ["action"], registry=registry
        )
        self._backend_seconds = Histogram(
            "blobstore_backend_request_duration_seconds",
            "What the storage was asked for; a read until it begins.",
            ["verb"],
            buckets=_REQUEST_BUCKETS_S,
            registry=registry,
        )
        self._backend_errors = Counter(
            "blobstore_backend_errors", "What the storage failed at.", ["verb", "error"], registry=registry
        )
        self.promises_broken = Counter(
            "blobstore_promises_broken",
            "Blobs that were asked for, known, and missing. Must stay 0.",
            registry=registry,
        )
        self.alarms = Counter(
            "blobstore_alarms", "What an operator should look at; the log says what.", registry=registry
        )
        self.worker_restarts = Counter(
            "blobstore_worker_restarts", "Workers that died and were started again.", registry=registry
        )
        self.collections = Counter(
            "blobstore_collections", "Collections that ended here.", ["kind", "outcome"], registry=registry
        )
        self.collection_seconds = Histogram(
            "blobstore_collection_duration_seconds",
            "How long a collection took.",
            ["kind"],
            buckets=_RUN_BUCKETS_S,
            registry=registry,
        )
        self.collecting = Gauge(
            "blobstore_collections_in_progress",
            "Collections under way.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.notifications = Counter(
            "blobstore_notifications", "Events for listeners.", ["listener", "outcome"], registry=registry
        )
        self.notifications_waiting = Gauge(
            "blobstore_notifications_waiting",
            "Events that wait to be sent.",
            ["listener"],
            multiprocess_mode="livesum",
            registry=registry,
        )
        if self._directory is None:
            ProcessCollector(registry=registry)
        self._bound: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._bound_actions: dict[type[object], Counter] = {}
        self._bound_verbs: dict[str, Histogram] = {}

    # A watcher

    def began(self) -> None:
        """See `Watcher.began`."""
        self._in_progress.inc()

    def ended(self, exchange: Exchange) -> None:
        """See `Watcher.ended`."""
        key = (exchange.method, exchange.endpoint, exchange.status)
        bound = self._bound.get(key)
        if bound is None:
            method, endpoint, status = key
            bound = self._requests.labels(method, endpoint, str(status)), self._request_seconds.labels(method, endpoint)
            self._bound[key] = bound
        bound[0].inc()
        bound[1].observe(exchange.seconds)
        self._in_progress.dec()
        if exchange.received_bytes:
            self._received.inc(exchange.received_bytes)
        if exchange.sent_bytes:
            self._sent.inc(exchange.sent_bytes)

    # An observer, a sink of events, and what measures a backend

    def observe(self, observation: Observation, /) -> None:
        """One observation of the registry."""
        kind = type(observation)
        if kind is Answered:
            return
        bound = self._bound_actions.get(kind)
        if bound is None:
            bound = self._bound_actions[kind] = self._actions.labels(_words(kind.__name__))
        bound.inc()

    def note(self, event: Event, /) -> None:
        """One event of the engine."""
        if isinstance(event, PromiseBroken):
            self.promises_broken.inc()
        elif isinstance(event, Alarm):
            self.alarms.inc()

    def notified(self, listener: str, outcome: str, waiting: int) -> None:
        """What became of an event; see `Tally`."""
        self.notifications.labels(listener, outcome).inc()
        self.notifications_waiting.labels(listener).set(waiting)

    def collection_began(self) -> None:
        """See `CollectionTally`."""
        self.collecting.inc()

    def collection_ended(self, kind: str, outcome: str, seconds: float) -> None:
        """See `CollectionTally`."""
        self.collecting.dec()
        self.collections.labels(kind, outcome).inc()
        self.collection_seconds.labels(kind).observe(seconds)

    def backend_done(self, verb: str, seconds: float) -> None:
        """The storage did what it was asked for, or failed at it."""
        bound = self._bound_verbs.get(verb)
        if bound is None:
            bound = self._bound_verbs[verb] = self._backend_seconds.labels(verb)
        bound.observe(seconds)

    def backend_failed(self, verb: str, error: BaseException) -> None:
        """And it was this."""
        self._backend_errors.labels(verb, type(error).__name__).inc()

    # Being asked

    async def page(self, *figures: Figures) -> bytes:
        """All of it, of all processes, as Prometheus reads it."""
        found = [metric for each in figures for metric in await each.look()]
        return await asyncio.to_thread(self._render, found)

    def _render(self, found: list[Metric]) -> bytes:
        if self._directory is None:
            return generate_latest(self._registry) + generate_latest(_registry_of(_Given(found)))
        together = CollectorRegistry()
        MultiProcessCollector(together, self._directory)  # type: ignore[no-untyped-call]
        return generate_latest(together) + generate_latest(_registry_of(_Given(found)))

    def names(self) -> set[str]:
        """Every series that is counted here, for the test of what asks for them."""
        return {sample for metric in self._registry.collect() for sample in sample_names(metric)}


def sample_names(metric: Metric) -> set[str]:
    """The names of the series of one metric."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
    return {f"{metric.name}{ending}" for ending in endings}


def prepare_directory(path: str) -> None:
    """Make the directory where the processes of a daemon count, and empty it of what earlier ones left."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    for left in glob.glob(os.path.join(glob.escape(path), "*.db")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)


def mark_dead(pid: int, path: str) -> None:
    """A process ended: what it was in the midst of isn't under way any more. What it counted stays counted."""
    mark_process_dead(pid, path)  # type: ignore[no-untyped-call]


def _words(name: str) -> str:
    """`blob_pushed` of `BlobPushed`."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).removeprefix("_")


def _registry_of(collector: Collector) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


class _Given(Collector):
    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """What was found before."""
        return self._metrics
