"""Mutants of the steps that make bytes and the index durable."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_FILES = "blobstore/backends/_files.py"
_WRITER = "blobstore/index/_writer.py"
_LMDB = "blobstore/index/lmdb.py"
_ORDER = "tests/store/test_order.py::"

_SYNC = """\
            os.fsync(handle)
            if calls.close_tells_errors:
                closing.close()
"""
_LINK = """\
            # No rename, which replaces what is there: that may be a blob by now, and were to go if our sync failed.
            calls.link(staged, final)
"""

DISK = (
    Mutant(
        "file-not-synced",
        "A staged blob gets its name without an fsync of its bytes.",
        "I4",
        (Edit(_FILES, _SYNC + _LINK, _LINK),),
        (_ORDER + "test_a_push_is_promised_then_durable_then_committed[large]",),
    ),
    Mutant(
        "small-file-not-synced",
        "A small blob, a manifest and a journal object get their name without an fsync of their bytes.",
        "I4",
        (
            Edit(
                _FILES,
                """\
        os.fsync(handle)
        # With a src_dir_fd""",
                "        # With a src_dir_fd",
            ),
        ),
        (_ORDER + "test_a_push_is_promised_then_durable_then_committed[small]",),
    ),
    Mutant(
        "named-before-synced",
        "A staged blob is named first and synced after.",
        "I4",
        (Edit(_FILES, _SYNC + _LINK, _LINK + _SYNC),),
        (_ORDER + "test_a_push_is_promised_then_durable_then_committed[large]",),
    ),
    Mutant(
        "published-over",
        "A staged blob replaces what another session of its upload published.",
        "I7",
        (
            Edit(
                _FILES,
                """\
            calls.link(staged, final)
            made.append(final)
            calls.unlink(staged)
""",
                """\
            calls.rename(staged, final)
            made.append(final)
""",
            ),
        ),
        ("tests/store/test_uploads.py::test_what_a_dead_session_published_is_not_published_again[large]",),
    ),
    Mutant(
        "directory-not-synced",
        "No name in a directory is made durable.",
        "I4",
        (Edit("blobstore/durable.py", "        os.fsync(handle)\n", "        pass\n"),),
        (_ORDER + "test_a_push_is_promised_then_durable_then_committed[small]",),
    ),
    Mutant(
        "sync-retried",
        "After a failed fsync the same descriptor is synced again, and the lie is believed.",
        "I4",
        (
            Edit(
                _FILES,
                _SYNC + _LINK,
                """\
            try:
                os.fsync(handle)
            except OSError:
                os.fsync(handle)
"""
                + _LINK,
            ),
        ),
        (_ORDER + "test_a_descriptor_whose_sync_failed_is_not_synced_again[large]",),
    ),
    Mutant(
        "delete-not-synced",
        "Bytes count as deleted, and their trash row goes, before their directories are synced: they may come back.",
        "I5",
        (
            Edit(
                _FILES,
                "    for directory in {os.path.dirname(path) for path in gone}:",
                "    for directory in set[str]():",
            ),
        ),
        (_ORDER + "test_records_are_journaled_before_bytes_go_and_rows_before_bytes",),
    ),
    Mutant(
        "index-not-synced",
        "LMDB commits without a sync.",
        "I4",
        (
            Edit(
                _LMDB,
                "                    mode=0o600,\n",
                """\
                    mode=0o600,
                    sync=False,
""",
            ),
        ),
        (_ORDER + "test_the_index_syncs_data_and_meta_page",),
    ),
    Mutant(
        "meta-page-not-synced",
        "LMDB syncs the data of a commit, and its meta page with the next one.",
        "I4",
        (
            Edit(
                _LMDB,
                "                    mode=0o600,\n",
                """\
                    mode=0o600,
                    metasync=False,
""",
            ),
        ),
        (_ORDER + "test_the_index_syncs_data_and_meta_page",),
    ),
    Mutant(
        "answer-before-commit",
        "The writer thread answers when the verbs have run, before their transaction is committed and synced.",
        "I4",
        (
            Edit(
                _WRITER,
                """\
            tx.flush()
        self._settle(tx)

    def _commit_nested""",
                """\
            tx.flush()
            _answer(batch)
        self._settle(tx)

    def _commit_nested""",
            ),
        ),
        (_ORDER + "test_no_verb_is_answered_before_its_commit",),
    ),
    Mutant(
        "poison-ignored",
        "After a failed sync of the index the next verb tries again.",
        "I4",
        (
            Edit(
                _WRITER,
                '        self.poison = f"the index could not be written',
                '        poison = f"the index could not be written',
            ),
            Edit(
                _WRITER,
                """\
        _fail(batch, IndexPoisoned(self.poison))


def""",
                """\
        _fail(batch, IndexPoisoned(poison))


def""",
            ),
        ),
        ("tests/test_lmdb.py::test_a_failed_commit_poisons",),
    ),
    Mutant(
        "ballast-never-freed",
        "On a full disk not even a delete finds room.",
        "I5",
        (
            Edit(
                _WRITER,
                """\
        self._ballast.release()
        try:""",
                "        try:",
            ),
        ),
        (_ORDER + "test_the_ballast_is_freed_for_verbs_that_make_room",),
    ),
    Mutant(
        "index-used-after-fork",
        "A forked child goes on with its parent's LMDB environment.",
        "I2",
        (Edit(_LMDB, "        self._is_forked = True\n", "        self._is_forked = False\n"),),
        ("tests/store/test_store.py::test_a_store_opened_before_a_fork_is_refused_in_the_child",),
    ),
    Mutant(
        "lmdb-lock-dropped",
        "A descriptor of LMDB's lock file is closed while the index is open, and with it goes LMDB's own lock.",
        "I2",
        (
            Edit(
                _LMDB,
                "            _allocate(self._reader_table)\n",
                """\
            _allocate(self._reader_table)
            os.close(os.dup(self._reader_table))
""",
            ),
        ),
        ("tests/soak/test_found_by_soak.py::test_an_open_index_keeps_lmdb_own_lock",),
    ),
    Mutant(
        "last-chunk-early",
        "A reader gets the last chunk before the whole is verified.",
        "I1",
        (
            Edit(
                "blobstore/readers.py",
                """\
                if held is not None:
                    yield held
                held = chunk
""",
                "                yield chunk\n",
            ),
        ),
        ("tests/store/test_store.py::test_damaged_bytes_never_arrive_in_full",),
    ),
)
