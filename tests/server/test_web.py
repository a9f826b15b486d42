"""The edge to the network: what is no request, what comes slowly, too early or not at all, and connections that stay usable."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from blobstore.errors import BlobUnknown
from blobstore.server.protocol.messages import BodyInterrupted, Request, Response, Stream
from blobstore.server.web._body import WIDE_BODIES_MAX
from blobstore.server.web.application import WebSettings
from blobstore.server.web.connections import ConnectionLimits, Connections
from blobstore.server.web.patience import RateLimits
from blobstore.server.web.proxies import TrustedProxies
from tests.server.hosting import LOOPS, Host, echo, is_closed, read_answer, read_head, refuse

MIB = 1024 * 1024
HOST = b"Host: registry.test\r\n"


@pytest.fixture(params=LOOPS)
def host(request: pytest.FixtureRequest):
    with Host(echo, loop=request.param) as running:
        yield running


# What is asked


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        ("/v2/a/b", "/v2/a/b []"),
        ("/v2//a/", "/v2//a/ []"),
        ("/v2/a/b/%2e%2e/x", "/v2/a/b/../x []"),
        ("/v2/a%252Fb", "/v2/a%2Fb []"),
        (
            "/v2/?digest=sha256%3Aab&tag=a+b&tag=&x",
            "/v2/ [('digest', 'sha256:ab'), ('tag', 'a b'), ('tag', ''), ('x', '')]",
        ),
        ("http://other.test/v2/a?x=1", "/v2/a [('x', '1')]"),
    ],
)
def test_a_target_is_decoded_once_and_kept_as_it_came(host: Host, target: str, seen: str):
    """Slashes are not merged, dots not resolved: that is for whoever checks names."""
    status, _, body = host.ask(f"GET {target} HTTP/1.1\r\n".encode() + HOST + b"\r\n")
    assert (status, body.decode()) == (200, f"GET {seen} 0")


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /v2/%ff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /v2/a%2Fb/tags/list HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /v2%2fa/tags/list HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /v2/?a=%ff HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /v2/?" + b"a&" * 1001 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET /v2/ HTTP/1.1\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"PUT /v2/ HTTP/1.1\r\n" + HOST + b"Expect: teapot\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_what_cannot_be_understood_is_refused_in_the_shape_of_the_specification(host: Host, raw: bytes):
    """400 and an error document; never a guess."""
    status, fields, body = host.ask(raw)
    assert status == 400
    assert fields["content-type"] == "application/json"
    assert b'"errors":[{"code":"UNSUPPORTED"' in body


@pytest.mark.parametrize(
    "raw",
    [
        b"PUT / HTTP/1.1\r\n"
        + HOST
        + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 6\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: -5\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 0x5\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length : 5\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\n\r\nhello",
        b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"PUT / HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello",
        b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\0Y: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_frame_that_two_servers_could_read_in_two_ways_is_refused_and_the_connection_closed(host: Host, raw: bytes):
    """What a proxy in front may take for one request must not be two here (request smuggling, RFC 9112, 11.2)."""
    with host.connect() as made:
        made.sendall(raw)
        try:
            status, fields, _ = read_answer(made)
        except ConnectionError:
            return
        assert status == 400
        assert fields["connection"] == "close"
        assert is_closed(made)


@pytest.mark.parametrize("pause_s", [0, 0.1])
@pytest.mark.parametrize(
    "chunks",
    [
        b"5\r\nhelloX\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"-1\r\n\r\n",
        b"g\r\n",
        b"5;\0\r\nhello\r\n0\r\n\r\n",
        b"f" * 40,
    ],
)
def test_a_body_whose_chunks_are_none_ends_the_connection(chunks: bytes, pause_s: float):
    """What came before is told apart from a whole body."""
    seen = []

    async def answer(request: Request) -> Response:
        try:
            return await echo(request)
        except BodyInterrupted as error:
            seen.append(error)
            return Response(400)

    with Host(answer) as host, host.connect() as made:
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        time.sleep(pause_s)
        made.sendall(chunks)
        with suppress(ConnectionError):
            assert read_answer(made)[0] == 400
        assert is_closed(made)
    assert all(isinstance(error, BodyInterrupted) for error in seen)


def test_a_field_that_is_no_text_can_still_be_told():
    """Logs, notifications and comparisons of tokens are of text; what came is told apart from any that is one."""
    seen: list[str | None] = []

    async def answer(request: Request) -> Response:
        seen.extend(request.headers.get(name) for name in ("User-Agent", "X-Good"))
        return Response(200)

    with Host(answer) as host:
        raw = b"GET / HTTP/1.1\r\nUser-Agent: a\xffb\r\nX-Good: \xc3\xa9\r\n" + HOST + b"\r\n"
        assert host.ask(raw)[0] == 200
    assert seen == ["a\ufffdb", "é"]


def test_header_fields_have_a_limit(host: Host):
    """One line, all together, and their number."""
    for fields in (
        b"X: " + b"a" * 40_000,
        b"\r\n".join(b"X%d: " % at + b"a" * 1000 for at in range(60)),
        b"A: b\r\n" * 200 + b"C: d",
    ):
        with host.connect() as made:
            made.sendall(b"GET / HTTP/1.1\r\n" + HOST + fields + b"\r\n\r\n")
            status, answered, _ = read_answer(made)
            assert status in (400, 431)
            assert answered["connection"] == "close"
            assert is_closed(made)
    assert host.ask(b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 16_000 + b"\r\n\r\n")[0] == 200


@pytest.mark.parametrize(
    "before",
    [
        b"GET / HTTP/1.1\r\n" + HOST,
        b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\nGET / HTTP/1.1\r\n" + HOST,
        b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n",
    ],
    ids=["first", "behind another", "behind a body"],
)
@pytest.mark.parametrize("loop", LOOPS)
def test_fields_that_are_too_long_together_are_refused_while_they_come(loop: str, before: bytes):
    """Nobody sends the end of them: what is kept until it comes would be some MiB for each connection."""
    release = threading.Event()

    async def answer(request: Request) -> Response:
        if request.path == "/slow":
            await asyncio.to_thread(release.wait)
        try:
            return await echo(request)
        except BodyInterrupted:
            return Response(400)

    with Host(answer, loop=loop, limits=ConnectionLimits(header_timeout_s=60)) as host, host.connect() as made:
        made.sendall(before)
        time.sleep(0.1)
        for at in range(60):
            with suppress(OSError):
                made.sendall(b"X%d: " % at + b"a" * 2000 + b"\r\n")
            time.sleep(0.001)
        release.set()
        statuses = [read_answer(made)[0]]
        if statuses == [200]:
            statuses.append(read_answer(made)[0])
        assert statuses[-1] in (400, 431)
        assert is_closed(made)


@pytest.mark.parametrize("loop", LOOPS)
def test_many_requests_on_one_connection_and_a_body_in_tiny_chunks_are_not_taken_for_a_long_head(loop: str):
    """What is counted is what leads to nothing."""
    with Host(echo, loop=loop, limits=ConnectionLimits(header_size_max_bytes=1024)) as host, host.connect() as made:
        made.sendall((b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 500 + b"\r\n\r\n") * 100)
        for _ in range(100):
            assert read_answer(made)[0] == 200
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(50):
            made.sendall(b"1\r\nx\r\n" * 1000)
        made.sendall(b"0\r\n\r\n")
        assert read_answer(made)[2].endswith(b" 50000")


@pytest.mark.parametrize("wanted", [b"h2c", b"websocket", b"x"])
def test_whoever_asks_for_another_protocol_gets_one_answer(host: Host, wanted: bytes):
    """What came in one packet behind it may be lost: the answer to the request after that must not be taken for its own."""
    upgrade = b"Connection: Upgrade\r\nUpgrade: " + wanted + b"\r\n\r\n"
    with host.connect() as made:
        made.sendall(b"GET /a HTTP/1.1\r\n" + HOST + upgrade + b"GET /b HTTP/1.1\r\n" + HOST + b"\r\n")
        status, fields, body = read_answer(made)
        assert (status, fields["connection"], body) == (200, "close", b"GET /a [] 0")
        assert is_closed(made)


# Bodies


def test_a_body_of_known_length_and_one_in_chunks_arrive_whole(host: Host):
    """On one connection, one after the other, also when both were sent before the first was answered."""
    known = b"PUT /k HTTP/1.1\r\n" + HOST + b"Content-Length: 300000\r\n\r\n" + b"k" * 300_000
    chunked = (
        b"PUT /c HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\n\r\n"
        + b"3e8\r\n"
        + b"c" * 1000
        + b"\r\n0\r\n\r\n"
    )
    with host.connect() as made:
        made.sendall(known + chunked)
        assert read_answer(made)[2] == b"PUT /k [] 300000"
        assert read_answer(made)[2] == b"PUT /c [] 1000"


def test_continue_is_said_when_the_body_is_read(host: Host):
    """Not before, and once."""
    with host.connect() as made:
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert made.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        made.sendall(b"hello")
        assert read_answer(made)[2] == b"PUT / [] 5"
        made.sendall(b"GET /again HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_answer(made)[2] == b"GET /again [] 0"


@pytest.mark.parametrize("loop", LOOPS)
def test_a_refusal_comes_before_the_body_that_was_announced(loop: str):
    """Without `100 Continue`; and as nobody knows whether the body comes all the same, the connection is closed."""
    with Host(refuse, loop=loop) as host, host.connect() as made:
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 5000000\r\nExpect: 100-continue\r\n\r\n")
        status, fields, _ = read_answer(made)
        assert (status, fields["connection"]) == (401, "close")
        assert is_closed(made)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_small_body_that_nobody_read_is_drained_and_the_connection_stays(loop: str):
    """Its bytes are never taken for the next request."""
    smuggled = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
    with Host(refuse, loop=loop) as host, host.connect() as made:
        for _ in range(3):
            made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled)
            status, fields, _ = read_answer(made)
            assert status == 401
            assert "connection" not in fields
        made.settimeout(0.3)
        with pytest.raises(TimeoutError):
            made.recv(1)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("framing", [b"Content-Length: 20971520", b"Transfer-Encoding: chunked"])
def test_a_client_that_sends_a_big_body_to_its_end_still_reads_the_refusal(loop: str, framing: bytes):
    """No reset throws it away; then the connection ends."""
    chunk = b"100000\r\n" + b"x" * MIB + b"\r\n"
    piece = chunk if b"chunked" in framing else b"x" * MIB
    with Host(refuse, loop=loop) as host, host.connect() as made:
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + framing + b"\r\n\r\n")
        for _ in range(20):
            made.sendall(piece)
        status, fields, _ = read_answer(made)
        assert (status, fields["connection"]) == (401, "close")
        assert is_closed(made)


def test_a_reader_that_is_behind_holds_the_sender_back():
    """Bytes wait in the client, not in our memory."""
    go = threading.Event()
    taken: list[int] = []

    async def answer(request: Request) -> Response:
        assert request.body is not None
        taken.append(len(await anext(request.body)))  # type: ignore[arg-type]
        await asyncio.to_thread(go.wait)
        taken.extend([len(piece) async for piece in request.body])
        return Response(200, (), str(sum(taken)).encode())

    with Host(answer) as host, host.connect() as made:
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (64 * MIB))
        made.settimeout(1)
        sent = 0
        with suppress(TimeoutError):
            while sent < 64 * MIB:
                sent += made.send(b"x" * MIB)
        assert sent < 32 * MIB, "nothing held it back"
        go.set()
        made.settimeout(20)
        rest = 64 * MIB - sent
        made.sendall(b"x" * rest)
        assert read_answer(made)[2] == str(64 * MIB).encode()
    assert max(taken) <= 2 * MIB


def test_a_few_bodies_get_wide_buffers_and_many_do_not_fill_the_memory():
    """What waits for its turn is small, once more than a few are under way; and the width is given back."""
    first, go = threading.Semaphore(0), threading.Event()
    waiting: list[int] = []

    async def answer(request: Request) -> Response:
        assert request.body is not None
        body = aiter(request.body)
        await anext(body)
        first.release()
        await asyncio.to_thread(go.wait)
        waiting.append(len(await anext(body)))
        async for _ in body:
            pass
        return Response(200)

    def push(host: Host) -> None:
        with host.connect() as made:
            made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % (16 * MIB))
            made.sendall(bytes(16 * MIB))
            assert read_answer(made)[0] == 200

    with Host(answer) as host:
        for _ in range(2):
            waiting.clear()
            go.clear()
            threads = [threading.Thread(target=push, args=(host,)) for _ in range(WIDE_BODIES_MAX + 3)]
            for thread in threads:
                thread.start()
            for _ in threads:
                assert first.acquire(timeout=20)
            time.sleep(0.5)
            go.set()
            for thread in threads:
                thread.join(30)
            wide = [size for size in waiting if size > 640 * 1024]
            assert len(wide) == WIDE_BODIES_MAX, waiting
            assert max(waiting) <= 2 * MIB


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_client_that_goes_ends_the_reading_of_its_body_at_once(loop: str, ending: str):
    """Whoever reads is told, so that what came is kept."""
    told: list[BaseException] = []
    over = threading.Event()

    async def answer(request: Request) -> Response:
        try:
            return await echo(request)
        except BaseException as error:
            told.append(error)
            raise
        finally:
            over.set()

    with Host(answer, loop=loop) as host:
        made = host.connect()
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\nabc")
        time.sleep(0.1)
        if ending == "reset":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        made.close()
        assert over.wait(10)
    assert isinstance(told[0], BodyInterrupted)


def test_what_is_between_the_body_and_its_answer_goes_on_when_the_client_goes(caplog: pytest.LogCaptureFixture):
    """A commit isn't broken off: the client will ask whether it came through. And nobody is told that it went."""
    reached, go, done = threading.Event(), threading.Event(), threading.Event()

    async def answer(request: Request) -> Response:
        await echo(request)
        reached.set()
        await asyncio.to_thread(go.wait)
        done.set()
        return Response(201)

    with Host(answer) as host:
        made = host.connect()
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc")
        assert reached.wait(10)
        made.close()
        time.sleep(0.1)
        go.set()
        assert done.wait(10)
    assert "bug" not in caplog.text


