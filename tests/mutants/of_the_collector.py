"""Mutants of the collector: of its plan, of the steps that re-check it, and of the guards before them."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_COLLECTING = "blobstore/index/_collecting.py"
_COLLECTOR = "gc/collector.py"
_SUITE = "tests/conformance/test_memory_index.py::TestMemoryIndex::"
_PROOF = "tests/gc/test_proof.py::"
_WENT_BACK = "tests/simulation/test_index_that_went_back.py::"
_ORDER = "tests/store/test_order.py::"

_KEPT = "        if row is None or state.has_edge(tx, raw) or is_held:\n"
_RETIRE_RECHECK = """            if blob.state != records.STATE_CONDEMNED:
                state.delete_trash(tx, generation.key)
                continue
            _, is_held = _split_holds(tx, row.digest, now_ms, terms)
            if is_held or state.has_edge(tx, row.digest):
                state.revive(tx, row.digest, blob)
                revived.append(Digest.from_sha256(row.digest))
                continue
"""
_RETIRE_TRUSTS = Edit(_COLLECTING, _RETIRE_RECHECK, "")
_REVIVE_LEAVES_TRASH = Edit(
    "blobstore/index/_state.py",
    "    trash = delete_trash(tx, row.generation)\n",
    "    trash = get_trash(tx, row.generation)\n",
)
_REVIVED_DOES_NOT_RETIRE = (_SUITE + "test_a_revived_blob_does_not_retire",)
_ALONE = """            await self._check_alone()
            await check_not_ahead(self._index, self._backend)
            retired"""

COLLECTOR = (
    Mutant(
        "drop-ignores-tags",
        "A record goes though it got a tag after the plan was made.",
        "I2",
        (Edit(_COLLECTING, " or row is None or row.tag_count or ", " or row is None or "),),
        (_SUITE + "test_a_tagged_manifest_is_kept",),
    ),
    Mutant(
        "drop-ignores-parents",
        "A record goes though an image index refers to it.",
        "I2",
        (Edit(_COLLECTING, "    if any(parent not in going for", "    if False and any(parent not in going for"),),
        (_SUITE + "test_a_manifest_with_a_parent_is_kept",),
    ),
    Mutant(
        "condemn-ignores-edges",
        "A blob that a manifest came to refer to since the plan is condemned.",
        "I2",
        (Edit(_COLLECTING, _KEPT, _KEPT.replace(" or state.has_edge(tx, raw)", "")),),
        (_SUITE + "test_edge_or_hold_keep_a_blob",),
    ),
    Mutant(
        "condemn-ignores-holds",
        "A blob that was promised since the plan is condemned.",
        "I3",
        (Edit(_COLLECTING, _KEPT, _KEPT.replace(" or is_held", "")),),
        (_SUITE + "test_edge_or_hold_keep_a_blob",),
    ),
    Mutant(
        "suspect-condemned",
        "A damaged blob is condemned like another: whoever asks for it revives it as whole.",
        "I1",
        (
            Edit(
                _COLLECTING,
                "        elif row.state == records.STATE_PRESENT and",
                "        elif row.state in (records.STATE_PRESENT, records.STATE_SUSPECT) and",
            ),
        ),
        (_PROOF + "test_a_suspect_that_was_let_go_never_comes_back[memory]",),
    ),
    Mutant(
        "retire-ignores-generation",
        "A due trash row is taken for that of the blob of its digest, whichever generation this has by now.",
        "I5",
        (
            Edit(
                _COLLECTING,
                """\
 and row.digest is not None and blob.generation == generation.key:
            if""",
                """\
 and row.digest is not None:
            if""",
            ),
        ),
        (_PROOF + "test_a_superfluous_copy_goes_and_the_blob_stays[memory]",),
    ),
    Mutant(
        "retire-ignores-quarantine",
        "A trash row retires before its time.",
        "I3",
        (
            Edit(
                _COLLECTING,
                """\
        if now_ms < row.not_before_ms:
            continue
