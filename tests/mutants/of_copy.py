"""Mutants of what a copy of a store promises: whole, verified, references behind what they refer to."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_TESTS = "tests/replication/test_copy.py::"
_UNDER_WAY = "tests/replication/test_under_way.py::"
_BLOBS = "blobstore/replication/_blobs.py"
_REPOSITORY = "blobstore/replication/_repository.py"
_BRING = " or not await self._bring(wanted):\n            return False\n"

COPY = (
    Mutant(
        "references-before-blobs",
        "A copied manifest is put before its blobs are there; what the target then misses is brought.",
        "2",
        (Edit(_REPOSITORY, _BRING, ":\n            return False\n"),),
        (_UNDER_WAY + "test_no_reference_is_ahead_of_its_blobs",),
    ),
    Mutant(
        "copied-digest-unverified",
        "Bytes that rotted at the source are stored at the target, whatever they hash to.",
        "I1",
        (
            Edit(
                _BLOBS,
                "async with self._source.open_blob(blob.digest) as chunks, open_upload(blob.digest) as upload:",
                "async with self._source.backend.read(blob.names[0]) as chunks, open_upload(None) as upload:",
            ),
            Edit(_BLOBS, "await upload.commit(digest, blob.size_bytes)", "await upload.commit()"),
        ),
        (_TESTS + "test_a_damaged_blob_is_left_out",),
    ),
    Mutant(
        "copied-bytes-checked-by-the-target-alone",
        "Bytes are read from the source without comparing them with their hash.",
        "I1",
        (
            Edit(
                _BLOBS,
                "async with self._source.open_blob(blob.digest) as chunks, ",
                "async with self._source.backend.read(blob.names[0]) as chunks, ",
            ),
        ),
        (_TESTS + "test_a_damaged_blob_is_left_out",),
        saved_by="the digest that the upload was announced with",
    ),
    Mutant(
        "damaged-target-trusted",
        "A copy that goes on takes what the target lost for copied, as its manifest stands there.",
        "2",
        (
            Edit(
                "blobstore/replication/_copy.py",
                "self._trusts_present = (await self._target.totals()).suspect_blobs == 0",
                "self._trusts_present = True",
            ),
        ),
        (_TESTS + "test_damage_at_the_target_is_healed",),
    ),
    Mutant(
        "half-a-blob-copied",
        "An upload that was cut short stays open at the target.",
        "6",
        (Edit(_BLOBS, "                    await upload.cancel()\n", "                    await upload.aclose()\n"),),
        (_UNDER_WAY + "test_half_an_upload_is_dropped",),
    ),
    Mutant(
        "tags-before-manifests",
        "A tag is put before what belongs to its image: its signatures, its platforms' images.",
        "2",
        (
            Edit(
                _REPOSITORY,
                "        await for_each(self._copy_family, families(nodes), manifests_at_once)\n",
                "        for batch in batches(nodes):\n"
                "            await for_each(self._copy_family, [[node] for node in batch], manifests_at_once)\n",
            ),
        ),
        (_UNDER_WAY + "test_a_tag_comes_after_all_that_belongs_to_its_image",),
    ),
    Mutant(
        "missing-blob-passes",
        "A manifest is put though bytes that it needs are damaged at the source.",
        "2",
        (Edit(_REPOSITORY, "                    missing.append(digest)\n", "                    pass\n"),),
        (_TESTS + "test_a_damaged_blob_is_left_out",),
    ),
    Mutant(
        "older-tag-wins",
        "A tag that was moved at the target later than at the source is moved back.",
        "1",
        (
            Edit(
                _REPOSITORY,
                "if there is not None and there.updated_at_ms > entry.updated_at_ms:",
                "if there is not None and there.updated_at_ms < 0:",
            ),
        ),
        (_UNDER_WAY + "test_a_tag_that_the_target_moves_under_the_copy_stays",),
    ),
    Mutant(
        "losses-of-a-copy-untold",
        "A copy that left something out ends as if all were there.",
        "1",
        (Edit("blobstore/cli/_copy.py", "return 0 if report.is_complete else FAILED", "return 0"),),
        ("tests/cli/test_copy.py::test_damage_is_told_and_the_rest_is_copied",),
    ),
)
