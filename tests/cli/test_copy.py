"""`copy`: one store into another, from the command line."""

import contextlib
import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blobstore.cli._progress import ProgressLines
from blobstore.events import Progress
from blobstore.testing.fakes import FakeClock
from tests.cli.conftest import Cli, Images, Layout, damage, file_of
from tests.store.pushing import small_disk

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


def test_a_store_is_copied(cli: Cli, images: Images, target: Path) -> None:
    """The target is made; its tags have the dates of the source; it is whole."""
    result = cli("copy", str(images.store), str(target))
    assert result.status == 0, result.err
    assert "copied 4 blobs, 2 manifests, 2 tags" in result.out
    assert result.err == ""
    listed = [cli("ls", "library/app", "--store", str(each), "--json").document() for each in (images.store, target)]
    assert listed[0] == listed[1]
    assert cli("check", "--read-data", "--store", str(target)).status == 0
    again = cli("copy", str(images.store), str(target))
    assert "copied 0 blobs, 0 manifests, 0 tags (0 B); 4 blobs and 2 manifests there before" in again.out


def test_the_report_as_json(cli: Cli, images: Images, target: Path) -> None:
    """Everything that differs, by name."""
    cli("copy", str(images.store), str(target))
    cli("tag", f"library/app@{images.a}", "c")
    cli("untag", "library/app:b")
    cli("tag", f"library/app@{images.b}", "a", "--store", str(target))
    document = cli("copy", str(images.store), str(target), "--json").document()
    assert document["complete"] is True
    assert (document["blobs_copied"], document["blobs_present"], document["manifests_present"]) == (0, 4, 2)
    assert document["tags_copied"] == 1
    assert [(each["tag"], each["source"], each["target"]) for each in document["tags_newer"]] == [
        ("a", images.a, images.b)
    ]
    assert [each["tag"] for each in document["tags_extra"]] == ["b"]
    assert document["extra_deleted"] is False
    said = cli("copy", str(images.store), str(target)).out
    assert "library/app:a  left as it is: moved at the target later than at the source" in said
    assert "library/app:b  only at the target" in said
    would = cli("copy", "--delete", "--dry-run", str(images.store), str(target)).out
    assert "library/app:b  would be deleted, as only the target had it" in would
    deleted = cli("copy", "--delete", str(images.store), str(target), "--json").document()
    assert deleted["extra_deleted"] is True
    tags = cli("ls", "library/app", "--store", str(target), "--json").document()["tags"]
    assert [each["tag"] for each in tags] == ["a", "c"]


def test_a_dry_run_makes_no_store(cli: Cli, images: Images, target: Path) -> None:
    """It says what would be copied."""
    document = cli("copy", "--dry-run", str(images.store), str(target), "--json").document()
    assert (document["dry_run"], document["blobs_copied"], document["manifests_copied"]) == (True, 4, 2)
    assert document["target"] == str(target)
    assert not target.exists()
    assert "would copy 4 blobs, 2 manifests, 2 tags" in cli("copy", "--dry-run", str(images.store), str(target)).out
    assert not target.exists()


def test_quiet_says_nothing(cli: Cli, images: Images, target: Path) -> None:
    """Neither where it went well nor how far it is."""
    assert cli("copy", "--quiet", str(images.store), str(target)) == (0, "", "")


def test_damage_is_told_and_the_rest_is_copied(cli: Cli, images: Images, target: Path) -> None:
    """Exit status 1; the blob and the manifest that needs it are named once each, also with --quiet."""
    damage(images.store, images.layer_of_b)
    for options in ([], ["--quiet"]):
        result = cli("copy", *options, str(images.store), str(target))
        assert result.status == 1
        lines = result.err.splitlines()
        assert len(lines) == 2
        assert images.layer_of_b in lines[0]
        assert f"library/app@{images.b} was left out" in lines[1]
    tags = cli("ls", "library/app", "--store", str(target), "--json").document()["tags"]
    assert [each["tag"] for each in tags] == ["a"]
    assert cli("get", images.layer_of_b, "--store", str(target), "-o", str(target.parent / "x")).status == 1


