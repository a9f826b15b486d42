"""The engine broken on purpose: for each mutant a test that fails, and passes on the engine as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS
from tests.mutants.workshop import copy_project, discard, run_tests

TRIAL_S = 60


@pytest.fixture(scope="module", autouse=True)
def _sound(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is to catch mutants passes on an unbroken copy: otherwise its failing says nothing."""
    tree = copy_project(tmp_path_factory.mktemp("sound") / "project")
    tests = sorted({test for mutant in MUTANTS for test in mutant.caught_by})
    trial = run_tests(tree, tests, timeout_s=TRIAL_S)
    assert trial.has_passed, trial.output
    discard(tree)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(mutant: Mutant, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the test that is named for it; one that another check saves breaks nothing alone."""
    tree = copy_project(tmp_path / "project", mutant)
    trial = run_tests(tree, mutant.caught_by, timeout_s=TRIAL_S)
    discard(tree)
    if trial.is_skipped:
        pytest.skip(f"{mutant.name}: {trial.output[-300:]}")
    if mutant.saved_by:
        assert trial.has_passed, f"{mutant.name} was to be saved by {mutant.saved_by}:\n{trial.output}"
        verdict = f"saved by {mutant.saved_by}"
    else:
        assert trial.catcher, f"{mutant.name} was not caught. {mutant.breaks}\n{trial.output}"
        assert trial.catcher.startswith(mutant.caught_by), trial.output
        verdict = trial.catcher
    with capsys.disabled():
        print(f"\n  {mutant.name} → {verdict}", end="")


def test_names_are_used_once() -> None:
    """They stand for mutants in tables and ledgers."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(names) == len(set(names))
