"""Several processes on one port: what one began another goes on with, and none of them is missed when it dies or is replaced."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from blobstore.config import Config
from blobstore.server.daemon import assembling
from blobstore.server.daemon._passing_on import PassingOn
from blobstore.server.daemon.addresses import parse_address
from blobstore.server.daemon.config import ServerConfig
from blobstore.server.daemon.listening import bind
from blobstore.server.daemon.plan import Plan, StorePlan
from blobstore.server.daemon.serving import _make_store
from blobstore.server.daemon.workers import (
    BACK_OFF_FIRST_S,
    BACK_OFF_MAX_S,
    StartFailed,
    Supervisor,
    Wanted,
    _Slot,
    next_wait_s,
)
from blobstore.server.operations.metrics import DIRECTORY_VARIABLE
from blobstore.server.protocol.messages import BodyInterrupted, Request
from tests.server.daemon import ROOT, Client, Daemon, place, wait_for, with_digest

MIB = 1024 * 1024


def data_of(size: int, salt: object) -> bytes:
    return hashlib.shake_128(str(salt).encode()).digest(size)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory):
    """Two workers, for tests that leave them alive."""
    with Daemon(tmp_path_factory.mktemp("pair"), "--workers", "2") as running:
        yield running


def clients_of_each(daemon: Daemon) -> dict[int, Client]:
    """A connection to every worker."""
    found: dict[int, Client] = {}
    while len(found) < len(daemon.workers()):
        client = daemon.client()
        client.connection.connect()
        assert client.ask("GET", "/v2/")[0] == 200
        owner = _owner(client, daemon.workers())
        if owner in found:
            client.connection.close()
        else:
            found[owner] = client
    return found


def _owner(client: Client, pids: list[int]) -> int:
    """Whose the other end of a connection is: the process that has its socket open."""
    own, its = client.connection.sock.getsockname()[1], client.connection.port
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    # By both ends: to another server somebody else may have the same port. One that waits out its end has no inode.
    inode = next(
        row[9] for row in rows if row[9] != "0" and (row[1][-5:], row[2][-5:]) == (f":{its:04X}", f":{own:04X}")
    )
    for pid in pids:
        for handle in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{handle}") == f"socket:[{inode}]":
                    return pid
            except OSError:
                continue
    raise AssertionError("nobody has it")


def test_both_workers_get_connections(pair: Daemon):
    """No one takes them all."""
    clients = clients_of_each(pair)
    assert sorted(clients) == pair.workers()
    for client in clients.values():
        client.connection.close()


def test_an_upload_begun_in_one_worker_goes_on_in_another(pair: Daemon):
    """Chunk by chunk, and what was pushed through one is pulled through all."""
    content = data_of(5 * MIB, "handed on")
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    first, second = clients_of_each(pair).values()
    location = first.begin("handed/on")
    for number, client in enumerate((second, first, second, first, second)):
        headers = {
            "Content-Range": f"{number * MIB}-{(number + 1) * MIB - 1}",
            "Content-Type": "application/octet-stream",
        }
        status, answered, body = client.ask("PATCH", location, content[number * MIB : (number + 1) * MIB], headers)
        assert (status, answered["Range"]) == (202, f"0-{(number + 1) * MIB - 1}"), body
        location = place(answered)
    status, _, body = first.ask("PUT", with_digest(location, digest), b"")
    assert status == 201, body
    for client in (first, second):
        assert client.pull("handed/on", digest) == content
        client.connection.close()


def test_what_a_killed_worker_took_in_is_gone_on_with_in_another(tmp_path: Path):
    """The upload is where its last answered chunk ended, and another process takes the dead one's place."""
    content = data_of(3 * MIB, "killed")
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with Daemon(tmp_path, "--workers", "2") as daemon:
        before = daemon.workers()
        (victim, client), (_, unused) = clients_of_each(daemon).items()
        unused.connection.close()
        location = client.begin("killed/one")
        status, answered, _ = client.ask("PATCH", location, content[:MIB], {"Content-Range": f"0-{MIB - 1}"})
        assert status == 202
        location = place(answered)
        # In the middle of the next one.
        client.connection.putrequest("PATCH", location)
        client.connection.putheader("Content-Length", str(2 * MIB))
        client.connection.endheaders()
        client.connection.send(content[MIB : MIB + 1000])
        os.kill(victim, signal.SIGKILL)
        with pytest.raises((http.client.HTTPException, OSError)):
            client.connection.getresponse()
        client.connection.close()
        with daemon.client() as other:
            status, answered, _ = other.ask("GET", location)
            assert status == 204
            begun = int(answered["Range"].removeprefix("0-")) + 1
            assert MIB <= begun <= MIB + 1000
            headers = {"Content-Range": f"{begun}-{3 * MIB - 1}"}
            status, answered, body = other.ask("PATCH", place(answered), content[begun:], headers)
            assert status == 202, body
            assert other.ask("PUT", with_digest(place(answered), digest), b"")[0] == 201
            assert other.pull("killed/one", digest) == content
        wait_for(lambda: len(daemon.workers()) == 2 and daemon.workers() != before, "another worker")
        assert f"ended with -{int(signal.SIGKILL)}" in daemon.log()
        for each in clients_of_each(daemon).values():
            assert each.pull("killed/one", digest) == content
            each.connection.close()


