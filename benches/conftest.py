"""Prints the machine, and at the end what every bench measured beside its floor."""

from __future__ import annotations

import pytest
from _harness import machine_lines, table_lines


def pytest_report_header() -> list[str]:
    return machine_lines()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = table_lines()
    if not lines:
        return
    terminalreporter.section("benches beside their floors")
    for line in (*machine_lines(), "", *lines):
        terminalreporter.write_line(line)
