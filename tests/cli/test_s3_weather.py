"""What S3 servers refuse: said in one line, nothing lost or left, and the next command goes on."""

from __future__ import annotations

import json
import os
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest

from blobstore.backends import _s3_bodies
from tests.cli.conftest import Layout
from tests.cli.remotes import MakeRemote, Remote, make_remote, s3_config
from tests.servers.processes import S3Server, make_bucket, sdk_of

__all__ = ["make_remote"]
MIB = 1024 * 1024
READER = {"AWS_ACCESS_KEY_ID": "reader-for-tests", "AWS_SECRET_ACCESS_KEY": "sk-for-reading-only"}
AT_ONCE = ("--grace", "0s", "--quarantine", "0s")


@pytest.fixture
def own_bucket(weed: S3Server, make_remote: MakeRemote) -> tuple[Remote, str]:
    """A place in a bucket of its own, empty; and the bucket."""
    remote, bucket = make_remote("weed"), f"own-{secrets.token_hex(4)}"
    make_bucket(weed, bucket)
    remote.url = f"s3://{bucket}/registry"
    remote.config.write_text(f'store = "{remote.url}"\n{s3_config(weed)}')
    return remote, bucket


def test_no_right_to_delete(
    own_bucket: tuple[Remote, str], weed: S3Server, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 says so for each key: the collection fails, what it let go of stays trash, and who may delete does it with the next."""
    remote, bucket = own_bucket
    layout.image("a", [layout.layer(2 * MIB), layout.layer(17 * MIB)])
    assert remote("import", str(layout.path), "library/app").status == 0
    assert remote("rm", "library/app").status == 0
    allowed = ["GetObject", "PutObject", "ListBucket", "GetBucketVersioning", "ListBucketMultipartUploads"]
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": [f"s3:{each}" for each in allowed],
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    }
    with sdk_of(weed) as sdk:
        sdk.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    with monkeypatch.context() as reader:
        for name, value in READER.items():
            reader.setenv(name, value)
        said = remote.fails(2, "gc", *AT_ONCE)
        assert "delete" in said
        assert "docs/backends/s3.md" in said
        assert remote("stats").status == 0
    freed = remote("gc", *AT_ONCE, "--json").document()
    assert freed["undeleted"] == 0
    assert remote("check", "--json").document()["files"]["listed"] == 0
    with sdk_of(weed) as sdk:
        left = [each["Key"] for each in sdk.list_objects_v2(Bucket=bucket)["Contents"]]
    assert not [key for key in left if not key.startswith(("registry/blobstore.json", "registry/journal/"))], left


def test_a_clock_that_is_wrong(
    make_remote: MakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    """The server refuses what was signed an hour ago, by whomever: each command says that it is the clock; set right, the same
    command works."""

    def an_hour_ago(*_: object, **__: object) -> datetime:
        return datetime.now(UTC) - timedelta(hours=1)

    class Slow(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return an_hour_ago()

    remote = make_remote("weed")
    layout.image("a", [layout.layer(9 * MIB)])
    push = ("import", str(layout.path), "library/app")
    for is_made in (False, True):
        with monkeypatch.context() as late:
            late.setattr(_s3_bodies, "datetime", Slow)
            late.setattr(botocore.auth, "get_current_datetime", an_hour_ago)
            for command in (("ls",), ("init",), push, ("gc",)):
                assert "set the clock" in remote.fails(2, *command), command
        assert len(remote.homes()) == int(is_made)
        assert remote("init").status == 0
    assert remote(*push).status == 0
    assert remote("check", "--read-data").status == 0
    assert os.listdir(remote.homes()[0] / "spool") == []


def test_a_versioned_bucket_keeps_nothing(own_bucket: tuple[Remote, str], weed: S3Server, layout: Layout) -> None:
    """What the collector frees is gone with all its versions; nothing is left to pay for."""
    remote, bucket = own_bucket
    with sdk_of(weed) as sdk:
        sdk.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    layout.image("a", [layout.layer(1 * MIB), layout.layer(17 * MIB)])
    assert remote("import", str(layout.path), "library/app").status == 0
    assert remote("check", "--read-data").status == 0
    assert remote("rm", "library/app").status == 0
    assert remote("gc", *AT_ONCE, "--json").document()["blobs"]["freed"] == 4
    with sdk_of(weed) as sdk:
        found = sdk.list_object_versions(Bucket=bucket)
    left = {each["Key"] for each in (*found.get("Versions", ()), *found.get("DeleteMarkers", ()))}
    assert {key.split("/")[1] for key in left} <= {"blobstore.json", "journal"}


def test_a_bucket_of_another_store(make_remote: MakeRemote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose index is on another host: nothing is written to it, and nothing is kept here of it."""
    remote = make_remote("weed")
    assert remote("init").status == 0
    (tmp_path / "blob").write_bytes(b"theirs")
    assert remote("put", str(tmp_path / "blob")).status == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another-host"))
    for command in (("ls",), ("init",), ("put", str(tmp_path / "blob")), ("gc",)):
        said = remote.fails(2, *command)
        assert "other hosts" in said
        assert "index rebuild" in said
    assert not list((tmp_path / "another-host").glob("blobstore/*/index/data.mdb"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert remote("check", "--read-data", "--json").document()["blobs"]["checked"] == 1