class Load:
    """Clients that push and pull all the time, and note what was answered and what failed."""

    def __init__(self, daemon: Daemon, count: int) -> None:
        self._daemon, self._is_over = daemon, threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        self.failures: list[str] = []
        self.pushed: dict[str, bytes] = {}
        self.requests = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        at = 0
        client = self._daemon.client()
        while not self._is_over.is_set():
            at += 1
            content = data_of(200_000, f"{number} {at}")
            try:
                digest = client.push(f"load/n{number}", content)
                self.pushed[digest] = content
                assert client.pull(f"load/n{number}", digest) == content
            except Exception as error:  # noqa: BLE001 - it is what is counted
                self.failures.append(repr(error))
                client.connection.close()
                client = self._daemon.client()
            self.requests += 3
            # Half of them come with a new connection each time.
            if number % 2:
                client.connection.close()
                client = self._daemon.client()
        client.connection.close()

    def goes_on(self, count: int) -> None:
        """Wait until so many more requests were made."""
        wanted = self.requests + count
        wait_for(lambda: self.requests >= wanted or self.failures, f"{count} requests")


def test_a_restart_under_load_fails_no_request(tmp_path: Path):
    """SIGHUP, several times, while clients push and pull; every process is another one afterwards."""
    with Daemon(tmp_path, "--workers", "2", config='[server]\nidle_timeout = "60s"') as daemon:
        before = set(daemon.workers())
        with Load(daemon, 4) as load:
            load.goes_on(30)
            for _ in range(2):
                daemon.send(signal.SIGHUP)
                seen = set(daemon.workers())
                wait_for(lambda seen=seen: len(set(daemon.workers()) - seen) >= 2, "new workers")  # type: ignore[misc]
                load.goes_on(30)
        assert load.failures == []
        wait_for(lambda: len(daemon.workers()) == 2, "the old workers to go")
        assert not before & set(daemon.workers())
        with daemon.client() as client:
            for number, (digest, content) in enumerate(load.pushed.items()):
                repository = next(
                    f"load/n{n}" for n in range(4) if client.ask("HEAD", f"/v2/load/n{n}/blobs/{digest}")[0] == 200
                )
                assert client.pull(repository, digest) == content
                if number == 20:
                    break
        assert daemon.stop() == 0


def test_workers_that_are_killed_under_load_lose_nothing_that_was_answered(tmp_path: Path):
    """One after the other; a request that was answered with 201 is there, whatever became of its process."""
    with Daemon(tmp_path, "--workers", "2") as daemon:
        with Load(daemon, 4) as load:
            for _ in range(3):
                load.goes_on(12)
                load.failures.clear()
                os.kill(daemon.workers()[0], signal.SIGKILL)
                wait_for(lambda: len(daemon.workers()) == 2, "another worker")
        with daemon.client() as client:
            for digest, content in load.pushed.items():
                status, _, found = client.ask("GET", f"/v2/load/n0/blobs/{digest}")
                if status == 200:
                    assert found == content
                else:
                    assert any(client.ask("HEAD", f"/v2/load/n{n}/blobs/{digest}")[0] == 200 for n in range(1, 4))


def test_a_worker_whose_supervisor_is_gone_before_it_serves_ends_in_order(tmp_path: Path):
    """It has begun to accept by then: the store must not be closed below those whom it serves."""
    asyncio.run(_make_store(StorePlan(str(tmp_path / "store"), None, Config())))
    ours, theirs = socket.socketpair()
    ours.close()
    with theirs, bind(parse_address("127.0.0.1:0")) as listening:
        plan = Plan(
            store=StorePlan(str(tmp_path / "store"), None, Config()),
            server=ServerConfig(),
            role="worker",
            public=(listening.fileno(),),
            control=theirs.fileno(),
            address="127.0.0.1:0",
        )
        written = plan.write()
        found = subprocess.run(
            [sys.executable, "-m", "blobstore.server", str(written), "worker"],
            env={**os.environ, "PYTHONPATH": str(ROOT), DIRECTORY_VARIABLE: str(tmp_path)},
            pass_fds=[written, listening.fileno(), theirs.fileno()],
            capture_output=True,
            timeout=60,
            check=False,
        )
        os.close(written)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


