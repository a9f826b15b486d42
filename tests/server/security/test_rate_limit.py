"""S17: who fails often waits, by name and by where it comes from, and nobody's memory is filled by it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blobstore.server.auth.rate_limit import KEYS_MAX, FailureLimit
from blobstore.server.protocol.sources import source_of
from blobstore.testing import FakeClock


def test_after_its_burst_a_key_waits_for_each_try() -> None:
    """One more try each time the recovery time is over."""
    clock = FakeClock()
    limit = FailureLimit(clock, burst=3, recover_ms=1000)
    for _ in range(3):
        assert limit.wait_ms("a") == 0
        limit.take("a")
    assert limit.wait_ms("a") == 1000
    assert limit.wait_ms("b") == 0
    clock.advance(1000)
    assert limit.wait_ms("a") == 0
    limit.take("a")
    assert limit.wait_ms("a") == 1000
    clock.advance(4000)
    assert limit.wait_ms("a") == 0


def test_what_did_not_fail_is_given_back() -> None:
    """Whoever knows the password is never slowed down by using it."""
    limit = FailureLimit(FakeClock(), burst=1, recover_ms=1000)
    for _ in range(10):
        assert limit.wait_ms("a") == 0
        limit.take("a")
        limit.give_back("a")
    assert len(limit) == 0


@given(st.lists(st.one_of(st.just("try"), st.integers(0, 5000)), max_size=60), st.integers(1, 5), st.integers(1, 2000))
@settings(deadline=None)
def test_never_more_tries_than_burst_and_recovery_allow(steps: list[str | int], burst: int, recover_ms: int) -> None:
    """In any time, at most the burst and one for each recovery time in it."""
    clock = FakeClock()
    limit = FailureLimit(clock, burst=burst, recover_ms=recover_ms)
    taken = 0
    for step in steps:
        if isinstance(step, int):
            clock.advance(step)
        elif limit.wait_ms("a") == 0:
            limit.take("a")
            taken += 1
    assert taken <= burst + clock.monotonic_ms() // recover_ms


def test_the_memory_of_failures_is_bounded() -> None:
    """Made-up names push out the oldest."""
    limit = FailureLimit(FakeClock(), burst=1, recover_ms=1000)
    for number in range(KEYS_MAX + 100):
        limit.take(str(number))
    assert len(limit) == KEYS_MAX
    assert limit.wait_ms(str(KEYS_MAX + 99)) == 1000


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2", True),
        ("", "unix", False),
    ],
)
def test_a_source_is_what_one_host_can_change_of_itself(one: str, other: str, *, is_same: bool) -> None:
    """All addresses of an IPv6 network are one source."""
    assert (source_of(one) == source_of(other)) is is_same
