"""How many requests does it take to keep a store on S3 clean, beside Docker Distribution's collector on the same content?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from _gc_store import add_garbage
from _harness import report_value, run, sized
from _registry_stores import (
    BLOBS_OF_AN_IMAGE,
    ROOT,
    distribution_objects,
    garbage_collect,
    images,
    push_all,
    put_all,
)
from _s3_server import fresh_server, running_store, settings_of

from blobstore.app import make_collector
from blobstore.backends.s3 import S3Client
from blobstore.clock import SystemClock
from blobstore.gc import GcPolicy
from blobstore.layout import is_record_key
from blobstore.reconcile import reconcile
from blobstore.store import Store
from tests.servers.counting_proxy import CountingProxy, counting_proxy
from tests.servers.processes import S3Server
from tests.tools import require_tool

BLOBS = sized(10_000, 200)
IMAGES = 2 * BLOBS // BLOBS_OF_AN_IMAGE
SHARE_MAX = 1 / 100
KEYS_A_REQUEST = 1000
AT_ONCE_POLICY = GcPolicy(grace_s=0, quarantine_s=0, max_share=1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Server]:
    with fresh_server(tmp_path / "weed") as server:
        yield server


@contextlib.contextmanager
def counted(server: S3Server) -> Iterator[tuple[S3Server, CountingProxy]]:
    """The same server, behind a proxy that counts."""
    with counting_proxy(urlsplit(server.endpoint).port or 80) as proxy:
        yield msgspec.structs.replace(server, endpoint=f"http://127.0.0.1:{proxy.port}"), proxy


def bench_collect_beside_distribution(benchmark: Any, tmp_path: Path, server: S3Server) -> None:
    """Both collect the same blobs of the same images, from the same server."""
    require_tool("docker-registry")
    with running_store(S3Client(settings_of(server)), tmp_path) as (runner, store):
        runner.run(push_all(store, images(IMAGES)))
    asyncio.run(_put_distribution(server))
    with counted(server) as (proxied, proxy):
        start = time.perf_counter()
        theirs = garbage_collect(proxied, tmp_path)
        their_s, their_requests, their_kinds = time.perf_counter() - start, proxy.total, proxy.told()
        proxy.forget()
        assert (theirs.deleted, theirs.marked) == (BLOBS, BLOBS), theirs
        start = time.perf_counter()
        # Started anew, as theirs: what an open store asks for is counted.
        benchmark.pedantic(lambda: _collect(proxied, tmp_path), rounds=1, iterations=1)
        our_s, our_requests, our_kinds = time.perf_counter() - start, proxy.total, proxy.told()
    assert asyncio.run(_left(server, f"{ROOT}/blobs/")) == BLOBS
    assert asyncio.run(_left(server, f"{tmp_path.name}/blobs/")) == BLOBS
    assert our_requests <= SHARE_MAX * their_requests or BLOBS < KEYS_A_REQUEST, (our_requests, their_requests)
    case = f"collect {BLOBS:,} blobs of {2 * BLOBS:,} on S3"
    report_value(f"{case}: blobstore", f"{our_requests:,} requests, {our_s:.1f} s", note=our_kinds)
    report_value(f"{case}: Docker Distribution 2.8", f"{their_requests:,} requests, {their_s:.1f} s", note=their_kinds)
    report_value(
        f"{case}: our share of the requests",
        f"1/{their_requests / our_requests:,.0f}",
        target=f"<= 1/{1 / SHARE_MAX:.0f}",
    )


async def _put_distribution(server: S3Server) -> None:
    client = S3Client(settings_of(server))
    await client.open()
    try:
        await put_all(client, distribution_objects(images(IMAGES)))
    finally:
        await client.aclose()


def _collect(server: S3Server, path: Path) -> None:
    with running_store(S3Client(settings_of(server)), path) as (runner, store):
        report = run(runner, make_collector(store, AT_ONCE_POLICY).run())
    assert report.freed_blobs == BLOBS, report


async def _left(server: S3Server, prefix: str) -> int:
    client = S3Client(settings_of(server))
    await client.open()
    try:
        return len([info async for info in client.list(prefix)])
    finally:
        await client.aclose()


@pytest.mark.parametrize("kind", ["small", "big"])
def bench_requests_of_each_step(benchmark: Any, tmp_path: Path, server: S3Server, kind: str) -> None:
    """A plan reads no manifest; a deletion takes a thousand keys, a listing brings a thousand. The keys of big blobs are two: a
    commit record, which goes first, and the bytes."""
    with (
        counted(server) as (proxied, proxy),
        running_store(S3Client(settings_of(proxied)), tmp_path) as (runner, store),
    ):
        keys = runner.run(add_garbage(store, BLOBS, "s3", 4, are_big=kind == "big"))
        runner.run(_put_objects(store, keys))
        what = f"{BLOBS:,} {kind} blobs on S3"

        def count(step: str, wanted: int | None, verb: str) -> None:
            assert wanted is None or proxy.requests[verb] <= wanted, (step, proxy.told())
            target = f"<= {wanted} {verb}" if wanted is not None else "-"
            report_value(f"{step} of {what}", f"{proxy.total} requests", target=target, note=proxy.told())
            proxy.forget()

        def measure() -> None:
            pages = len(keys) // BLOBS * -(-BLOBS // KEYS_A_REQUEST)
            proxy.forget()
            orphans, missing = run(runner, _reconcile(store))
            assert (orphans.listed, orphans.orphans, missing.missing) == (len(keys), 0, []), (orphans, missing)
            # One page of each of the prefixes that have nothing.
            count("reconcile", pages + 3, "ListObjects")
            collector = make_collector(store, AT_ONCE_POLICY)
            assert run(runner, collector.plan()) is not None
            assert not any(
                key.startswith(f"{tmp_path.name}/{each}/") for key in proxy.read_keys for each in ("blobs", "data")
            )
            count("plan", None, "")
            assert run(runner, collector.run()).freed_blobs == BLOBS
            count("collection", pages, "DeleteObjects")

        benchmark.pedantic(measure, rounds=1, iterations=1)


async def _reconcile(store: Store) -> Any:
    return await reconcile(store.index, store.backend, SystemClock(), recheck_s=0)


async def _put_objects(store: Store, keys: list[str]) -> None:
    for at in range(0, len(keys), 64):
        await asyncio.gather(
            *[store.backend.put_new(key, b"" if is_record_key(key) else b"blob") for key in keys[at : at + 64]]
        )
