"""`gc`, `gc explain`, `gc undo`, `gc runs`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, Images

AT_ONCE = ("--grace", "0s", "--quarantine", "0s")
KEYS = {
    "run", "dry_run", "full", "policy", "blobs", "bytes", "manifests", "drops", "candidates", "due", "later",
    "abandoned_uploads", "seconds",
}  # fmt: skip


def names(report: dict) -> set[str]:
    return {each["digest"] for each in report["candidates"] + report["due"]}


def present(store: Path) -> set[str]:
    """The digests of all blob files, whatever the index says."""
    return {f"sha256:{part}" for path in store.glob("blobs/**/*") for part in path.name.split(".") if len(part) == 64}


def test_json_of_a_run_and_of_a_dry_run_has_the_documented_shape(cli: Cli, images: Images):
    """Every key of the contract is there, and the four kinds of blobs add up to all."""
    for arguments in (["gc", "--dry-run", "--json"], ["gc", "--json"]):
        report = cli(*arguments).document()
        assert set(report) >= KEYS
        assert report["dry_run"] is ("--dry-run" in arguments)
        blobs = report["blobs"]
        assert blobs["total"] == blobs["live"] + blobs["held"] + blobs["candidates"] + blobs["waiting"] == 6


def test_a_dry_run_names_exactly_what_a_run_frees(cli: Cli, images: Images):
    """What it names is gone afterwards, all else is there; the dry run itself changed nothing."""
    cli("untag", "library/app:b")
    before = present(images.store)
    dry = cli("gc", "--dry-run", "--delete-untagged", *AT_ONCE, "--json").document()
    assert present(images.store) == before
    assert cli("gc", "runs", "--json").document() == {"runs": []}
    run = cli("gc", "--delete-untagged", *AT_ONCE, "--json").document()
    assert names(dry) == names(run) == before - present(images.store)
    assert len(names(dry)) == dry["blobs"]["freed"] == run["blobs"]["freed"] == 3
    assert dry["bytes"]["freed"] == run["bytes"]["freed"]
    assert dry["drops"] == run["drops"] == [{"repository": "library/app", "digest": images.b, "reason": "untagged"}]


def test_a_run_for_people_names_the_flag_that_untagged_manifests_need(cli: Cli, images: Images):
    """How many there are, what they keep, and how to let go."""
    cli("untag", "library/app:b")
    assert "1 untagged manifest is younger than the grace of 24h" in cli("gc").out
    text = cli("gc", "--grace", "0s").out
    assert "1 untagged manifest keeps 5." in text
    assert "--delete-untagged" in text


def test_a_run_that_frees_nothing_says_until_when_blobs_are_held(cli: Cli, images: Images):
    """A person who just deleted something learns when it goes."""
    cli("rm", f"library/app@{images.b}")
    text = cli("gc").out
    assert "3 blobs (5." in text
    assert "are held until 20" in text


def test_condemned_blobs_come_back_by_undo(cli: Cli, images: Images):
    """The run says how; undo brings manifests and blobs back."""
    cli("untag", "library/app:b")
    text = cli("gc", "--delete-untagged", "--grace", "0s").out
    (record,) = cli("gc", "runs", "--json").document()["runs"]
    assert f"`blobstore gc undo {record['run']}`" in text
    undone = cli("gc", "undo", record["run"], "--json").document()
    assert undone["manifests"] == [f"library/app@{images.b}"]
    assert set(undone) == {"blobs", "too_late", "manifests", "manifests_lost"}
    assert cli("export", f"library/app@{images.b}", "back").status == 0


def test_undo_after_the_bytes_went_fails(cli: Cli, images: Images):
    """Nothing came back, so the status says so."""
    cli("rm", f"library/app@{images.b}")
    run = cli("gc", *AT_ONCE, "--json").document()["run"]
    result = cli("gc", "undo", run)
    assert result.status == 1
    assert "is in quarantine" in result.out


def test_a_run_that_frees_at_once_promises_no_undo(cli: Cli, images: Images):
    """Nor does one that dropped manifests; where the grace keeps what was dropped, it does."""
    cli("untag", "library/app:b")
    assert "gc undo" not in cli("gc", *AT_ONCE, "--delete-untagged").out


def test_undo_of_an_unknown_run_fails(cli: Cli, store: Path):
    """One line."""
    result = cli("gc", "undo", "nope")
    assert result.status == 1
    assert "gc runs" in result.err


def test_runs_are_listed_newest_first(cli: Cli, images: Images):
    """With what each did."""
    first, second = (cli("gc", "--json").document()["run"] for _ in range(2))
    assert [each["run"] for each in cli("gc", "runs", "--json").document()["runs"]] == [second, first]
    assert [each["run"] for each in cli("gc", "runs", "--limit", "1", "--json").document()["runs"]] == [second]
    assert cli("gc", "runs").out.splitlines()[1].startswith(second)
    assert cli("gc", "runs", "--limit", "0").status == 2


def test_explain_names_the_tag_that_keeps_a_layer(cli: Cli, images: Images):
    """And without one, when the blob may go."""
    assert "lives: library/app:" in cli("gc", "explain", images.shared_layer).out
    document = cli("gc", "explain", images.layer_of_b, "--json").document()
    assert document["manifests"][0]["tags"] == ["b"]
    cli("rm", f"library/app@{images.b}")
    assert "promised until" in cli("gc", "explain", images.layer_of_b).out
    assert "garbage" in cli("gc", "explain", images.layer_of_b, "--grace", "0s").out
    assert cli("gc", "explain", "sha256:" + "0" * 64).status == 1


def test_a_plan_is_written_and_carried_out(cli: Cli, images: Images):
    """The run does what the plan says and keeps its name."""
    cli("untag", "library/app:b")
    planned = cli("gc", "--dry-run", "--plan", "plan.json", "--delete-untagged", *AT_ONCE, "--json").document()
    assert json.loads(Path("plan.json").read_text())["run"] == planned["run"]
    done = cli("gc", "--plan", "plan.json", "--json").document()
    assert done["run"] == planned["run"]
    assert done["blobs"]["freed"] == planned["blobs"]["freed"] == 3
    assert images.b not in present(images.store)


def test_a_plan_is_re_checked_against_a_store_that_changed(cli: Cli, images: Images):
    """What was tagged again in between stays, though the plan names it."""
    cli("untag", "library/app:b")
    cli("gc", "--dry-run", "--plan", "plan.json", "--delete-untagged", *AT_ONCE)
    cli("tag", f"library/app@{images.b}", "b")
    done = cli("gc", "--plan", "plan.json", "--json").document()
    assert done["blobs"]["freed"] == 0
    assert cli("export", "library/app:b", "kept").status == 0


def test_a_plan_of_another_store_is_refused(cli: Cli, images: Images, tmp_path: Path):
    """By the store's id, not by its place."""
    cli("gc", "--dry-run", "--plan", "plan.json")
    cli("init", "--store", str(tmp_path / "other"))
    result = cli("gc", "--plan", "plan.json", "--store", str(tmp_path / "other"))
    assert result.status == 1
    assert "the plan is for store" in result.err


