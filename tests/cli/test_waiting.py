"""What a command waits for is told while it waits."""

from __future__ import annotations

import asyncio
import logging

import pytest

from blobstore.cli._output import log_as_warnings
from blobstore.cli._progress import Reporter
from blobstore.events import Alarm, Event, Waiting
from blobstore.rebuild import _wait


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


@pytest.mark.parametrize("is_quiet", [False, True])
def test_the_log_is_told_as_warnings(capsys: pytest.CaptureFixture[str], *, is_quiet: bool) -> None:
    """A line of the log alone would not say whose it is."""
    with log_as_warnings(is_quiet=is_quiet):
        logging.getLogger("blobstore.backends").warning("%s keeps old versions", "s3://b")
    assert capsys.readouterr().err == ("" if is_quiet else "blobstore: warning: s3://b keeps old versions\n")


async def test_the_wait_of_a_rebuild_is_told() -> None:
    """A quarter of an hour without a word looks like a hang where there is no bar; a short one needs none."""
    told: list[Event] = []
    await _wait(0.01, told.append)
    assert not [each for each in told if isinstance(each, Waiting)]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(_wait(15 * 60, told.append), 0.1)
    assert ["15m" in each.text for each in told if isinstance(each, Waiting)] == [True]
