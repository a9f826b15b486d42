"""Mutants of what a push, a question and a delete do in the index, and of when they are answered."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_UPLOADS = "blobstore/index/_uploads.py"
_BLOBS = "blobstore/index/_blobs.py"
_REFERENCES = "blobstore/index/_references.py"
_REPOSITORY = "blobstore/repository.py"
_SUITE = "tests/conformance/test_memory_index.py::TestMemoryIndex::"
_ORDER = "tests/store/test_order.py::test_a_change_of_references_is_committed_then_journaled_then_answered"

UNFENCED = Edit(
    _UPLOADS,
    "    if open_row is None:\n        # Fenced",
    """\
    open_row = open_row or records.IntentRow(generation, intent.repository, list(intent.names), 0, None, "", now_ms)
    if open_row is None:
        # Fenced""",
)
_SETTLE = "        await self._parts.journal.settle({}.sequence)\n"
_DELETE = "        change = await self._parts.index.delete_manifest(ManifestKey(self._name, digest), self._now_ms())\n"
_TAG = "        change = await self._parts.index.put_tag(record.key, wanted, self._now_ms())\n"
_UNTAG = "        change = await self._parts.index.delete_tag(self._name, TagName.parse(tag), self._now_ms())\n"

PUSHES = (
    Mutant(
        "children-not-checked",
        "Put manifest does not look whether what it names is still here: an earlier HEAD said so.",
        "I2",
        (Edit(_REFERENCES, "                into.missing.append(reference.digest)\n", "                pass\n"),),
        (_SUITE + "test_missing_children_are_all_named",),
    ),
    Mutant(
        "children-of-others",
        "Put manifest accepts blobs that its repository does not see: lapsed, damaged, or another's.",
        "I2",
        (
            Edit(
                _REFERENCES,
                " or number is None or not state.is_visible(tx, raw, row, number, now_ms, terms):",
                " or number is None:",
            ),
        ),
        (_SUITE + "test_a_child_must_be_seen_here_and_whole[suspect]",),
    ),
    Mutant(
        "condemned-child-not-revived",
        "Put manifest refers to condemned blobs and leaves them condemned.",
        "I2",
        (Edit(_REFERENCES, "            into.condemned.add(raw)\n", "            pass\n"),),
        (_SUITE + "test_condemned_children_are_revived",),
    ),
    Mutant(
        "child-without-record",
        "An image index is put over a child whose record is gone: its layers have no edges.",
        "I2",
        (Edit(_REFERENCES, "                into.needed.append(child)\n", "                pass\n"),),
        (_SUITE + "test_a_child_without_a_record_is_needed_and_replayed",),
    ),
    Mutant(
        "late-layer-without-edge",
        "A manifest pushed again gets no edge to a foreign layer that has come since.",
        "I2",
        (Edit(_REFERENCES, "                _add_edge(tx, key, raw, child)\n", "                pass\n"),),
        (
            "tests/gc/test_proof.py::test_a_foreign_layer_that_came_later_is_kept_once_its_image_is_pushed_again[memory]",
        ),
    ),
    Mutant(
        "child-deleted-under-its-parent",
        "A manifest that an image index refers to may be deleted.",
        "I2",
        (
            Edit(
                _REFERENCES,
                """\
    if found:
        raise StillReferenced(key,""",
                """\
    if not row:
        raise StillReferenced(key,""",
            ),
        ),
        (_SUITE + "test_a_manifest_with_a_parent_is_not_deleted",),
    ),
    Mutant(
        "edge-without-hold",
        "An edge goes and no hold takes its place: the yes that stood behind it is forgotten.",
        "I3",
        (
            Edit(
                _REFERENCES,
                """\
    if not state.has_edge_from(tx, child, number):
        state.set_hold(tx, child, number, now_ms, key)
""",
                "",
            ),
        ),
        (_SUITE + "test_an_edge_that_goes_becomes_a_hold",),
    ),
    Mutant(
        "commit-not-fenced",
        "A commit needs no intent: an upload that was expired, and whose bytes are going, becomes a blob.",
        "I1",
        (UNFENCED,),
        (_SUITE + "test_a_commit_behind_a_fence_is_interrupted[cancel]",),
    ),
    Mutant(
        "fenced-names-forgotten",
        "A fenced commit leaves what it published in no row.",
        "I5",
        (
            Edit(
                _UPLOADS,
                '*names], content.size_bytes, now_ms, "fenced commit")',
                '*names][:0], content.size_bytes, now_ms, "fenced commit")',
            ),
        ),
        (_SUITE + "test_a_commit_behind_a_fence_is_interrupted[cancel]",),
    ),
    Mutant(
        "no-intent",
        "The first byte arrives before any intent is written: to a listing it looks like a crash's leavings.",
        "I1",
        (
            Edit(_UPLOADS, "    state.add_intent(tx, upload, row)\n", ""),
            UNFENCED,
        ),
        ("tests/gc/test_guards.py::test_reconcile_leaves_open_uploads_and_trash_alone[memory]",),
    ),
    Mutant(
        "push-onto-damage",
        "A push of a suspect digest is taken for a duplicate, and the damage stays.",
        "I1",
        (
            Edit(
                _UPLOADS,
                "    if row is None or row.state == records.STATE_SUSPECT or state.is_frozen(tx):\n",
                "    if row is None or state.is_frozen(tx):\n",
            ),
        ),
        (_SUITE + "test_a_push_heals_a_suspect_blob",),
    ),
    Mutant(
        "head-promises-nothing",
        "HEAD answers yes and leaves the hold as old as it was.",
        "I3",
        (
            Edit(
                _BLOBS,
                "        return self.hold is not None and now_ms - self.hold.renewed_at_ms > terms.renew_ms\n",
                "        return False\n",
            ),
        ),
        (_SUITE + "test_touch_renews_only_a_hold_that_is_no_longer_fresh",),
    ),
    Mutant(
        "mount-without-hold",
        "A mount makes no hold in its target.",
        "I3",
        (
            Edit(
                _BLOBS,
                "    row = _promise(tx, seen.raw, seen.row, state.make_repository(tx, target), now_ms)\n",
                "    row = _promise(tx, seen.raw, seen.row, state.make_repository(tx, source), now_ms)\n",
            ),
        ),
        (_SUITE + "test_a_mount_holds_for_its_target",),
    ),
    Mutant(
        "slow-push-forgotten",
        "Holds lapse while bytes still arrive in their repository.",
        "I3",
        (
            Edit(
                "blobstore/promises.py",
                "        return max(plain, min(activity.until_ms + self.term_ms, latest))\n",
                "        return min(plain, latest)\n",
            ),
        ),
        (_SUITE + "test_activity_prolongs_a_hold",),
    ),
    Mutant(
        "put-manifest-before-journal",
        "Put manifest is answered before the journal has it.",
        "I4",
        (Edit(_REPOSITORY, _SETTLE.format("result"), ""),),
        ("tests/store/test_journal.py::test_an_answer_waits_for_the_journal",),
    ),
    Mutant(
        "delete-before-journal",
        "A delete is answered before the journal has it: a rebuild brings the manifest back.",
        "I4",
        (Edit(_REPOSITORY, _DELETE + _SETTLE.format("change"), _DELETE.replace("change = ", "")),),
        (_ORDER + "[delete_manifest]",),
    ),
    Mutant(
        "tag-before-journal",
        "A tag is answered before the journal has it.",
        "I4",
        (Edit(_REPOSITORY, _TAG + _SETTLE.format("change"), _TAG.replace("change = ", "")),),
        (_ORDER + "[put_tag]",),
    ),
    Mutant(
        "untag-before-journal",
        "A tag's end is answered before the journal has it.",
        "I4",
        (Edit(_REPOSITORY, _UNTAG + _SETTLE.format("change"), _UNTAG.replace("change = ", "")),),
        (_ORDER + "[delete_tag]",),
    ),
    Mutant(
        "pin-before-journal",
        "A pinned upload is answered before the journal has its pin.",
        "I4",
        (Edit("blobstore/uploads.py", _SETTLE.format("committed"), ""),),
        (_ORDER + "[commit_blob]",),
    ),
    Mutant(
        "removed-repository-remembered",
        "A push that shares a commit with the removal of its repository goes into what is being removed.",
        "I4",
        (Edit(_REFERENCES, "    tx.repository_ids.clear()\n", ""),),
        ("tests/store/test_order.py::test_a_push_that_shares_a_commit_with_a_removal_is_seen",),
    ),
    Mutant(
        "generation-repeats",
        "Each process mints the same names, as neither its epoch is random nor its counter recorded.",
        "I7",
        (
            Edit(
                "blobstore/index/_minting.py",
                """\
        self.epoch = random_u64()
        self._high""",
                """\
        self.epoch = 1
        self._high""",
            ),
            Edit(
                "blobstore/index/_minting.py",
                "        if (records.from_u64(stored) if stored else 0) != self._high:",
                "        if stored is not None and self.epoch != 1:",
            ),
        ),
        ("tests/store/test_order.py::test_no_name_is_minted_twice_by_two_processes",),
    ),
    Mutant(
        "mint-not-recorded",
        "Minting leaves no trace in the index: nobody can tell a crash's leavings from another's bytes.",
        "I7",
        (
            Edit(
                "blobstore/index/_tables.py",
                "            self.put(Table.EPOCHS, records.u64(self.epoch), records.u64(self.minted))\n",
                "            pass\n",
            ),
        ),
        (_SUITE + "test_orphans_are_told_from_aliens",),
    ),
)