def test_a_body_that_comes_too_slowly_is_given_up():
    """What it may take is an allowance and a rate."""
    rates = RateLimits(rate_min_bytes_s=1000, allowance_s=0.3)
    interrupted: list[str] = []

    async def answer(request: Request) -> Response:
        try:
            return await echo(request)
        except BodyInterrupted as error:
            interrupted.append(str(error))
            return Response(408)

    with Host(answer, settings=WebSettings(rates=rates)) as host, host.connect() as made:
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 1000\r\n\r\n")
        sending = threading.Thread(target=_drip, args=(made,))
        sending.start()
        status, fields, _ = read_answer(made)
        assert (status, fields["connection"]) == (408, "close")
        made.shutdown(socket.SHUT_RDWR)
        sending.join()
    assert "slowly" in interrupted[0]


def _drip(made: socket.socket) -> None:
    try:
        for _ in range(100):
            made.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        return


def test_a_slow_but_steady_body_is_taken():
    """It is the rate that counts, not the whole time."""
    rates = RateLimits(rate_min_bytes_s=10, allowance_s=0.3)
    with Host(echo, settings=WebSettings(rates=rates)) as host, host.connect() as made:
        made.sendall(b"PUT / HTTP/1.1\r\n" + HOST + b"Content-Length: 120\r\n\r\n")
        for _ in range(6):
            made.sendall(b"x" * 20)
            time.sleep(0.1)
        assert read_answer(made)[2] == b"PUT / [] 120"


