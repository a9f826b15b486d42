"""What a balancer is told."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from blobstore.errors import TransientError
from blobstore.layout import MARKER_KEY
from blobstore.server.operations.health import Health
from blobstore.server.protocol.messages import Request, Response
from tests.gc.scene import Bench


async def ask(health: Health, path: str, method: str = "GET") -> Response:
    return await health.answer(Request(method=method, path=path))


def checks(response: Response) -> dict[str, str]:
    assert isinstance(response.payload, bytes)
    found = msgspec.json.decode(response.payload)["checks"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz"])
async def test_a_store_that_answers_is_healthy_and_ready(bench: Bench, path: str) -> None:
    """HEAD says the same without a body."""
    health = Health(bench.store)
    answer = await ask(health, path)
    assert answer.status == 200
    head = await ask(health, path, "HEAD")
    assert isinstance(answer.payload, bytes)
    assert (head.status, head.payload, head.header("Content-Length")) == (200, b"", str(len(answer.payload)))


async def test_a_storage_that_lost_the_store_is_not_ready_but_the_process_is_healthy(bench: Bench) -> None:
    """It is looked at again after a second, and not before."""
    health = Health(bench.store)
    assert (await ask(health, "/readyz")).status == 200
    marker = b"".join([chunk async for chunk in _read(bench)])
    await bench.store.backend.delete([MARKER_KEY])
    assert (await ask(health, "/readyz")).status == 200
    bench.clock.advance(1000)
    answer = await ask(health, "/readyz")
    assert answer.status == 503
    assert checks(answer) == {"backend": "failed", "index": "ok"}
    assert (await ask(health, "/healthz")).status == 200
    await bench.store.backend.put_new(MARKER_KEY, marker)
    bench.clock.advance(1000)
    assert (await ask(health, "/readyz")).status == 200


async def _read(bench: Bench):  # type: ignore[no-untyped-def]
    async with bench.store.backend.read(MARKER_KEY) as chunks:
        async for chunk in chunks:
            yield chunk


async def test_a_storage_that_hangs_is_given_up_in_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who ask meanwhile wait for the same look, and one that leaves ends it for nobody."""
    looks = 0

    async def hang(_: str) -> None:
        nonlocal looks
        looks += 1
        await asyncio.Event().wait()

    monkeypatch.setattr(bench.store.backend, "stat", hang)
    health = Health(bench.store, check_within_s=0.05)
    leaving = asyncio.create_task(ask(health, "/readyz"))
    staying = [asyncio.create_task(ask(health, "/readyz")) for _ in range(20)]
    await asyncio.sleep(0)
    leaving.cancel()
    answers = await asyncio.gather(*staying)
    assert {answer.status for answer in answers} == {503}
    assert checks(answers[0])["backend"] == "timeout"
    assert looks == 1


async def test_what_went_wrong_is_not_told_to_everybody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of hosts and buckets are for the log."""

    async def fail(_: str) -> None:
        raise TransientError("10.0.0.7 refused")

    monkeypatch.setattr(bench.store.backend, "stat", fail)
    answer = await ask(Health(bench.store), "/readyz")
    assert isinstance(answer.payload, bytes)
    assert answer.status == 503
    assert b"10.0.0.7" not in answer.payload


async def test_one_that_stops_is_no_longer_ready(bench: Bench) -> None:
    """So that a balancer sends the next request elsewhere; it is healthy all the same."""
    health = Health(bench.store)
    health.begin_draining()
    assert (await ask(health, "/readyz")).status == 503
    assert (await ask(health, "/healthz")).status == 200


async def test_nothing_else_is_answered(bench: Bench) -> None:
    """No method that changes, and no other path."""
    health = Health(bench.store)
    assert (await ask(health, "/healthz", "POST")).status == 405
    assert (await ask(health, "/healthzz")).status == 404
