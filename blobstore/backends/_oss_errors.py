"""What OSS and the way to it refuse, in our errors; none of their texts holds a secret."""

from __future__ import annotations

import contextlib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from typing import Protocol

import oss2.exceptions
import requests
import urllib3

from blobstore.errors import (
    AccessDenied,
    BlobstoreError,
    BucketUnknown,
    ConfigInvalid,
    KeyUnknown,
    RangeInvalid,
    SlowDown,
    StorageFailed,
    StorageFull,
    TransientError,
)

_WRONG_CREDENTIALS = {
    "InvalidAccessKeyId": "the access key id is unknown there",
    "SignatureDoesNotMatch": "the access key secret is wrong, or something on the way changes requests",
    "InvalidSecurityToken": "the security token is wrong",
    "SecurityTokenExpired": "the security token has expired; get a new one",
    "UserDisable": "the account is disabled or overdue",
}
_BY_CODE: dict[str, type[BlobstoreError]] = {
    "NoSuchKey": KeyUnknown,
    "NoSuchUpload": KeyUnknown,
    "NoSuchVersion": KeyUnknown,
    "InvalidRange": RangeInvalid,
    "QuotaExceeded": StorageFull,
    "StorageQuotaExceeded": StorageFull,
    "UserStorageQuotaExceeded": StorageFull,
    "SlowDown": SlowDown,
    # Of the account, the bucket, or one kind of request; traffic has codes of its own, with the same end.
    "QpsLimitExceeded": SlowDown,
    # A body that was changed or cut on its way is sent again.
    "InvalidDigest": TransientError,
    "IncompleteBody": TransientError,
    "RequestTimeout": TransientError,
}
_LIMIT_SUFFIX = "LimitExceeded"
_THROTTLED = "Throttling"
_SERVER_ERROR = 500
_TOO_MANY = 429


class Refused(Protocol):
    """What oss2 raises for an answer of the server."""

    status: int
    code: str
    message: str
    request_id: str
    body: bytes
    headers: Mapping[str, str]
    details: Mapping[str, str]


@contextlib.contextmanager
def oss_errors(doing: str) -> Iterator[None]:
    """Turn what oss2, requests and urllib3 raise into our errors, saying what was being done."""
    try:
        yield
    except oss2.exceptions.RequestError as error:
        raise _unreachable(doing, error.exception) from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _unreachable(doing, error) from error
    except oss2.exceptions.ClientError as error:
        raise ConfigInvalid(f"{doing}: {error.body}") from error
    except oss2.exceptions.OssError as error:
        raise refused(doing, error) from error
    except (ET.ParseError, RuntimeError, ValueError, AttributeError) as error:
        # What oss2's parsers raise for an answer that is none of OSS, as of a proxy on the way.
        raise StorageFailed(f"{doing}: the answer is not one of OSS ({error})") from error


def refused(doing: str, error: Refused) -> BlobstoreError:
    """Our error for an answer of the server."""
    # An empty one is read as None.
    code, status = error.code or "", error.status
    if status == 404 and not code and error.body.strip() and b"<Error" not in error.body:
        # Of a proxy, or of a server that is none of OSS: whether anything is missing there is not known.
        return TransientError(f"{doing}: 404 with a page that is none of OSS; is something between that answers?")
    said = " ".join(filter(None, (code or f"status {status}", error.message)))
    text = f"{doing}: {said} (request {error.request_id or 'unknown'})"
    if code == "NoSuchBucket":
        return BucketUnknown(f"{text}; create the bucket first, or correct its name or endpoint")
    if code == "FileImmutable":
        return AccessDenied(f"{text}; a rule of the bucket retains it")
    if code not in _BY_CODE and status in (401, 403):
        return _denied(doing, error, text)
    return (_BY_CODE.get(code) or _by_status(code, status))(text)


def _by_status(code: str, status: int) -> type[BlobstoreError]:
    if code.endswith(_LIMIT_SUFFIX) or code.startswith(_THROTTLED) or status == _TOO_MANY:
        return SlowDown
    # A conflict is one with another request under way.
    if status >= _SERVER_ERROR or status == 409:
        return TransientError
    # An answer to a HEAD may come without its code.
    return KeyUnknown if status == 404 else StorageFailed


def _denied(doing: str, error: Refused, text: str) -> BlobstoreError:
    request = f"(request {error.request_id or 'unknown'})"
    if error.code in _WRONG_CREDENTIALS:
        return AccessDenied(f"{doing}: wrong credentials: {_WRONG_CREDENTIALS[error.code]} {request}")
    if error.code == "RequestTimeTooSkewed":
        server = error.details.get("ServerTime") or error.headers.get("Date", "unknown")
        return AccessDenied(
            f"{doing}: this machine's clock is wrong: the server refuses requests that are more than 15 minutes off; its time "
            f"is {server}; set the clock {request}"
        )
    if error.code == "InvalidObjectState":
        return StorageFailed(f"{text}; the object is archived: restore it, and take the bucket's archive rule away")
    endpoint = error.details.get("Endpoint")
    if endpoint:
        return AccessDenied(f"{text}; the bucket is not at this endpoint, but at {endpoint}")
    return AccessDenied(f"{text}; give this key the right to it in a RAM policy")


def _unreachable(doing: str, error: BaseException) -> BlobstoreError:
    """What went wrong on the way. Only the innermost cause is told: what stands around it repeats the whole request."""
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema)):
        return ConfigInvalid(f"{doing}: {error}")
    if isinstance(error, requests.exceptions.TooManyRedirects):
        place = error.response.headers.get("Location", "") if error.response is not None else ""
        return StorageFailed(
            f"{doing}: the server sends it to {place!r:.200}; correct the endpoint, or take redirections off the bucket's website"
        )
    cause = _innermost(error)
    text = f"{doing}: no answer: {type(cause).__name__}: {cause}"
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StorageFailed(f"{text}; check the endpoint, or name its certificate authority in REQUESTS_CA_BUNDLE")
    return TransientError(text)


def _innermost(error: BaseException) -> BaseException:
    seen = {id(error)}
    while True:
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((each for each in error.args if isinstance(each, BaseException)), None)
        inner = inner or error.__cause__ or error.__context__
        if inner is None or id(inner) in seen:
            return error
        seen.add(id(inner))
        error = inner
