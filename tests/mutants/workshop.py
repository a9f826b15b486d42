"""Where mutants are made and tried: copies of the project in a temporary directory, tested by a pytest of their own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.mutant import Mutant

PROJECT = Path(__file__).parents[2]
_PARTS = ("blobstore", "gc", "tests", "pyproject.toml")
_TESTS_FAILED = 1
"""pytest's exit status when tests ran, and some failed; a collection error or an interruption has another."""
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?P<test>.+?)(?: - (?P<why>.*))?$", re.MULTILINE)
_ONLY_SKIPPED = re.compile(r"^[0-9]+ skipped(?!.* passed)", re.MULTILINE)
_NO_FINDING = (
    "ImportError",
    "ModuleNotFoundError",
    "SyntaxError",
    "NameError",
    "AttributeError",
    "TypeError",
    "Failed: Timeout",
)
"""Errors that say that the mutant does not run, not that a promise is broken."""


@dataclass(frozen=True)
class Trial:
    """What some tests said of a copy. `failed` are the tests that failed, or whose fixtures found something wrong after them,
    and why; `output` is what pytest printed."""

    status: int
    failed: tuple[tuple[str, str], ...]
    output: str

    @property
    def has_passed(self) -> bool:
        """Whether every test ran and passed."""
        return self.status == 0

    @property
    def is_skipped(self) -> bool:
        """Whether none ran, as this machine lacks something."""
        return self.has_passed and _ONLY_SKIPPED.search(self.output) is not None

    @property
    def catcher(self) -> str | None:
        """The test that found something wrong; None if none did, or if the mutant did not run."""
        if self.status != _TESTS_FAILED:
            return None
        return next((test for test, why in self.failed if not why.startswith(_NO_FINDING)), None)


def copy_project(to: Path, mutant: Mutant | None = None) -> Path:
    """A copy of what tests need, broken by a mutant if one is given."""
    to.mkdir(parents=True)
    for part in _PARTS:
        source = PROJECT / part
        if source.is_dir():
            # With the compiled files, which are right as long as the times of their sources are copied too.
            shutil.copytree(source, to / part, symlinks=True, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copy2(source, to / part)
    if mutant is not None:
        mutant.apply(to)
    return to


def run_tests(tree: Path, tests: Sequence[str], *, timeout_s: float, stop_at_first: bool = True) -> Trial:
    """Run some tests of a copy in a process of its own. A test that takes longer than `timeout_s` fails, all of them together
    may take ten times as long."""
    arguments = ["-q", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib", "-rfE", "--tb=short"]
    # Half the time of a short trial is spent starting what it does not need.
    arguments += ["-p", "no:benchmark", "-p", "no:hypothesispytest", "--assert=plain"]
    arguments += [f"--timeout={timeout_s:.0f}", f"--basetemp={tree}.tmp"]
    arguments += ["-x"] if stop_at_first else []
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", *arguments, *tests],
        cwd=tree,
        env=_environment(tree),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=10 * timeout_s)
    except BaseException as error:
        # A group of its own: nothing else is in it.
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
    failed = [(found["test"], found["why"] or "") for found in _FAILED.finditer(output)]
    return Trial(process.returncode, tuple(failed), output)


def _environment(tree: Path) -> dict[str, str]:
    """The copy comes before an installed project, also in the processes that its tests start; lines are not cut."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    return {**kept, "PYTHONPATH": str(tree), "COLUMNS": "1000", "NO_COLOR": "1"}


def discard(tree: Path) -> None:
    """Remove a copy and what its tests left."""
    shutil.rmtree(tree, ignore_errors=True)
    shutil.rmtree(f"{tree}.tmp", ignore_errors=True)
