"""Several processes on one port: starts them, replaces what dies, and restarts all without a failed request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec

from blobstore.errors import BlobstoreError, StorageFailed
from blobstore.server.daemon.addresses import UnixAddress
from blobstore.server.daemon.listening import bind, notify
from blobstore.server.daemon.plan import Plan, Role
from blobstore.server.daemon.process import READY, STOP_WITHIN_S
from blobstore.server.operations.metrics import DIRECTORY_VARIABLE, mark_dead, prepare_directory
from blobstore.units import parse_duration_s

_LOG = logging.getLogger("blobstore.server")

START_MAX_S = 60.0
"""How long a process may take until it serves."""
BACK_OFF_FIRST_S = 0.1
BACK_OFF_MAX_S = 10.0
_STEADY_S = 10.0
"""What ran so long and died is restarted at once."""
KILL_AFTER_S = 15.0
"""How much longer than it may take a process is waited for when it was told to stop."""


class Wanted(msgspec.Struct, frozen=True):
    """What is to be run, as the configuration says it now."""

    plan: Plan
    """Of one worker: the others differ in their number."""
    workers: int


class StartFailed(StorageFailed):
    """A process of the daemon ended, or hung, before it served."""


class _Child:
    """One process."""

    def __init__(self, process: asyncio.subprocess.Process, control: socket.socket) -> None:
        self.process, self.control = process, control
        self.started_s = time.monotonic()
        self.lasted_s = 0.0
        self.is_over = asyncio.Event()

    async def follow(self) -> None:
        """Note its end."""
        await self.process.wait()
        self.lasted_s = time.monotonic() - self.started_s
        self.control.close()
        self.is_over.set()

    def tell(self, number: signal.Signals) -> None:
        """Send a signal, if it is there."""
        if not self.is_over.is_set():
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)


class _Slot:
    """The place of one process, whichever fills it now."""

    def __init__(self, role: Role, number: int) -> None:
        self.role: Role = role
        self.number = number
        self.child: _Child | None = None
        self.keeper: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return f"{self.role} {self.number}" if self.role == "worker" else self.role


class Supervisor:
    """Runs until SIGTERM or SIGINT; SIGHUP asks `wanted` again and replaces all processes, one after the other.

    Holds the listening sockets, so that no connection is refused while there is none to take it.
    """

    def __init__(self, wanted: Callable[[], Wanted], ready: Callable[[], None], let_go: Callable[[], None]) -> None:
        """`ready` is called when all serve, `let_go` when the listening sockets are not needed any more."""
        self._wanted_again, self._ready, self._let_go = wanted, ready, let_go
        self._wanted = wanted()
        self._bound = self._wanted.plan.server
        self._slots: list[_Slot] = []
        self._children: set[_Child] = set()
        self._followers: set[asyncio.Task[None]] = set()
        self._stopping, self._restarting = asyncio.Event(), asyncio.Event()
        self._internal: socket.socket | None = None
        self._internal_path: str | None = None
        self._metrics = ""

    def run(self) -> int:
        """Returns the exit status.

        Raises:
            StartFailed: the first processes could not be started.
        """
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._restarting.set)
        with self._private_directory():
            try:
                await self._fill()
                self._ready()
                await self._until_stopped()
            finally:
                await self._end()
        return 0

    @contextlib.contextmanager
    def _private_directory(self) -> Iterator[None]:
        directory = tempfile.mkdtemp(prefix="blobstore-", dir=self._wanted.plan.server.run_directory)
        try:
            self._internal_path = os.path.join(directory, "operator.sock")
            self._metrics = os.path.join(directory, "metrics")
            prepare_directory(self._metrics)
            self._internal = bind(UnixAddress(self._internal_path))
            yield
        finally:
            if self._internal is not None:
                self._internal.close()
            shutil.rmtree(directory, ignore_errors=True)

    def _stop(self) -> None:
        notify("STOPPING=1")
        self._stopping.set()

    # Filling the slots

    async def _fill(self) -> None:
        """Start all; the first that fails ends it, as it is the configuration's fault then."""
        roles: list[tuple[Role, int]] = [("worker", number) for number in range(self._wanted.workers)]
        roles.append(("operator", 0))
        self._slots = [_Slot(role, number) for role, number in roles]
        await asyncio.gather(*(self._start_into(slot) for slot in self._slots))
        for slot in self._slots:
            slot.keeper = asyncio.create_task(self._keep(slot))

    async def _start_into(self, slot: _Slot) -> None:
        slot.child = await self._start(slot)

    async def _start(self, slot: _Slot, *, is_restart: bool = False) -> _Child:
        """A process that serves.

        Raises:
            StartFailed: it doesn't.
        """
        child = await self._spawn(slot, is_restart=is_restart)
        try:
            async with asyncio.timeout(START_MAX_S):
                said = await asyncio.get_running_loop().sock_recv(child.control, len(READY))
        except (TimeoutError, OSError):
            said = b""
        if said != READY:
            child.tell(signal.SIGKILL)
            await child.is_over.wait()
            raise StartFailed(f"the process {slot} did not start; what it said is above")
        return child

    async def _spawn(self, slot: _Slot, *, is_restart: bool) -> _Child:
        try:
            process, control = await self._launch(slot, is_restart=is_restart)
        except OSError as error:
            # No descriptor, no memory, no process: there may be one when it is tried again.
            raise StartFailed(f"the process {slot} can't be started: {error.strerror or error}") from error
        child = _Child(process, control)
        self._children.add(child)
        follower = asyncio.create_task(child.follow())
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)
        follower.add_done_callback(lambda _: self._children.discard(child))
        follower.add_done_callback(lambda _: mark_dead(process.pid, self._metrics))
        return child

    async def _launch(self, slot: _Slot, *, is_restart: bool) -> tuple[asyncio.subprocess.Process, socket.socket]:
        """The process, and our end of what it says that it is ready by."""
        with contextlib.ExitStack() as handed_over, contextlib.ExitStack() as kept:
            ours, theirs = socket.socketpair()
            kept.enter_context(ours)
            handed_over.enter_context(theirs)
            ours.settimeout(0)
            plan = msgspec.structs.replace(
                self._wanted.plan,
                role=slot.role,
                number=slot.number,
                control=theirs.fileno(),
                is_restart=is_restart,
                internal_path=self._internal_path,
                internal=self._internal.fileno() if self._internal is not None and slot.role == "operator" else None,
            )
            written = plan.write()
            handed_over.callback(os.close, written)
            inherited = [written, theirs.fileno(), *plan.public, *plan.operator]
            if plan.internal is not None:
                inherited.append(plan.internal)
            process = await asyncio.create_subprocess_exec(
                # The role is for those who look at the list of processes.
                *(sys.executable, "-m", "blobstore.server", str(written), slot.role),
                env={**os.environ, DIRECTORY_VARIABLE: self._metrics},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=inherited,
            )
            kept.pop_all()
            return process, ours

    async def _keep(self, slot: _Slot) -> None:
        """Start another one when it dies, more slowly the more often it does."""
        wait_s = 0.0
        while True:
            child = slot.child
            assert child is not None
            await child.is_over.wait()
            if slot.child is not child:
                # Another one took its place before it went.
                continue
            # What comes after a start that failed is no longer about the one that was here before.
            wait_s = next_wait_s(wait_s, child.lasted_s)
            child.lasted_s = 0.0
            _LOG.error("the process %s ended with %s; started anew in %g s", slot, child.process.returncode, wait_s)
            await asyncio.sleep(wait_s)
            try:
                started = await self._start(slot, is_restart=True)
            except StartFailed as error:
                _LOG.error("%s", error)
            else:
                # Unless a restart was quicker.
                if slot.child is child:
                    slot.child = started
                else:
                    started.tell(signal.SIGTERM)

    # Being told

    async def _until_stopped(self) -> None:
        while not self._stopping.is_set():
            await self._unless_stopped(self._restarting.wait())
            if self._restarting.is_set() and not self._stopping.is_set():
                self._restarting.clear()
                # A successor may take a minute until it is given up, which a stop need not wait for.
                await self._unless_stopped(self._restart())

    async def _unless_stopped(self, work: Coroutine[Any, Any, object]) -> None:
        """Until it is done, or broken off by a stop."""
        tasks = [asyncio.ensure_future(each) for each in (work, self._stopping.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not tasks[0].cancelled():
            tasks[0].result()

    async def _restart(self) -> None:
        """Replace one after the other: each goes on until its successor serves."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            self._take_up(self._wanted_again())
            for slot in self._slots:
                if self._stopping.is_set():
                    return
                await self._replace(slot)
            _LOG.info("the configuration was read again, and all %d processes were replaced", len(self._slots))
        except BlobstoreError as error:
            _LOG.error("nothing, or not all, was restarted: %s", error)
        finally:
            notify("READY=1")

    def _take_up(self, wanted: Wanted) -> None:
        if wanted.workers != self._wanted.workers:
            _LOG.warning("another number of workers takes a stop and a start; there are still %d", self._wanted.workers)
        for key in ("listen", "operator_listen"):
            if getattr(wanted.plan.server, key) != getattr(self._bound, key):
                _LOG.warning("another server.%s takes a stop and a start; the address is still the one before", key)
        self._wanted = msgspec.structs.replace(wanted, workers=self._wanted.workers)

    async def _replace(self, slot: _Slot) -> None:
        successor = await self._start(slot)
        before, slot.child = slot.child, successor
        if before is not None:
            # Two that collect would be in each other's way.
            before.tell(signal.SIGHUP if slot.role == "worker" else signal.SIGTERM)

    # The end

    async def _end(self) -> None:
        for slot in self._slots:
            if slot.keeper is not None:
                slot.keeper.cancel()
        self._let_go()
        for child in set(self._children):
            child.tell(signal.SIGTERM)
        stop_within = self._wanted.plan.server.stop_within
        within_s = (parse_duration_s(stop_within) if stop_within else STOP_WITHIN_S) + KILL_AFTER_S
        if self._followers:
            _, late = await asyncio.wait(set(self._followers), timeout=within_s)
            if late:
                _LOG.error("%d processes did not end within %g s, and are killed", len(late), within_s)
        for child in set(self._children):
            child.tell(signal.SIGKILL)
        if self._followers:
            await asyncio.wait(set(self._followers))


def next_wait_s(wait_s: float, lasted_s: float) -> float:
    """How long to wait before the next start, when it was `wait_s` before the last one, of a process that lasted so long."""
    if lasted_s > _STEADY_S:
        return BACK_OFF_FIRST_S
    return min(BACK_OFF_MAX_S, max(BACK_OFF_FIRST_S, 2 * wait_s))
