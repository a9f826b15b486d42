"""The daemon as it is started, with two workers: it collects while clients push, and what it tells is right for all of them."""

from __future__ import annotations

import http.server
import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.server.daemon import Client, Daemon, wait_for
from tests.server.operations.test_metrics import samples

JSON = {"Content-Type": "application/json"}
AT_ONCE = {"grace_s": 0, "quarantine_s": 0, "delete_untagged": True}


@contextmanager
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A listener on the loopback, and what it was told."""
    told: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["events"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/hook", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[Daemon, list[dict[str, Any]]]]:
    import tempfile

    with tempfile.TemporaryDirectory() as directory, listener() as (url, events):
        config = (
            f"[server.collect]\nenabled = false\n[[server.notifications.endpoints]]\nname = 'test'\nurl = '{url}'\n"
        )
        with Daemon(Path(directory), "--workers", "2", config=config) as daemon:
            yield daemon, events


def ask_operator(client: Client, method: str, path: str, body: Any = None) -> Any:
    data = json.dumps(body) if body is not None else None
    status, _, answer = client.ask(method, f"/api/v1{path}", data, JSON if data else None)
    assert status in (200, 202), answer
    return json.loads(answer)


def collect(client: Client, **wanted: Any) -> Any:
    """A run from its start to its report."""
    name = ask_operator(client, "POST", "/runs", wanted)["run"]
    wait_for(lambda: ask_operator(client, "GET", f"/runs/{name}/progress")["state"] != "running", "the run to end")
    return ask_operator(client, "GET", f"/runs/{name}")


def figures(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, headers, page = client.ask("GET", "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return samples(page)


def audited(daemon: Daemon) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in daemon.log().splitlines()]
    return [line for line in found if line["event"] == "audit"]


def test_a_collection_in_the_midst_of_pushes_frees_the_garbage_and_nothing_else(
    told: tuple[Daemon, list[dict[str, Any]]],
) -> None:
    """The dry run names it; runs go on while clients push; every image is whole at the end, and no promise was broken."""
    daemon, events = told
    with daemon.client() as client:
        garbage = client.push_image("team/old", "1", [os.urandom(100_000)])
        kept = client.push("team/kept", os.urandom(50_000))
        layer = os.urandom(60_000)
        client.push_image("team/kept", "1", [layer])
        assert client.ask("DELETE", f"/v2/team/old/manifests/{garbage}")[0] == 202
        dry = collect(client, dry_run=True, policy=AT_ONCE)
        # The shared config stays; a blob that nothing refers to is garbage for one that owes no grace.
        assert {candidate["digest"] for candidate in dry["candidates"]} >= {garbage, kept}
        pushed: list[tuple[str, str]] = []
        stop = threading.Event()

        def push() -> None:
            with daemon.client() as own:
                while not stop.is_set():
                    data = os.urandom(20_000)
                    own.push_image("team/new", f"t{len(pushed)}", [data])
                    pushed.append(("team/new", own.push("team/new", data)))

        pushing = threading.Thread(target=push)
        pushing.start()
        try:
            for _ in range(3):
                # With the usual grace: one of none may make a push under way fail, as its help says.
                assert collect(client)["blobs"]["freed"] == 0
        finally:
            stop.set()
            pushing.join()
        freed = collect(client, policy=AT_ONCE)
        assert freed["blobs"]["freed"] >= len(dry["candidates"])
        assert pushed
        for repository, digest in pushed:
            client.pull(repository, digest)
        assert client.ask("GET", f"/v2/team/kept/blobs/{kept}")[0] == 404
        found = figures(client)
        assert found["blobstore_promises_broken_total", ()] == 0
        assert (
            found["blobstore_freed_bytes_total", ()] == ask_operator(client, "GET", "/stats")["bytes_deleted"] > 150_000
        )
        assert found["blobstore_garbage_bytes", ()] == 0
        collections = {key[1]: value for key, value in found.items() if key[0] == "blobstore_collections_total"}
        assert collections[("kind", "full"), ("outcome", "done")] == 4
    wait_for(lambda: any(event["action"] == "delete" for event in events), "the listener to be told")
    lines = audited(daemon)
    assert [line["run"] for line in lines if line["action"] == "collect"] == [freed["run"]] * freed["blobs"]["freed"]
    assert any((line["action"], line["kind"], line["tag"]) == ("push", "tag", "1") for line in lines if "tag" in line)
    assert any((line["action"], line["digest"]) == ("delete", garbage) for line in lines if "digest" in line)


def test_what_both_workers_counted_is_added_up_also_after_one_died(told: tuple[Daemon, list[dict[str, Any]]]) -> None:
    """A worker that was killed is counted, what it counted stays, and nothing is under way for ever."""
    daemon, _ = told
    key = (("endpoint", "base"), ("method", "GET"), ("status", "200"))
    with daemon.client() as client:
        before = figures(client).get(("blobstore_http_requests_total", key), 0)
    for _ in range(20):
        with daemon.client() as client:
            assert client.ask("GET", "/v2/")[0] == 200
    workers = daemon.workers()
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: len(daemon.workers()) == 2 and daemon.workers() != workers, "another worker")

    def is_counted() -> bool:
        with daemon.client() as client:
            return figures(client)["blobstore_worker_restarts_total", ()] == 1

    wait_for(is_counted, "the restart to be counted")
    with daemon.client() as client:
        found = figures(client)
        assert found["blobstore_http_requests_total", key] == before + 20
        # The one that asks.
        assert found["blobstore_http_requests_in_progress", ()] == 1


def test_an_answer_has_the_id_that_its_line_has(told: tuple[Daemon, list[dict[str, Any]]]) -> None:
    """Whether the client gave one or not; through the operator's process, too."""
    daemon, _ = told
    with daemon.client() as client:
        for path in ("/v2/", "/api/v1/stats", "/healthz"):
            given = f"given{path.replace('/', '-')}"
            assert client.ask("GET", path, headers={"X-Request-Id": given})[1].get_all("X-Request-Id") == [given]
            own = client.ask("GET", path)[1]["X-Request-Id"]
            found = [json.loads(line) for line in daemon.log().splitlines()]
            ids = [line["request_id"] for line in found if line["event"] == "request"]
            assert (ids.count(given), ids.count(own)) == (1, 1)
