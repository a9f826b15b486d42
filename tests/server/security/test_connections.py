"""S20: who is slow, greedy or ambiguous on the wire harms nobody else. More of it, frame by frame: tests/server/test_web.py."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blobstore.server.auth.config import AuthConfig, HtpasswdConfig
from blobstore.server.web.application import WebSettings
from blobstore.server.web.connections import ConnectionLimits
from blobstore.server.web.patience import RateLimits
from tests.server.hosting import Host, is_closed, read_answer
from tests.server.security.asking import basic
from tests.server.security.guest import PASSWORDS, RIGHTS
from tests.server.security.hosted import hosted
from tests.server.security.htpasswd import line
from tests.spec.client import digest

MIB = 1024 * 1024
HOST = b"Host: registry.test\r\n"
ALICE = ": ".join(basic("alice", PASSWORDS["alice"])).encode() + b"\r\n"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A registry on a port of the loopback, that has little patience."""
    path = tmp_path / "htpasswd"
    path.write_text("\n".join(line(user, password) for user, password in PASSWORDS.items()))
    config = AuthConfig(method="htpasswd", htpasswd=HtpasswdConfig(file=str(path)), rights=RIGHTS)
    limits = ConnectionLimits(header_timeout_s=2, idle_timeout_s=60, connections_per_address_max=40)
    settings = WebSettings(rates=RateLimits(rate_min_bytes_s=64 * 1024, allowance_s=2))
    with hosted(tmp_path / "store", config, limits=limits, settings=settings) as running:
        yield running


def peak_kib() -> int:
    """The most memory this process has had since it was last reset."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])  # type: ignore[index]


def reset_peak_kib() -> int:
    """Forget what it had before (proc(5), clear_refs); returns what it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kib()


def get(path: str, *more: bytes) -> bytes:
    """A request of Alice's."""
    return f"GET {path} HTTP/1.1\r\n".encode() + HOST + ALICE + b"".join(more) + b"\r\n"


def test_headers_that_never_end_are_not_waited_for(host: Host) -> None:
    """A byte now and then keeps no connection; others are served meanwhile."""
    slow = [host.connect() for _ in range(30)]
    try:
        for each in slow:
            each.sendall(b"GET /v2/ HTTP/1.1\r\nX-")
        assert host.ask(get("/v2/"))[0] == 200
        deadline = time.monotonic() + 20
        closed = 0
        for each in slow:
            each.settimeout(max(0.1, deadline - time.monotonic()))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                each.sendall(b"a")
            closed += is_closed(each)
        assert closed == 30
    finally:
        for each in slow:
            each.close()


def test_a_body_that_hardly_comes_is_given_up_and_can_be_resumed(host: Host) -> None:
    """What came is on the disk; the upload goes on where it stopped."""
    status, fields, _ = host.ask(
        b"POST /v2/team-a/x/blobs/uploads/ HTTP/1.1\r\n" + HOST + ALICE + b"Content-Length: 0\r\n\r\n"
    )
    assert status == 202
    location = fields["location"].encode()
    with host.connect() as made:
        made.sendall(
            b"PATCH " + location + b" HTTP/1.1\r\n" + HOST + ALICE + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1000
        )
        assert read_answer(made)[0] in (400, 408)
        assert is_closed(made)
    status, fields, _ = host.ask(get(location.decode()))
    assert (status, fields["range"]) == (204, "0-999")
    rest = b"y" * 10
    done = b"PUT " + location + b"?digest=" + digest(b"x" * 1000 + rest).encode() + b" HTTP/1.1\r\n" + HOST + ALICE
    assert host.ask(done + b"Content-Length: 10\r\n\r\n" + rest)[0] == 201


