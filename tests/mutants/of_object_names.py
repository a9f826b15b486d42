"""Mutants of what an object store's names ask for: bytes that keep the name they were sent under, and their commit records."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_TESTS = "tests/gc/test_object_names.py::"
_UPLOADS = "blobstore/uploads.py"
_RECONCILE = "blobstore/reconcile.py"
_BEHIND_THE_LISTING = """        async for page in pages(lambda after: self._index.scan_references(after, PAGE)):
            for each in page:
                doubtful.pop(each.blob.generation, None)
"""

OBJECT_NAMES = (
    Mutant(
        "unrecorded-data-is-trash",
        "Bytes whose commit record was not listed are taken for a crash's leavings, without a look at which blobs there are.",
        "I1",
        (Edit(_RECONCILE, _BEHIND_THE_LISTING, ""),),
        (_TESTS + "test_a_blob_committed_while_we_listed_is_no_orphan",),
    ),
    Mutant(
        "lost-record-takes-its-blob",
        "A blob whose commit record is gone loses its bytes, too.",
        "I1",
        (Edit(_RECONCILE, _BEHIND_THE_LISTING, ""),),
        (_TESTS + "test_a_lost_record_is_put_again",),
    ),
    Mutant(
        "data-before-record",
        "Bytes go together with their commit record: a crash between may leave a record that speaks of nothing.",
        "I5",
        (
            Edit(
                "blobstore/parts.py",
                "    records = [name for each in trash for name in each.names if is_record_key(name)]\n",
                "    records = [name for each in trash for name in each.names]\n",
            ),
        ),
        (_TESTS + "test_a_record_is_deleted_before_its_bytes",),
    ),
    Mutant(
        "data-of-a-record-that-stays",
        "Bytes go though their commit record could not be deleted.",
        "I5",
        (
            Edit(
                "blobstore/parts.py",
                " if gone.issuperset(name for name in each.names if is_record_key(name))]",
                "]",
            ),
        ),
        (_TESTS + "test_bytes_stay_while_their_record_can_not_be_deleted",),
    ),
    Mutant(
        "half-a-commit-forgotten",
        "A commit that fails between bytes and record takes back only the name that the bytes would have on a file system.",
        "I5",
        (
            Edit(
                _UPLOADS,
                "            self._published += published_names(key, self._intent.generation)\n",
                "            pass\n",
            ),
            Edit(_UPLOADS, "        assert set(names) <= set(self._published), names\n", ""),
        ),
        (_TESTS + "test_a_commit_cancelled_before_its_record_takes_its_bytes_back",),
    ),
    Mutant(
        "announced-digest-unchecked",
        "Bytes get the name of the digest that was announced, whatever they hash to.",
        "I1",
        (
            Edit(
                _UPLOADS,
                "        if announced is not None and announced.digest != content.digest:\n",
                "        if announced is None and announced is not None:\n",
            ),
        ),
        (_TESTS + "test_announced_bytes_have_their_name_from_the_start",),
    ),
    Mutant(
        "announced-name-forgotten",
        "Who goes on with an upload sends to another name than it began with.",
        "I1",
        (
            Edit(
                _UPLOADS,
                "open_upload(generation, key=self._announced_key(), resume=resume)\n",
                "open_upload(generation, key=None if resume else self._announced_key(), resume=resume)\n",
            ),
        ),
        (_TESTS + "test_an_announced_digest_outlives_a_session",),
    ),
    Mutant(
        "record-trusted-by-a-rebuild",
        "A rebuild believes a commit record without bytes.",
        "I1",
        (
            Edit(
                "blobstore/rebuild.py",
                "        if size_bytes is None:\n",
                "        size_bytes = size_bytes or 0\n        if size_bytes is None:\n",
            ),
        ),
        (_TESTS + "test_the_index_is_rebuilt_from_the_bucket_alone",),
    ),
)
