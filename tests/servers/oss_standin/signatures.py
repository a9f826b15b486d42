"""Whether a request to OSS was signed by somebody the stand-in knows: versions 1 and 4, in headers and in the query.

Written from the signing rules and not from an SDK's code, so that a mistake in one shows in the other.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from tests.servers.oss_standin.replies import Refusal

SKEW_MAX_S = 15 * 60
PRESIGNED_MAX_S = 7 * 24 * 3600
# What of a query the first version signs.
_SUBRESOURCES = frozenset(
    [
        "acl",
        "append",
        "bucketInfo",
        "cors",
        "delete",
        "encryption",
        "lifecycle",
        "location",
        "logging",
        "objectMeta",
        "partNumber",
        "policy",
        "position",
        "referer",
        "response-cache-control",
        "response-content-disposition",
        "response-content-encoding",
        "response-content-language",
        "response-content-type",
        "response-expires",
        "restore",
        "security-token",
        "sequential",
        "stat",
        "symlink",
        "tagging",
        "uploadId",
        "uploads",
        "versionId",
        "versioning",
        "versions",
        "website",
        "x-oss-process",
        "x-oss-traffic-limit",
        "continuation-token",
    ]
)
_V4_SIGNED = ("content-type", "content-md5")


@dataclass
class Account:
    """Somebody who may sign: with a token, one of the temporary kind."""

    key_id: str
    secret: str
    token: str | None = None
    is_expired: bool = False
    denied: set[str] = field(default_factory=set)
    """Actions that its policy denies, such as `oss:DeleteObject`."""


@dataclass(frozen=True)
class Signed:
    """What of a request is signed. Header names are in lower case."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]


def check(request: Signed, accounts: dict[str, Account], region: str, now: dt.datetime) -> Account:
    """The account that signed; raises `Refusal` if none did, or not now."""
    authorization = request.headers.get("authorization", "")
    if authorization.startswith("OSS4-HMAC-SHA256 "):
        return _check_v4_header(request, authorization, accounts, region, now)
    if authorization.startswith("OSS "):
        return _check_v1_header(request, authorization, accounts, now)
    if "x-oss-signature" in request.query:
        return _check_v4_query(request, accounts, region, now)
    if "Signature" in request.query:
        return _check_v1_query(request, accounts, now)
    raise Refusal(403, "AccessDenied", "You have no right to access this object: the request is not signed.")


# Version 1


def _check_v1_header(request: Signed, authorization: str, accounts: dict[str, Account], now: dt.datetime) -> Account:
    key_id, _, signature = authorization.removeprefix("OSS ").partition(":")
    account = _known(accounts, key_id)
    date = request.headers.get("x-oss-date") or request.headers.get("date", "")
    try:
        sent = parsedate_to_datetime(date)
    except ValueError as error:
        raise Refusal(403, "AccessDenied", "OSS authentication requires a valid Date.") from error
    _check_time(sent, now)
    _check_token(account, request.headers.get("x-oss-security-token"))
    _compare(signature, _v1_signature(request, account, date, request.query))
    return account


def _check_v1_query(request: Signed, accounts: dict[str, Account], now: dt.datetime) -> Account:
    query = dict(request.query)
    signature, expires, key_id = (query.pop(name, "") for name in ("Signature", "Expires", "OSSAccessKeyId"))
    account = _known(accounts, key_id)
    if not expires.isdigit() or int(expires) < now.timestamp():
        raise Refusal(403, "AccessDenied", "Request has expired.")
    _check_token(account, query.get("security-token"))
    _compare(signature, _v1_signature(request, account, expires, query))
    return account


def _v1_signature(request: Signed, account: Account, date: str, query: dict[str, str]) -> str:
    own = sorted((name, value.strip()) for name, value in request.headers.items() if name.startswith("x-oss-"))
    signed = sorted((name, value) for name, value in query.items() if name in _SUBRESOURCES)
    resource = f"/{request.bucket}/{request.key}" if request.bucket else "/"
    if signed:
        resource += "?" + "&".join(f"{name}={value}" if value else name for name, value in signed)
    text = "\n".join(
        [
            request.method,
            request.headers.get("content-md5", ""),
            request.headers.get("content-type", ""),
            date,
            "".join(f"{name}:{value}\n" for name, value in own) + resource,
        ]
    )
    return base64.b64encode(hmac.digest(account.secret.encode(), text.encode(), "sha1")).decode()


# Version 4