def test_a_big_upload_takes_the_disk_and_not_the_memory(host: Host) -> None:
    """However much comes in one request."""
    size, piece = 200 * MIB, b"z" * MIB
    status, fields, _ = host.ask(
        b"POST /v2/team-a/x/blobs/uploads/ HTTP/1.1\r\n" + HOST + ALICE + b"Content-Length: 0\r\n\r\n"
    )
    assert status == 202
    before_kib = reset_peak_kib()
    with host.connect() as made:
        made.sendall(
            b"PATCH "
            + fields["location"].encode()
            + b" HTTP/1.1\r\n"
            + HOST
            + ALICE
            + b"Content-Length: %d\r\n\r\n" % size
        )
        for _ in range(size // MIB):
            made.sendall(piece)
        assert read_answer(made)[0] == 202
    assert peak_kib() - before_kib < 80 * 1024
    host.ask(b"DELETE " + fields["location"].encode() + b" HTTP/1.1\r\n" + HOST + ALICE + b"\r\n")


@pytest.mark.parametrize("framing", ["Content-Length: {}", "Content-Length: {}\r\nExpect: 100-continue"])
def test_the_body_of_a_refused_request_is_no_request(host: Host, framing: str) -> None:
    """Smuggling: what a stranger's body says is never asked in somebody's name, refused or not."""
    host.ask(
        b"POST /v2/team-a/x/blobs/uploads/?digest=%b HTTP/1.1\r\n" % digest(b"x").encode()
        + HOST
        + ALICE
        + b"Content-Length: 1\r\n\r\nx"
    )
    hidden = f"DELETE /v2/team-a/x/blobs/{digest(b'x')} HTTP/1.1\r\n".encode() + HOST + ALICE + b"\r\n"
    with host.connect() as made:
        head = b"POST /v2/team-a/x/blobs/uploads/ HTTP/1.1\r\n" + HOST
        made.sendall(head + framing.format(len(hidden)).encode() + b"\r\n\r\n" + hidden + get("/v2/"))
        seen = [read_answer(made)[0]]
        with contextlib.suppress(ConnectionError):
            seen.append(read_answer(made)[0])
    # The one that is refused, and the one behind it, if the connection lived on.
    assert seen in ([401], [401, 200])
    assert host.ask(get(f"/v2/team-a/x/blobs/{digest(b'x')}"))[0] == 200


def test_two_ways_to_say_how_long_a_body_is(host: Host) -> None:
    """Whoever stands in front may have believed the other one."""
    for framing in (
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
    ):
        with host.connect() as made:
            made.sendall(
                b"POST /v2/team-a/x/blobs/uploads/ HTTP/1.1\r\n"
                + HOST
                + ALICE
                + framing
                + b"\r\n0\r\n\r\n"
                + get("/v2/")
            )
            assert read_answer(made)[0] == 400
            assert is_closed(made)


def test_credentials_are_those_of_the_request_alone(host: Host) -> None:
    """A connection remembers nobody; and two of them are none."""
    with host.connect() as made:
        made.sendall(get("/v2/") + b"GET /v2/ HTTP/1.1\r\n" + HOST + b"\r\n" + get("/v2/", ALICE))
        assert [read_answer(made)[0] for _ in range(3)] == [200, 401, 401]


def test_one_address_has_so_many_connections(host: Host) -> None:
    """The rest are closed at once."""
    # Let it open its store first, so that nobody waits for that.
    assert host.ask(get("/v2/"))[0] == 200
    with contextlib.ExitStack() as stack:
        many = []
        for _ in range(60):
            many.append(stack.enter_context(contextlib.closing(host.connect())))
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                many[-1].sendall(get("/v2/"))
        refused = 0
        for each in many:
            try:
                refused += read_answer(each)[0] != 200
            except ConnectionError:
                refused += 1
        assert refused == 20
    assert host.ask(get("/v2/"))[0] == 200


def test_an_encoded_slash_is_refused(host: Host) -> None:
    """S2: a proxy that guards `/v2/team-b/` by its path would not see it."""
    for path in ("/v2/team-b%2fx/tags/list", "/v2%2Fteam-a/x/tags/list", "/v2/team-a/..%2Fteam-b/x/tags/list"):
        status, _, body = host.ask(get(path))
        assert status == 400
        assert "encoded slash" in json.loads(body)["errors"][0]["message"]


def test_no_browser_guesses_what_an_answer_is(host: Host) -> None:
    """S25: a layer may look like a page; it is served as bytes, and to be taken as such."""
    for raw in (get("/v2/"), get("/v2/team-a/x/tags/list"), b"GET /v2/ HTTP/1.1\r\n" + HOST + b"\r\n"):
        assert host.ask(raw)[1]["x-content-type-options"] == "nosniff"


def test_a_hundred_clients_that_fail_leave_room_for_one_that_does_not(host: Host) -> None:
    """Connections that break off in every state are given back."""
    openings = [
        b"",
        b"G",
        b"GET /v2/ HTTP/1.1\r\n",
        b"PUT /v2/team-a/x/manifests/v1 HTTP/1.1\r\n" + HOST + ALICE + b"Content-Length: 99\r\n\r\nx",
        b"\x16\x03\x01",
        b"\0" * 100,
    ]

    def break_off(number: int) -> None:
        for _ in range(5):
            with contextlib.suppress(OSError), host.connect() as made:
                made.sendall(openings[number % len(openings)])
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    threads = [threading.Thread(target=break_off, args=(number,)) for number in range(20)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert host.ask(get("/v2/"))[0] == 200