@pytest.mark.parametrize("which", ["absent", "a file"])
def test_no_target_is_made_for_a_mistyped_source(cli: Cli, tmp_path: Path, target: Path, which: str) -> None:
    """The source is opened first."""
    if which == "a file":
        (tmp_path / "wrong").write_text("x")
    result = cli("copy", str(tmp_path / "wrong"), str(target))
    assert result.status == 2
    assert str(tmp_path / "wrong") in result.err
    assert not target.exists()


def test_one_store_is_not_two(cli: Cli, images: Images, tmp_path: Path) -> None:
    """Also under another name."""
    (tmp_path / "link").symlink_to(images.store)
    for other in (str(images.store), f"file://{images.store}", str(tmp_path / "link")):
        result = cli("copy", str(images.store), other)
        assert result.status == 2
        assert "the same store" in result.err


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ({"format": 99}, "has format version 99; this version of blobstore knows 1"),
        ({"state": "rebuilding"}, "was begun and not finished"),
        ({"index_id": "0" * 32}, "belongs to index"),
    ],
)
@pytest.mark.parametrize("which", ["source", "target"])
def test_a_store_that_is_not_to_be_used_is_refused(
    cli: Cli, images: Images, target: Path, which: str, marker: dict[str, object], said: str
) -> None:
    """A newer format, half a rebuild, another host's index: it is said which of the two it is, and nothing is written."""
    assert cli("init", "--store", str(target)).status == 0
    path = (images.store if which == "source" else target) / "blobstore.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **marker}))
    result = cli("copy", str(images.store), str(target))
    assert result.status != 0
    assert f"the {which} '{path.parent}': " in result.err
    assert said in result.err
    assert _files(target) == 0


def test_a_directory_of_something_else_is_no_target(cli: Cli, images: Images, target: Path) -> None:
    """Nothing is put among other people's files."""
    target.mkdir()
    (target / "file").write_text("x")
    result = cli("copy", str(images.store), str(target))
    assert result.status == 2
    assert "is no store and not empty" in result.err
    assert os.listdir(target) == ["file"]


def test_files_copied_by_hand_are_no_second_store(cli: Cli, images: Images, target: Path) -> None:
    """They have the id of the first: the two would write over each other's names."""
    shutil.copytree(images.store, target)
    result = cli("copy", str(images.store), str(target))
    assert result.status == 2
    assert "are the same store, as both have the id" in result.err


def test_a_terminal_sees_how_far_it_is_and_a_script_does_not(images: Images, target: Path) -> None:
    """A bar with the time that is left, on standard error; with --json nothing."""
    shown = {}
    for options in ((), ("--json",)):
        leader, follower = pty.openpty()
        command = [sys.executable, "-m", "blobstore", "copy", *options, str(images.store), str(target)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=follower) as process:
            os.close(follower)
            read = b""
            with contextlib.suppress(OSError):
                while data := os.read(leader, 65536):
                    read += data
        os.close(leader)
        assert process.returncode == 0
        shown[options] = read
    assert b"copy" in shown[()]
    assert b"left:" in shown[()]
    assert shown["--json",] == b""


def test_store_is_no_option_of_copy(cli: Cli, images: Images, target: Path) -> None:
    """Both are arguments."""
    result = cli("copy", "--store", str(images.store), str(images.store), str(target))
    assert result.status == 2
    assert "--store" in result.err


def test_each_store_has_its_index_and_configuration(cli: Cli, images: Images, tmp_path: Path, target: Path) -> None:
    """`--index` and `--config` are the source's; the target's configuration is the same unless it is named."""
    os.rename(images.store / "index", tmp_path / "index")
    (tmp_path / "good.toml").write_text('[gc]\ngrace = "48h"\n')
    (tmp_path / "bad.toml").write_text("[gc]\ngrace = 3\n")
    options = ["--index", str(tmp_path / "index"), "--to-index", str(tmp_path / "target-index")]
    assert cli("copy", *options, "--config", str(tmp_path / "bad.toml"), str(images.store), str(target)).status == 2
    bad = ["--config", str(tmp_path / "good.toml"), "--to-config", str(tmp_path / "bad.toml")]
    result = cli("copy", *options, *bad, str(images.store), str(target))
    assert result.status == 2
    assert "bad.toml" in result.err
    assert cli("copy", *options, "--config", str(tmp_path / "good.toml"), str(images.store), str(target)).status == 0
    assert not (target / "index").exists()
    assert (tmp_path / "target-index").is_dir()


