"""Every transition of the models is a verb of the index, and every verb that writes is a transition or says why not."""

from __future__ import annotations

import pytest

from blobstore.abc.index import Index
from blobstore.index._key_value import KeyValueIndex
from tests.model import guards
from tests.model.transitions import MODELS, NOT_MODELLED, VERBS, WITHIN, inlines, writing_verbs


@pytest.mark.parametrize("model", MODELS)
def test_every_inline_is_a_transition(model: str) -> None:
    """Or part of one."""
    found = inlines(model)
    assert found
    assert [name for name in found if name not in VERBS and name not in WITHIN] == []


def test_the_tables_name_only_what_there_is() -> None:
    """An inline that is gone is gone from the tables too; so is a verb."""
    found = {name for model in MODELS for name in inlines(model)}
    assert (VERBS.keys() | WITHIN.keys()) - found == set()
    assert not VERBS.keys() & WITHIN.keys()
    named = {verb for verbs in VERBS.values() for verb in verbs} | NOT_MODELLED.keys()
    assert [verb for verb in named if not hasattr(Index, verb)] == []


def test_every_writing_verb_is_a_transition() -> None:
    """A new verb is entered into one of the tables."""
    writing = set(writing_verbs(KeyValueIndex))
    assert len(writing) > 30
    modelled = {verb for verbs in VERBS.values() for verb in verbs}
    assert writing - modelled == set(NOT_MODELLED)


def test_every_writing_verb_has_a_guard() -> None:
    """Or stands in the list of those that change nothing the guards look at."""
    writing = set(writing_verbs(KeyValueIndex))
    assert writing == guards.GUARDS.keys() | guards.NOT_OF_THE_PROTOCOL.keys()
