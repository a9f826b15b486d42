"""When collections are due."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from blobstore.errors import ConfigInvalid
from blobstore.server.operations.schedule import Due, Schedule, parse_cron, parse_zone


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def test_incremental_runs_come_often_and_full_ones_rarely() -> None:
    """A day of quarter hours has 95 incremental runs and one full run, which stands for the incremental one of its minute."""
    schedule = Schedule("*/15 * * * *", "15 3 * * *")
    now = last_any = last_full = at("2026-11-20T23:59")
    kinds = []
    while (due := schedule.next_due(last_any, last_full, now)) and due.at_ms < at("2026-11-22T00:00"):
        now = last_any = due.at_ms
        last_full = due.at_ms if due.is_full else last_full
        kinds.append(due.is_full)
    assert (kinds.count(False), kinds.count(True)) == (95, 1)


def test_what_was_missed_is_due_once() -> None:
    """A daemon that was down for a week owes one full run, at once, and then goes on with its times."""
    schedule = Schedule("*/15 * * * *", "15 3 * * *")
    last, now = at("2026-11-10T12:00"), at("2026-11-17T12:05")
    due = schedule.next_due(last, last, now)
    assert due is not None
    assert due.is_full
    assert due.at_ms <= now
    assert schedule.next_due(now, now, now) == Due(at("2026-11-17T12:15"), is_full=False)


def test_a_full_run_does_the_work_of_the_incremental_one_before_it() -> None:
    """What it came after isn't owed any more."""
    schedule = Schedule("0 * * * *", "0 3 * * *")
    due = schedule.next_due(at("2026-11-20T12:00"), at("2026-11-20T13:05"), at("2026-11-20T13:06"))
    assert due == Due(at("2026-11-20T14:00"), is_full=False)


def test_a_time_zone_moves_with_its_summer() -> None:
    """Half past two of a night that has none comes at three; half past two of one that has two comes once."""
    schedule = Schedule("", "30 2 * * *", "Europe/Berlin")
    assert schedule.next_at(at("2026-03-28T20:00"), is_full=True) == at("2026-03-29T01:00")
    first = schedule.next_at(at("2026-10-24T20:00"), is_full=True)
    assert first == at("2026-10-25T00:30")
    assert schedule.next_at(first, is_full=True) == at("2026-10-26T01:30")
    assert Schedule("", "30 2 * * *").next_at(at("2026-03-28T20:00"), is_full=True) == at("2026-03-29T02:30")


def test_an_empty_expression_is_never() -> None:
    """Without any nothing is due; without a full one nothing is full."""
    assert Schedule("", "").next_due(0, 0, at("2026-11-20T00:00")) is None
    due = Schedule("0 * * * *", "").next_due(at("2026-11-20T00:30"), 0, at("2026-11-20T00:30"))
    assert due == Due(at("2026-11-20T01:00"), is_full=False)


@pytest.mark.parametrize(
    "text", ["", "hourly", "@daily", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", "*/0 * * * *"]
)
def test_what_is_no_cron_expression_is_refused(text: str) -> None:
    """And shown, with an example of a good one."""
    with pytest.raises(ConfigInvalid, match=r"not a cron expression.*17 3"):
        parse_cron(text)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "../../etc/passwd", "/etc/localtime"])
def test_what_is_no_time_zone_is_refused(name: str) -> None:
    """Paths above all."""
    with pytest.raises(ConfigInvalid, match="not a time zone"):
        parse_zone(name)
