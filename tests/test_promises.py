"""Promises: when a hold ends."""

from hypothesis import given
from hypothesis import strategies as st

from blobstore.promises import PINNED_MS, Activity, HoldTerms

TERMS = HoldTerms(grace_s=3600, renew_s=60)
TERM = TERMS.term_ms
WEEK = 7 * 24 * 3600 * 1000
NOW = 1_700_000_000_000

times = st.integers(min_value=1, max_value=NOW)
terms_of_any_kind = st.builds(
    HoldTerms,
    grace_s=st.sampled_from([0, 1, 60, 3600, 24 * 3600, 30 * 24 * 3600]),
    renew_s=st.sampled_from([0, 1, 60]),
)


@st.composite
def activities(draw: st.DrawFn) -> Activity:
    since = draw(times)
    return Activity(since, since + draw(st.integers(min_value=0, max_value=3 * WEEK)))


def test_a_hold_lasts_a_term() -> None:
    """`renew_s` and the grace together, to the millisecond."""
    assert TERM == 3_660_000
    assert not TERMS.is_lapsed(NOW, Activity(), NOW + TERM - 1)
    assert TERMS.is_lapsed(NOW, Activity(), NOW + TERM)


def test_no_grace_is_no_promise() -> None:
    """With grace 0, `renew_s` counts as 0 too, whatever the repository does."""
    terms = HoldTerms(grace_s=0)
    assert terms.term_ms == 0
    assert terms.is_lapsed(NOW, Activity(NOW - 5, NOW + 5), NOW)


def test_a_pin_never_lapses() -> None:
    """With any terms, at any time."""
    for terms in (TERMS, HoldTerms(grace_s=0)):
        assert not terms.is_lapsed(PINNED_MS, Activity(), 2**62)
        assert terms.lapses_at_ms(PINNED_MS, Activity()) == PINNED_MS


def test_a_hold_that_was_let_go_is_lapsed() -> None:
    """0 stands for "lapsed from the start", and no activity prolongs it."""
    assert TERMS.is_lapsed(0, Activity(), NOW)
    assert TERMS.is_lapsed(0, Activity(1, NOW), NOW)


def test_activity_prolongs_a_hold_that_it_meets() -> None:
    """Begun before the hold would have lapsed: until a term after it ends."""
    assert TERMS.lapses_at_ms(NOW, Activity(NOW + TERM, NOW + 2 * TERM)) == NOW + 3 * TERM
    assert TERMS.lapses_at_ms(NOW, Activity(NOW + TERM + 1, NOW + 2 * TERM)) == NOW + TERM


def test_activity_prolongs_a_hold_seven_days_at_most() -> None:
    """Counted from its renewal, unless the grace itself is longer."""
    for_ever = Activity(NOW - 10 * WEEK, NOW + 10 * WEEK)
    assert TERMS.lapses_at_ms(NOW, for_ever) == NOW + WEEK
    month = HoldTerms(grace_s=30 * 24 * 3600)
    assert month.lapses_at_ms(NOW, for_ever) == NOW + month.term_ms


@given(terms_of_any_kind, times, activities())
def test_activity_never_shortens(terms: HoldTerms, renewed: int, activity: Activity) -> None:
    """A hold lasts a term whatever happens, and no more than seven days or a term."""
    lapses = terms.lapses_at_ms(renewed, activity)
    assert renewed + terms.term_ms <= lapses <= renewed + max(terms.term_ms, WEEK)


@given(terms_of_any_kind, times, activities(), st.integers(min_value=0, max_value=WEEK))
def test_later_is_never_worse(terms: HoldTerms, renewed: int, activity: Activity, more: int) -> None:
    """A later renewal and longer activity never end a hold earlier."""
    lapses = terms.lapses_at_ms(renewed, activity)
    assert terms.lapses_at_ms(renewed + more, activity) >= lapses
    assert terms.lapses_at_ms(renewed, Activity(activity.since_ms, activity.until_ms + more)) >= lapses


@given(terms_of_any_kind, times, activities(), times)
def test_lapsed_is_at_or_after_the_end(terms: HoldTerms, renewed: int, activity: Activity, now: int) -> None:
    """Both ways to ask give the same answer."""
    assert terms.is_lapsed(renewed, activity, now) == (now >= terms.lapses_at_ms(renewed, activity))


@given(terms_of_any_kind, times, activities())
def test_lapsed_stays_lapsed(terms: HoldTerms, renewed: int, activity: Activity) -> None:
    """With time alone a promise does not come back."""
    end = terms.lapses_at_ms(renewed, activity)
    assert all(terms.is_lapsed(renewed, activity, end + later) for later in (0, 1, 1000, WEEK, 10 * WEEK))
