"""The configuration file, and what goes before what."""

from __future__ import annotations

from pathlib import Path

import pytest

from blobstore.config import load_config, read_secret
from blobstore.errors import ConfigInvalid
from tests.cli.conftest import Cli, Images


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('stroe = "x"', "the key stroe is unknown; remove it, or use one of store, index, gc"),
        ('[gc]\ngrase = "1h"', "the key gc.grase is unknown; remove it, or use one of grace, quarantine"),
        ("store = 1", "the key store can't be used: expected text in quotes, got `int`"),
        ('gc = "x"', "the key gc can't be used: expected a table, written [gc], got `str`"),
        ("[gc]\ngrace = 3600", "the key gc.grace can't be used: expected text in quotes, got `int`"),
        ('[gc]\ngrace = "1w"', "the key gc.grace can't be used: '1w' is not a duration"),
        ('[gc]\ndelete_untagged = "yes"', "the key gc.delete_untagged can't be used: expected true or false"),
        ("[gc]\nmax_share = 2.0", "the key gc.max_share must be between 0 and 1, not 2"),
        ('[s3]\nbucket = "x"', "the key s3.bucket is unknown; remove it, or use one of part_size, part_memory"),
        ('[s3]\nsecret_key = "x"', "the key s3.secret_key is unknown, as secrets don't belong here; name a file"),
        ('[oss]\naccess_key_secret = "x"', "name a file that holds it in oss.access_key_secret_file"),
        ('[s3]\npart_size = "8MB"', "the key s3.part_size can't be used: '8MB' is not a size"),
        ('[s3]\npath_style = "no"', "the key s3.path_style can't be used: expected true or false, got `str`"),
        ('[s3]\nencryption = "rot13"', "invalid enum value 'rot13'; use one of AES256, aws:kms, aws:kms:dsse"),
        ('[oss]\nconcurrency = "4"', "the key oss.concurrency can't be used: expected a whole number, got `str`"),
        ("[oss]\nattempts = 0", "the key oss.attempts must be between 1 and 1000, not 0"),
        ('[oss]\nread_timeout = "60"', "the key oss.read_timeout can't be used: '60' is not a duration"),
        ('[s3]\nconnect_timeout = "0s"', "the key s3.connect_timeout must be more than 0s"),
        ("[nas]\nsoft = true", "the key nas.soft is unknown; remove it, or use one of concurrency"),
        ("s3 = 1", "the key s3 can't be used: expected a table, written [s3], got `int`"),
        ("store = ", "is not TOML"),
        ("\udcff", "is not TOML"),
    ],
)
def test_an_error_names_the_file_the_key_and_what_to_do(tmp_path: Path, text: str, said: str):
    """One sentence for each mistake."""
    path = tmp_path / "blobstore.toml"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigInvalid) as caught:
        load_config(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_paths_in_the_file_are_relative_to_it(tmp_path: Path):
    """The store doesn't depend on where the command runs; URLs stay as they are."""
    path = tmp_path / "blobstore.toml"
    path.write_text('store = "data"\nindex = "lmdb:///i"')
    config = load_config(str(path))
    assert config.store == str(tmp_path / "data")
    assert config.index == "lmdb:///i"
    path.write_text('store = "s3://b/p"\n[s3]\nsecret_key_file = "secret"\nca_bundle = "/etc/ca.pem"')
    config = load_config(str(path))
    assert config.store == "s3://b/p"
    assert (config.s3.secret_key_file, config.s3.ca_bundle) == (str(tmp_path / "secret"), "/etc/ca.pem")


@pytest.mark.parametrize("text", ['store = "s3:/bucket/prefix"', 'index = "lmdb:/index"'])
def test_a_slash_forgotten_in_the_file_makes_no_directory_of_that_name(cli: Cli, tmp_path: Path, text: str):
    """It is refused, as it is on the command line."""
    path = tmp_path / "blobstore.toml"
    path.write_text(text)
    result = cli("init", "--config", str(path), *(["--store", str(tmp_path / "s")] if "index" in text else []))
    assert result.status == 2
    assert "for a URL, or ./ in front of a path of that name" in result.err
    assert list(tmp_path.glob("*:*")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('endpoint = "example.org"', "s3.endpoint: 'example.org' is no endpoint; write https://host"),
        ('endpoint = ""', "s3.endpoint: '' is no endpoint"),
        ('presign_endpoint = "example.org"', "s3.presign_endpoint: 'example.org' is no endpoint"),
        ('endpoint = "ftp://x"', "'ftp://x' is no endpoint"),
        ('endpoint = "http://me:secret@x"', "s3.endpoint: it is no endpoint"),
        ('endpoint = "http://x/?token=TOPSECRET"', "s3.endpoint: it is no endpoint"),
        ('ca_bundle = "missing.pem"', "missing.pem"),
        ('kms_key_id = "x"', 's3.kms_key_id is of use with s3.encryption = "aws:kms"'),
        ('storage_class = "GLACIER"', "what is in GLACIER can't be read"),
        ('access_key = "x"', "s3.access_key and s3.secret_key_file go together"),
        ('part_size = "1MiB"', "part_size must be between 5MiB and 1GiB, not 1MiB"),
    ],
)
def test_a_value_that_no_bucket_is_reached_with_is_told(cli: Cli, tmp_path: Path, text: str, said: str):
    """Before anybody is asked: 2, and the value, unless it holds a secret."""
    path = tmp_path / "blobstore.toml"
    path.write_text(f"[s3]\n{text}\n")
    result = cli("ls", "--store", "s3://bucket/prefix", "--config", str(path))
    assert (result.status, result.out) == (2, "")
    assert said in result.err
    assert "secret@" not in result.err
    assert "TOPSECRET" not in result.err


