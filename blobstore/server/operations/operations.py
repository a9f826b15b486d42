"""What one process of the daemon has beside the registry: logs, metrics, notifications, health, collections, the operator's API.

Made before the store is opened, as the store tells it what happens; see `Operations.serving` for the rest of its life.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from blobstore.abc.backend import Backend
from blobstore.events import Alarm, Event, Waiting
from blobstore.gc import GcPolicy
from blobstore.server.operations.audit import AuditObserver
from blobstore.server.operations.collecting import Collecting
from blobstore.server.operations.config import CollectConfig, LogsConfig, NotificationsConfig
from blobstore.server.operations.figures import StoreFigures
from blobstore.server.operations.health import Health, without_payload
from blobstore.server.operations.logs import Log, make_audit_log, make_log
from blobstore.server.operations.measuring import measured
from blobstore.server.operations.metrics import CONTENT_TYPE, Metrics
from blobstore.server.operations.notifications import Notifier
from blobstore.server.operations.operator import PREFIX, OperatorApi
from blobstore.server.operations.watching import AccessLog, Answer, Watch
from blobstore.server.protocol.messages import Request, Response
from blobstore.server.protocol.observing import Observation, Observer
from blobstore.server.protocol.problems import error_response
from blobstore.store import Store

_LOCK = "collecting.lock"


class OperationsConfig(Protocol):
    """The tables it needs of `[server]`."""

    @property
    def collect(self) -> CollectConfig:
        """`[server.collect]`."""

    @property
    def notifications(self) -> NotificationsConfig:
        """`[server.notifications]`."""

    @property
    def logs(self) -> LogsConfig:
        """`[server.logs]`."""


class Operations:
    """Of one process.

    Args:
        config: its tables.
        policy: what collections may let go.
        collects: whether this process collects and answers operators; one of a daemon does.
        address: where the registry is served, for notifications.
        log: where lines go; standard error without.
        audit: where audit lines go; with the others without.
    """

    def __init__(
        self,
        config: OperationsConfig,
        policy: GcPolicy | None = None,
        *,
        collects: bool = True,
        address: str = "",
        log: Log | None = None,
        audit: Log | None = None,
    ) -> None:
        self._config, self._policy, self._collects = config, policy or GcPolicy(), collects
        self.log = log or make_log(config.logs)
        self._audit = audit or make_audit_log(config.logs)
        self.metrics = Metrics()
        self._notifier = Notifier(config.notifications, address=address, log=self.log, tally=self.metrics)
        self._watch = Watch(self.metrics, AccessLog(self.log, is_whole=config.logs.access))
        audits: list[Observer] = [AuditObserver(self._audit)] if self._audit is not None else []
        self._observers: list[Observer] = [self._watch, self.metrics.observe, self._notifier, *audits]
        self._health: Health | None = None
        self._operator: OperatorApi | None = None
        self._figures: StoreFigures | None = None
        self.collecting: Collecting | None = None

    # For who opens the store and makes the registry

    def note(self, event: Event, /) -> None:
        """The sink of the store's events: for `open_store(events=…)`."""
        if isinstance(event, Alarm):
            self.log.error("alarm", text=event.text)
        elif isinstance(event, Waiting):
            self.log.warning("waiting", text=event.text)
        self.metrics.note(event)

    def measured(self, backend: Backend) -> Backend:
        """The store's backend, measured: for `open_store(wrap=…)`."""
        return measured(backend, self.metrics)

    def observe(self, observation: Observation, /) -> None:
        """The observer of the registry."""
        for observer in self._observers:
            observer(observation)

    def watched(self, answer: Answer) -> Answer:
        """What a server calls in place of `answer`: each request is counted and logged, and has its id."""
        return self._watch.wrap(answer)

    @contextlib.asynccontextmanager
    async def serving(self, store: Store, on_poisoned: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """From when the store is open until before it is closed: notifies, collects on its schedule, knows whether all is well.

        Args:
            store: the open store.
            on_poisoned: is called when a collection finds that the index refuses everything: this process must end.
        """
        async with contextlib.AsyncExitStack() as stack:
            await self._notifier.open()
            stack.push_async_callback(self._notifier.aclose)
            self._health = Health(store, log=self.log)
            if self._collects:
                collecting = self.collecting = self._make_collecting(store, on_poisoned)
                stack.push_async_callback(collecting.aclose)
                version = _version()
                self._operator = OperatorApi(store, collecting, version=version)
                self._figures = StoreFigures(store, collecting.policy, _places(store), version)
                await collecting.open()
            yield

    def _make_collecting(self, store: Store, on_poisoned: Callable[[], None]) -> Collecting:
        path = index_path(store)
        return Collecting(
            store,
            self._policy,
            self._config.collect,
            # Beside the index, which all processes of this host that may collect have open, whoever started them.
            lock_path=os.path.join(path, _LOCK) if path is not None else None,
            log=self.log,
            audit=self._audit,
            # The collector's own log lines are told by `Collecting`.
            events=self.metrics.note,
            tally=self.metrics,
            on_poisoned=on_poisoned,
        )

    # Answers, while it serves

    def begin_draining(self) -> None:
        """From now on this process isn't ready."""
        if self._health is not None:
            self._health.begin_draining()

    async def health(self, request: Request) -> Response:
        """Answers `/`, `/healthz` and `/readyz`."""
        assert self._health is not None, "not serving"
        return await self._health.answer(request)

    async def operator(self, request: Request) -> Response:
        """Answers `/metrics` and what is below `/api/v1/`; in the process that collects. Who may ask is for the caller to see
        to."""
        assert self._operator is not None, "this process does not collect"
        if request.path == "/metrics":
            return await self._metrics_page(request)
        if request.path.startswith(PREFIX):
            return await self._operator.answer(request)
        return error_response(404, "UNSUPPORTED", "there is nothing here")

    async def _metrics_page(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            return error_response(405, "UNSUPPORTED", "only GET", headers=[("Allow", "GET, HEAD")])
        assert self._figures is not None
        page = Response(200, [("Content-Type", CONTENT_TYPE)], await self.metrics.page(self._figures))
        return without_payload(page) if request.method == "HEAD" else page


def index_path(store: Store) -> str | None:
    """Where the index lies, of one that lies in a directory of this host."""
    path = getattr(store.index, "path", None)
    return path if isinstance(path, str) else None


def _places(store: Store) -> dict[str, str]:
    """Directories whose room is told."""
    places = {"data": store.backend.location.removeprefix("file://"), "index": index_path(store) or ""}
    return {place: path for place, path in places.items() if os.path.isdir(path)}


def _version() -> str:
    try:
        return importlib.metadata.version("blobstore")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
