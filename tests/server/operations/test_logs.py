"""Log lines: whole on their line, without secrets, and an audit line for each change."""

from __future__ import annotations

import io
import json
import logging
import os
from typing import Any

import pytest

from blobstore.digest import Digest
from blobstore.events import Waiting
from blobstore.names import RepositoryName, TagName
from blobstore.server.daemon.config import ServerConfig
from blobstore.server.operations.audit import AuditObserver
from blobstore.server.operations.config import LogsConfig
from blobstore.server.operations.logs import (
    bridge_standard_logging,
    make_audit_log,
    make_log,
    no_log,
    request_id_of,
    safe_text,
)
from blobstore.server.operations.operations import Operations
from blobstore.server.protocol import observing
from blobstore.server.protocol.access import ANYBODY, Principal
from blobstore.server.protocol.messages import Headers, Request

HOSTILE = 'a\r\nlevel=error "quoted" \x1b[31m\u202eoverride\u2028line\x7f'
DIGEST = Digest.of(b"x")
REPOSITORY = RepositoryName.parse("library/app")


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize("form", ["json", "text"])
def test_what_a_client_sends_stays_on_its_line(form: Any) -> None:
    """Line ends, terminal commands and marks that turn the writing around are escaped in both forms."""
    stream = io.StringIO()
    make_log(LogsConfig(format=form), stream).info("request", path=HOSTILE, user_agent=HOSTILE)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def test_text_lines_can_be_taken_apart() -> None:
    """A quote in a value ends no value."""
    stream = io.StringIO()
    make_log(LogsConfig(format="text"), stream).info("request", path='/v2/" status=200 x="', status=404)
    assert '"/v2/\\" status=200 x=\\""' in stream.getvalue()
    assert stream.getvalue().endswith(" status=404\n")


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer s3cret.s3cret",
        "authorization: basic s3cret",
        "https://bucket.example/key?X-Amz-Signature=s3cret&X-Amz-Date=1",
        "GET https://user:s3cret@host.example/path failed",
        "/key?OSSAccessKeyId=s3cret&Signature=s3cret",
        "/v2/a/blobs/uploads/1?_state=s3cret",
        "https://auth.example/token?service=x&access_token=s3cret",
    ],
)
def test_secrets_are_hidden_wherever_they_are_quoted(text: str) -> None:
    """In any field, also in the text of an error."""
    stream = io.StringIO()
    log = make_log(None, stream)
    log.info("request", error=text)
    log.info(text)
    log.error("bug", exc_info=ValueError(text))
    assert len(lines(stream)) == 3
    assert "s3cret" not in stream.getvalue()


def test_a_field_that_is_a_secret_by_its_name_is_hidden() -> None:
    """Whatever it holds."""
    stream = io.StringIO()
    make_log(None, stream).info(
        "x", authorization="s3cret", **{"Set-Cookie": "s3cret"}, password="s3cret", token=b"s3cret"
    )
    assert "s3cret" not in stream.getvalue()


def test_a_long_value_is_cut() -> None:
    """A megabyte in a header makes no megabyte of log, and no second of work."""
    assert len(safe_text("a?b=" * 300_000)) <= 2001
    assert len(safe_text("\n" * 300_000)) <= 4001


def test_what_the_store_waits_for_is_told() -> None:
    """A file server that doesn't answer stops everything and breaks nothing: the log is where that can be seen."""
    stream = io.StringIO()
    Operations(ServerConfig(), log=make_log(None, stream)).note(Waiting("no answer from the file server"))
    (line,) = lines(stream)
    assert (line["level"], line["event"], line["text"]) == ("warning", "waiting", "no answer from the file server")


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """What a request did is done by then: it must not be answered as if it had failed."""
    with open(os.devnull, "wb") as nowhere:
        with open("/dev/full", "w", buffering=1) as full:
            log = make_log(None, full)
            for _ in range(3):
                log.info("request", path="/v2/" + "a" * 9000)
            # What it still has is for nobody.
            os.dup2(nowhere.fileno(), full.fileno())
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "w", buffering=1) as pipe:
            make_log(None, pipe).error("alarm", text="nobody reads this")
            os.dup2(nowhere.fileno(), writing)


