"""S22: what is for operators is closed to clients, to proxies, and to pages in an operator's browser."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from blobstore.config import Config
from blobstore.errors import ConfigInvalid
from blobstore.server.auth.config import AuthConfig, HtpasswdConfig
from blobstore.server.daemon import serving
from blobstore.server.daemon.config import ServerConfig
from blobstore.server.daemon.plan import Plan, StorePlan, listen_addresses
from blobstore.server.daemon.serving import Overrides, Serving
from blobstore.server.daemon.site import Site, is_for_operators
from blobstore.server.protocol.messages import Headers, Request, Response, json_response
from tests.server.security.asking import basic, bearer

PATHS = ["/metrics", "/api/v1/runs", "/api/v1", "/api/v1/../v1/runs"]
HOST = ("Host", "127.0.0.1:5000")


async def registry(request: Request) -> Response:
    """Answers for the registry."""
    del request
    return json_response(404, {"by": "registry"})


async def health(request: Request) -> Response:
    """Answers for what everybody may ask."""
    del request
    return json_response(200, {"by": "health"})


async def operator(request: Request) -> Response:
    """Answers for the operator's part."""
    del request
    return json_response(200, {"by": "operator"})


async def ask(site: Site, path: str, *fields: tuple[str, str], peer: str = "127.0.0.1", method: str = "GET") -> int:
    """The status of an answer."""
    return (await site.answer(Request(method=method, path=path, headers=Headers(fields), peer=peer))).status


OPEN = Site(registry=registry, health=health, operator=operator)
CLOSED = Site(registry=registry, health=health)
GUARDED = Site(registry=registry, health=health, operator=operator, token="s3cret")


@pytest.mark.parametrize("path", PATHS)
async def test_where_it_is_not_served_it_is_not_there(path: str) -> None:
    """The answer is the registry's, as to any other path that it doesn't know."""
    assert await ask(CLOSED, path, HOST, bearer("s3cret")) == 404


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "host", ["127.0.0.1:5000", "localhost", "LOCALHOST:5000", "[::1]:5000", "registry.localhost:80", "127.9.9.9"]
)
async def test_a_program_of_this_machine_is_an_operator(path: str, host: str) -> None:
    """As long as nothing else is configured."""
    assert await ask(OPEN, path, ("Host", host)) == 200
    assert await ask(OPEN, path, ("Host", host), peer="::1") == 200