""",
                "",
            ),
        ),
        (_SUITE + "test_trash_waits_for_its_quarantine",),
    ),
    Mutant(
        "retire-ignores-promises",
        "A due blob retires though its hold has not lapsed by the terms of this collector.",
        "I3",
        (
            Edit(
                _COLLECTING,
                "            if is_held or state.has_edge(tx, row.digest):\n",
                "            if state.has_edge(tx, row.digest):\n",
            ),
        ),
        (_SUITE + "test_a_longer_grace_gives_a_blob_back",),
    ),
    Mutant(
        "revive-leaves-trash-and-retire-trusts",
        "A revived blob keeps its trash row, and retire asks nothing: bytes that were promised again go.",
        "I1",
        (_REVIVE_LEAVES_TRASH, _RETIRE_TRUSTS),
        _REVIVED_DOES_NOT_RETIRE,
    ),
    Mutant(
        "revive-leaves-trash",
        "A revived blob keeps its trash row; when that falls due, retire sees that the blob is present.",
        "I1",
        (_REVIVE_LEAVES_TRASH,),
        _REVIVED_DOES_NOT_RETIRE,
        saved_by="retire, which looks at the blob's state again",
    ),
    Mutant(
        "retire-trusts",
        "Retire asks nothing of a blob; whatever made it wanted again has revived it, and that took the row away.",
        "I1",
        (_RETIRE_TRUSTS,),
        _REVIVED_DOES_NOT_RETIRE,
        saved_by="revive, which removes the trash row",
    ),
    Mutant(
        "bytes-before-row",
        "Bytes are deleted before the row that names them is gone.",
        "I1",
        (
            Edit(
                _COLLECTOR,
                "            retired = await self._index.retire(batch, now_ms, plan.policy.terms)\n",
                """            doomed = [trash async for trash in self._due(now_ms, plan.policy) if trash.generation in batch]
            await self._backend.delete([name for trash in doomed for name in trash.names])
            retired = await self._index.retire(batch, now_ms, plan.policy.terms)
""",
            ),
        ),
        (_PROOF + "test_a_blob_wanted_again_while_it_retires_keeps_its_bytes[memory]",),
    ),
    Mutant(
        "trash-row-before-bytes",
        "The trash row is forgotten before its bytes are deleted: a crash between leaves them to nobody.",
        "I5",
        (
            Edit(
                "blobstore/parts.py",
                "    records = [name for each in trash for name in each.names if is_record_key(name)]\n",
                """\
    records = [name for each in trash for name in each.names if is_record_key(name)]
    removed = await index.forget_trash(trash) if trash else ()
""",
            ),
            Edit(
                "blobstore/parts.py",
                """\
    confirmed = [each for each in bare if gone.issuperset(each.names)]
    removed = await index.forget_trash(confirmed) if confirmed else ()
""",
                "",
            ),
        ),
        (_ORDER + "test_records_are_journaled_before_bytes_go_and_rows_before_bytes",),
    ),
    Mutant(
        "undeleted-forgotten",
        "The trash row goes though the backend did not confirm the delete.",
        "I5",
        (Edit("blobstore/parts.py", " if gone.issuperset(each.names)]", "]"),),
        ("tests/gc/test_found_by_attack.py::test_bytes_that_can_not_be_deleted_are_told_and_tried_again[memory]",),
    ),
    Mutant(
        "bytes-before-journal",
        "Bytes go before the journal knows that what referred to them is gone: a rebuild brings the reference back.",
        "I2",
        (
            Edit(
                _COLLECTOR,
                """\
            await self._journal.flush()
            await self._check_alone()
