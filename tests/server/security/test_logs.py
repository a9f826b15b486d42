"""S25: whatever a client sends stays on its line of the log, and no credential is in any."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from blobstore.server.auth.config import AuthConfig, TokenConfig
from blobstore.server.auth.token_access import make_token_access
from blobstore.server.operations.audit import AuditObserver
from blobstore.server.operations.logs import make_log
from blobstore.server.operations.watching import AccessLog, Watch
from blobstore.server.protocol.messages import Headers, Request
from blobstore.server.protocol.registry import Registry
from blobstore.store import Store
from blobstore.testing import FakeClock
from blobstore.testing.fakes import START_MS
from tests.server.security.asking import basic, bearer
from tests.server.security.guest import House
from tests.server.security.htpasswd import Htpasswd
from tests.server.security.issuer import ISSUER, REALM, SERVICE, access, claims, public_pem, sign
from tests.spec.client import Body, read

INJECTION = 'a\r\nHTTP/1.1 200 OK\x1b[2J\u2028{"event":"audit","user":"root"}\x00\u202e'


class Written:
    """A registry with its log."""

    def __init__(self, store: Store, control: Any) -> None:
        self.stream = io.StringIO()
        log = make_log(stream=self.stream)
        watch, audit = Watch(AccessLog(log)), AuditObserver(log)

        def observe(observation: Any) -> None:
            watch(observation)
            audit(observation)

        self.answer = watch.wrap(Registry(store, access=control, observer=observe).answer)

    async def ask(
        self, method: str, path: str, *fields: tuple[str, str], body: bytes | None = None, **query: str
    ) -> int:
        """The status of an answer."""
        response = await self.answer(
            Request(
                method=method,
                path=path,
                headers=Headers(fields),
                query=list(query.items()),
                body=aiter(Body(body)) if body else None,
                peer="192.0.2.1",
                request_id="1",
            )
        )
        await read(response)
        return response.status

    @property
    def lines(self) -> list[dict[str, Any]]:
        """What was written, a document a line."""
        return [json.loads(each) for each in self.stream.getvalue().splitlines()]


@pytest.fixture
def written(house: House, store: Store, tenants: Htpasswd) -> Written:
    del house
    return Written(store, tenants.access)


async def test_a_line_is_a_line_whatever_is_in_it(written: Written) -> None:
    """Paths, names, parameters, header fields and names of users: each is quoted, and none forges another line."""
    alice = basic("alice", "wonder")
    asked = 0
    for path in (
        f"/v2/{INJECTION}/tags/list",
        f"/v2/team-a/x/manifests/{INJECTION}",
        f"/{INJECTION}",
        f"/v2/team-a/x/blobs/uploads/{INJECTION}",
    ):
        for fields in (
            [alice],
            [("User-Agent", INJECTION), alice],
            [("X-Request-Id", INJECTION), alice],
            [("Authorization", INJECTION)],
        ):
            await written.ask("GET", path, *fields, last=INJECTION, n=INJECTION)
            asked += 1
    await written.ask(INJECTION, "/v2/", alice)
    assert len(written.lines) == asked + 1
    assert all(each["event"] == "request" for each in written.lines)
    text = written.stream.getvalue()
    assert all(char.isprintable() or char == "\n" for char in text)


async def test_no_password_is_written(written: Written) -> None:
    """Neither right nor wrong, nor as it came."""
    for field in (
        basic("alice", "wonder"),
        basic("alice", "wonderful"),
        basic("mallory", "wonder"),
        ("Authorization", "Basic wonder wonder"),
    ):
        await written.ask("GET", "/v2/team-a/x/tags/list", field)
        assert field[1].partition(" ")[2] not in written.stream.getvalue()
    assert len(written.lines) == 4
    assert "wonder" not in written.stream.getvalue()


async def test_who_was_let_in_is_written(written: Written) -> None:
    """And who claimed to be somebody is nobody."""
    await written.ask(
        "POST",
        "/v2/team-a/x/blobs/uploads/",
        basic("alice", "wonder"),
        body=b"x",
        digest="sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
    )
    await written.ask("GET", "/v2/team-a/x/tags/list", basic("root", "guess"))
    audit, request, refused = written.lines
    assert (audit["event"], audit["action"], audit["user"]) == ("audit", "push", "alice")
    assert (request["user"], request["status"]) == ("alice", 201)
    assert (refused.get("user"), refused["status"]) == (None, 401)


async def test_no_token_is_written(store: Store, clock: FakeClock, tmp_path: Path) -> None:
    """Not even a bad one: it may be good elsewhere."""
    (tmp_path / "keys").write_bytes(public_pem("EdDSA"))
    token = TokenConfig(realm=REALM, service=SERVICE, issuer=ISSUER, keys=str(tmp_path / "keys"))
    written = Written(store, make_token_access(AuthConfig(method="token", token=token), clock=clock))
    good = sign(claims(START_MS // 1000, access("team-a/x", "pull")), "EdDSA", kid=None)
    other = sign(claims(START_MS // 1000, access("team-a/x", "pull"), iss="other"), "EdDSA", kid=None)
    for text in (good, other, good + "x", "junk"):
        await written.ask("GET", "/v2/team-a/x/tags/list", bearer(text), access_token=text)
        assert text not in written.stream.getvalue()
    assert all(part not in written.stream.getvalue() for part in good.split("."))
    assert [each["status"] for each in written.lines] == [404, 401, 401, 401]