@pytest.mark.parametrize(
    "options",
    [["--grace", "1h"], ["--quarantine", "0s"], ["--delete-untagged"], ["--incremental"], ["--max-share", "1"]],
)
def test_a_plan_has_its_own_policy(cli: Cli, images: Images, options: list[str]):
    """Carrying one out with another policy is wrong usage."""
    cli("gc", "--dry-run", "--plan", "plan.json")
    result = cli("gc", "--plan", "plan.json", *options)
    assert result.status == 2
    assert options[0] in result.err


def test_what_is_no_plan_is_refused(cli: Cli, images: Images):
    """A file of something else changes nothing."""
    Path("plan.json").write_text("{}")
    assert cli("gc", "--plan", "plan.json").status == 2
    assert cli("gc", "--plan", "absent.json").status == 2


def test_an_incremental_run_frees_what_was_let_go(cli: Cli, images: Images):
    """The report says that it wasn't a full one."""
    cli("rm", f"library/app@{images.b}")
    report = cli("gc", "--incremental", *AT_ONCE, "--json").document()
    assert report["full"] is False
    assert report["blobs"]["freed"] == 3


def test_long_lists_are_cut_for_people_only(cli: Cli, store: Path):
    """Twenty lines and a count; JSON has all."""
    for at in range(23):
        Path("blob").write_text(str(at))
        assert cli("put", "blob", "--repository", "library/app").status == 0
    arguments = ("gc", "--dry-run", "--grace", "0s")
    assert "… and 3 more" in cli(*arguments).out
    assert len(cli(*arguments, "--json").document()["candidates"]) == 23


def test_quiet_runs_say_nothing(cli: Cli, images: Images):
    """For cron."""
    assert cli("gc", "--quiet") == (0, "", "")
