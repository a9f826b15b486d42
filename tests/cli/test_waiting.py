"""What a command waits for is told while it waits."""

from __future__ import annotations

import pytest

from blobstore.cli._progress import Reporter
from blobstore.events import Alarm, Waiting


@pytest.mark.parametrize("is_quiet", [False, True])
def test_what_is_waited_for_is_told_at_once(capsys: pytest.CaptureFixture[str], *, is_quiet: bool) -> None:
    """Other than an alarm, which the error at the end may repeat; --quiet leaves it out."""
    reporter = Reporter(None, is_quiet=is_quiet)
    reporter(Waiting("no answer from the file server"))
    reporter(Alarm("damage"))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == ("" if is_quiet else "blobstore: warning: no answer from the file server\n")
    assert reporter.alarms == ["damage"]
