"""What Prometheus is told: right with one process and with several, and about the store itself."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from blobstore.backends.filesystem import FilesystemBackend
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.errors import KeyUnknown, TransientError
from blobstore.events import Alarm, PromiseBroken
from blobstore.gc import GcPolicy
from blobstore.server.operations.figures import StoreFigures, oldest_garbage_s
from blobstore.server.operations.measuring import measured
from blobstore.server.operations.metrics import DIRECTORY_VARIABLE, Metrics, mark_dead, prepare_directory, sample_names
from blobstore.server.operations.watching import Exchange
from blobstore.server.protocol.messages import Request
from tests.gc.scene import AT_ONCE, HOUR_MS, Bench


def samples(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def exchange(status: int = 200, method: str = "GET", **more: Any) -> Exchange:
    fields: dict[str, Any] = {"received_bytes": 0, "sent_bytes": 0, "seconds": 0.02, "answered": None} | more
    request = Request(method=method, path="/v2/")
    return Exchange(request=request, endpoint="blob", method=method, status=status, **fields)


async def test_requests_are_counted_by_method_endpoint_and_status() -> None:
    """With their bytes, and what is under way."""
    metrics = Metrics()
    for _ in range(3):
        metrics.began()
    metrics.ended(exchange(sent_bytes=10))
    metrics.ended(exchange(201, "PUT", received_bytes=7, seconds=0.7))
    found = samples(await metrics.page())
    key = (("endpoint", "blob"), ("method", "GET"), ("status", "200"))
    assert found["blobstore_http_requests_total", key] == 1
    assert found["blobstore_http_requests_in_progress", ()] == 1
    assert found["blobstore_http_sent_bytes_total", ()] == 10
    assert found["blobstore_http_received_bytes_total", ()] == 7
    buckets = (("endpoint", "blob"), ("method", "PUT"))
    assert found["blobstore_http_request_duration_seconds_bucket", (*buckets[:1], ("le", "0.5"), *buckets[1:])] == 0
    assert found["blobstore_http_request_duration_seconds_bucket", (*buckets[:1], ("le", "1.0"), *buckets[1:])] == 1


async def test_broken_promises_are_there_before_any_is_broken() -> None:
    """An alert on a series that isn't there never fires."""
    metrics = Metrics()
    assert samples(await metrics.page())["blobstore_promises_broken_total", ()] == 0
    metrics.note(PromiseBroken(Digest.of(b"")))
    metrics.note(Alarm("…"))
    found = samples(await metrics.page())
    assert found["blobstore_promises_broken_total", ()] == 1
    assert found["blobstore_alarms_total", ()] == 1


_WORKER = """
import sys, time
sys.path.insert(0, {root!r})
from blobstore.server.operations.metrics import Metrics
from tests.server.operations.test_metrics import exchange
metrics = Metrics()
for _ in range(5):
    metrics.began()
    metrics.ended(exchange(sent_bytes=100))
metrics.began()
metrics.collecting.set(1)
print("ready", flush=True)
time.sleep(60)
"""


