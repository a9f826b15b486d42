"""Errors as the specification writes them: one table from what was raised to status and code.

Source: distribution-spec, Error Codes. A JSON answer of 4xx must have one of its codes, so that what has none of its own has the
nearest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from blobstore.errors import (
    BlobstoreError,
    BlobUnknown,
    ContentMismatch,
    DigestInvalid,
    DigestMismatch,
    IndexPoisoned,
    InvalidInput,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestTooLarge,
    ManifestUnknown,
    NameInvalid,
    NotFound,
    RangeInvalid,
    Refused,
    RepositoryUnknown,
    SizeMismatch,
    StillReferenced,
    StorageFull,
    TagInvalid,
    TagUnknown,
    TransientError,
    UploadBusy,
    UploadInterrupted,
    UploadUnknown,
)
from blobstore.server.protocol.access import Forbidden, TooManyRequests, Unauthenticated
from blobstore.server.protocol.messages import BodyInterrupted, Response, json_response

_RETRY_S = 1
_HIDDEN = "the registry could not do this; its log says why"


class Problem(BlobstoreError):
    """What the registry itself refuses, with its status and code."""

    def __init__(
        self, status: int, code: str, text: str, *, detail: Any = None, headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(text)
        self.status, self.code, self.detail, self.headers = status, code, detail, tuple(headers)


_STATUS_AND_CODE: dict[type[BaseException], tuple[int, str]] = {
    Unauthenticated: (401, "UNAUTHORIZED"),
    Forbidden: (403, "DENIED"),
    TooManyRequests: (429, "TOOMANYREQUESTS"),
    DigestInvalid: (400, "DIGEST_INVALID"),
    NameInvalid: (400, "NAME_INVALID"),
    TagInvalid: (400, "MANIFEST_INVALID"),
    ManifestTooLarge: (413, "MANIFEST_INVALID"),
    ManifestInvalid: (400, "MANIFEST_INVALID"),
    RangeInvalid: (416, "SIZE_INVALID"),
    InvalidInput: (400, "UNSUPPORTED"),
    DigestMismatch: (400, "DIGEST_INVALID"),
    SizeMismatch: (400, "SIZE_INVALID"),
    ContentMismatch: (400, "DIGEST_INVALID"),
    BodyInterrupted: (400, "SIZE_INVALID"),
    BlobUnknown: (404, "BLOB_UNKNOWN"),
    ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    TagUnknown: (404, "MANIFEST_UNKNOWN"),
    RepositoryUnknown: (404, "NAME_UNKNOWN"),
    UploadUnknown: (404, "BLOB_UPLOAD_UNKNOWN"),
    # What else isn't there is the storage's: a store, a bucket or a key that went.
    NotFound: (503, "UNAVAILABLE"),
    # The specification knows no 409 here: what can't be deleted now is, for now, not deletable.
    StillReferenced: (405, "UNSUPPORTED"),
    ManifestBlobUnknown: (400, "MANIFEST_BLOB_UNKNOWN"),
    UploadBusy: (409, "BLOB_UPLOAD_INVALID"),
    UploadInterrupted: (404, "BLOB_UPLOAD_UNKNOWN"),
    Refused: (409, "DENIED"),
    StorageFull: (507, "UNAVAILABLE"),
    IndexPoisoned: (503, "UNAVAILABLE"),
    TransientError: (503, "UNAVAILABLE"),
    BlobstoreError: (500, "UNKNOWN"),
}


def problem_response(error: BlobstoreError) -> Response:
    """The answer to a request that ended with `error`."""
    if isinstance(error, Problem):
        return error_response(error.status, error.code, str(error), detail=error.detail, headers=error.headers)
    status, code = next(_STATUS_AND_CODE[kind] for kind in type(error).__mro__ if kind in _STATUS_AND_CODE)
    if isinstance(error, ManifestBlobUnknown):
        text = "the manifest refers to what this repository does not have"
        return _errors(status, [_entry(code, text, str(each)) for each in error.missing])
    text = _HIDDEN if status >= 500 and not isinstance(error, StorageFull) else str(error)
    if isinstance(error, StorageFull):
        text = "no space is left in this registry"
    return error_response(status, code, text, detail=_detail(error), headers=_headers(error, status))


def error_response(
    status: int, code: str, text: str, *, detail: Any = None, headers: Iterable[tuple[str, str]] = ()
) -> Response:
    """One error in the shape of the specification."""
    return _errors(status, [_entry(code, text, detail)], headers)


def _errors(status: int, entries: Sequence[dict[str, Any]], headers: Iterable[tuple[str, str]] = ()) -> Response:
    return json_response(status, {"errors": entries}, headers)


def _entry(code: str, text: str, detail: Any) -> dict[str, Any]:
    return {"code": code, "message": text} | ({} if detail is None else {"detail": detail})


def _detail(error: BlobstoreError) -> Any:
    if isinstance(error, DigestMismatch):
        return {"claimed": str(error.claimed), "actual": str(error.actual)}
    if isinstance(error, SizeMismatch):
        return {"expected": error.expected_bytes, "actual": error.actual_bytes}
    if isinstance(error, StillReferenced):
        # Of the same repository: nothing is told of others.
        return {"parents": [str(parent) for parent in error.parents]}
    return None


def _headers(error: BlobstoreError, status: int) -> list[tuple[str, str]]:
    if isinstance(error, Unauthenticated):
        return [("WWW-Authenticate", error.challenge)]
    if isinstance(error, TooManyRequests):
        return [("Retry-After", str(error.retry_after_s))]
    if status == 503 or isinstance(error, UploadBusy):
        return [("Retry-After", str(_RETRY_S))]
    if isinstance(error, StillReferenced):
        return [("Allow", "GET, HEAD")]
    return []