@pytest.mark.parametrize(
    "fields",
    [
        [HOST, ("X-Forwarded-For", "198.51.100.7")],
        [HOST, ("Forwarded", "for=198.51.100.7")],
        [HOST, ("X-Forwarded-Proto", "https")],
        [HOST, ("X-Real-IP", "198.51.100.7")],
        [HOST, ("Via", "1.1 proxy")],
        [("Host", "registry.example")],
        [("Host", "127.0.0.1.evil.example:5000")],
        [("Host", "localhost.evil.example")],
        [("Host", "evillocalhost")],
        [("Host", "192.0.2.1:5000")],
        [HOST, ("Origin", "https://evil.example")],
        [HOST, ("Origin", "null")],
        [HOST, ("Origin", "http://127.0.0.1:5000")],
        [HOST, ("Sec-Fetch-Site", "cross-site")],
        [HOST, ("Sec-Fetch-Site", "same-site")],
    ],
    ids=lambda fields: " ".join(fields[-1]),
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_comes_through_others_is_not(fields: list[tuple[str, str]], method: str) -> None:
    """A proxy hands on what everybody asks; a page makes an operator's browser ask, or gives our address a name."""
    for path in PATHS:
        assert await ask(OPEN, path, *fields, method=method) == 403


@pytest.mark.parametrize("peer", ["192.0.2.1", "10.0.0.1", "", "localhost"])
async def test_another_machine_is_not(peer: str) -> None:
    """Also where a trusted proxy said who it is."""
    assert await ask(OPEN, "/metrics", HOST, peer=peer) == 403


async def test_a_socket_that_is_a_file_is_guarded_by_its_folder() -> None:
    """Programs call it what they like."""
    assert await ask(OPEN, "/metrics", ("Host", "blobstore"), peer="unix") == 200
    assert await ask(OPEN, "/metrics", ("Host", "blobstore"), ("X-Forwarded-For", "192.0.2.1"), peer="unix") == 403


async def test_with_a_token_only_the_token_counts() -> None:
    """From wherever; and nothing else is one."""
    for peer in ("127.0.0.1", "192.0.2.1"):
        assert await ask(GUARDED, "/metrics", ("Host", "registry.example"), bearer("s3cret"), peer=peer) == 200
        for fields in (
            [],
            [bearer("wrong")],
            [bearer("s3cre")],
            [basic("operator", "s3cret")],
            [("Authorization", "s3cret")],
            [("X-Token", "s3cret")],
        ):
            assert await ask(GUARDED, "/metrics", HOST, *fields, peer=peer) == 401


async def test_an_operators_token_opens_no_repository_and_the_other_way_round() -> None:
    """Who may push may not collect."""
    assert await ask(GUARDED, "/v2/", HOST, bearer("s3cret")) == 404
    assert await ask(GUARDED, "/api/v1/runs", HOST, basic("alice", "wonder")) == 401


@pytest.mark.parametrize("path", ["/v2/", "/v2", "/v2/app/blobs/uploads/", "/elsewhere"])
async def test_a_registry_that_is_open_to_this_machine_is_not_to_its_browsers_pages(path: str) -> None:
    """They reach it from here, and browsers tell when they want to change something. Programs may call it what they like."""
    site = Site(registry=registry, health=health, refuses_pages=True)
    for field in (HOST, ("Host", "registry"), ("Sec-Fetch-Site", "none")):
        assert await ask(site, path, field, method="POST") == 404
    for field in (("Origin", "https://evil.example"), ("Origin", "null"), ("Sec-Fetch-Site", "cross-site")):
        assert await ask(site, path, HOST, field, method="POST") == 403
        assert await ask(CLOSED, path, HOST, field, method="POST") == 404
    assert await ask(site, "/healthz", ("Origin", "https://evil.example")) == 200


async def test_what_another_process_let_in_is_not_asked_again() -> None:
    """A worker hands on what it has looked at."""
    site = Site(registry=None, health=health, operator=operator, is_internal=True)
    assert await ask(site, "/metrics", ("Host", "registry.example"), ("Origin", "x"), peer="unix") == 200
    assert await ask(site, "/v2/", HOST) == 404


@pytest.mark.parametrize(
    "path", ["/v2/api/v1/runs", "/healthz", "/readyz", "/", "/apis", "/metricsx", "/metrics/", "/API/v1/runs"]
)
def test_other_paths_are_not_theirs(path: str) -> None:
    """A repository may be called `api/v1`."""
    assert not is_for_operators(path)


@pytest.mark.parametrize(
    ("listen", "operator_listen", "is_served"),
    [
        ("127.0.0.1:0", None, True),
        ("[::1]:0", None, True),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("0.0.0.0:0", None, False),
        ("0.0.0.0:0", "127.0.0.1:0", False),
    ],
)
def test_clients_find_it_on_the_loopback_alone(
    listen: str, operator_listen: str | None, is_served: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only as long as it has no address of its own."""
    plans: list[Plan] = []

    def end_at_once(plan: Plan, ready: Callable[[], None]) -> int:
        del ready
        plans.append(plan)
        for descriptor in (*plan.public, *plan.operator):
            os.close(descriptor)
        return 0

    monkeypatch.setattr(serving, "run_process", end_at_once)
    monkeypatch.setattr(serving, "bridge_standard_logging", lambda log: None)
    store = StorePlan(str(tmp_path / "store"), None, Config())
    wanted = Overrides(listen=listen, operator_listen=operator_listen, open_to_all=True)
    assert Serving(lambda: store, None, wanted).run(lambda: None) == 0
    assert [plan.serves_operator for plan in plans] == [is_served]


HTPASSWD = AuthConfig(method="htpasswd", htpasswd=HtpasswdConfig(file="x"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ServerConfig(listen="0.0.0.0:5000"), "everybody who can reach this machine could push and delete"),
        (ServerConfig(listen="[::]:5000"), "could push and delete"),
        (ServerConfig(listen="192.0.2.1:5000"), "could push and delete"),
        (ServerConfig(operator_listen="0.0.0.0:5001"), "could start collections"),
        (ServerConfig(operator_listen="0.0.0.0:5001", open_to_all=True), "could start collections"),
        (
            ServerConfig(listen="0.0.0.0:5000", operator_listen="192.0.2.1:5001", auth=HTPASSWD, insecure_http=True),
            "could start",
        ),
        (ServerConfig(listen="0.0.0.0:5000", auth=HTPASSWD), "cross the network in the clear"),
    ],
)
def test_nobody_is_let_in_by_mistake(config: ServerConfig, said: str) -> None:
    """S23, S18: what is open to others is open on purpose."""
    with pytest.raises(ConfigInvalid, match=said):
        listen_addresses(config)


@pytest.mark.parametrize(
    "config",
    [
        ServerConfig(),
        ServerConfig(listen="127.0.0.1:5000"),
        ServerConfig(listen="[::1]:5000", auth=HTPASSWD),
        ServerConfig(listen="0.0.0.0:5000", open_to_all=True),
        ServerConfig(listen="0.0.0.0:5000", auth=HTPASSWD, insecure_http=True),
        ServerConfig(listen="0.0.0.0:5000", auth=HTPASSWD, trusted_proxies=["10.0.0.0/8"]),
        ServerConfig(operator_listen="0.0.0.0:5001", operator_token_file="/run/token"),
        ServerConfig(operator_listen="unix:/run/blobstore.sock"),
    ],
)
def test_what_is_open_on_purpose_is(config: ServerConfig) -> None:
    """Or is nobody's but this machine's."""
    listen_addresses(config)