async def test_several_processes_are_added_up_and_a_dead_one_is_no_longer_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker counted before it was killed stays; what it was in the midst of goes. A new start wipes all."""
    directory = str(tmp_path / "metrics")
    prepare_directory(directory)
    assert os.stat(directory).st_mode & 0o777 == 0o700
    monkeypatch.setenv(DIRECTORY_VARIABLE, directory)
    root = str(Path(__file__).resolve().parents[3])
    command = [sys.executable, "-c", _WORKER.format(root=root)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        key = (("endpoint", "blob"), ("method", "GET"), ("status", "200"))
        # Its own counters are not in files, as it read its environment before: it only asks.
        asking = Metrics()
        found = samples(await asking.page())
        assert found["blobstore_http_requests_total", key] == 10
        assert found["blobstore_http_sent_bytes_total", ()] == 1000
        assert found["blobstore_http_requests_in_progress", ()] == 2
        assert found["blobstore_collections_in_progress", ()] == 2
        assert found["blobstore_promises_broken_total", ()] == 0
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait()
        mark_dead(workers[0].pid, directory)
        found = samples(await asking.page())
        assert found["blobstore_http_requests_total", key] == 10
        assert found["blobstore_http_requests_in_progress", ()] == 1
        assert found["blobstore_collections_in_progress", ()] == 1
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
    prepare_directory(directory)
    assert not os.listdir(directory)


async def test_figures_of_the_store_are_those_of_its_index(bench: Bench, tmp_path: Path) -> None:
    """Garbage, what was freed, uploads, room."""
    policy = GcPolicy()
    figures = StoreFigures(bench.store, policy, {"data": str(tmp_path), "gone": "/nowhere"}, "1.2")
    await bench.push_image(b"config", [b"layer"], "1")
    await bench.push_blob(b"garbage")
    async with bench.store.repository("app").open_upload() as upload:
        await upload.write(b"half")
    found = samples(await Metrics().page(figures))
    assert found["blobstore_blobs", (("state", "present"),)] == 4
    assert (found["blobstore_garbage_blobs", ()], found["blobstore_garbage_bytes", ()]) == (1, 7)
    assert found["blobstore_open_uploads", ()] == 1
    assert found["blobstore_freed_bytes_total", ()] == 0
    assert found["blobstore_free_bytes", (("place", "data"),)] > 0
    assert ("blobstore_free_bytes", (("place", "gone"),)) not in found
    assert found["blobstore_build_info", (("version", "1.2"),)] == 1
    assert found["blobstore_frozen", ()] == 0
    await bench.collect()
    bench.clock.advance(1000)
    found = samples(await Metrics().page(figures))
    assert (found["blobstore_garbage_blobs", ()], found["blobstore_freed_bytes_total", ()]) == (0, 7)
    ended_s = found["blobstore_last_collection_timestamp_seconds", (("kind", "full"),)]
    assert ended_s == (bench.clock.now_ms() - 1000) / 1000
    await bench.store.index.freeze("test")
    bench.clock.advance(1000)
    assert samples(await Metrics().page(figures))["blobstore_frozen", ()] == 1


async def test_a_file_server_that_does_not_answer_leaves_the_other_figures(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its room is told again when it answers; until then one thread waits for it, however often somebody asks."""
    may_answer, asked = threading.Event(), list[str]()
    found = os.statvfs(tmp_path)

    def statvfs(path: str) -> os.statvfs_result:
        asked.append(path)
        assert may_answer.wait(20)
        return found

    monkeypatch.setattr("blobstore.server.operations.figures.FREE_BYTES_WITHIN_S", 0.01)
    monkeypatch.setattr("blobstore.server.operations.figures.os.statvfs", statvfs)
    figures, key = (
        StoreFigures(bench.store, GcPolicy(), {"data": str(tmp_path)}),
        ("blobstore_free_bytes", (("place", "data"),)),
    )
    for _ in range(3):
        page = samples(await asyncio.wait_for(Metrics().page(figures), 10))
        assert (page["blobstore_frozen", ()], page.get(key)) == (0, None)
        bench.clock.advance(1000)
    assert asked == [str(tmp_path)]
    may_answer.set()
    monkeypatch.setattr("blobstore.server.operations.figures.FREE_BYTES_WITHIN_S", 10)
    assert samples(await Metrics().page(figures))[key] > 0


async def test_the_age_of_garbage_counts_from_the_end_of_what_kept_it(bench: Bench) -> None:
    """A blob's promise ends after the grace; from then on it is garbage, also while it is in quarantine, until it is freed."""
    policy = GcPolicy(grace_s=3600, quarantine_s=1800, renew_s=0)
    index, clock = bench.store.index, bench.clock

    async def age() -> float:
        return await oldest_garbage_s(index, policy, clock.now_ms())

    await bench.push_image(b"config", [b"layer"], "1")
    await bench.push_blob(b"garbage")
    assert await age() == 0
    clock.advance(HOUR_MS - 1)
    assert await age() == 0
    clock.advance(600_001)
    assert await age() == 600
    await bench.collector(policy).run()
    # Condemned just now, and from that moment it counts anew: how long it waits to be freed.
    clock.advance(600_000)
    assert await age() == 600
    clock.advance(1_200_000)
    await bench.collector(policy).run()
    assert await age() == 0
    assert not await bench.is_there(b"garbage")