def test_workers_go_when_the_supervisor_is_killed(tmp_path: Path):
    """Nobody would stop them; and the port is free for the next one."""
    daemon = Daemon(tmp_path, "--workers", "2")
    with daemon:
        address, workers = daemon.address, daemon.workers()
        with daemon.client() as client:
            digest = client.push("a/b", b"kept")
        daemon.send(signal.SIGKILL)
        wait_for(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers), "the workers to go")
    with Daemon(tmp_path, "--listen", f"127.0.0.1:{address[1]}") as again, again.client() as client:
        assert client.pull("a/b", digest) == b"kept"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_stop_finishes_what_is_under_way_and_refuses_what_is_new(tmp_path: Path, workers: str):
    """A push that is half in when SIGTERM comes is answered; who connects then is not let in; the exit status is 0."""
    content = data_of(4 * MIB, "stopped")
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with Daemon(tmp_path, "--workers", workers) as daemon:
        client, idle = daemon.client(), daemon.client()
        assert idle.ask("GET", "/v2/")[0] == 200
        location = client.begin("a/b")
        client.connection.putrequest("PUT", with_digest(location, digest))
        client.connection.putheader("Content-Length", str(len(content)))
        client.connection.endheaders()
        client.connection.send(content[:MIB])
        time.sleep(0.3)
        daemon.send(signal.SIGTERM)
        assert idle.connection.sock.recv(1) == b""
        wait_for(lambda: _is_refused(daemon.address), "the port to close")
        for at in range(1, 4):
            client.connection.send(content[at * MIB : (at + 1) * MIB])
        answer = client.connection.getresponse()
        assert (answer.status, answer.headers["Connection"]) == (201, "close")
        client.connection.close()
        idle.connection.close()
        assert daemon.process is not None
        assert daemon.process.wait(40) == 0
        daemon.start()
        with daemon.client() as again:
            assert again.pull("a/b", digest) == content


def _is_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def test_a_stop_does_not_wait_for_ever_and_keeps_what_came(tmp_path: Path):
    """After the named limit the rest is broken off; the upload goes on in the next process."""
    content = data_of(2 * MIB, "late")
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    with Daemon(tmp_path, config='[server]\nstop_within = "1s"') as daemon:
        client = daemon.client()
        location = client.begin("a/b")
        client.connection.putrequest("PATCH", location)
        client.connection.putheader("Content-Length", str(len(content)))
        client.connection.endheaders()
        client.connection.send(content[:MIB])
        time.sleep(0.3)
        assert daemon.stop(seconds=20) == 0
        assert "broken off" in daemon.log()
        client.connection.close()
        daemon.start()
        with daemon.client() as again:
            status, headers, _ = again.ask("GET", location)
            assert status == 204
            begun = int(headers["Range"].removeprefix("0-")) + 1
            assert begun == MIB
            status, headers, body = again.ask("PATCH", place(headers), content[begun:])
            assert status == 202, body
            assert again.ask("PUT", with_digest(place(headers), digest), b"")[0] == 201
            assert again.pull("a/b", digest) == content


def test_a_worker_that_cannot_start_again_is_tried_more_and_more_slowly(tmp_path: Path):
    """The others go on, and when the reason is gone so is the gap."""
    with Daemon(tmp_path, "--workers", "2") as daemon:
        marker = daemon.store / "blobstore.json"
        content = marker.read_bytes()
        marker.write_text("{}")
        os.kill(daemon.workers()[0], signal.SIGKILL)
        wait_for(lambda: daemon.log().count("did not start") >= 3, "three tries")
        with daemon.client() as client:
            assert client.ask("GET", "/v2/")[0] == 200
        marker.write_bytes(content)
        wait_for(lambda: len(daemon.workers()) == 2, "the second worker")
        for client in clients_of_each(daemon).values():
            client.connection.close()


def test_a_restart_with_a_configuration_that_cannot_be_used_changes_nothing(tmp_path: Path):
    """It is said, and the old processes go on."""
    with Daemon(tmp_path, "--workers", "2", config="[server]\n") as daemon:
        before = daemon.workers()
        daemon.config.write_text("[server]\nlisten = 5\n")
        daemon.send(signal.SIGHUP)
        wait_for(lambda: "server.listen" in daemon.log(), "the complaint")
        assert daemon.workers() == before
        assert "were replaced" not in daemon.log()
        daemon.config.write_text("[server]\nread_only = true\noperator_listen = '127.0.0.1:0'\n")
        daemon.send(signal.SIGHUP)
        wait_for(lambda: not set(before) & set(daemon.workers()) or _is_read_only(daemon), "the new configuration")
        wait_for(lambda: _is_read_only(daemon), "the new configuration")
        wait_for(lambda: "read again, and all 3 processes were replaced" in daemon.log(), "the word that it was done")
        assert "another server.operator_listen takes a stop and a start" in daemon.log()
        assert "another server.listen" not in daemon.log()