@pytest.mark.parametrize("content", [None, b"", b" \n", b"\xff"])
def test_a_secret_that_a_file_does_not_hold_is_refused(tmp_path: Path, content: bytes | None):
    """Not there, empty, or no text."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match="secret"):
        read_secret(str(path))
    path.write_text("s3cret\n")
    assert read_secret(str(path)) == "s3cret"


def test_the_command_line_goes_before_environment_before_file_before_default(
    cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch
):
    """Each is used when those before it say nothing."""
    Path("c.toml").write_text('store = "from-file"')
    from_file = ("init", "--config", "c.toml", "--json")
    assert cli(*from_file, "--store", "from-line").document()["store"].endswith("work/from-line")
    assert cli(*from_file).document()["store"] == str(place)
    monkeypatch.setenv("BLOBSTORE_STORE", "")
    assert cli(*from_file).document()["store"].endswith("work/from-file")
    assert cli("init", "--json").document()["store"].endswith("work/blobstore-data")


def test_the_index_may_be_elsewhere(cli: Cli, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """By option or environment; without it the store's index is missing, not made anew."""
    monkeypatch.setenv("BLOBSTORE_INDEX", f"lmdb://{tmp_path}/elsewhere")
    assert cli("init").status == 0
    assert (tmp_path / "elsewhere" / "data.mdb").exists()
    monkeypatch.delenv("BLOBSTORE_INDEX")
    assert cli("ls").status == 2
    assert cli("ls", "--index", f"lmdb://{tmp_path}/elsewhere").status == 0


def test_the_policy_of_the_file_is_used(cli: Cli, images: Images):
    """Unless the command line says otherwise, also to switch something off."""
    Path("c.toml").write_text('[gc]\ngrace = "7d"\nquarantine = "0s"\ndelete_untagged = true\nmax_share = 1')
    gc = ("gc", "--dry-run", "--json", "--config", "c.toml")
    policy = cli(*gc).document()["policy"]
    assert policy == {"grace_s": 7 * 24 * 3600, "quarantine_s": 0, "delete_untagged": True}
    changed = cli(*gc, "--grace", "90s", "--no-delete-untagged").document()["policy"]
    assert changed == {"grace_s": 90, "quarantine_s": 0, "delete_untagged": False}
