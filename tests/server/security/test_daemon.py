"""S3, S9, S17, S22, S25 in the daemon as people start it, with one process and with several: all of it is wired."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.server.daemon import Client, Daemon, wait_for
from tests.server.security.asking import basic
from tests.server.security.htpasswd import line

CONFIG = """
[server]
workers = {workers}

[server.auth]
method = "htpasswd"
anonymous_pull = ["public/*"]

[server.auth.htpasswd]
file = "users"

[server.auth.rights]
"team/*" = {{ alice = ["*"], bob = ["pull", "push"] }}
"""
ALICE, BOB = dict([basic("alice", "wonder")]), dict([basic("bob", "builder")])
HERE = "127.0.0.1"


def status(daemon: Daemon, method: str, path: str, *fields: dict[str, str], body: bytes | None = None) -> int:
    """Of an answer, over a connection of its own, so that any worker may have it."""
    headers = {name: value for each in fields for name, value in each.items()}
    with Client(daemon.address) as client:
        return client.ask(method, path, body, headers)[0]


@pytest.mark.parametrize("workers", [1, 2])
def test_all_of_it_is_wired(tmp_path: Path, workers: int) -> None:
    """Who comes in, what they may, whose uploads are whose, who is an operator, and what is written of it."""
    (tmp_path / "users").write_text(line("alice", "wonder") + "\n" + line("bob", "builder") + "\n")
    with Daemon(tmp_path, config=CONFIG.format(workers=workers)) as daemon:
        assert status(daemon, "GET", "/v2/") == 401
        assert status(daemon, "GET", "/v2/", ALICE) == 200
        assert status(daemon, "GET", "/v2/", dict([basic("alice", "builder")])) == 401
        assert status(daemon, "GET", "/v2/public/x/tags/list") == 404
        assert status(daemon, "POST", "/v2/other/x/blobs/uploads/", ALICE, body=b"") == 403

        with Client(daemon.address) as client:
            code, headers, _ = client.ask("POST", "/v2/team/x/blobs/uploads/", b"", ALICE)
            assert code == 202
        for _ in range(6):
            assert status(daemon, "GET", headers["Location"], BOB) == 404
            assert status(daemon, "GET", headers["Location"], ALICE) == 204

        for path in ("/metrics", "/api/v1/openapi.json"):
            assert status(daemon, "GET", path) == 200
            for field in (
                {"X-Forwarded-For": "192.0.2.1"},
                {"Origin": "https://evil.example"},
                {"Host": "evil.example"},
            ):
                assert status(daemon, "GET", path, field) == 403
        assert (
            status(daemon, "POST", "/api/v1/runs", {"Origin": "null", "Content-Type": "text/plain"}, body=b"{}") == 403
        )

        (tmp_path / "users").write_text(line("bob", "builder") + "\nbroken\n")
        wait_for(
            lambda: status(daemon, "GET", "/v2/", BOB) == 200 and "line 2 is not a user" in daemon.log(), "the alarm"
        )
        assert status(daemon, "GET", "/v2/", ALICE) == 200
        (tmp_path / "users").write_text(line("bob", "builder") + "\n")
        wait_for(lambda: status(daemon, "GET", "/v2/", ALICE) == 401, "alice to be let go of")

        written = daemon.log()
        assert daemon.stop() == 0
    lines = [json.loads(each) for each in written.splitlines()]
    assert {each.get("user") for each in lines if each["event"] == "request"} == {None, "alice", "bob"}
    for secret in (*ALICE.values(), *BOB.values(), "wonder", "builder"):
        assert secret.removeprefix("Basic ") not in written


@pytest.mark.parametrize(
    ("config", "answer"), [("", 403), ("open_to_all = true", 405), ("trusted_proxies = ['127.0.0.1']", 405)]
)
def test_who_serves_this_machine_alone_serves_no_page_of_its_browser(tmp_path: Path, config: str, answer: int) -> None:
    """Unless it was said that everybody may come, or who stands in front."""
    with Daemon(tmp_path, config=f"[server]\n{config}\n") as daemon:
        assert status(daemon, "GET", "/v2/") == 200
        assert status(daemon, "POST", "/v2/", {"Origin": "https://evil.example"}, body=b"") == answer