def _check_v4_header(
    request: Signed, authorization: str, accounts: dict[str, Account], region: str, now: dt.datetime
) -> Account:
    fields = {}
    for item in authorization.removeprefix("OSS4-HMAC-SHA256 ").split(","):
        name, _, value = item.strip().partition("=")
        fields[name] = value
    date = request.headers.get("x-oss-date", "")
    if "x-oss-content-sha256" not in request.headers:
        raise Refusal(400, "InvalidArgument", "x-oss-content-sha256 is missing.")
    account = _known(accounts, fields.get("Credential", "").partition("/")[0])
    _check_time(_v4_time(date), now)
    _check_token(account, request.headers.get("x-oss-security-token"))
    _check_v4(request, account, fields, date, request.query, region)
    return account


def _check_v4_query(request: Signed, accounts: dict[str, Account], region: str, now: dt.datetime) -> Account:
    query = dict(request.query)
    fields = {
        "Signature": query.pop("x-oss-signature"),
        "Credential": query.get("x-oss-credential", ""),
        "AdditionalHeaders": query.get("x-oss-additional-headers", ""),
    }
    account = _known(accounts, fields["Credential"].partition("/")[0])
    date, valid = query.get("x-oss-date", ""), query.get("x-oss-expires", "")
    if not valid.isdigit() or not 0 < int(valid) <= PRESIGNED_MAX_S:
        raise Refusal(400, "AuthorizationQueryParametersError", f"X-OSS-Expires must be 1 to {PRESIGNED_MAX_S}.")
    if _v4_time(date) + dt.timedelta(seconds=int(valid)) < now:
        raise Refusal(403, "AccessDenied", "Request has expired.")
    _check_token(account, query.get("x-oss-security-token"))
    _check_v4(request, account, fields, date, query, region)
    return account


def _check_v4(
    request: Signed, account: Account, fields: dict[str, str], date: str, query: dict[str, str], region: str
) -> None:
    scope = fields.get("Credential", "").split("/")[1:]
    if scope != [date[:8], region, "oss", "aliyun_v4_request"]:
        raise Refusal(403, "InvalidArgument", f"Invalid signing scope {'/'.join(scope)}; this is region {region}.")
    extra = sorted(filter(None, fields.get("AdditionalHeaders", "").split(";")))
    signed = {
        name: value.strip()
        for name, value in request.headers.items()
        if name.startswith("x-oss-") or name in _V4_SIGNED or name in extra
    }
    canonical = "\n".join(
        [
            request.method,
            quote(f"/{request.bucket}/{request.key}" if request.bucket else "/", safe="/-_.~"),
            _v4_query(query),
            "".join(f"{name}:{signed[name]}\n" for name in sorted(signed)),
            ";".join(extra),
            request.headers.get("x-oss-content-sha256", "UNSIGNED-PAYLOAD"),
        ]
    )
    text = "\n".join(["OSS4-HMAC-SHA256", date, "/".join(scope), hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"aliyun_v4{account.secret}".encode()
    for step in scope:
        key = hmac.digest(key, step.encode(), "sha256")
    _compare(fields.get("Signature", ""), hmac.digest(key, text.encode(), "sha256").hex())


def _v4_query(query: dict[str, str]) -> str:
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items())
    return "&".join(f"{name}={value}" if value else name for name, value in encoded)


def _v4_time(text: str) -> dt.datetime:
    try:
        return dt.datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC)
    except ValueError as error:
        raise Refusal(403, "AccessDenied", "OSS authentication requires a valid x-oss-date.") from error


# Both


def _known(accounts: dict[str, Account], key_id: str) -> Account:
    account = accounts.get(key_id)
    if account is None:
        raise Refusal(403, "InvalidAccessKeyId", "The OSS Access Key Id you provided does not exist in our records.")
    return account


def _check_time(sent: dt.datetime, now: dt.datetime) -> None:
    if sent.tzinfo is None:
        sent = sent.replace(tzinfo=dt.UTC)
    if abs((sent - now).total_seconds()) > SKEW_MAX_S:
        raise Refusal(
            403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."
        )


def _check_token(account: Account, token: str | None) -> None:
    if account.token is not None and account.is_expired:
        raise Refusal(403, "SecurityTokenExpired", "The security token you provided has expired.")
    if account.token != token:
        raise Refusal(403, "InvalidSecurityToken", "The security token you provided is invalid.")


def _compare(given: str, expected: str) -> None:
    if not hmac.compare_digest(given.encode(), expected.encode()):
        raise Refusal(
            403,
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your key and "
            "signing method.",
        )
