"""`init`, `put`, `get`, `stat`, `unpin`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from blobstore.cli import run
from tests.cli.conftest import Cli, damage

BIG = bytes(range(256)) * 4096 * 3


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    path = tmp_path / "blob"
    path.write_bytes(BIG)
    return path


def test_init_makes_a_store_and_says_where(cli: Cli, place: Path):
    """The first init makes, the second finds."""
    made = cli("init", "--json").document()
    assert made == {"store": str(place), "store_id": made["store_id"], "created": True}
    again = cli("init", "--json").document()
    assert again == {**made, "created": False}
    assert str(place) in cli("init").out
    assert cli("init", "--quiet") == (0, "", "")


def test_put_prints_the_digest_and_pins(cli: Cli, place: Path, blob: Path):
    """Standard output is the digest alone, as scripts read it; the store is made if there is none."""
    assert cli("put", str(blob)) == (0, digest_of(BIG) + "\n", "")
    held = cli("stat", digest_of(BIG), "--json").document()
    assert held["holds"] == [{"repository": None, "pin": True, "lapses_at": None, "lapsed": False}]
    assert place.is_dir()


def test_put_into_a_repository_promises_instead_of_pinning(cli: Cli, store: Path, blob: Path):
    """The JSON says whose the blob is and whether it was there before."""
    first = cli("put", str(blob), "--repository", "library/app", "--json").document()
    assert first == {
        "digest": digest_of(BIG),
        "size": len(BIG),
        "repository": "library/app",
        "pinned": False,
        "was_present": False,
    }
    assert cli("put", str(blob), "--repository", "library/app", "--json").document()["was_present"]
    held = cli("stat", digest_of(BIG), "--json").document()
    assert held["repositories"] == ["library/app"]
    assert held["holds"][0]["lapses_at"]


def test_put_of_an_empty_file(cli: Cli, store: Path, tmp_path: Path):
    """Nothing is a blob too."""
    (tmp_path / "empty").touch()
    assert cli("put", str(tmp_path / "empty")).out.strip() == digest_of(b"")
    assert cli("get", digest_of(b""), "-o", "out").status == 0
    assert Path("out").read_bytes() == b""


def test_get_writes_exactly_the_bytes_to_standard_output(place: Path, blob: Path, capfdbinary):
    """Nothing but the blob."""
    assert run(["put", str(blob), "--quiet"]) == 0
    capfdbinary.readouterr()
    assert run(["get", digest_of(BIG)]) == 0
    assert capfdbinary.readouterr() == (BIG, b"")


def test_get_into_a_file_replaces_it_whole(cli: Cli, store: Path, blob: Path):
    """A file gets the blob's bytes, and a link stays one."""
    cli("put", str(blob))
    Path("real").write_text("old")
    Path("link").symlink_to("real")
    assert cli("get", digest_of(BIG), "-o", "link") == (0, "", "")
    assert Path("link").is_symlink()
    assert Path("real").read_bytes() == BIG
    assert sorted(path.name for path in Path().iterdir()) == ["link", "real"]


def test_get_of_a_damaged_blob_leaves_no_file(cli: Cli, store: Path, blob: Path):
    """One line says what is wrong; neither a half file nor a temporary one stays."""
    cli("put", str(blob))
    damage(store, digest_of(BIG))
    result = cli("get", digest_of(BIG), "-o", "out")
    assert (result.status, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert "damaged" in result.err
    assert list(Path().iterdir()) == []


def test_get_of_a_damaged_blob_keeps_the_file_that_was_there(cli: Cli, store: Path, blob: Path):
    """What a failed command was to replace stays as it was."""
    cli("put", str(blob))
    damage(store, digest_of(BIG))
    Path("out").write_text("old")
    assert cli("get", digest_of(BIG), "-o", "out").status == 1
    assert Path("out").read_text() == "old"
    assert [path.name for path in Path().iterdir()] == ["out"]


def test_get_writes_into_a_device_instead_of_replacing_it(cli: Cli, store: Path, blob: Path):
    """`-o /dev/null` leaves /dev/null a device."""
    cli("put", str(blob))
    assert cli("get", digest_of(BIG), "-o", "/dev/null") == (0, "", "")
    assert Path("/dev/null").is_char_device()


def test_stat_shows_size_state_and_hashes(cli: Cli, store: Path, blob: Path):
    """For people the same as in JSON."""
    cli("put", str(blob))
    document = cli("stat", digest_of(BIG), "--json").document()
    assert document["size"] == len(BIG)
    assert document["state"] == "present"
    assert len(document["blake3"]) == 64
    assert document["manifests"] == 0
    text = cli("stat", digest_of(BIG)).out
    assert "3.0 MiB (3145728 bytes)" in text
    assert document["blake3"] in text


def test_stat_finds_a_blob_by_its_blake3_only_if_a_client_used_it(cli: Cli, store: Path, blob: Path):
    """A digest nobody used is unknown: exit 1, one line."""
    cli("put", str(blob))
    result = cli("stat", "blake3:" + "0" * 64)
    assert result.status == 1
    assert result.err.startswith("blobstore: error: no blob blake3:")


def test_unpin_lets_go_so_that_gc_frees_the_blob(cli: Cli, store: Path, blob: Path):
    """A pinned blob survives any collection; an unpinned one doesn't."""
    cli("put", str(blob))
    gc = ("gc", "--grace", "0s", "--quarantine", "0s", "--json")
    assert cli(*gc).document()["blobs"]["freed"] == 0
    assert cli("unpin", digest_of(BIG), "--json").document() == {"digest": digest_of(BIG), "pinned": False}
    assert cli(*gc).document()["blobs"]["freed"] == 1
    assert cli("stat", digest_of(BIG)).status == 1
    assert cli("unpin", digest_of(BIG)).status == 1


def test_quiet_leaves_only_what_was_asked_for(cli: Cli, store: Path, blob: Path):
    """The digest of `put` was asked for; the remark of `unpin` was not."""
    assert cli("put", "--quiet", str(blob)).out == digest_of(BIG) + "\n"
    assert cli("unpin", "--quiet", digest_of(BIG)) == (0, "", "")


def test_options_may_stand_before_the_command(cli: Cli, store: Path, tmp_path: Path, blob: Path):
    """Before, behind, and with `=`."""
    other = str(tmp_path / "other")
    assert cli("--store", other, "--json", "init").document()["store"] == other
    assert json.loads(cli("--json", "put", str(blob), f"--store={other}").out)["digest"] == digest_of(BIG)
    assert json.loads(cli(f"--store={other}", "--json", "gc", "runs").out) == {"runs": []}
    assert cli("stat", digest_of(BIG)).status == 1
