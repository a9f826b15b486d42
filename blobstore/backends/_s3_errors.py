"""What S3 servers answer when they refuse, as our errors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ssl import SSLError

import aiohttp
from botocore import exceptions as sdk  # type: ignore[import-untyped]

from blobstore.backends._http import HttpAnswer, HttpFailed
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

_SLOW_DOWN = {
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "429",
}
_TRANSIENT = {
    "InternalError",
    "ServiceUnavailable",
    "RequestTimeout",
    "OperationAborted",
    "ConditionalRequestConflict",
    # What arrived is not what was signed: the bytes changed on their way.
    "BadDigest",
    "XAmzContentSHA256Mismatch",
    "XAmzContentChecksumMismatch",
}
_UNKNOWN = {"NoSuchKey", "NoSuchUpload", "NoSuchVersion"}
_FULL = {"QuotaExceeded", "InsufficientCapacity", "InsufficientStorage", "StorageFull", "XMinioStorageFull"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "RequestExpired"}
_ADVICE = {
    "InvalidAccessKeyId": "the server does not know this access key; check AWS_ACCESS_KEY_ID or access_key",
    "SignatureDoesNotMatch": "the secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY or secret_key_file",
    "RequestTimeTooSkewed": "this machine's clock differs too much from the server's; set the clock",
    "AccessDenied": "these credentials have no right to it; see docs/backends/s3.md for the rights that are needed",
    **dict.fromkeys(_EXPIRED, "the credentials have expired; renew them"),
}
_CODE = re.compile(rb"<Code>([^<]{1,200})</Code>")
_MESSAGE = re.compile(rb"<Message>([^<]{1,1000})</Message>")
_REGION = re.compile(rb"<Region>([^<]{1,100})</Region>")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the SDK and the connections raise into our errors, saying what was asked."""
    try:
        yield
    except sdk.ClientError as error:
        found, answer = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
        raise error_of(
            doing, answer.get("HTTPStatusCode", 0), str(found.get("Code", "")), str(found.get("Message", ""))
        ) from error
    except (sdk.NoCredentialsError, sdk.PartialCredentialsError, sdk.CredentialRetrievalError) as error:
        raise AccessDenied(
            f"{doing}: no S3 credentials were found ({error}); set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or access_key "
            "and secret_key_file in the table [s3] of the configuration"
        ) from error
    except (sdk.ParamValidationError, sdk.InvalidRegionError, sdk.ProfileNotFound, sdk.NoRegionError) as error:
        raise ConfigInvalid(f"{doing}: {error}") from error
    except (SSLError, sdk.SSLError, aiohttp.ClientSSLError) as error:
        raise StorageFailed(f"{doing}: TLS failed: {error}; check the endpoint and ca_bundle") from error
    except (HttpFailed, sdk.HTTPClientError, sdk.BotoCoreError, aiohttp.ClientError, OSError) as error:
        raise TransientError(f"{doing}: {error or type(error).__name__}") from error


def refused(doing: str, answer: HttpAnswer) -> BlobstoreError:
    """The error for an answer that is no success."""
    code, message, region = (pattern.search(answer.body) for pattern in (_CODE, _MESSAGE, _REGION))
    if answer.status == 404 and code is None and answer.body.strip():
        # Of a proxy, or of a server that is none of S3: whether anything is missing there is not known.
        return TransientError(f"{doing}: 404 with a page that is none of S3; is something between that answers?")
    text = message[1].decode(errors="replace") if message else ""
    if region is not None and answer.status in (301, 400):
        text += f" (the bucket's region is {region[1].decode(errors='replace')})"
    return error_of(doing, answer.status, code[1].decode(errors="replace") if code else str(answer.status), text)


def error_of(doing: str, status: int, code: str, message: str) -> BlobstoreError:
    """Our error for one of S3's codes; an answer to HEAD has none but its status."""
    is_elsewhere = status in (301, 307) or "Redirect" in code or code == "AuthorizationHeaderMalformed"
    # The first that applies.
    kinds: tuple[tuple[bool, type[BlobstoreError], str], ...] = (
        (code in _SLOW_DOWN or status == 429, SlowDown, ""),
        (code in _FULL or status == 507, StorageFull, "; free some space or run a collection"),
        (code == "NoSuchBucket", BucketUnknown, "; make the bucket first, or correct its name"),
        (code in _UNKNOWN or status == 404, KeyUnknown, ""),
        (code == "InvalidRange" or status == 416, RangeInvalid, ""),
        (code in _TRANSIENT or (status >= 500 and status != 501), TransientError, ""),
        (code in _ADVICE, AccessDenied, f"; {_ADVICE.get(code)}"),
        (status in (401, 403), AccessDenied, f"; {_ADVICE['AccessDenied']}"),
        (is_elsewhere, ConfigInvalid, "; the bucket is in another region: set region, or the endpoint"),
    )
    kind, advice = next(((kind, advice) for applies, kind, advice in kinds if applies), (StorageFailed, ""))
    return kind(f"{doing}: {code} {message}".rstrip() + advice)


def delete_error(errors: Mapping[str, str], doing: str) -> BlobstoreError | None:
    """The error for a deletion that freed no key at all, if all keys failed for one reason that is known; `errors` are codes by
    key."""
    codes = set(errors.values())
    if len(codes) != 1:
        return None
    error = error_of(doing, 0, code := codes.pop(), f"(for all of {len(errors)} keys)")
    return error if isinstance(error, (AccessDenied, SlowDown, TransientError)) and code else None
