"""The protocol's models hold every property, each variant that is broken on purpose is refuted, and what must be possible is."""

from __future__ import annotations

import concurrent.futures
import functools

import pytest

from tests.model.configurations import REACHABLE, REFUTED, SOUND, Configuration
from tests.model.spin import Found, search
from tests.tools import require_tool


@functools.cache
def _searches() -> dict[str, concurrent.futures.Future[Found]]:
    """All at once, as compilers and searches take a core each; begun by whichever test comes first."""
    pool = concurrent.futures.ThreadPoolExecutor(2)
    wanted = [*SOUND, *REFUTED, *REACHABLE]
    found = {each.name: pool.submit(search, each) for each in wanted}
    assert len(found) == len(wanted)
    pool.shutdown(wait=False)
    return found


def _search(wanted: Configuration) -> Found:
    require_tool("spin")
    require_tool("gcc")
    return _searches()[wanted.name].result()


@pytest.mark.parametrize("wanted", SOUND, ids=lambda each: each.name)
def test_the_protocol_holds(wanted: Configuration) -> None:
    """In every state that can be reached; nothing is left unsearched."""
    found = _search(wanted)
    assert found.broken is None
    assert found.states > 10_000


@pytest.mark.parametrize("wanted", REFUTED, ids=lambda each: each.name)
def test_a_broken_variant_is_refuted(wanted: Configuration) -> None:
    """By the property that it breaks."""
    assert _search(wanted).broken == wanted.breaks


@pytest.mark.parametrize("wanted", REACHABLE, ids=lambda each: each.name)
def test_what_must_be_possible_is(wanted: Configuration) -> None:
    """Else a model would hold because nothing happens in it."""
    assert _search(wanted).broken == wanted.breaks
