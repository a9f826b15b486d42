"""`import`, `export`, `ls`, `tag`, `untag`, `rm`, `du`, `stats`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Images, Layout, damage


def test_import_reports_manifests_tags_and_bytes(cli: Cli, place: Path, layout: Layout):
    """The source's own tags are kept; the store is made."""
    layer = layout.layer()
    digest = layout.image("v1", [layer])
    document = cli("import", str(layout.path), "library/app", "--json").document()
    assert document["repository"] == "library/app"
    assert [(each["digest"], each["tags"]) for each in document["manifests"]] == [(digest, ["v1"])]
    assert (document["blobs_imported"], document["blobs_skipped"], document["manifests_put"]) == (2, 0, 1)
    again = cli("import", str(layout.path), "library/app")
    assert "0 blobs imported" in again.out
    assert f"{digest}  library/app:v1" in again.out


def test_import_under_another_tag(cli: Cli, store: Path, layout: Layout):
    """REPOSITORY:TAG names the one image."""
    layout.image("v1", [layout.layer()])
    cli("import", str(layout.path), "library/app:mine")
    assert [each["tag"] for each in cli("ls", "library/app", "--json").document()["tags"]] == ["mine"]


def test_export_gives_back_what_import_took(cli: Cli, images: Images, tmp_path: Path):
    """The same manifest comes out, as a directory and as a tar; an existing destination is refused."""
    document = cli("export", "library/app:b", "out", "--json").document()
    assert document["digest"] == images.b
    assert document["blobs"] == 3
    exported = json.loads(Path("out/index.json").read_text())
    assert exported["manifests"][0]["digest"] == images.b
    assert "out.tar" in cli("export", f"library/app@{images.b}", "out.tar").out
    assert cli("export", "library/app:b", "out.tar").status == 1
    assert cli("import", "out.tar", "again:b", "--store", str(tmp_path / "second")).status == 0


def test_ls_lists_repositories(cli: Cli, images: Images):
    """One name a line."""
    assert cli("ls").out == "library/app\n"
    assert cli("ls", "--json").document() == {"repositories": ["library/app"]}


def test_ls_of_an_empty_store(cli: Cli, store: Path):
    """Nothing is no error."""
    assert cli("ls", "--json").document() == {"repositories": []}
    assert cli("ls").status == 0


def test_ls_of_a_repository_shows_digest_size_and_platform(cli: Cli, images: Images):
    """The size is that of all the image's blobs, its manifest among them."""
    tags = {each["tag"]: each for each in cli("ls", "library/app", "--json").document()["tags"]}
    assert tags["a"]["digest"] == images.a
    assert tags["a"]["platforms"] == ["linux/amd64"]
    sizes = {digest: cli("stat", digest, "--json").document()["size"] for digest in (images.a, images.b)}
    assert tags["b"]["size"] - tags["a"]["size"] == 5000 + sizes[images.b] - sizes[images.a]
    lines = cli("ls", "library/app").out.splitlines()
    assert lines[0].split() == ["TAG", "DIGEST", "SIZE", "PLATFORMS", "AGE"]
    assert lines[1].split()[:2] == ["a", images.a]


def test_ls_shows_the_other_images_when_one_is_damaged(cli: Cli, images: Images):
    """The damaged one is listed without a size."""
    damage(images.store, images.a)
    tags = {each["tag"]: each for each in cli("ls", "library/app", "--json").document()["tags"]}
    assert tags["a"]["size"] is None
    assert tags["b"]["size"] > 8000


def test_tag_points_another_tag_at_the_same_manifest(cli: Cli, images: Images):
    """By tag and by digest; a tag that exists moves."""
    first = cli("tag", "library/app:a", "stable", "--json").document()
    assert first == {"repository": "library/app", "tag": "stable", "digest": images.a}
    assert images.b in cli("tag", f"library/app@{images.b}", "stable").out


def test_untag_removes_the_tag_alone(cli: Cli, images: Images):
    """The manifest stays and can be tagged again by digest."""
    assert cli("untag", "library/app:a", "--json").document()["removed"] is True
    assert cli("untag", "library/app:a").status == 1
    assert cli("tag", f"library/app@{images.a}", "a").status == 0


def test_rm_removes_a_manifest_with_its_tags(cli: Cli, images: Images):
    """And gc frees what only it kept."""
    removed = cli("rm", f"library/app@{images.b}", "--json").document()
    assert removed == {"repository": "library/app", "digest": images.b, "removed": True}
    report = cli("gc", "--grace", "0s", "--quarantine", "0s", "--json").document()
    assert images.layer_of_b in {each["digest"] for each in report["candidates"]}
    assert cli("get", images.shared_layer, "-o", "kept").status == 0


def test_rm_removes_a_repository(cli: Cli, images: Images):
    """Everything in it is gone at once."""
    assert cli("rm", "library/app").status == 0
    assert cli("ls", "--json").document() == {"repositories": []}
    assert cli("rm", "library/app").status == 1
    assert cli("ls", "library/app").status == 1


def test_rm_of_a_tag_names_untag(cli: Cli, images: Images):
    """A tag is not a manifest: nothing is removed by guessing which was meant."""
    result = cli("rm", "library/app:a")
    assert result.status == 2
    assert "blobstore untag library/app:a" in result.err


def test_du_says_what_deleting_would_free(cli: Cli, images: Images):
    """What du says of a repository is what rm and gc then free."""
    document = cli("du", "--json").document()
    (usage,) = document["repositories"]
    assert usage["repository"] == "library/app"
    assert usage["unique"] == usage["logical"] == usage["frees"] == document["total"]["bytes"]
    cli("rm", "library/app")
    freed = cli("gc", "--grace", "0s", "--quarantine", "0s", "--json").document()["bytes"]["freed"]
    assert freed == usage["frees"]


def test_du_of_a_repository_shows_its_tags(cli: Cli, images: Images):
    """A layer two tags share is unique to neither."""
    (usage,) = cli("du", "library/app", "--json").document()["repositories"]
    tags = {each["tag"]: each for each in usage["tags"]}
    assert tags["b"]["unique"] > 5000 > tags["a"]["unique"]
    assert tags["b"]["shared"] == 3000
    text = cli("du", "library/app").out
    assert "  :a" in text
    assert "DELETING FREES" in text


def test_du_of_an_unknown_repository_fails(cli: Cli, store: Path):
    """It is not shown as empty."""
    result = cli("du", "no/such")
    assert result.status == 1
    assert result.err.count("\n") == 1


def test_stats_counts_what_the_store_holds(cli: Cli, images: Images):
    """Bytes pushed count a blob each time it comes; bytes stored once."""
    document = cli("stats", "--json").document()
    assert (document["blobs"], document["manifests"], document["tags"], document["repositories"]) == (6, 2, 2, 1)
    assert document["bytes_stored"] == cli("du", "--json").document()["total"]["bytes"]
    assert document["garbage"] == {"blobs": 0, "bytes": 0}
    assert document["uploads"] == 0
    assert document["ratio"] == pytest.approx(document["bytes_pushed"] / document["bytes_stored"], abs=0.001)
    cli("rm", f"library/app@{images.b}")
    assert cli("stats", "--json").document()["garbage"]["blobs"] == 3
    assert "bytes stored:" in cli("stats").out