# Answers


@pytest.mark.parametrize("loop", LOOPS)
def test_head_has_a_length_and_no_body(loop: str):
    """Also when the answer to it has a payload by mistake."""

    async def answer(request: Request) -> Response:
        if request.path == "/said":
            return Response(200, [("Content-Length", "12345"), ("Content-Type", "text/plain")])
        return Response(200, (), b"payload")

    with Host(answer, loop=loop) as host, host.connect() as made:
        for path, size in ((b"/said", "12345"), (b"/mistake", "7"), (b"/said", "12345")):
            made.sendall(b"HEAD " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            status, fields, body = read_answer(made, is_head=True)
            assert (status, fields["content-length"], body) == (200, size, b"")


def test_answers_without_a_body_say_nothing_of_its_length(host: Host):
    """204 and 304 end with their head."""

    async def answer(request: Request) -> Response:
        return Response(int(request.path[1:]), [("Docker-Upload-UUID", "x")])

    with Host(answer) as running, running.connect() as made:
        for status in (204, 304, 202):
            made.sendall(b"GET /%d HTTP/1.1\r\n" % status + HOST + b"\r\n")
            found, fields, _ = read_answer(made)
            assert found == status
            assert fields.get("content-length") == ("0" if status == 202 else None)
            assert "transfer-encoding" not in fields


def test_a_field_can_come_more_than_once():
    """Challenges and links do."""

    async def answer(_: Request) -> Response:
        return Response(401, [("WWW-Authenticate", "Basic"), ("WWW-Authenticate", "Bearer")])

    with Host(answer) as host, host.connect() as made:
        made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert made.recv(10_000).count(b"WWW-Authenticate: ") == 2


def test_a_header_cannot_be_split():
    """What would be two lines is a bug of ours, and ends in a 500."""

    async def answer(_: Request) -> Response:
        return Response(200, [("Location", "/a\r\nX-Evil: 1")])

    with Host(answer) as host, host.connect() as made:
        made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert b"X-Evil" not in made.recv(10_000)


def test_a_bug_is_answered_with_an_id_that_the_log_has(caplog: pytest.LogCaptureFixture):
    """And nothing of its text."""

    async def answer(_: Request) -> Response:
        raise RuntimeError("secret")

    with Host(answer) as host:
        status, _, body = host.ask(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert status == 500
    assert b"UNKNOWN" in body
    assert b"secret" not in body
    assert "secret" in caplog.text


@pytest.mark.parametrize("loop", LOOPS)
def test_http_1_0_is_answered_and_closed(loop: str):
    """Unless it asks to stay."""
    with Host(echo, loop=loop) as host:
        with host.connect() as made:
            made.sendall(b"GET /a HTTP/1.0\r\n\r\n")
            assert read_answer(made)[2] == b"GET /a [] 0"
            assert is_closed(made)
        with host.connect() as made:
            for _ in range(2):
                made.sendall(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
                assert read_answer(made)[1]["connection"] == "keep-alive"


# Streams


class Source:
    """Chunks that are made while they are sent."""

    def __init__(self, count: int, size: int, fails_after: int | None = None) -> None:
        self._count, self._size, self._fails_after = count, size, fails_after
        self.made = 0
        self.is_left = threading.Event()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[AsyncIterator[bytes]]:
        try:
            yield self._chunks()
        finally:
            self.is_left.set()

    async def _chunks(self) -> AsyncIterator[bytes]:
        for at in range(self._count):
            if at == self._fails_after:
                raise OSError("the disk is gone")
            self.made += 1
            yield b"s" * self._size


def _streaming(source: Source, count: int, size: int):
    async def answer(_: Request) -> Response:
        return Response(200, (), Stream(count * size, source.opened()))

    return answer


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stream_is_made_no_faster_than_it_is_read(loop: str):
    """A client that doesn't read gets what fits on the way, and the source waits."""
    source = Source(100, 256 * 1024)
    with Host(_streaming(source, 100, 256 * 1024), loop=loop) as host, host.connect(receive_buffer=65536) as made:
        made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        time.sleep(0.5)
        assert source.made < 60
        status, _, body = read_answer(made)
        assert (status, len(body)) == (200, 100 * 256 * 1024)
        assert source.is_left.wait(10)
        made.sendall(b"HEAD /x HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_answer(made, is_head=True)[0] == 200


@pytest.mark.parametrize("loop", LOOPS)
def test_a_stream_is_left_when_the_client_goes(loop: str):
    """Whatever it holds is let go of at once."""
    source = Source(1000, 256 * 1024)
    with Host(_streaming(source, 1000, 256 * 1024), loop=loop) as host:
        made = host.connect(receive_buffer=65536)
        made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        read_head(made)
        made.close()
        assert source.is_left.wait(10)
        assert source.made < 1000


def test_a_stream_that_fails_is_not_taken_for_a_whole_one(caplog: pytest.LogCaptureFixture):
    """The connection is cut, as the status is out already."""
    source = Source(10, 1000, fails_after=5)
    with Host(_streaming(source, 10, 1000)) as host, host.connect() as made:
        made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        with pytest.raises(ConnectionError):
            read_answer(made)
        assert source.is_left.wait(10)
    assert "the disk is gone" in caplog.text


def test_a_stream_that_cannot_begin_still_has_an_answer():
    """It is entered before the status is sent."""

    @asynccontextmanager
    async def gone() -> AsyncIterator[AsyncIterator[bytes]]:
        raise BlobUnknown("it was collected just now")
        yield

    async def answer(_: Request) -> Response:
        return Response(200, [("X-Request-Id", "r-1"), ("ETag", "none")], Stream(10, gone()))

    with Host(answer) as host:
        status, fields, body = host.ask(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert status == 404
    assert b"BLOB_UNKNOWN" in body
    assert (fields["x-request-id"], fields.get("etag")) == ("r-1", None)


def test_a_bug_in_what_a_stream_begins_with_is_logged(caplog: pytest.LogCaptureFixture):
    """As any other bug is; the client gets an error of the registry's shape."""

    @asynccontextmanager
    async def broken() -> AsyncIterator[AsyncIterator[bytes]]:
        raise ValueError("no such case")
        yield

    async def answer(_: Request) -> Response:
        return Response(200, (), Stream(10, broken()))

    with Host(answer) as host:
        status, _, body = host.ask(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
    assert (status, b"UNKNOWN" in body) == (500, True)
    assert "no such case" in caplog.text


def test_a_client_that_takes_its_answer_too_slowly_is_cut_off():
    """A connection that is not read isn't kept for ever."""
    source = Source(1000, 256 * 1024)
    rates = RateLimits(rate_min_bytes_s=10**9, allowance_s=0.3)
    settings = WebSettings(rates=rates)
    with (
        Host(_streaming(source, 1000, 256 * 1024), settings=settings) as host,
        host.connect(receive_buffer=65536) as made,
    ):
        made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        assert source.is_left.wait(10)
        assert source.made < 1000


@pytest.mark.parametrize(("size", "count"), [(16 * MIB, 1), (20_000, 1000)], ids=["large", "many"])
@pytest.mark.parametrize("loop", LOOPS)
def test_whoever_does_not_read_is_cut_off_whatever_the_answer_is_made_of(loop: str, size: int, count: int):
    """One that is in memory waits for its client, too; and the client needs no right to get such a one."""
    settings = WebSettings(rates=RateLimits(rate_min_bytes_s=10**9, allowance_s=0.3))
    with (
        Host(_always(bytes(size)), loop=loop, settings=settings) as host,
        host.connect(receive_buffer=65536) as made,
    ):
        made.sendall((b"GET / HTTP/1.1\r\n" + HOST + b"\r\n") * count)
        _wait_until(lambda: len(host.group) == 1)
        _wait_until(lambda: len(host.group) == 0)


@pytest.mark.parametrize("loop", LOOPS)
def test_what_an_idle_client_never_took_does_not_keep_its_connection(loop: str):
    """Its last answer waits in our buffer, where there is room for all of it, so that nobody waits for the client."""
    with (
        Host(_always(bytes(40_000)), loop=loop, limits=ConnectionLimits(idle_timeout_s=1)) as host,
        host.connect(receive_buffer=4096) as made,
    ):
        for _ in range(1000):
            made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            time.sleep(0.01)
            _wait_until(lambda: not host.handler.tasks)
            (connection,) = host.group._all
            assert connection.transport is not None
            if connection.transport.get_write_buffer_size():
                break
        else:
            raise AssertionError("the kernel took it all")
        _wait_until(lambda: len(host.group) == 0)


def _always(payload: bytes):
    async def answer(_: Request) -> Response:
        return Response(200, (), payload)

    return answer


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.02)


# Connections


def test_a_request_that_does_not_come_to_its_end_is_not_waited_for():
    """From its first byte, however it is dripped; and a connection that never says anything."""
    with Host(echo, limits=ConnectionLimits(header_timeout_s=0.5)) as host:
        dripping, silent = host.connect(), host.connect()
        with dripping, silent:
            sender = threading.Thread(target=_drip_header, args=(dripping,))
            sender.start()
            assert is_closed(dripping)
            assert is_closed(silent)
            sender.join()


def _drip_header(made: socket.socket) -> None:
    try:
        for letter in b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 1000:
            made.sendall(bytes([letter]))
            time.sleep(0.02)
    except OSError:
        return


def test_an_idle_connection_is_closed_after_its_time_and_a_busy_one_is_not():
    """Only waiting counts."""
    release = threading.Event()

    async def answer(request: Request) -> Response:
        if request.path == "/slow":
            await asyncio.to_thread(release.wait)
        return Response(200)

    with Host(answer, limits=ConnectionLimits(idle_timeout_s=0.5)) as host:
        busy, idle = host.connect(), host.connect()
        with busy, idle:
            busy.sendall(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
            idle.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert read_answer(idle)[0] == 200
            assert is_closed(idle)
            release.set()
            assert read_answer(busy)[0] == 200


def test_one_address_cannot_take_all_connections():
    """More are closed at once, the others stay usable, and places become free again."""
    with Host(echo, limits=ConnectionLimits(connections_per_address_max=3)) as host:
        kept = [host.connect() for _ in range(3)]
        for made in kept:
            made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert read_answer(made)[0] == 200
        with host.connect() as refused:
            assert is_closed(refused)
        kept.pop().close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with host.connect() as again:
                again.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
                try:
                    assert read_answer(again)[0] == 200
                    break
                except ConnectionError:
                    continue
        else:
            pytest.fail("the place was not given back")
        for made in kept:
            made.close()


def test_addresses_of_one_ipv6_network_are_one_client():
    """A host there has as many as it likes."""
    group = Connections(ConnectionLimits(connections_per_address_max=2), TrustedProxies(), lambda: None)
    made: list[Any] = [object() for _ in range(4)]
    assert group.admit(made[0], "2001:db8::1")
    assert group.admit(made[1], "2001:db8::ffff:1")
    assert not group.admit(made[2], "2001:db8::2")
    assert group.admit(made[2], "2001:db8:0:1::2")
    group.release(made[0], "2001:db8::1")
    assert group.admit(made[3], "2001:db8::3")


def test_more_connections_than_allowed_wait_until_one_ends():
    """They are not refused: the kernel keeps them."""
    with Host(echo, limits=ConnectionLimits(connections_max=2)) as host:
        first, second, third = host.connect(), host.connect(), host.connect()
        for made in (first, second):
            made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert read_answer(made)[0] == 200
        third.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
        third.settimeout(0.3)
        with pytest.raises(TimeoutError):
            third.recv(1)
        first.close()
        third.settimeout(20)
        assert read_answer(third)[0] == 200
        second.close()
        third.close()


def test_those_that_ask_for_nothing_keep_nobody_out():
    """Some addresses are enough to take all connections, and each may be idle for minutes: not while others wait."""
    with Host(echo, limits=ConnectionLimits(connections_max=2, full_idle_s=0.5)) as host:
        kept = [host.connect(), host.connect()]
        for made in kept:
            made.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert read_answer(made)[0] == 200
        with host.connect() as third:
            third.sendall(b"GET / HTTP/1.1\r\n" + HOST + b"\r\n")
            assert read_answer(third)[0] == 200
        for made in kept:
            made.close()