""",
                "            await self._check_alone()\n",
            ),
        ),
        (_ORDER + "test_what_a_dead_process_let_go_is_journaled_before_its_bytes_go",),
    ),
    Mutant(
        "marker-not-read",
        "The marker is never looked at by a collection.",
        "I7",
        (Edit(_COLLECTOR, "        await check_marker(self._backend, identity)\n", ""),),
        ("tests/gc/test_guards.py::test_another_index_owns_the_store[memory]",),
    ),
    Mutant(
        "marker-not-read-before-condemning",
        "The marker is read when a run begins, not again before it condemns.",
        "I7",
        (
            Edit(
                _COLLECTOR,
                """\
        await self._check_alone()
        await check_not_ahead(self._index, self._backend)
        not_before_ms""",
                """\
        await check_not_ahead(self._index, self._backend)
        not_before_ms""",
            ),
        ),
        (_PROOF + "test_a_store_lost_during_a_run_is_left_alone",),
    ),
    Mutant(
        "marker-not-read-before-deleting",
        "The marker is read when a run begins, not again before it deletes.",
        "I7",
        (Edit(_COLLECTOR, _ALONE, _ALONE.replace("            await self._check_alone()\n", "")),),
        (_PROOF + "test_a_store_lost_during_a_run_is_left_alone",),
    ),
    Mutant(
        "older-copy-not-noticed",
        "A journal that is ahead of the index stops nobody.",
        "I1",
        (Edit("blobstore/journal.py", "    if highest > sequence:\n", "    if highest > sequence > highest:\n"),),
        ("tests/gc/test_guards.py::test_a_journal_ahead_of_the_index_freezes_collecting[memory]",),
    ),
    Mutant(
        "older-copy-not-noticed-behind-checkpoints",
        "Where checkpoints cover the whole journal, an older copy of the index is not noticed.",
        "I1",
        (
            Edit(
                "blobstore/journal.py",
                """\
    numbered += [parse_checkpoint_key(info.key) or 0 async for info in backend.list(CHECKPOINT_PREFIX)]
    sequence""",
                "    sequence",
            ),
        ),
        (_WENT_BACK + "test_an_older_copy_is_noticed_when_checkpoints_cover_the_whole_journal",),
    ),
    Mutant(
        "forgotten-numbers-used-again",
        "A frozen older copy numbers new changes like those it forgot: a rebuild drops one of the two.",
        "I4",
        (Edit("blobstore/journal.py", "index.freeze(why, numbered=highest)", "index.freeze(why)"),),
        (_WENT_BACK + "test_what_a_frozen_store_takes_is_not_numbered_as_what_it_forgot",),
    ),
    Mutant(
        "older-copy-not-noticed-before-condemning",
        "The journal is compared with the index at open only, not before condemning.",
        "I1",
        (
            Edit(
                _COLLECTOR,
                """\
        await check_not_ahead(self._index, self._backend)
        not_before_ms""",
                "        not_before_ms",
            ),
        ),
        (_PROOF + "test_a_store_lost_during_a_run_is_left_alone",),
    ),
    Mutant(
        "clock-not-doubted",
        "A clock that jumps is believed.",
        "promise 7",
        (Edit(_COLLECTOR, "            raise CollectionRefused(doubt.refusal)\n", "            pass\n"),),
        ("tests/gc/test_guards.py::test_a_clock_that_jumps_costs_a_grace_and_no_blob[memory--86400000]",),
    ),
    Mutant(
        "held-blobs-planned",
        "A dry run counts blobs that are held, which the run then spares.",
        "I6",
        (
            Edit(
                "gc/sweep.py",
                """\
    if standing.is_held:
        return
""",
                "",
            ),
        ),
        ("tests/gc/test_collect.py::test_a_blob_no_manifest_refers_to_waits_for_its_grace[memory]",),
    ),
    Mutant(
        "mark-forgets-children",
        "Marking does not follow an image index to its manifests: the plan drops what the run then keeps.",
        "I6",
        (Edit("gc/mark.py", "        found = [*node.children, *self._referrers", "        found = [*self._referrers"),),
        ("tests/gc/test_collect.py::test_children_of_a_tagged_image_index_live[memory]",),
    ),
)
