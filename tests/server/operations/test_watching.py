"""Each request is told of once, when it is over, whatever its answer is made of."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from blobstore.errors import BlobDamaged, TransientError
from blobstore.server.daemon.config import ServerConfig
from blobstore.server.operations.config import LogsConfig
from blobstore.server.operations.logs import make_log
from blobstore.server.operations.operations import Operations
from blobstore.server.operations.watching import AccessLog, Exchange, Watch, endpoint_of
from blobstore.server.protocol.access import Principal
from blobstore.server.protocol.messages import FileSpan, Headers, Request, Response, Stream
from blobstore.server.protocol.observing import Answered


class Kept:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.began_count = 0
        self.exchanges: list[Exchange] = []

    def began(self) -> None:
        self.began_count += 1

    def ended(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    for each in data:
        yield each


async def test_a_small_answer_is_told_of_with_what_came_in() -> None:
    """Bytes of the body are counted as they are read."""
    kept = Kept()

    async def answer(request: Request) -> Response:
        assert request.body is not None
        assert b"".join([chunk async for chunk in request.body]) == b"abcde"
        return Response(201, payload=b"xyz")

    watched = Watch(kept).wrap(answer)
    response = await watched(Request(method="PUT", path="/v2/a/blobs/uploads/1", body=chunks(b"abc", b"de")))
    assert response.payload == b"xyz"
    (exchange,) = kept.exchanges
    assert (exchange.status, exchange.received_bytes, exchange.sent_bytes) == (201, 5, 3)
    assert (exchange.method, exchange.endpoint) == ("PUT", "upload")
    assert exchange.seconds >= 0


async def test_a_file_is_told_of_when_it_is_closed(tmp_path: Path) -> None:
    """And its descriptor is."""
    (tmp_path / "f").write_bytes(b"0123456789")
    kept, handle = Kept(), os.open(tmp_path / "f", os.O_RDONLY)

    async def answer(_: Request) -> Response:
        return Response(206, payload=FileSpan(handle, 2, 5))

    response = await Watch(kept).wrap(answer)(Request(method="GET", path="/v2/a/blobs/x"))
    assert not kept.exchanges
    assert isinstance(response.payload, FileSpan)
    assert (response.payload.handle, response.payload.offset, response.payload.size_bytes) == (handle, 2, 5)
    response.payload.close()
    assert [(each.status, each.sent_bytes) for each in kept.exchanges] == [(206, 5)]
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(handle)


async def test_a_stream_is_told_of_with_what_was_read_of_it() -> None:
    """Also of one that its client left half way, and of one that could not be begun."""
    kept = Kept()

    @asynccontextmanager
    async def opened(*, fails: bool) -> AsyncIterator[AsyncIterator[bytes]]:
        if fails:
            raise BlobDamaged("gone")
        yield chunks(b"abc", b"def")

    async def answer(request: Request) -> Response:
        return Response(200, payload=Stream(6, opened(fails=request.path == "/fails")))

    watched = Watch(kept).wrap(answer)
    response = await watched(Request(method="GET", path="/"))
    assert isinstance(response.payload, Stream)
    async with response.payload.chunks as found:
        assert await anext(found) == b"abc"
    assert [each.sent_bytes for each in kept.exchanges] == [3]
    response = await watched(Request(method="GET", path="/fails"))
    assert isinstance(response.payload, Stream)
    with pytest.raises(BlobDamaged):
        async with response.payload.chunks:
            raise AssertionError("entered")
    assert [each.sent_bytes for each in kept.exchanges] == [3, 0]


async def test_a_stream_that_cannot_begin_is_told_with_what_its_client_is_told() -> None:
    """Not with the status that it would have had: a storage that is down shows in numbers and lines."""
    stream, kept = io.StringIO(), Kept()
    watch = Watch(kept, AccessLog(make_log(None, stream)))

    @asynccontextmanager
    async def opened(error: Exception) -> AsyncIterator[AsyncIterator[bytes]]:
        raise error
        yield

    async def fails(error: Exception) -> None:
        async def answer(request: Request) -> Response:
            watch(Answered(request=request, endpoint="blob", repository=None, principal=None, status=200))
            return Response(200, payload=Stream(6, opened(error)))

        response = await watch.wrap(answer)(Request(method="GET", path="/v2/a/blobs/x"))
        assert isinstance(response.payload, Stream)
        with pytest.raises(type(error)):
            async with response.payload.chunks:
                raise AssertionError("entered")

    await fails(TransientError("the bucket does not answer"))
    await fails(ValueError("a bug"))
    assert [(each.status, each.sent_bytes) for each in kept.exchanges] == [(503, 0), (500, 0)]
    errors = [json.loads(line)["error"] for line in stream.getvalue().splitlines()]
    assert errors == ["TransientError: the bucket does not answer", "ValueError: a bug"]


async def test_a_bug_is_told_of_and_raised() -> None:
    """No request stays begun for ever."""
    kept = Kept()

    async def answer(_: Request) -> Response:
        raise RuntimeError("bug")

    with pytest.raises(RuntimeError, match="bug"):
        await Watch(kept).wrap(answer)(Request(method="GET", path="/"))
    assert [each.status for each in kept.exchanges] == [500]
    assert kept.began_count == 1


@pytest.mark.parametrize(("status", "is_told"), [(500, True), (503, True), (507, False), (404, False)])
async def test_what_fails_here_is_told_of_though_not_every_request_is(status: int, is_told: bool) -> None:
    """Its client is told no more than that the log says why."""
    stream = io.StringIO()
    config = LogsConfig(access=False)
    operations = Operations(ServerConfig(logs=config), log=make_log(config, stream))

    async def answer(request: Request) -> Response:
        operations.observe(
            Answered(
                request=request,
                endpoint="blob",
                repository=None,
                principal=None,
                status=status,
                error=BlobDamaged("the disk said no"),
            )
        )
        return Response(status)

    await operations.watched(answer)(Request(method="GET", path="/v2/a/blobs/x"))
    assert ("BlobDamaged: the disk said no" in stream.getvalue()) == is_told


@pytest.mark.parametrize(("given", "kept"), [("mine-7", "mine-7"), ("not\nfit", "ours"), (None, "ours")])
async def test_an_answer_names_its_request(given: str | None, kept: str) -> None:
    """By the id it came with, if that is fit for a header."""
    seen: list[str] = []

    async def answer(request: Request) -> Response:
        seen.append(request.request_id)
        return Response(200)

    headers = Headers([("X-Request-Id", given)] if given is not None else [])
    response = await Watch().wrap(answer)(Request(method="GET", path="/", headers=headers, request_id="ours"))
    assert response.header("X-Request-Id") == kept
    assert seen == [kept]


async def test_an_access_line_says_who_and_what_but_no_query() -> None:
    """The registry told the watch who it was; what was refused says why."""
    stream = io.StringIO()
    watch = Watch(AccessLog(make_log(None, stream)))

    async def answer(request: Request) -> Response:
        watch(
            Answered(
                request=request,
                endpoint="blob",
                repository=None,
                principal=Principal("alice"),
                status=404,
                error=BlobDamaged("no such blob"),
            )
        )
        return Response(404, payload=b"{}")

    request = Request(
        method="GET",
        path="/v2/a/blobs/x",
        query=[("token", "s3cret")],
        headers=Headers([("Authorization", "Bearer s3cret"), ("User-Agent", "skopeo\n")]),
        peer="192.0.2.7",
        request_id="r",
    )
    await watch.wrap(answer)(request)
    line = json.loads(stream.getvalue())
    assert "s3cret" not in stream.getvalue()
    assert (line["user"], line["peer"], line["status"], line["path"]) == ("alice", "192.0.2.7", 404, "/v2/a/blobs/x")
    assert line["error"] == "BlobDamaged: no such blob"
    assert line["user_agent"] == "skopeo\\n"


def test_every_path_has_one_of_few_names() -> None:
    """So that a label never takes what a client sends."""
    paths = {
        "/v2/": "base",
        "/v2/a/b/manifests/latest": "manifest",
        "/v2/a/blobs/uploads/": "uploads",
        "/v2x": "none",
        "/v2/nowhere": "none",
        "/metrics": "metrics",
        "/healthz": "health",
        "/readyz": "health",
        "/api/v1/runs/123": "operator",
        "/wp-login.php": "none",
    }
    assert {path: endpoint_of(path) for path in paths} == paths
