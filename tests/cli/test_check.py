"""`check` and `index rebuild`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.cli.conftest import Cli, Images, damage, file_of


def test_check_of_a_sound_store_finds_nothing(cli: Cli, images: Images):
    """Exit 0, and the counts."""
    document = cli("check", "--read-data", "--json").document()
    assert document["ok"] is True
    assert document["files"]["listed"] == document["blobs"]["checked"] == document["read"]["blobs"] == 6
    assert "no damage found" in cli("check").out
    assert cli("check", "--quiet") == (0, "", "")


def test_check_finds_a_missing_blob(cli: Cli, images: Images):
    """Exit 1, the digest on standard output, nothing on standard error; it stays a finding until it is pushed anew."""
    file_of(images.store, images.layer_of_b).unlink()
    result = cli("check", "--json")
    assert (result.status, result.err) == (1, "")
    assert json.loads(result.out)["blobs"]["missing"] == [images.layer_of_b]
    again = cli("check")
    assert again.status == 1
    assert images.layer_of_b in again.out


def test_check_with_data_finds_a_damaged_blob(cli: Cli, images: Images, layout):
    """Sizes alone don't tell; a push heals it."""
    damage(images.store, images.layer_of_b)
    assert cli("check").status == 0
    result = cli("check", "--read-data", "--json")
    assert result.status == 1
    assert json.loads(result.out)["read"]["damaged"] == [images.layer_of_b]
    assert cli("import", str(layout.path), "library/app").status == 0
    assert cli("check", "--read-data").status == 0


def test_check_reports_foreign_files_without_touching_them(cli: Cli, images: Images):
    """They are no damage."""
    stranger = images.store / "blobs" / "sha256" / "00" / "README"
    stranger.write_text("hello")
    document = cli("check", "--json").document()
    assert document["files"]["unknown_names"] == 1
    assert stranger.exists()


def test_rebuild_makes_a_new_index_of_a_store_that_lost_it(cli: Cli, images: Images):
    """Other commands refuse and name the rebuild; afterwards all is there."""
    shutil.rmtree(images.store / "index")
    refused = cli("ls")
    assert refused.status == 2
    assert "index rebuild" in refused.err
    document = cli("index", "rebuild", "--json").document()
    assert (document["blobs"], document["manifests"], document["tags"], document["problems"]) == (6, 2, 2, [])
    assert cli("export", "library/app:b", "out").status == 0
    assert cli("check", "--read-data").status == 0


def test_rebuild_reports_what_is_lost(cli: Cli, images: Images):
    """Exit 1 and a sentence for each."""
    file_of(images.store, images.layer_of_b).unlink()
    shutil.rmtree(images.store / "index")
    result = cli("index", "rebuild")
    assert result.status == 1
    assert images.layer_of_b in result.out


def test_rebuild_where_no_store_is_makes_nothing(cli: Cli, tmp_path: Path):
    """Neither a directory nor a lock, wherever the index would be."""
    index = f"lmdb://{tmp_path}/indexes/one"
    assert cli("index", "rebuild", "--store", str(tmp_path / "none"), "--index", index).status == 2
    assert list(tmp_path.iterdir()) == []


def test_a_collection_right_after_a_rebuild_is_refused(cli: Cli, images: Images):
    """Exit 1, one line with the time until when; the guard's alarm is not said twice."""
    assert cli("index", "rebuild").status == 0
    result = cli("gc")
    assert (result.status, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert "nothing is condemned for one grace, until 20" in result.err
