"""The tables of how the daemon is run: what can't be used is refused at start, with its key."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from blobstore.errors import ConfigInvalid
from blobstore.server.daemon.config import load_server_config
from blobstore.server.operations.config import (
    CollectConfig,
    EndpointConfig,
    LogsConfig,
    NotificationsConfig,
    check_operations,
    place_notifications,
)

GOOD = EndpointConfig(name="a", url="https://example.test/hook")


def check(collect: CollectConfig | None = None, *endpoints: EndpointConfig) -> None:
    check_operations(collect or CollectConfig(), NotificationsConfig(endpoints=endpoints), LogsConfig())


def test_defaults_and_a_plain_endpoint_can_be_used() -> None:
    """What nothing is said of serves."""
    check(CollectConfig(), GOOD, EndpointConfig(name="b", url="http://10.0.0.1:80/x", headers={"X-Site": "one"}))
    check(CollectConfig(incremental="", full=""))


@pytest.mark.parametrize(
    ("collect", "key"),
    [
        (CollectConfig(incremental="often"), "collect.incremental"),
        (CollectConfig(full="61 * * * *"), "collect.full"),
        (CollectConfig(time_zone="Mars"), "collect.time_zone"),
        (CollectConfig(share=0), "collect.share"),
        (CollectConfig(share=float("nan")), "collect.share"),
        (CollectConfig(share=1.5), "collect.share"),
        (CollectConfig(batch=0), "collect.batch"),
    ],
)
def test_a_value_of_collect_that_can_not_be_used_is_named(collect: CollectConfig, key: str) -> None:
    with pytest.raises(ConfigInvalid, match=key):
        check(collect)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"url": "ftp://example.test/"}, "http or https"),
        ({"url": "https://user:secret@example.test/"}, "without a password"),
        ({"url": "https:///path"}, "http or https"),
        ({"headers": {"authorization": "Bearer x"}}, "authorization_file"),
        ({"headers": {"X\r\nY": "x"}}, "not a header field"),
        ({"headers": {"X-A": "x\r\ny"}}, "not a header field"),
        ({"timeout": "soon"}, "timeout"),
        ({"timeout": "0s"}, "timeout"),
        ({"backoff": "2h"}, "backoff"),
        ({"threshold": 0}, "threshold"),
        ({"queue": 0}, "queue"),
        ({"name": ""}, "name"),
    ],
)
def test_a_value_of_an_endpoint_that_can_not_be_used_is_named(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigInvalid, match=text):
        check(None, msgspec.structs.replace(GOOD, **changes))


def test_two_endpoints_of_one_name_are_refused() -> None:
    """Metrics and logs tell them apart by it."""
    with pytest.raises(ConfigInvalid, match="twice"):
        check(None, GOOD, GOOD)


def test_files_are_beside_the_configuration() -> None:
    """As all files that it names are."""
    config = NotificationsConfig(endpoints=(msgspec.structs.replace(GOOD, authorization_file="token"), GOOD))
    placed = place_notifications(config, "/etc/blobstore")
    assert [each.authorization_file for each in placed.endpoints] == ["/etc/blobstore/token", None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server.collect]\nfull = 'x'", "server.collect.full can't be used: 'x' is not a cron"),
        ("[server.collect]\nfulll = ''", "server.collect.fulll is unknown.*incremental"),
        ("[[server.notifications.endpoints]]\nurl = 'http://x/'", "name"),
        (
            "[[server.notifications.endpoints]]\nname = 'a'\nurl = 'http://x/'\nauthorization = 'Bearer x'",
            "secrets don't belong here.*authorization_file",
        ),
        ("[server.logs]\nformat = 'xml'", "server.logs.format"),
    ],
)
def test_what_a_file_says_wrong_is_named(tmp_path: Path, text: str, expected: str) -> None:
    """By file, key and value."""
    path = tmp_path / "blobstore.toml"
    path.write_text(text)
    with pytest.raises(ConfigInvalid, match=rf"blobstore\.toml: .*{expected}"):
        load_server_config(str(path))


def test_a_file_that_is_fine_is_read(tmp_path: Path) -> None:
    """Its tables are values, its files beside it."""
    path = tmp_path / "blobstore.toml"
    path.write_text(
        "[server.collect]\nshare = 0.25\n[server.logs]\nformat = 'text'\n"
        "[[server.notifications.endpoints]]\nname = 'a'\nurl = 'http://x/'\nauthorization_file = 'token'\n"
        "headers = {X-Site = 'one'}\nignored_actions = ['pull']\n"
    )
    server = load_server_config(str(path))
    assert (server.collect.share, server.logs.format) == (0.25, "text")
    (endpoint,) = server.notifications.endpoints
    assert (endpoint.authorization_file, endpoint.ignored_actions) == (str(tmp_path / "token"), ("pull",))