def test_a_full_target_is_told(cli: Cli, store: Path, layout: Layout, tmp_path: Path) -> None:
    """One line, status 1; what fitted stays, and the copy to a larger one is whole."""
    layout.image("big", [layout.layer(64 * MIB)])
    layout.image("small", [layout.layer()])
    assert cli("import", str(layout.path), "app").status == 0
    disk = small_disk(tmp_path, "48m")
    try:
        result = cli("copy", str(store), str(disk / "target"))
        assert result.status == 1
        assert "space" in result.err
        assert cli("check", "--store", str(disk / "target")).status == 0
        subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
        assert cli("copy", str(store), str(disk / "target")).status == 0
        assert cli("check", "--read-data", "--store", str(disk / "target")).status == 0
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def test_a_killed_copy_goes_on(cli: Cli, store: Path, layout: Layout, tmp_path: Path, target: Path) -> None:
    """Killed with signal 9 at many moments, a collection of the target in between; then one run, and all is there and whole."""
    for number in range(30):
        layout.image(f"v{number}", [layout.layer(20_000), layout.layer(1_100_000)])
    assert cli("import", str(layout.path), "app").status == 0
    command = [sys.executable, "-m", "blobstore", "copy", str(store), str(target)]
    killed = 0
    for more in (1, 2, 4, 8, 16):
        before = _files(target)
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and _files(target) < before + more:
                # Looking costs the processor that it needs.
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += process.returncode == -signal.SIGKILL
        if (target / "blobstore.json").exists():
            assert cli("gc", "--store", str(target)).status == 0
            assert cli("check", "--store", str(target)).status == 0
    assert killed >= 4
    there = cli("stats", "--store", str(target), "--json").document()["blobs"]
    assert 0 < there < 120
    document = cli("copy", str(store), str(target), "--json").document()
    assert document["blobs_present"] > 0
    assert document["blobs_copied"] + document["manifests_copied"] == 120 - there
    for each in (store, target):
        assert cli("check", "--read-data", "--store", str(each)).status == 0
    listed = [cli("ls", "app", "--store", str(each), "--json").document() for each in (store, target)]
    assert listed[0] == listed[1]


def _files(target: Path) -> int:
    return sum(1 for _ in target.glob("blobs/sha256/*/*"))


def test_progress_is_told_in_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """One each ten seconds, with the speed so far and the time left."""
    clock = FakeClock()
    lines = ProgressLines("copy", clock)
    for second in range(1, 26):
        clock.advance(1000)
        lines.show(Progress("copy", second * 10 * MIB, 1000 * MIB))
        lines.show(Progress("compare", second, 0))
    assert capsys.readouterr().err.splitlines() == [
        "copy: 100.0 MiB of 1000.0 MiB, 10.0 MiB/s, 90s left",
        "copy: 200.0 MiB of 1000.0 MiB, 10.0 MiB/s, 80s left",
    ]
    lines = ProgressLines("copy", clock)
    clock.advance(10_000)
    lines.show(Progress("copy", MIB, 230 * MIB))
    assert "38m left" in capsys.readouterr().err


def test_a_copied_blob_has_its_bytes(cli: Cli, images: Images, target: Path) -> None:
    """Byte for byte."""
    assert cli("copy", str(images.store), str(target)).status == 0
    digests = [
        hashlib.sha256(file_of(each, images.shared_layer).read_bytes()).hexdigest() for each in (images.store, target)
    ]
    assert digests == [images.shared_layer.partition(":")[2]] * 2
    assert json.loads((target / "blobstore.json").read_text()) != json.loads(
        (images.store / "blobstore.json").read_text()
    )
