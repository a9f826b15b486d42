"""How does the daemon compare with Debian's docker-registry: same machine, same client, in turns?

It syncs nothing of what it takes in; we have synced all of it when we answer.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _gc_store import add_garbage, build
from _harness import (
    IS_QUICK,
    MIB,
    Timed,
    opened,
    quieten,
    race,
    random_pieces,
    report,
    report_value,
    sized,
    stamped,
)
from _registry_servers import (
    OCI_MANIFEST,
    OURS,
    PEER,
    Connection,
    Crowd,
    Server,
    anonymous_bytes_of,
    digest_of,
    our_server,
    peer_server,
    request_rate,
)

LAYER_BYTES = sized(512, 64) * MIB
ROUNDS = sized(7, 1)
SMALL_LAYERS, SMALL_BYTES, CLIENTS = sized(1000, 160), 10 * 1024, 8
REQUESTS = sized(10_000, 2000)
GARBAGE_STORE = sized(100_000, 5_000)
CROWD, CROWD_BYTES = sized(64, 8), sized(128, 16) * MIB
MEMORY_MAX_BYTES = 150 * MIB
_SAMPLE_S = 0.02


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[dict[str, Server]]:
    """Both, with what each comes with."""
    with our_server(tmp_path / "ours") as ours, peer_server(tmp_path / "peer") as peer:
        yield {OURS: ours, PEER: peer}


def bench_push(benchmark: Any, pair: dict[str, Server]) -> None:
    pieces = random_pieces(LAYER_BYTES, "registry")
    digests = [digest_of(stamped(pieces, number)) for number in range(ROUNDS + 1)]

    def push(name: str, number: int) -> None:
        connection = Connection(pair[name])
        connection.push_big("bench/big", stamped(pieces, number), digests[number])
        connection.close()

    for name in pair:
        # The first connection and the first upload pay for what is made once.
        push(name, ROUNDS)

    def forget(*_: object) -> None:
        for server in pair.values():
            server.forget_blobs()

    ours, peers = race(
        benchmark,
        lambda number: push(OURS, number),
        {PEER: lambda number: push(PEER, number)},
        rounds=ROUNDS,
        before=forget,
    )
    size = LAYER_BYTES // MIB
    report(
        f"registry: push of a {size} MiB layer",
        ours,
        peers,
        target=2.0,
        work=size,
        unit="MiB",
        note="synced; the peer is not",
    )


def bench_pull(benchmark: Any, pair: dict[str, Server]) -> None:
    pieces = random_pieces(LAYER_BYTES, "registry")
    digest = digest_of(pieces)
    connections = {name: Connection(server) for name, server in pair.items()}
    for connection in connections.values():
        connection.push_big("bench/big", pieces, digest)
        connection.pull("bench/big", digest)
    ours, peers = race(
        benchmark,
        lambda _: connections[OURS].pull("bench/big", digest),
        {PEER: lambda _: connections[PEER].pull("bench/big", digest)},
        rounds=ROUNDS,
    )
    for connection in connections.values():
        connection.close()
    size = LAYER_BYTES // MIB
    report(f"registry: pull of a {size} MiB layer", ours, peers, target=1.5, work=size, unit="MiB")


def bench_small_requests(benchmark: Any, tmp_path: Path) -> None:
    rates: dict[str, dict[str, list[float]]] = {"HEAD blob": {}, "GET manifest": {}}

    def measure(server: Server, digest: str) -> None:
        head = request_rate(server, f"/v2/bench/app/blobs/{digest}", REQUESTS, "-i")
        get = request_rate(server, "/v2/bench/app/manifests/1", REQUESTS, "-H", f"Accept: {OCI_MANIFEST}")
        rates["HEAD blob"].setdefault(server.name, []).append(head)
        rates["GET manifest"].setdefault(server.name, []).append(get)

    with our_server(tmp_path / "ours", workers=2) as ours, peer_server(tmp_path / "peer") as peer:
        for server in (ours, peer):
            connection = Connection(server)
            digest = connection.push_image("bench/app", "1", b"layer" * 2000)
            connection.close()

        def measure_both() -> None:
            for _ in range(ROUNDS):
                measure(peer, digest)
                measure(ours, digest)

        benchmark.pedantic(measure_both, rounds=1, iterations=1)
    for what, found in rates.items():
        timed = {name: Timed(name, [1 / rate for rate in each]) for name, each in found.items()}
        note = "two workers, both log each request"
        report(f"registry: {what}", timed[OURS], [timed[PEER]], target=5.0, work=1, unit="requests", note=note)


def bench_small_layers(benchmark: Any, pair: dict[str, Server]) -> None:
    crowds = {name: Crowd(server, CLIENTS, SMALL_BYTES) for name, server in pair.items()}
    for name, crowd in crowds.items():
        crowd.push(f"warm {name}", CLIENTS)
    ours, peers = race(
        benchmark,
        lambda number: crowds[OURS].push(f"round {number}", SMALL_LAYERS),
        {PEER: lambda number: crowds[PEER].push(f"round {number}", SMALL_LAYERS)},
        rounds=ROUNDS,
    )
    case = f"registry: {SMALL_LAYERS} layers of {SMALL_BYTES // 1024} KiB from {CLIENTS} clients"
    report(case, ours, peers, target=1.0, work=SMALL_LAYERS, unit="layers", note="synced; the peer is not")


def bench_pushes_during_a_collection(benchmark: Any, tmp_path: Path) -> None:
    """p99 of pushes of small layers, alone and while a full run looks at all blobs and frees the garbage."""
    store = tmp_path / "store"
    with opened(store) as (runner, opened_store):
        runner.run(build(opened_store, GARBAGE_STORE))
        runner.run(add_garbage(opened_store, GARBAGE_STORE // 5, "more", 100_000))
    found: dict[str, float] = {}
    config = "[server.collect]\nenabled = false\n"
    with our_server(tmp_path / "ours", store=store, config=config) as server:

        def measure() -> None:
            Crowd(server, CLIENTS, SMALL_BYTES).push("warm", CLIENTS)
            quieten()
            alone = Crowd(server, CLIENTS, SMALL_BYTES)
            alone.push("alone", SMALL_LAYERS)
            beside = Crowd(server, CLIENTS, SMALL_BYTES)
            run = _start_run(server)
            rounds = 0
            while not rounds or not _is_over(server, run):
                beside.push(f"beside {rounds}", SMALL_LAYERS // 4)
                rounds += 1
            found["freed"] = _operator(server, "GET", f"/runs/{run}")["blobs"]["freed"]
            found["alone"], found["beside"] = _p99_ms(alone), _p99_ms(beside)
            found["pushes"] = len(beside.seconds)

        benchmark.pedantic(measure, rounds=1, iterations=1)
    text = f"{found['beside']:.1f} ms, alone {found['alone']:.1f} ms: {found['beside'] / found['alone']:.2f} x"
    note = f"{found['pushes']:.0f} pushes beside a run that freed {found['freed']:.0f}"
    case = f"registry: p99 of a push during a collection of {GARBAGE_STORE} blobs"
    report_value(case, text, target="<= 2 x", note=note)


def _p99_ms(crowd: Crowd) -> float:
    return statistics.quantiles(crowd.seconds, n=100)[98] * 1000


def _operator(server: Server, method: str, path: str, body: Any = None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    with contextlib.closing(connection):
        data = json.dumps(body) if body is not None else None
        connection.request(method, f"/api/v1{path}", data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status < 300, text
        return json.loads(text)


def _start_run(server: Server) -> str:
    wanted = {"full": True, "policy": {"grace_s": 0, "quarantine_s": 0, "max_share": 1}}
    run: str = _operator(server, "POST", "/runs", wanted)["run"]
    return run


def _is_over(server: Server, run: str) -> bool:
    return _operator(server, "GET", f"/runs/{run}/progress")["state"] not in ("waiting", "running")


def bench_memory(benchmark: Any, tmp_path: Path) -> None:
    """Peak anonymous memory of a worker with many big pushes and pulls at once."""
    pieces = random_pieces(CROWD_BYTES, "crowd")
    whole = digest_of(pieces)
    found: dict[str, float] = {}
    with our_server(tmp_path / "ours") as server:
        first = Connection(server)
        first.push_big("bench/crowd", pieces, whole)
        first.close()
        digests = [digest_of(stamped(pieces, number)) for number in range(CROWD)]

        def push(number: int) -> None:
            connection = Connection(server)
            connection.push_big(f"bench/crowd-{number}", stamped(pieces, number), digests[number])
            connection.close()

        def pull(_: int) -> None:
            connection = Connection(server)
            connection.pull("bench/crowd", whole)
            connection.close()

        def measure() -> None:
            threads = [
                threading.Thread(target=work, args=(number,)) for number in range(CROWD) for work in (push, pull)
            ]
            peak = anonymous_bytes_of(server.pid)
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                peak = max(peak, anonymous_bytes_of(server.pid))
                time.sleep(_SAMPLE_S)
            found["peak"] = peak

        benchmark.pedantic(measure, rounds=1, iterations=1)
        held = Connection(server)
        for digest in digests:
            held.ask("HEAD", f"/v2/bench/crowd-{digests.index(digest)}/blobs/{digest}", wanted=200)
        held.close()
    case = f"registry: memory, {CROWD} pushes and {CROWD} pulls of {CROWD_BYTES // MIB} MiB at once"
    report_value(case, f"{found['peak'] / MIB:.0f} MiB anonymous", target=f"< {MEMORY_MAX_BYTES // MIB} MiB")
    if not IS_QUICK:
        assert found["peak"] < MEMORY_MAX_BYTES
