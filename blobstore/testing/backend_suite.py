"""The promises of `Backend`, as tests that every backend must pass.

    class TestMyBackend(BackendSuite):
        def make_backend(self, directory: Path) -> Backend:
            return MyBackend(directory / "store")

Needs pytest and pytest-asyncio. Keys are those of a store (see `blobstore.layout`), as a backend may make its folders ahead.
For a slow server smaller sizes may be named (see `BackendTests`); what keeps nothing on disk says in `make_another` how a second
backend gets to the same bytes.

Docker Distribution's storage drivers share a suite, too. Each of its cases (as of its release 3) and where it is here:

    =====  ================================  ==================================================================================
    1      RootExists                        an_empty_backend_has_nothing
    2      ValidPaths                        odd_keys
    3      InvalidPaths                      bad_keys_are_refused, bad_upload_ids_are_refused
    4–8    WriteRead1–4, NonUTF8             any_bytes, put_and_read
    9, 34  Truncate, PutContentMultipleTimes put_replaces_the_whole
    10,20  ReadNonexistent, …Stream          an_empty_backend_has_nothing
    11–15  WriteReadStreams                  small_uploads, pieces_of_any_size
    16     WriteReadLargeStreams             big_objects
    17     ReaderWithOffset                  ranges, ranges_outside_are_refused, an_empty_object_has_one_range
    18,19  ContinueStreamAppendLarge, …Small an_upload_goes_on_in_another_session
    21,22  WriteZeroByte…ThenAppend          small_uploads, an_upload_without_bytes_is_resumed; what was committed is never
                                             appended to
    23     List                              thousands_of_keys, listings_are_sorted_by_key; a listing here has no levels
    24–27  Move…                             no such verb: a commit names its bytes, and nothing is ever copied
    28     Delete                            a_deleted_key_is_gone
    29     RedirectURL                       no verb of a backend; where a vendor can presign, its own tests fetch such links
    30     DeleteNonexistent                 deletes_of_absent_keys_are_confirmed: no error here
    31,32  DeleteFolder, …OnlyDeletesSubpaths a_deleted_key_is_gone, a_prefix_is_no_object: there are no folders
    33     StatCall                          put_and_read, a_prefix_is_no_object; no times are kept
    35     ConcurrentStreamReads             big_objects
    36     ConcurrentFileStreams             many_uploads_at_once
    =====  ================================  ==================================================================================

Its extra cases for single drivers: walking (prefixes, hints, vanishing files) is in `_backend_listing`; over a thousand keys in
thousands_of_keys; concurrent puts on one path in puts_at_once_leave_one_of_them.
"""

from __future__ import annotations

import pytest

from blobstore.testing._backend_cancellation import CancellationTests
from blobstore.testing._backend_listing import ListingTests
from blobstore.testing._backend_resuming import ResumingTests
from blobstore.testing._backend_stage import key_of
from blobstore.testing._backend_uploads import UploadTests
from blobstore.testing._backend_values import ValueTests

KEY = key_of(0)


@pytest.mark.asyncio
class BackendSuite(ValueTests, ListingTests, UploadTests, ResumingTests, CancellationTests):
    """Inherit, and say how to make a backend."""
