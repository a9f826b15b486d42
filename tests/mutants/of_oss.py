"""Mutants of the client of Aliyun OSS: what it compares, what it forbids, and what it tells."""

from __future__ import annotations

from tests.mutants.mutant import Edit, Mutant

_CLIENT = "blobstore/backends/oss.py"
_BODIES = "blobstore/backends/_oss_bodies.py"
_CONNECTION = "blobstore/backends/_oss_connection.py"
_ERRORS = "blobstore/backends/_oss_errors.py"
_CHECKSUMS = "tests/backends/test_oss_checksums.py::"
_FAULTS = "tests/backends/test_oss_faults.py::"

OSS = (
    Mutant(
        "oss-part-not-compared",
        "A part counts as sent whatever checksum the server computed of it.",
        "I1",
        (
            Edit(
                _CLIENT,
                "            if crc_told(doing, found) != body.crc:\n",
                "            if crc_told(doing, found) < 0:\n",
            ),
        ),
        (_CHECKSUMS + "test_a_part_that_was_changed_on_its_way",),
    ),
    Mutant(
        "oss-whole-not-compared",
        "Parts count as joined whatever checksum the server computed of the whole.",
        "I1",
        (Edit(_CLIENT, "        if expected is None or expected == found.crc:\n", "        if found.crc != -1:\n"),),
        (_CHECKSUMS + "test_parts_that_were_joined_wrongly",),
    ),
    Mutant(
        "oss-unanswered-whole-not-compared",
        "A completion whose answer was lost counts as done if the object is as long as it should be.",
        "I1",
        (
            Edit(
                _CLIENT,
                "        return expected is None or expected == found.server_crc\n",
                "        return expected is None or found.server_crc != -1\n",
            ),
        ),
        (_CHECKSUMS + "test_a_completion_without_an_answer_is_compared_too",),
    ),
    Mutant(
        "oss-resumed-checksums-lost",
        "The parts that an earlier session sent come back without their checksums, and the whole is compared with nothing.",
        "I1",
        (Edit(_CONNECTION, "        int(checksum) if checksum else None,\n", "        None if checksum else None,\n"),),
        (_CHECKSUMS + "test_an_upload_that_another_session_sent_is_compared_as_a_whole",),
    ),
    Mutant(
        "oss-download-not-compared",
        "What came of a whole object is handed on whatever checksum the server told.",
        "I1",
        (
            Edit(
                _BODIES,
                "        if self._expected_crc is not None and self._expected_crc != (self._crc or 0):\n",
                "        if self._expected_crc == -1:\n",
            ),
        ),
        (_CHECKSUMS + "test_a_download_that_was_changed_on_its_way",),
    ),
    Mutant(
        "oss-pieces-not-copied",
        "A piece of a part that its owner writes to again is sent as it is then.",
        "I1",
        (
            Edit(
                "blobstore/backends/_part_pieces.py",
                "        if type(owner) is bytes and len(data)",
                "        if owner is not None and len(data)",
            ),
        ),
        ("tests/backends/test_part_pieces.py::test_what_can_change_is_copied",),
    ),
    Mutant(
        "oss-put-over",
        "An object that is to be new replaces the one that is there.",
        "I7",
        (Edit(_CLIENT, "            headers |= _CREATE_ONLY\n", "            headers |= {}\n"),),
        ("tests/backends/test_oss.py::test_a_put_of_a_new_object_replaces_none",),
    ),
    Mutant(
        "oss-completed-over",
        "A completion replaces what another session of the upload published in the same moment.",
        "I7",
        (
            Edit(
                _CLIENT,
                "        headers = dict(_CREATE_ONLY) if is_new else {}\n",
                "        headers = dict[str, str]() if is_new else {}\n",
            ),
        ),
        (_FAULTS + "test_an_upload_that_was_published_in_the_same_moment",),
    ),
    Mutant(
        "oss-unconfirmed-deletes-are-gone",
        "Every key that a delete asked for counts as gone, though the server left some out of its answer.",
        "I5",
        (
            Edit(
                _CLIENT,
                "            gone = frozenset(found.deleted_keys)\n",
                "            gone = frozenset(wanted) if found is not None else gone\n",
            ),
        ),
        ("tests/backends/test_oss.py::test_deletes_a_thousand_in_one_request",),
    ),
    Mutant(
        "oss-clock-skew-not-told",
        "A request that was refused for this machine's clock is told as a missing right.",
        "clear errors",
        (
            Edit(
                _ERRORS,
                '    if error.code == "RequestTimeTooSkewed":\n',
                '    if error.code == "RequestTimeTooWrong":\n',
            ),
        ),
        ("tests/backends/test_oss_access.py::test_a_clock_that_is_wrong",),
    ),
)
