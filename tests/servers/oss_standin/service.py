"""The stand-in as one application: who asks, for what, which fault strikes, what is answered."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote

from aiohttp import web

from tests.servers.oss_standin import signatures
from tests.servers.oss_standin.faults import Fault, Faults
from tests.servers.oss_standin.replies import Refusal, refuse
from tests.servers.oss_standin.sending import Stream, send
from tests.servers.oss_standin.storage import IN_MEMORY_MAX_BYTES, Body, Bucket

Effect = Callable[[], web.Response | Stream]
_WATCH_S = 0.02

# What a policy calls the right to each operation.
ACTIONS = {
    "PutBucket": "oss:PutBucket",
    "GetBucketInfo": "oss:GetBucketInfo",
    "GetBucketVersioning": "oss:GetBucketVersioning",
    "ListObjectsV2": "oss:ListObjects",
    "ListObjectVersions": "oss:ListObjectVersions",
    "ListMultipartUploads": "oss:ListMultipartUploads",
    "DeleteMultipleObjects": "oss:DeleteObject",
    "PutObject": "oss:PutObject",
    "GetObject": "oss:GetObject",
    "HeadObject": "oss:GetObject",
    "DeleteObject": "oss:DeleteObject",
    "InitiateMultipartUpload": "oss:PutObject",
    "UploadPart": "oss:PutObject",
    "CompleteMultipartUpload": "oss:PutObject",
    "AbortMultipartUpload": "oss:AbortMultipartUpload",
    "ListParts": "oss:ListParts",
}


@dataclass
class Call:
    """One request, taken apart."""

    service: Service
    request: web.Request
    operation: str
    bucket_name: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    account: signatures.Account
    fault: Fault | None

    def need(self, action: str) -> None:
        """Refuse the call if its account may not do that."""
        self.service.actions[action] += 1
        if action in self.account.denied:
            raise Refusal(403, "AccessDenied", "You have no right to access this object because of bucket acl.")

    async def body(self) -> Body:
        """Read the body and check it against what was announced."""
        length = self.request.content_length
        if length is None and self.request.headers.get("transfer-encoding", "").lower() != "chunked":
            raise Refusal(411, "MissingContentLength", "You must provide the Content-Length HTTP header.")
        announced = self.headers.get("content-md5")
        bucket = self.service.buckets.get(self.bucket_name) if self.key else None
        body = Body(
            length,
            wants_md5=announced is not None or (length or 0) <= IN_MEMORY_MAX_BYTES,
            is_forgotten=bucket is not None and bucket.forgets,
        )
        is_garbled = self.fault is not None and self.fault.kind == "garble_received"
        async for data in self.request.content.iter_any():
            is_last = is_garbled and body.size + len(data) == length
            body.append(data[:-1] + bytes([data[-1] ^ 1]) if is_last else data)
        if length is not None and body.size != length:
            raise Refusal(400, "IncompleteBody", "The body is shorter than its Content-Length.")
        if announced is not None and announced != base64.b64encode(body.md5 or b"").decode():
            raise Refusal(400, "InvalidDigest", "The Content-MD5 you specified is not valid.")
        told = self.headers.get("x-oss-hash-crc64ecma")
        # The real service is not known to check it; who sends it here wants to know.
        if told is not None and told != str(body.crc):
            raise Refusal(400, "InvalidDigest", "The x-oss-hash-crc64ecma you specified is not that of the body.")
        return body


class Service:
    """Everything of one process."""

    def __init__(self, region: str, handlers: dict[str, Callable[..., object]]) -> None:
        self.region = region
        self.accounts: dict[str, signatures.Account] = {}
        self.buckets: dict[str, Bucket] = {}
        self.domains: dict[str, str] = {}
        """Custom domains, and the buckets that they stand for."""
        self.faults = Faults()
        self.clock_ahead_s = 0.0
        self.counts: Counter[str] = Counter()
        self.actions: Counter[str] = Counter()
        """What rights were needed."""
        self.held: list[Effect] = []
        self._handlers = handlers

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        try:
            call = self._taken_apart(request)
            return await self._answer(call)
        except Refusal as refusal:
            # A server that hangs up while a body comes in is a fault of its own, which has its name.
            async for _ in request.content.iter_any():
                pass
            return refuse(refusal, request.method)

    def bucket(self, name: str) -> Bucket:
        found = self.buckets.get(name)
        if found is None:
            raise Refusal(404, "NoSuchBucket", "The specified bucket does not exist.", BucketName=name)
        return found

    def _taken_apart(self, request: web.Request) -> Call:
        raw_path, _, raw_query = request.raw_path.partition("?")
        query = dict(parse_qsl(raw_query, keep_blank_values=True))
        headers = {name.lower(): value for name, value in request.headers.items()}
        bucket_name, key = self._place(headers.get("host", ""), raw_path)
        operation = _operation(request.method, key, query)
        self.counts[operation] += 1
        now = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=self.clock_ahead_s)
        signed = signatures.Signed(request.method, bucket_name, key, query, headers)
        account = signatures.check(signed, self.accounts, self.region, now)
        fault = self.faults.take(operation, key)
        call = Call(self, request, operation, bucket_name, key, query, headers, account, fault)
        call.need(ACTIONS[operation])
        return call

    def _place(self, host: str, raw_path: str) -> tuple[str, str]:
        """Bucket and key: by path on an address or `localhost`, else by the host's name."""
        name = host.rsplit(":", 1)[0].strip("[]")
        if name in self.domains:
            return self.domains[name], unquote(raw_path[1:])
        if name != "localhost" and not _is_address(name):
            return name.partition(".")[0], unquote(raw_path[1:])
        bucket, _, key = raw_path[1:].partition("/")
        return unquote(bucket), unquote(key)

    async def _answer(self, call: Call) -> web.StreamResponse:
        fault = call.fault
        kind = fault.kind if fault is not None else ""
        if fault is not None and kind == "refuse":
            raise Refusal(fault.status, fault.code, "As was asked of the stand-in.", None, **fault.details)
        if kind in ("reset", "reset_in_body"):
            await _take(call.request, (call.request.content_length or 0) // 2 if kind == "reset_in_body" else 0)
            return _hang_up(call.request)
        if kind == "hang":
            return await _never(call.request)
        effect: Effect = await self._handlers[call.operation](self, call)  # type: ignore[misc]
        if kind == "late":
            self.held.append(effect)
            return await _never(call.request)
        response = effect()
        if fault is not None and kind == "refuse_after":
            raise Refusal(fault.status, fault.code, "As was asked of the stand-in.")
        if kind == "lose":
            return _hang_up(call.request)
        if kind == "hang_after":
            return await _never(call.request)
        if kind == "no_crc":
            response.headers.pop("x-oss-hash-crc64ecma", None)
        if kind == "wrong_crc":
            response.headers["x-oss-hash-crc64ecma"] = str(int(response.headers["x-oss-hash-crc64ecma"]) ^ 1)
        return await send(call.request, response, kind) if isinstance(response, Stream) else response


def _operation(method: str, key: str, query: dict[str, str]) -> str:
    """The operation that a request asks for."""
    if key:
        by_query = {
            ("POST", "uploads"): "InitiateMultipartUpload",
            ("PUT", "partNumber"): "UploadPart",
            ("POST", "uploadId"): "CompleteMultipartUpload",
            ("DELETE", "uploadId"): "AbortMultipartUpload",
            ("GET", "uploadId"): "ListParts",
        }
        plain = {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}
    else:
        by_query = {
            ("POST", "delete"): "DeleteMultipleObjects",
            ("GET", "list-type"): "ListObjectsV2",
            ("GET", "versions"): "ListObjectVersions",
            ("GET", "uploads"): "ListMultipartUploads",
            ("GET", "bucketInfo"): "GetBucketInfo",
            ("GET", "versioning"): "GetBucketVersioning",
        }
        plain = {"PUT": "PutBucket"}
    for (verb, name), operation in by_query.items():
        if verb == method and name in query:
            return operation
    if method not in plain or set(query) & {"acl", "append", "tagging", "symlink", "restore", "lifecycle"}:
        raise Refusal(501, "NotImplemented", f"The stand-in has no {method} of {sorted(query)}.")
    return plain[method]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _take(request: web.Request, size: int) -> None:
    """Read some of a body."""
    taken = 0
    while taken < size:
        data = await request.content.readany()
        if not data:
            return
        taken += len(data)


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _never(request: web.Request) -> web.Response:
    """Until whoever asked goes away."""
    while request.transport is not None and not request.transport.is_closing():
        await asyncio.sleep(_WATCH_S)
    return web.Response()
