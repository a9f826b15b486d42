"""Mutants of S3's client, of the layer that repeats requests, and of uploads in parts."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_S3 = "blobstore/backends/s3.py"
_RETRYING = "blobstore/backends/_retrying.py"
_UPLOAD = "blobstore/backends/_object_upload.py"
_S3_TESTS = "tests/backends/test_s3.py::"
_RETRYING_TESTS = "tests/backends/test_retrying.py::"
_STORE_TESTS = "tests/backends/test_object_store.py::"
_PARTS_TESTS = "tests/backends/test_parts_on_their_way.py::"

OBJECT_STORES = (
    Mutant(
        "s3-delete-errors-unread",
        "Every key of a delete that was answered counts as gone, though the answer names some that stay.",
        "I5",
        (
            Edit(
                _S3,
                "        return frozenset(key for key in keys if key not in errors)\n",
                "        return frozenset(keys)\n",
            ),
        ),
        (_S3_TESTS + "test_errors_of_single_keys",),
    ),
    Mutant(
        "s3-put-over",
        "An object that is to be new replaces the one that is there.",
        "I7",
        (Edit(_S3, '            headers["if-none-match"] = "*"\n', "            pass\n"),),
        ("tests/backends/test_s3_store.py::test_what_is_to_be_new_is_put_on_condition",),
    ),
    Mutant(
        "lost-put-is-anothers",
        "A put whose answer was lost, and which finds its own bytes when it is repeated, takes them for another's.",
        "only TransientError is repeated, and what it did is looked at",
        (
            Edit(
                _RETRYING,
                "            return done or (may_have_happened and await self._holds(key, data))\n",
                "            return done\n",
            ),
        ),
        (_RETRYING_TESTS + "test_a_put_whose_answer_was_lost_is_ours",),
    ),
    Mutant(
        "anothers-put-is-ours",
        "A put that failed and finds its name taken when it is repeated believes that it took it, whoever did.",
        "I7",
        (
            Edit(
                _RETRYING,
                "            return done or (may_have_happened and await self._holds(key, data))\n",
                "            return done or may_have_happened\n",
            ),
        ),
        (_RETRYING_TESTS + "test_a_put_that_somebody_else_made_is_refused",),
    ),
    Mutant(
        "complaints-slow-nobody",
        "Deletes and listings go on at full pace after the server asked to slow down.",
        "the collector gives way before pushes do",
        (
            Edit(
                _RETRYING,
                "            self._client._pace.slow_down()  # noqa: SLF001 - its own other half\n",
                "            pass\n",
            ),
        ),
        (_RETRYING_TESTS + "test_complaints_slow_deletes_and_not_pushes",),
    ),
    Mutant(
        "parts-as-they-arrived",
        "Parts are joined in the order in which the server took them.",
        "I1",
        (
            Edit(
                _UPLOAD,
                "        parts = [self._parts[number] for number in range(1, self._number)]\n",
                "        parts = list(self._parts.values())\n",
            ),
        ),
        (_PARTS_TESTS + "test_parts_that_overtake_each_other_are_joined_in_order",),
    ),
    Mutant(
        "cancelled-multipart-leaks",
        "An upload that is given up while parts are on their way leaves its multipart upload open.",
        "a crash leaves garbage, a cancellation does not",
        (
            Edit(
                _UPLOAD,
                "            if self._multipart_id:\n                await self._abort_multipart(",
                "            if self._multipart_id and not sending:\n                await self._abort_multipart(",
            ),
        ),
        (_PARTS_TESTS + "test_a_commit_cancelled_with_parts_on_their_way_leaves_nothing",),
    ),
    Mutant(
        "late-part-outlives-its-abort",
        "A part that was cancelled on its way, and arrives behind the abort, stays.",
        "a crash leaves garbage, a cancellation does not",
        (Edit(_UPLOAD, "            if not may_be_late:\n                return\n", "            return\n"),),
        (_STORE_TESTS + "test_a_late_part_does_not_outlive_its_abort",),
    ),
)
