"""Mutants of what a network file system asks for: calls whose answers are looked into, and a mount that can be trusted."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_CALLS = "blobstore/backends/_nas_calls.py"
_TESTS = "tests/backends/test_nas.py::"
_HURTING = "tests/nas/test_hurting_mount.py::"

NAS = (
    Mutant(
        "nas-failure-believed",
        "A call whose answer was lost is taken for one that failed.",
        "I4",
        (Edit(_CALLS, "            if has_happened():\n                return\n", ""),),
        (_HURTING + "test_a_call_that_seems_to_fail_is_looked_into[put-rename-lost]",),
    ),
    Mutant(
        "nas-failure-overlooked",
        "A rename that failed is taken for one that was done, as something has that name.",
        "I4",
        (
            Edit(
                _CALLS,
                "lambda: _found(source) is None and _found(target) is not None",
                "lambda: _found(target) is not None",
            ),
        ),
        (_HURTING + "test_the_marker_is_old_or_new",),
    ),
    Mutant(
        "nas-close-unchecked",
        "A blob gets its name though its file's close says that bytes were lost.",
        "I4",
        (
            Edit(
                "blobstore/backends/_files.py",
                "            if calls.close_tells_errors:\n                closing.close()\n",
                "",
            ),
        ),
        (_HURTING + "test_what_fails_late_leaves_nothing[commit-close-edquot]",),
    ),
    Mutant(
        "nas-soft-accepted",
        "A share is used whose client gives up on a slow server.",
        "I4",
        (Edit("blobstore/backends/nas.py", "        refuse_soft(mount, self._root)\n", ""),),
        (_TESTS + "test_a_store_on_a_soft_mount_is_not_opened",),
    ),
    Mutant(
        "nas-silly-names-listed",
        "A file that is deleted while it is open is listed by the name that the client keeps it under.",
        "I5",
        (Edit(_CALLS, '[entry for entry in found if not entry.name.startswith(".")]', "found"),),
        (_HURTING + "test_silly_names_are_left_out_and_counted",),
    ),
    Mutant(
        "nas-stale-handle-given-up",
        "A blob whose handle goes stale while it is read ends there.",
        "I1",
        (
            Edit(
                _CALLS,
                "            if error.errno != errno.ESTALE:\n                raise\n            self._reopen(error)\n",
                "            raise\n",
            ),
        ),
        (_HURTING + "test_a_handle_that_goes_stale_is_opened_anew",),
    ),
    Mutant(
        "nas-stale-handle-of-another",
        "A blob whose handle goes stale goes on with whatever has its name now.",
        "I1",
        (Edit(_CALLS, "        if os.fstat(fresh).st_size != self.found.st_size:\n", "        if fresh < 0:\n"),),
        (_HURTING + "test_a_stale_handle_of_what_is_gone_or_another_is_an_error",),
    ),
    Mutant(
        "nas-upload-not-owned",
        "Two sessions of one host write to one upload.",
        "I7",
        (
            Edit(
                _CALLS,
                '        lock = self._locks.take(f"upload {os.path.basename(path)}")\n',
                '        lock = self._locks.take(f"{id(object())} {secrets.token_hex(8)}")\n',
            ),
        ),
        (_TESTS + "test_an_upload_is_one_processs",),
    ),
    Mutant(
        "nas-published-upload-resumed",
        "An upload is taken up whose bytes are a blob already: what is written to it is written into that.",
        "I7",
        (Edit(_CALLS, "        if opened.is_published:\n", "        if opened.size_bytes < 0:\n"),),
        (_TESTS + "test_what_a_dead_session_published_is_not_taken_up",),
    ),
)
