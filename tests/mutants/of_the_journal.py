"""Mutants of the journal, of the rebuild, and of reconciling the backend with the index."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_JOURNAL = "blobstore/journal.py"
_REBUILD = "blobstore/rebuild.py"
_RECONCILE = "blobstore/reconcile.py"
_SAFETY = "blobstore/index/_safety.py"
_UPLOADS = "blobstore/index/_uploads.py"
_REFERENCES = "blobstore/index/_references.py"
_ORDER = "tests/store/test_order.py::"
_PROOF = "tests/gc/test_proof.py::"
_WENT_BACK = "tests/simulation/test_index_that_went_back.py::"

_GAP_PASSED = Edit(
    _JOURNAL,
    """\
is missing; what follows is ignored"
            )
            break
""",
    """\
is missing"
            )
""",
)
_ANY_LATER_SEQUENCE = Edit(
    _JOURNAL, "        if sequence == recovered.sequence + 1:\n", "        if sequence > recovered.sequence:\n"
)
_A_GAP_ENDS = ("tests/store/test_journal.py::test_a_gap_ends_the_replay_and_is_told",)

_INDEX_BEFORE_LISTING = (
    Edit(
        _RECONCILE,
        "    judge = _Judge(index, clock, events, report)\n",
        """    judge = _Judge(index, clock, events, report)
    known = {each.blob.generation async for items in pages(lambda after: index.scan_references(after, PAGE)) for each in items}
    judge.known = known | {intent.generation for intent in await index.list_uploads(2**62, PAGE)}
""",
    ),
    Edit(
        _RECONCILE,
        "        verdicts = await self._index.judge(found)\n",
        "        verdicts = [Verdict.KNOWN if seen.generation in self.known else Verdict.ORPHAN for seen in found]\n",
    ),
)
_ORPHANS_NOT_JUDGED_AGAIN = Edit(
    _SAFETY,
    "    orphans = [seen for seen in found if _judge(tx, seen) is Verdict.ORPHAN]\n",
    "    orphans = list(found)\n",
)
_PUBLISHED_WHILE_LISTING = (_PROOF + "test_bytes_that_were_published_while_we_listed_are_no_orphans[memory]",)

_NOT_HELD = Edit(
    _SAFETY,
    """\
        state.set_hold(tx, blob.digest.value, NO_REPOSITORY, now_ms)


def restore_trash""",
    """\


def restore_trash""",
)
_NOT_QUIET = Edit(
    _SAFETY,
    """\
    tx.put(Table.META, records.META_QUIET_SINCE, u64(now_ms))
    # So that""",
    "    # So that",
)
_KEPT_FOR_ONE_GRACE = (_ORDER + "test_what_a_rebuild_found_is_kept_for_one_grace",)