async def test_what_an_image_or_another_repository_keeps_is_no_garbage(bench: Bench) -> None:
    """Though the promise of its push has ended."""
    policy = GcPolicy(grace_s=3600, renew_s=0)
    await bench.push_image(b"config", [b"layer"], "1")
    await bench.push_blob(b"wanted again")
    bench.clock.advance(10 * HOUR_MS)
    await bench.push_blob(b"wanted again", "other")
    assert await oldest_garbage_s(bench.store.index, policy, bench.clock.now_ms()) == 0


async def test_a_pinned_blob_is_no_old_garbage(bench: Bench) -> None:
    """It is unreferenced for ever, and meant to be."""
    async with await bench.store.open_pinned_upload() as upload:
        await upload.write(b"pinned")
        await upload.commit()
    bench.clock.advance(1000 * HOUR_MS)
    assert await oldest_garbage_s(bench.store.index, AT_ONCE, bench.clock.now_ms()) == 0


class Meter:
    """Remembers."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failed: list[tuple[str, str]] = []

    def backend_done(self, verb: str, seconds: float) -> None:
        assert seconds >= 0
        self.done.append(verb)

    def backend_failed(self, verb: str, error: BaseException) -> None:
        self.failed.append((verb, type(error).__name__))


async def test_a_measured_backend_does_the_same_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is absent is an answer, not a failure."""
    meter, inner = Meter(), MemoryBackend()
    backend = measured(inner, meter)
    await backend.open()
    await backend.prepare()
    assert await backend.put_new("a", b"abc")
    upload = await backend.open_upload("00")
    await upload.write(b"layer")
    await upload.commit("b")
    async with backend.read("b", 1, 3) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == b"ay"
    assert [info.key async for info in backend.list("")] == ["a", "b"]
    with pytest.raises(KeyUnknown):
        await backend.stat("nowhere")
    assert await backend.delete(["a"]) == {"a"}
    assert meter.done == ["put", "open_upload", "commit", "read", "list", "stat", "delete"]
    assert not meter.failed

    async def fail(_: str) -> None:
        raise TransientError("no")

    monkeypatch.setattr(inner, "stat", fail)
    with pytest.raises(TransientError):
        await backend.stat("b")
    assert meter.failed == [("stat", "TransientError")]
    await backend.aclose()


def test_a_measured_backend_still_hands_out_paths(tmp_path: Path) -> None:
    """Or sendfile would be lost by measuring; and one that has none gets none."""
    from blobstore.abc.backend import HandsOutPaths, Presigns

    files = measured(FilesystemBackend(str(tmp_path)), Meter())
    assert isinstance(files, HandsOutPaths)
    assert files.path_of("blobs/x") == FilesystemBackend(str(tmp_path)).path_of("blobs/x")
    plain = measured(MemoryBackend(), Meter())
    assert not isinstance(plain, HandsOutPaths)
    assert not isinstance(plain, Presigns)


async def test_names_follow_the_conventions_of_prometheus(bench: Bench) -> None:
    """One prefix; bytes and seconds spelled out; counters end in _total and nothing else does."""
    figures = StoreFigures(bench.store, GcPolicy(), {"data": "/"})
    names = Metrics().names() | {name for metric in await figures.look() for name in sample_names(metric)}
    ours = {name for name in names if not name.startswith("process_")}
    assert all(name.startswith("blobstore_") for name in ours)
    assert not [name for name in ours if any(unit in name for unit in ("_ms", "milli", "_kb", "_mb", "_count_"))]