def _is_read_only(daemon: Daemon) -> bool:
    with daemon.client() as client:
        return client.ask("POST", "/v2/a/blobs/uploads/", b"")[0] == 405


def test_a_process_that_gets_no_descriptor_is_no_reason_to_give_up(monkeypatch: pytest.MonkeyPatch):
    """Its start has failed, as any other may: whoever keeps the place tries again, and nothing is left open."""

    def write(_: Plan) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def start() -> list[str]:
        before = os.listdir("/proc/self/fd")
        with pytest.raises(StartFailed, match="worker 1 can't be started: Too many open files"):
            await supervisor._start(_Slot("worker", 1), is_restart=True)
        return sorted(set(os.listdir("/proc/self/fd")) - set(before))

    plan = Plan(store=StorePlan("store", None, Config()), server=ServerConfig())
    supervisor = Supervisor(lambda: Wanted(plan, 2), lambda: None, lambda: None)
    monkeypatch.setattr(Plan, "write", write)
    assert asyncio.run(start()) == []


async def test_a_stop_does_not_wait_for_a_successor(monkeypatch: pytest.MonkeyPatch):
    """One that can't be started, as the store doesn't answer, would be waited for longer than a stop may take."""
    begun, ended = asyncio.Event(), list[str]()

    async def start(slot: _Slot) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(str(slot))

    plan = Plan(store=StorePlan("store", None, Config()), server=ServerConfig())
    supervisor = Supervisor(lambda: Wanted(plan, 2), lambda: None, lambda: None)
    supervisor._slots = [_Slot("worker", 0), _Slot("worker", 1)]
    monkeypatch.setattr(supervisor, "_start", start)
    running = asyncio.create_task(supervisor._until_stopped())
    supervisor._restarting.set()
    await begun.wait()
    supervisor._stop()
    await asyncio.wait_for(running, 10)
    assert ended == ["worker 0"]


async def test_an_operator_who_goes_while_asking_is_no_bug():
    """A body that breaks off is answered by the worker, if anybody is there to hear it."""

    async def broken() -> AsyncIterator[bytes]:
        yield b"{"
        raise BodyInterrupted("the client went before its body was whole")

    request = Request(method="POST", path="/api/v1/runs", body=broken())
    assert (await PassingOn("/nowhere").answer(request)).status == 400


def test_the_wait_before_a_start_doubles_up_to_a_limit():
    """And begins anew after one that was steady."""
    waits = [0.0]
    for _ in range(10):
        waits.append(next_wait_s(waits[-1], 0.1))
    assert waits[1:3] == [BACK_OFF_FIRST_S, 2 * BACK_OFF_FIRST_S]
    assert waits[-1] == BACK_OFF_MAX_S
    assert next_wait_s(BACK_OFF_MAX_S, 3600) == BACK_OFF_FIRST_S


def test_no_more_connections_than_files():
    """A process that could not open the file which is asked for would be of no use."""
    assert assembling.connection_limits(ServerConfig(), 1024).connections_max == 308
    assert assembling.connection_limits(ServerConfig(), 1_000_000).connections_max == 2000
    assert assembling.connection_limits(ServerConfig(connections=7), 1_000_000).connections_max == 7


def test_the_operators_process_speaks_for_all(pair: Daemon):
    """Whichever worker is asked: its numbers are those of all of them, and runs are known to all."""
    clients = clients_of_each(pair)
    for client in clients.values():
        client.push("summed/up", data_of(1000, id(client)))
    pages = []
    for client in clients.values():
        status, _, page = client.ask("GET", "/metrics")
        assert status == 200
        pages.append(int(sum(float(line.split()[-1]) for line in page.decode().splitlines() if _is_of_uploads(line))))
        status, _, body = client.ask("GET", "/api/v1/stats")
        assert (status, b"blobs" in body) == (200, True)
    assert min(pages) >= 2
    asked = b'{"dry_run": true}'
    first, second = clients.values()
    status, headers, body = first.ask("POST", "/api/v1/runs", asked, {"Content-Type": "application/json"})
    assert status == 202, body
    wait_for(lambda: second.ask("GET", headers["Location"])[0] == 200, "the run")
    for client in clients.values():
        client.connection.close()


def _is_of_uploads(line: str) -> bool:
    return line.startswith("blobstore_http_requests_total") and 'method="PUT"' in line and 'status="201"' in line