JOURNAL = (
    Mutant(
        "replay-behind-a-gap",
        "A replay goes on behind a gap in the journal, with changes of a state that it does not have.",
        "I4",
        (_GAP_PASSED, _ANY_LATER_SEQUENCE),
        _A_GAP_ENDS,
    ),
    Mutant(
        "gap-passed",
        "A gap is told, and the objects behind it are read; none of their sequences is the next one.",
        "I4",
        (_GAP_PASSED,),
        _A_GAP_ENDS,
        saved_by="the replay, which takes only the next sequence",
    ),
    Mutant(
        "any-later-sequence",
        "A replay takes any later sequence; objects behind a gap are not read.",
        "I4",
        (_ANY_LATER_SEQUENCE,),
        _A_GAP_ENDS,
        saved_by="the look at the names, which ends at a gap",
    ),
    Mutant(
        "journal-deleted-early",
        "Journal objects go before the checkpoint that covers them is durable.",
        "I4",
        (
            Edit(
                _JOURNAL,
                "            names = await upload.commit(key)\n",
                """            covered = [name.key async for name in list_journal(self._backend) if name.last <= sequence]
            await self._backend.delete(covered)
            names = await upload.commit(key)
""",
            ),
        ),
        (_ORDER + "test_a_checkpoint_that_fails_takes_no_journal_away",),
    ),
    Mutant(
        "one-checkpoint-trusted",
        "Journal objects go when the newest checkpoint covers them: should that be damaged, all is lost.",
        "I4",
        (Edit(_JOURNAL, "covered = kept[0] if len(kept)", "covered = kept[-1] if len(kept)"),),
        ("tests/store/test_journal.py::test_checkpoints_let_the_journal_go",),
    ),
    Mutant(
        "outbox-trimmed-early",
        "Outbox rows are forgotten before the journal object that carries them is durable.",
        "I4",
        (
            Edit(
                _JOURNAL,
                "        await put_once(self._backend, journal_key(first, last, self._index.unrecorded_generation()), data)\n",
                """        await self._index.trim_outbox(last)
        await put_once(self._backend, journal_key(first, last, self._index.unrecorded_generation()), data)
""",
            ),
        ),
        ("tests/store/test_journal.py::test_an_answer_waits_for_the_journal",),
    ),
    Mutant(
        "rebuild-takes-the-first-copy",
        "Of several copies of a digest a rebuild takes the first, whatever its bytes are.",
        "I1",
        (
            Edit(
                _REBUILD,
                "        right = [blob for blob in copies if await self._hashes_right(blob)]\n",
                "        right = copies\n",
            ),
        ),
        ("tests/store/test_store.py::test_of_several_copies_the_rebuild_takes_one_that_hashes_right",),
    ),
    Mutant(
        "checkpoint-before-journal",
        "A checkpoint is there before the journal holds all that it saw: a tag without its manifest.",
        "I4",
        (Edit(_JOURNAL, "            await self.flush()\n            names", "            names"),),
        ("tests/store/test_journal.py::test_a_checkpoint_comes_after_the_journal_of_all_that_it_saw",),
    ),
    Mutant(
        "rebuild-without-checkpoint",
        "A rebuilt index numbers behind the journal, but leaves no checkpoint: the next rebuild ends at the gap.",
        "I4",
        (Edit(_REBUILD, "        journal = Journal(self._index, self._backend, self._clock)\n", "        return\n"),),
        (_ORDER + "test_a_rebuild_leaves_no_gap_to_the_next",),
    ),
    Mutant(
        "rebuild-trusts-a-damaged-checkpoint",
        "A checkpoint that a rebuild found damaged passes for one of the two that are kept.",
        "I4",
        (Edit(_REBUILD, "        if recovered.problems:\n            # The", "        if False:\n            # The"),),
        (_WENT_BACK + "test_a_damaged_checkpoint_is_not_taken_for_one_of_the_two_that_are_kept[MemoryWorld]",),
    ),
    Mutant(
        "frozen-knows-the-bytes",
        "An older index takes pushed bytes for a duplicate of what was collected since.",
        "I4",
        (Edit(_UPLOADS, " or state.is_frozen(tx):\n", ":\n"),),
        (_WENT_BACK + "test_bytes_that_were_collected_since_are_taken_again[MemoryWorld-False]",),
    ),
    Mutant(
        "frozen-knows-the-record",
        "An older index takes a pushed manifest for known, and the journal, which knows that it was deleted, is told nothing.",
        "I4",
        (Edit(_REFERENCES, "[key] if state.is_frozen(tx) else []", "[]"),),
        (_WENT_BACK + "test_what_was_removed_since_and_is_pushed_to_the_older_copy_is_there[MemoryWorld]",),
    ),
    Mutant(
        "rebuilt-and-collected-at-once",
        "A rebuild holds nothing and asks for no quiet: what was pushed just before the loss is garbage.",
        "I3",
        (_NOT_HELD, _NOT_QUIET),
        _KEPT_FOR_ONE_GRACE,
    ),
    Mutant(
        "rebuilt-without-holds",
        "A rebuild holds nothing of what it found.",
        "I3",
        (_NOT_HELD,),
        _KEPT_FOR_ONE_GRACE,
        saved_by="the quiet that a rebuild asks for",
    ),
    Mutant(
        "rebuilt-without-quiet",
        "A rebuild asks collectors for no quiet.",
        "I3",
        (_NOT_QUIET,),
        _KEPT_FOR_ONE_GRACE,
        saved_by="the hold that a rebuild gives to all it found",
    ),
    Mutant(
        "index-read-first-and-trusted",
        "Reconciling reads the index, then lists the backend, and trusts that: a new blob looks like an orphan.",
        "I1",
        (*_INDEX_BEFORE_LISTING, _ORPHANS_NOT_JUDGED_AGAIN),
        _PUBLISHED_WHILE_LISTING,
    ),
    Mutant(
        "index-read-first",
        "Reconciling reads the index, then lists the backend; what it takes for orphans is judged again.",
        "I1",
        _INDEX_BEFORE_LISTING,
        _PUBLISHED_WHILE_LISTING,
        saved_by="the transaction that puts orphans into the trash",
    ),
    Mutant(
        "orphans-not-judged-again",
        "What was judged an orphan is trash without another look; nothing that is one becomes a blob again.",
        "I1",
        (_ORPHANS_NOT_JUDGED_AGAIN,),
        _PUBLISHED_WHILE_LISTING,
        saved_by="the verdict, which is read after the listing",
    ),
    Mutant(
        "alien-taken-for-orphan",
        "Names from an unknown process are taken for a crash's leavings, and deleted.",
        "I7",
        (
            Edit(
                _SAFETY,
                "    return Verdict.ORPHAN if is_ours else Verdict.ALIEN\n",
                "    return Verdict.ORPHAN if is_ours or not is_ours else Verdict.ALIEN\n",
            ),
        ),
        ("tests/gc/test_guards.py::test_names_of_an_unknown_process_freeze_collecting[memory]",),
    ),
    Mutant(
        "healed-blob-suspected",
        "A check marks a blob as damaged though it was pushed anew since the check looked.",
        "I2",
        (
            Edit(
                _SAFETY,
                """\
 or row.state != records.STATE_PRESENT or row.generation != generation.key:
        return False
    after""",
                """\
 or row.state != records.STATE_PRESENT:
        return False
    after""",
            ),
        ),
        ("tests/conformance/test_memory_index.py::TestMemoryIndex::test_only_this_generation_becomes_suspect",),
    ),
)
