"""The engine broken on purpose: for each mutant a test that fails, and passes on the engine as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant
from tests.mutants.mutants import MUTANTS
from tests.mutants.workshop import Trial, copy_project, discard, run_tests

TRIAL_S = 60


@pytest.fixture(scope="module", autouse=True)
def _sound(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is to catch mutants passes on an unbroken copy: otherwise its failing says nothing."""
    tree = copy_project(tmp_path_factory.mktemp("sound") / "project")
    tests = sorted({test for mutant in MUTANTS for test in mutant.caught_by})
    trial = run_tests(tree, tests, timeout_s=TRIAL_S)
    assert trial.has_passed, trial.output
    discard(tree)


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Trial]]]:
    """Those of all mutants that were chosen, as many at once as there are processors."""
    chosen = [
        item.callspec.params["mutant"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_a_mutant_is_caught"
    ]
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield {mutant.name: pool.submit(_try, mutant, tmp_path_factory.mktemp(mutant.name)) for mutant in chosen}
    finally:
        pool.shutdown(cancel_futures=True)


def _try(mutant: Mutant, place: Path) -> Trial:
    tree = copy_project(place / "project", mutant)
    try:
        return run_tests(tree, mutant.caught_by, timeout_s=TRIAL_S)
    finally:
        discard(tree)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_is_caught(
    mutant: Mutant, trials: Mapping[str, Future[Trial]], capsys: pytest.CaptureFixture[str]
) -> None:
    """By the test that is named for it; one that another check saves breaks nothing alone."""
    trial = trials[mutant.name].result()
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
