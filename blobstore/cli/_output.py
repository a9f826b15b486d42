"""What a command prints: one JSON document, or lines and tables for a person."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from blobstore.cli._common import Common
from blobstore.cli._errors import one_line

# Wide enough for any row: a table in a file or a pipe is not folded.
_PIPE_WIDTH_CHARS = 10_000


class Output:
    """Standard output as the common options want it."""

    def __init__(self, common: Common) -> None:
        self._is_json, self._is_quiet = common.json, common.quiet

    @property
    def is_for_people(self) -> bool:
        """Whether lines and tables are wanted at all."""
        return not self._is_json

    @property
    def is_talkative(self) -> bool:
        """Whether remarks are, beyond what was asked for."""
        return not (self._is_json or self._is_quiet)

    def document(self, document: dict[str, Any]) -> None:
        """The JSON document, if one is wanted."""
        if self._is_json:
            print(json.dumps(document, indent=2))

    def answer(self, text: str) -> None:
        """What was asked for."""
        if self.is_for_people:
            print(text)

    def remark(self, text: str) -> None:
        """What a person may like to know; --quiet leaves it out."""
        if self.is_talkative:
            print(text)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Rows below headings; a heading that begins with ">" is of a column of numbers."""
        if not self.is_for_people:
            return
        from rich.console import Console
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            is_number = column.startswith(">")
            table.add_column(column.lstrip(">"), justify="right" if is_number else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        # No markup, no highlighting: values are shown as they are.
        width = None if sys.stdout.isatty() else _PIPE_WIDTH_CHARS
        console = Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)
        with console.capture() as capture:
            console.print(table)
        print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def counted(count: int, noun: str) -> str:
    """A number and what is counted: `1 blob`, `2 blobs`, `2 repositories`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-1]}ies" if noun.endswith("y") else f"{count} {noun}s"


def complain(text: str) -> None:
    """A line on standard error of something that failed while the command went on."""
    print(f"blobstore: error: {one_line(text)}", file=sys.stderr)


def warn(text: str) -> None:
    """A line on standard error that is no error."""
    print(f"blobstore: warning: {one_line(text)}", file=sys.stderr)


@contextmanager
def log_as_warnings(*, is_quiet: bool) -> Iterator[None]:
    """What the engine writes to its log, told as all other remarks are; with `is_quiet` only what is worse than a warning."""
    handler = _WarningLines(logging.ERROR if is_quiet else logging.WARNING)
    logger = logging.getLogger("blobstore")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _WarningLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        warn(record.getMessage())