def test_a_level_leaves_out_what_is_below_but_never_the_audit() -> None:
    """Who changed what is written also where only errors are."""
    config, stream = LogsConfig(level="error"), io.StringIO()
    make_log(config, stream).info("request")
    assert not stream.getvalue()
    audit = make_audit_log(config, stream)
    assert audit is not None
    audit.info("audit")
    assert [line["event"] for line in lines(stream)] == ["audit"]
    assert make_audit_log(LogsConfig(audit=False), stream) is None
    no_log().bind(a=1).error("nothing")


@pytest.mark.parametrize("given", ["abc-1", "0af7651916cd43dd8448eb211c80319c", "a" * 128, "x:y/z=="])
def test_a_sane_request_id_is_kept(given: str) -> None:
    assert request_id_of(Headers([("x-request-ID", given)])) == given


@pytest.mark.parametrize("given", ["", "a" * 129, "a b", "a\n", "ä", "<script>", 'a"b'])
def test_another_is_not(given: str) -> None:
    """It goes into logs and into a header."""
    assert request_id_of(Headers([("X-Request-Id", given)])) is None


def test_what_libraries_log_comes_out_here() -> None:
    """With its level, its logger's name and no secret."""
    stream, root = io.StringIO(), logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        bridge_standard_logging(make_log(None, stream))
        logging.getLogger("aiohttp.server").warning("bad %s", "Bearer s3cret")
        logging.getLogger("x").debug("nothing")
        logging.getLogger("aiobotocore.credentials").info("Found credentials in environment variables.")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    (line,) = lines(stream)
    assert (line["level"], line["logger"], line["event"]) == ("warning", "aiohttp.server", "bad Bearer [hidden]")


def observations() -> list[observing.Observation]:
    who: dict[str, Any] = {
        "request": Request(method="PUT", path="/", peer="192.0.2.1", request_id="r-1"),
        "principal": Principal("alice"),
        "repository": REPOSITORY,
    }
    tags = (TagName("1"), TagName("latest"))
    return [
        observing.BlobPushed(**who, digest=DIGEST, size_bytes=1),
        observing.BlobMounted(**who, digest=DIGEST, size_bytes=1, source=RepositoryName("other")),
        observing.BlobDeleted(**who, digest=DIGEST),
        observing.ManifestPushed(**who, digest=DIGEST, size_bytes=1, media_type="m", tags=tags),
        observing.ManifestDeleted(**who, digest=DIGEST),
        observing.TagDeleted(**who, tag=TagName("1")),
        observing.BlobPulled(**who, digest=DIGEST, size_bytes=1),
        observing.UploadStarted(**who),
        observing.Answered(
            request=who["request"], endpoint="blob", repository=None, principal=ANYBODY, status=200
        ),
    ]  # fmt: skip


def test_each_change_has_its_audit_line() -> None:
    """Who, from where, what; a manifest's tags each by itself; nothing for what only reads."""
    stream = io.StringIO()
    audit = AuditObserver(make_log(None, stream))
    for observation in observations():
        audit(observation)
    found = lines(stream)
    assert [(line["action"], line["kind"]) for line in found] == [
        ("push", "blob"),
        ("mount", "blob"),
        ("delete", "blob"),
        ("push", "manifest"),
        ("push", "tag"),
        ("push", "tag"),
        ("delete", "manifest"),
        ("delete", "tag"),
    ]
    for line in found:
        assert (line["user"], line["peer"], line["request_id"]) == ("alice", "192.0.2.1", "r-1")
        assert line["repository"] == "library/app"
    assert all(line["digest"] == str(DIGEST) for line in found if line["kind"] != "tag")
    assert found[1]["source"] == "other"
    assert [line["tag"] for line in found if line["kind"] == "tag"] == ["1", "latest", "1"]
