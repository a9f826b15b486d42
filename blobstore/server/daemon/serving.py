"""What `blobstore serve` does: reads what is wanted, makes a store where none is, listens, and runs one process or several."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Iterator

import msgspec

from blobstore.app import open_store
from blobstore.config import read_secret
from blobstore.errors import ConfigInvalid
from blobstore.server.auth.authentication import make_access
from blobstore.server.daemon.addresses import Address
from blobstore.server.daemon.config import ServerConfig, load_server_config
from blobstore.server.daemon.listening import address_of, bind, inherited, notify
from blobstore.server.daemon.plan import Plan, StorePlan, check_exposure, listen_addresses
from blobstore.server.daemon.process import run_process
from blobstore.server.daemon.tls import tls_context
from blobstore.server.daemon.workers import Supervisor, Wanted
from blobstore.server.operations.logs import bridge_standard_logging, make_log

WORKERS_DEFAULT = 1


class Overrides(msgspec.Struct, frozen=True):
    """What the command line says; it goes before the file."""

    listen: str | None = None
    operator_listen: str | None = None
    workers: int | None = None
    open_to_all: bool | None = None


class Serving:
    """One run of the daemon.

    Args:
        store: asks which store is meant, and how it is reached; asked again at each restart.
        config_path: the configuration file, if there is one.
        overrides: what the command line says.
    """

    def __init__(self, store: Callable[[], StorePlan], config_path: str | None, overrides: Overrides) -> None:
        self._store, self._config_path, self._overrides = store, config_path, overrides
        self.public: list[Address] = []
        self.operator: list[Address] = []
        self.is_encrypted = False
        self._sockets: list[socket.socket] = []
        self._operator_sockets: list[socket.socket] = []

    def run(self, ready: Callable[[], None]) -> int:
        """Serve until a signal says otherwise; `ready` is called when it does. Returns the exit status.

        Raises:
            BlobstoreError: something that is configured can't be used, or the store can't be opened.
        """
        server = self._server()
        store = self._store()
        with self._listening(server):
            bridge_standard_logging(make_log(server.logs))
            asyncio.run(_make_store(store))

            def say() -> None:
                notify("READY=1")
                ready()

            if (server.workers or WORKERS_DEFAULT) == 1:
                # The process closes them when it stops, and nobody else may hold the port open then.
                plan = self._plan(server, store)
                for each in (*self._sockets, *self._operator_sockets):
                    each.detach()
                return run_process(plan, say)
            return Supervisor(self._wanted, say, self._close).run()

    def _server(self) -> ServerConfig:
        """The table `[server]` with what the command line says; all that it names was looked at."""
        server = load_server_config(self._config_path) if self._config_path is not None else ServerConfig()
        said = {key: value for key, value in msgspec.structs.asdict(self._overrides).items() if value is not None}
        server = msgspec.structs.replace(server, **said)
        if server.workers is not None and server.workers < 1:
            raise ConfigInvalid(f"there must be at least one worker, not {server.workers}")
        listen_addresses(server)
        if server.tls is not None:
            tls_context(server.tls)
        if server.operator_token_file:
            read_secret(server.operator_token_file)
        make_access(server.auth)
        if server.run_directory is not None and not os.path.isdir(server.run_directory):
            raise ConfigInvalid(f"server.run_directory: there is no directory {server.run_directory}")
        return server

    @contextlib.contextmanager
    def _listening(self, server: ServerConfig) -> Iterator[None]:
        public, operator = listen_addresses(server)
        with contextlib.ExitStack() as stack:
            self._sockets = [stack.enter_context(each) for each in inherited(os.environ, os.getpid()) or [bind(public)]]
            self._operator_sockets = [stack.enter_context(bind(operator))] if operator is not None else []
            self.public = [address_of(each) for each in self._sockets]
            self.operator = [address_of(each) for each in self._operator_sockets]
            self.is_encrypted = server.tls is not None
            # Those of systemd may be others than the configuration says.
            self._check_exposure(server)
            for path in [each.path for each in (*self.public, *self.operator) if hasattr(each, "path")]:
                stack.callback(_remove, path)
            yield

    def _check_exposure(self, server: ServerConfig) -> None:
        """As `check_exposure`, of the sockets that there are."""
        for public in self.public:
            for operator in (*self.operator,) or (None,):
                check_exposure(server, public, operator)

    def _wanted(self) -> Wanted:
        server = self._server()
        # The file may name other addresses by now. The sockets stay, and so does who can reach them.
        self._check_exposure(server)
        return Wanted(self._plan(server, self._store()), server.workers or WORKERS_DEFAULT)

    def _close(self) -> None:
        for each in (*self._sockets, *self._operator_sockets):
            each.close()

    def _plan(self, server: ServerConfig, store: StorePlan) -> Plan:
        return Plan(
            store=store,
            server=server,
            public=tuple(each.fileno() for each in self._sockets),
            operator=tuple(each.fileno() for each in self._operator_sockets),
            address=str(self.public[0]),
            serves_operator=not self._operator_sockets and all(each.is_loopback for each in self.public),
        )


async def _make_store(store: StorePlan) -> None:
    """Processes that start at once should find it there; and what is wrong with it is said once."""
    async with open_store(store.url, index=store.index, config=store.config, create=True):
        pass


def _remove(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
