"""Prints the machine, and at the end what every bench measured beside its floor."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from _harness import machine_lines, table_lines


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory of the bench alone, gone afterwards: on the disk that BENCH_DIR names, and out of the reach of other pytest
    sessions, which tidy up pytest's own."""
    with tempfile.TemporaryDirectory(prefix="blobstore-bench-", dir=os.environ.get("BENCH_DIR")) as path:
        yield Path(path)


@pytest.fixture(scope="session")
def session_path() -> Iterator[Path]:
    """The same, for the length of the session."""
    with tempfile.TemporaryDirectory(prefix="blobstore-bench-", dir=os.environ.get("BENCH_DIR")) as path:
        yield Path(path)


def pytest_report_header() -> list[str]:
    return machine_lines()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = table_lines()
    if not lines:
        return
    terminalreporter.section("benches beside their floors")
    for line in (*machine_lines(), "", *lines):
        terminalreporter.write_line(line)
