"""URLs of stores: what they mean, and what doesn't belong in one."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from blobstore.errors import ConfigInvalid
from blobstore.locations import (
    FilesystemLocation,
    NasLocation,
    OssLocation,
    S3Location,
    StoreLocation,
    parse_index_url,
    parse_store_url,
)
from blobstore.remote import state_home


@pytest.mark.parametrize(
    ("url", "location"),
    [
        ("/srv/x", FilesystemLocation("/srv/x")),
        ("/srv/s3:x", FilesystemLocation("/srv/s3:x")),
        ("file:///srv/x", FilesystemLocation("/srv/x")),
        ("nas:///mnt/share/registry", NasLocation("/mnt/share/registry")),
        ("NAS://localhost/mnt/a%20b", NasLocation("/mnt/a b")),
        ("s3://bucket", S3Location("bucket", "")),
        ("s3://bucket/", S3Location("bucket", "")),
        ("S3://my.bucket-1/a/b_c/", S3Location("my.bucket-1", "a/b_c")),
        ("oss://bucket/registry", OssLocation("bucket", "registry")),
    ],
)
def test_what_urls_mean(url: str, location: StoreLocation):
    """The scheme in any case; a slash at the end says nothing."""
    assert parse_store_url(url) == location


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://", "there is no bucket in it"),
        ("s3:///prefix", "there is no bucket in it"),
        ("s3://bucket//prefix", "can't be the prefix"),
        ("s3://bucket/../other", "can't be the prefix"),
        ("s3://bucket/.hidden", "can't be the prefix"),
        ("s3://bucket/a b", "can't be the prefix"),
        (f"s3://bucket/{'x' * 301}", "can't be the prefix"),
        ("s3://b%20c/", "is no name of a bucket"),
        ("oss://bucket.example.org:9000/x", "`endpoint` of the table [oss]"),
        (
            "nas://server/share",
            "write nas:///absolute/path, with three slashes, the directory where the share is mounted",
        ),
        ("nas:///mnt/x?y", "%3F"),
        ("gs://bucket", "is no kind of store; use a path, file:///path, nas:///path, s3://bucket/prefix or oss://"),
        ("", "empty"),
        ("s3:/bucket/prefix", "write s3://"),
        ("oss:bucket", "or ./ in front of a path of that name"),
        ("file:/srv/x", "write file://"),
        ("nas:x", "write nas://"),
    ],
)
def test_what_no_url_may_be(url: str, said: str):
    """One sentence that says what to write."""
    with pytest.raises(ConfigInvalid) as caught:
        parse_store_url(url)
    assert said in str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "oss"])
@pytest.mark.parametrize("rest", ["key:TOPSECRET@bucket/x", "bucket/x?secret_key=TOPSECRET", "bucket#TOPSECRET"])
def test_a_secret_in_a_url_is_refused_and_not_repeated(scheme: str, rest: str):
    """It would be in every list of processes and in our own message."""
    with pytest.raises(ConfigInvalid) as caught:
        parse_store_url(f"{scheme}://{rest}")
    assert "TOPSECRET" not in str(caught.value)
    assert f"[{scheme}]" in str(caught.value)


@pytest.mark.parametrize("parse", [parse_store_url, parse_index_url])
@pytest.mark.parametrize(
    "url",
    [
        "https://key:TOPSECRET@minio.example.org:9000/bucket",
        "https://bucket.example.org/x?X-Amz-Signature=TOPSECRET",
        "nas://me:TOPSECRET@server/share",
        "file://me:TOPSECRET@server/share",
        "lmdb://me:TOPSECRET@server/x",
        "s3:key:TOPSECRET@bucket",
    ],
)
def test_a_secret_in_what_is_no_url_of_ours_is_not_repeated(parse: Callable[[str], object], url: str):
    """As other programs take their URLs."""
    with pytest.raises(ConfigInvalid) as caught:
        parse(url)
    assert "TOPSECRET" not in str(caught.value)
    assert url.partition(":")[0] in str(caught.value)


def test_where_a_host_keeps_its_own(monkeypatch: pytest.MonkeyPatch):
    """As the XDG Base Directory Specification has it: a relative directory counts as none."""
    monkeypatch.setenv("HOME", "/home/x")
    for value, directory in (
        ("/var/state", "/var/state"),
        ("state", "/home/x/.local/state"),
        ("", "/home/x/.local/state"),
    ):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert state_home() == os.path.join(directory, "blobstore")
