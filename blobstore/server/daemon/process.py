"""One process of the daemon: it opens the store, serves, and stops without breaking off what is under way."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any

from blobstore.app import hold_terms, open_store, policy_of
from blobstore.config import read_secret
from blobstore.errors import IndexPoisoned
from blobstore.server.auth.authentication import make_access
from blobstore.server.daemon import assembling
from blobstore.server.daemon._passing_on import PassingOn
from blobstore.server.daemon.listening import Acceptor, adopt, notify
from blobstore.server.daemon.plan import Plan
from blobstore.server.daemon.site import Site
from blobstore.server.daemon.tls import tls_context
from blobstore.server.operations.logs import bridge_standard_logging
from blobstore.server.operations.operations import Operations, index_path
from blobstore.server.protocol.observing import Answered, Observation
from blobstore.server.protocol.registry import Registry
from blobstore.server.web.application import Answer, WebHandler
from blobstore.server.web.connections import Connections, ConnectionServer
from blobstore.store import Store
from blobstore.units import parse_duration_s

_LOG = logging.getLogger("blobstore.server")

STOP_WITHIN_S = 30.0
"""How long a stop waits for what is under way, unless `server.stop_within` says something else."""
RETIRE_WITHIN_S = 1800.0
"""How long a worker that was replaced does."""
_CANCEL_MAX_S = 10.0
READY = b"ready\n"


def run_process(plan: Plan, ready: Callable[[], None] = lambda: None) -> int:
    """Serve until a signal ends it; returns the exit status. `ready` is called when it serves.

    Raises:
        BlobstoreError: the store can't be opened, or the configuration can't be used.
    """
    with _event_loop() as runner:
        return runner.run(_Process(plan, ready).run())


def _event_loop() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:
        # Not made for this machine; asyncio does the same, slower.
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def allow_many_files() -> int:
    """Open as many files as the system lets us; returns how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class _Process:
    """The life of one."""

    def __init__(self, plan: Plan, ready: Callable[[], None]) -> None:
        self._plan, self._ready = plan, ready
        self._stopping, self._retiring = asyncio.Event(), asyncio.Event()
        self._status = 0
        self._acceptors: list[Acceptor] = []
        self._handlers: list[WebHandler] = []
        self._settings = assembling.web_settings(plan.server)
        limits = assembling.connection_limits(plan.server, allow_many_files())
        self._group = Connections(limits, self._settings.proxies, self._accept)

    async def run(self) -> int:
        """Open all, serve, close all."""
        plan = self._plan
        self._heed_signals(asyncio.get_running_loop())
        config = plan.store.config
        operations = Operations(plan.server, policy_of(config.gc), collects=plan.role != "worker", address=plan.address)
        bridge_standard_logging(operations.log)
        if plan.is_restart:
            operations.metrics.worker_restarts.inc()
        async with (
            open_store(
                plan.store.url,
                index=plan.store.index,
                config=config,
                terms=hold_terms(config.gc),
                events=operations.note,
                wrap=operations.measured,
            ) as store,
            operations.serving(store, self._poisoned),
            self._doors(store, operations),
        ):
            await self._serve(operations)
        return self._status

    # What is served

    @contextlib.asynccontextmanager
    async def _doors(self, store: Store, operations: Operations) -> AsyncIterator[None]:
        """For each kind of listener what is behind it."""
        server, plan = self._plan.server, self._plan
        token = read_secret(server.operator_token_file) if server.operator_token_file else None
        async with contextlib.AsyncExitStack() as stack:
            if plan.role != "operator":
                registry = await self._registry(stack, store, operations)
                operator = self._operator(stack, operations) if plan.serves_operator else None
                is_open = server.auth.method == "none" and not server.open_to_all
                site = Site(
                    registry=registry.answer,
                    health=operations.health,
                    operator=operator,
                    token=token,
                    refuses_pages=is_open and not server.trusted_proxies,
                )
                self._open(plan.public, operations.watched(site.answer))
            if plan.role != "worker":
                site = Site(registry=None, health=operations.health, operator=operations.operator, token=token)
                self._open(plan.operator, operations.watched(site.answer))
            if plan.internal is not None:
                # Whoever asks there was let in by a worker, which has counted and logged it.
                site = Site(registry=None, health=operations.health, operator=operations.operator, is_internal=True)
                self._open([plan.internal], site.answer)
            try:
                yield
            finally:
                for handler in self._handlers:
                    await handler.aclose()

    async def _registry(self, stack: contextlib.AsyncExitStack, store: Store, operations: Operations) -> Registry:
        server = self._plan.server
        access = make_access(server.auth, events=operations.note)
        stack.push_async_callback(access.aclose)

        def observe(observation: Observation, /) -> None:
            operations.observe(observation)
            if isinstance(observation, Answered) and isinstance(observation.error, IndexPoisoned):
                self._poisoned()

        room = assembling.room(server, self._plan.store, index_path(store))
        return Registry(store, assembling.registry_settings(server), access, observer=observe, room=room)

    def _operator(self, stack: contextlib.AsyncExitStack, operations: Operations) -> Answer | None:
        if self._plan.role != "worker":
            return operations.operator
        if self._plan.internal_path is None:
            return None
        passing_on = PassingOn(self._plan.internal_path)
        stack.push_async_callback(passing_on.aclose)
        return passing_on.answer

    def _poisoned(self) -> None:
        """Only a process that opens the index anew may go on with it."""
        _LOG.error("the index refuses everything since a write failed; this process ends")
        self._status = 1
        self._stopping.set()

    def _open(self, descriptors: Iterable[int], answer: Answer) -> None:
        tls = tls_context(self._plan.server.tls) if self._plan.server.tls is not None else None
        handler = WebHandler(answer, self._settings)
        self._handlers.append(handler)
        server = ConnectionServer(handler, self._group)
        for descriptor in descriptors:
            listening = adopt(descriptor)
            is_encrypted = tls is not None and listening.family != socket.AF_UNIX
            self._acceptors.append(
                Acceptor(listening, server, tls=tls if is_encrypted else None, is_full=self._group.is_full)
            )

    # Serving

    async def _serve(self, operations: Operations) -> None:
        watching = asyncio.create_task(self._group.watch())
        try:
            self._accept()
            self._say_ready()
            await _first_of(self._stopping.wait(), self._retiring.wait())
            operations.begin_draining()
            await self._end()
        finally:
            watching.cancel()

    def _accept(self) -> None:
        for acceptor in self._acceptors:
            acceptor.resume()

    def _say_ready(self) -> None:
        if self._plan.control is not None:
            control = adopt(self._plan.control)
            with contextlib.suppress(OSError):
                # Whoever started us may be gone already, which is seen next: what has begun is brought to its end all the same.
                control.send(READY)
            self._heed_control(control)
        self._ready()

    async def _end(self) -> None:
        """Nobody new; those that are here get what they asked for, if it doesn't take too long; then what is left of them is
        cancelled, which keeps the uploads resumable."""
        group = self._group
        for acceptor in self._acceptors:
            acceptor.close()
            await acceptor.finish_beginning()
        for handler in self._handlers:
            handler.is_closing = True
        if not self._stopping.is_set():
            group.retire()
            within_s = _seconds(self._plan.server.retire_within, RETIRE_WITHIN_S)
            await _first_of(group.ended(within_s), self._stopping.wait())
        group.close_idle()
        within_s = _seconds(self._plan.server.stop_within, STOP_WITHIN_S)
        if not await group.ended(within_s):
            _LOG.warning("%d connections were not done within %g s, and are broken off", len(group), within_s)
        tasks = {task for handler in self._handlers for task in handler.tasks}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_MAX_S)
        group.abort()

    # Being told

    def _heed_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        is_alone = self._plan.role == "all"
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        # Of a terminal, all processes get it; whoever started the others tells them.
        loop.add_signal_handler(signal.SIGINT, self._stop if is_alone else lambda: None)
        loop.add_signal_handler(signal.SIGHUP, self._explain_restart if is_alone else self._retiring.set)

    def _stop(self) -> None:
        if self._plan.role == "all":
            notify("STOPPING=1")
        self._stopping.set()

    def _explain_restart(self) -> None:
        _LOG.warning("SIGHUP replaces the workers one by one, and there are none: start with --workers 2 or more")

    def _heed_control(self, control: socket.socket) -> None:
        """Whoever started us is gone when this ends: nobody would restart us, or stop us."""
        loop = asyncio.get_running_loop()

        def read() -> None:
            try:
                is_over = not control.recv(1)
            except BlockingIOError:
                return
            except OSError:
                is_over = True
            if is_over:
                loop.remove_reader(control.fileno())
                control.close()
                self._stopping.set()

        loop.add_reader(control.fileno(), read)


def _seconds(text: str | None, default_s: float) -> float:
    return default_s if text is None else parse_duration_s(text)


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them ends; the others are cancelled."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
