"""The operator's API: what the store holds, its collections, and why a blob lives; free of any web framework."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any, TypeAlias

import msgspec

from blobstore.clock import iso_utc
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError, ConfigInvalid, DigestInvalid, NotFound, Refused
from blobstore.gc import GcPolicy
from blobstore.gc.collector import runs_listed_max
from blobstore.gc.explain import explain
from blobstore.gc.report import run_document
from blobstore.server.operations._operator_document import SECONDS_MAX, make_document
from blobstore.server.operations.collecting import Collecting, CollectionRunning, Run, RunState
from blobstore.server.operations.health import without_payload
from blobstore.server.protocol.messages import Request, Response, json_response
from blobstore.server.protocol.problems import Problem, problem_response
from blobstore.store import Store
from blobstore.usage import totals_document

PREFIX = "/api/v1"
BODY_MAX_BYTES = 64 * 1024
RUNS_DEFAULT = 20

_RUN = re.compile(r"[0-9a-f]{16}", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_DECIMAL = re.compile(r"[0-9]{1,10}(\.[0-9]{1,6})?", re.ASCII)

Handler: TypeAlias = Callable[..., Awaitable[Response]]

_Seconds = Annotated[float, msgspec.Meta(ge=0, le=SECONDS_MAX)]


class _WantedPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run may let go, where it is not as configured."""

    grace_s: _Seconds | None = None
    quarantine_s: _Seconds | None = None
    upload_idle_s: _Seconds | None = None
    delete_untagged: bool | None = None
    max_share: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None


class _WantedRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /runs`."""

    full: bool = True
    dry_run: bool = False
    policy: _WantedPolicy = _WantedPolicy()


class OperatorApi:
    """Answers what is below `/api/v1/`. Who may ask is for its host to see to.

    Args:
        store: an open store.
        collecting: its collections.
        version: of this package, for the document.
    """

    def __init__(self, store: Store, collecting: Collecting, *, version: str = "0") -> None:
        self._store, self._collecting = store, collecting
        self._document = msgspec.json.encode(make_document(version))
        self._routes: list[tuple[re.Pattern[str], dict[str, Handler]]] = [
            (re.compile(pattern), methods)
            for pattern, methods in _routes(
                ("/stats", {"GET": self._stats}),
                ("/runs", {"GET": self._list_runs, "POST": self._start}),
                ("/runs/([^/]+)", {"GET": self._show_run}),
                ("/runs/([^/]+)/progress", {"GET": self._show_progress}),
                ("/runs/([^/]+)/undo", {"POST": self._undo}),
                ("/progress", {"GET": self._show_all_progress}),
                ("/explain/([^/]+)", {"GET": self._explain}),
                (r"/openapi\.json", {"GET": self._describe}),
            )
        ]

    async def answer(self, request: Request) -> Response:
        """The answer to a request. What goes wrong is answered; only a bug is raised."""
        is_head = request.method == "HEAD"
        try:
            handler, parts = self._find(request.path, "GET" if is_head else request.method)
            if request.method == "POST":
                _check_origin(request)
            answer = await handler(request, *parts)
        except BlobstoreError as error:
            answer = problem_response(_problem(error))
        answer = Response(answer.status, [*answer.headers, ("Cache-Control", "no-store")], answer.payload)
        return without_payload(answer) if is_head else answer

    def _find(self, path: str, method: str) -> tuple[Handler, tuple[str, ...]]:
        for pattern, methods in self._routes:
            match = pattern.fullmatch(path.removeprefix(PREFIX)) if path.startswith(PREFIX) else None
            if match is None:
                continue
            if method not in methods:
                allowed = ", ".join(sorted({*methods, *({"HEAD"} if "GET" in methods else ())}))
                raise Problem(405, "UNSUPPORTED", f"{method} is not supported here", headers=[("Allow", allowed)])
            return methods[method], match.groups()
        raise Problem(404, "UNSUPPORTED", f"this is no path of the operator's API; {PREFIX}/openapi.json describes it")

    # Reading

    async def _stats(self, request: Request) -> Response:
        del request
        store = self._store
        return json_response(200, totals_document(await store.totals(), store.backend.location, store.store_id))

    async def _list_runs(self, request: Request) -> Response:
        text = _parameter(request, "limit", _NUMBER)
        limit = int(text) if text is not None else RUNS_DEFAULT
        if not 1 <= limit <= runs_listed_max:
            raise _malformed(f"limit must be between 1 and {runs_listed_max}, not {limit}")
        records = await self._store.index.list_runs(limit)
        return json_response(200, {"runs": [run_document(record) for record in records]})

    async def _show_run(self, request: Request, name: str) -> Response:
        del request
        run = self._collecting.find(name)
        if run is not None and run.state is RunState.RUNNING:
            return json_response(202, run.to_json(), [("Retry-After", "1")])
        if run is not None and run.document is not None:
            return Response(200, [("Content-Type", "application/json")], run.document)
        for record in await self._store.index.list_runs(runs_listed_max) if _RUN.fullmatch(name) else ():
            if record.run == name:
                return json_response(200, run_document(record))
        if run is not None:
            raise Problem(409, "RUN_HAS_NO_REPORT", run.error or "its report was not kept", detail=run.to_json())
        raise _run_unknown(name)

    async def _show_progress(self, request: Request, name: str) -> Response:
        del request
        run = self._collecting.find(name)
        if run is None:
            raise _run_unknown(name)
        return json_response(200, run.to_json())

    async def _show_all_progress(self, request: Request) -> Response:
        del request
        collecting = self._collecting
        following = {kind: collecting.next_at_ms(is_full=kind == "full") for kind in ("incremental", "full")}
        document = {
            "running": _json_of(collecting.running),
            "latest": _json_of(collecting.latest),
            "next": {kind: iso_utc(at_ms) if at_ms is not None else None for kind, at_ms in following.items()},
        }
        return json_response(200, document)

    async def _explain(self, request: Request, text: str) -> Response:
        grace = _parameter(request, "grace_s", _DECIMAL)
        policy = self._collecting.policy
        if grace is not None:
            policy = msgspec.structs.replace(policy, grace_s=_in_bounds("grace_s", float(grace)))
        found = await explain(self._store.index, Digest.parse(text), policy, self._store.parts.clock.now_ms())
        return json_response(200, found.to_json())

    async def _describe(self, request: Request) -> Response:
        del request
        return Response(200, [("Content-Type", "application/json")], self._document)

    # Acting

    async def _start(self, request: Request) -> Response:
        wanted = await _read_json(request)
        policy = _policy_of(self._collecting.policy, wanted.policy)
        run = self._collecting.start(is_full=wanted.full, is_dry=wanted.dry_run, policy=policy)
        return json_response(202, run.to_json(), [("Location", f"{PREFIX}/runs/{run.run}"), ("Retry-After", "1")])

    async def _undo(self, request: Request, name: str) -> Response:
        del request
        if not _RUN.fullmatch(name):
            raise _run_unknown(name)
        return json_response(200, (await self._collecting.undo(name)).to_json())


def _routes(*routes: tuple[str, dict[str, Handler]]) -> Iterable[tuple[str, dict[str, Handler]]]:
    """The same, each handler of one type, whatever parts of the path it takes."""
    return routes


def _json_of(run: Run | None) -> dict[str, Any] | None:
    return run.to_json() if run is not None else None


def _policy_of(usual: GcPolicy, wanted: _WantedPolicy) -> GcPolicy:
    changes = {key: value for key, value in msgspec.structs.asdict(wanted).items() if value is not None}
    return msgspec.structs.replace(usual, **changes)


def _check_origin(request: Request) -> None:
    """A page in an operator's browser may send what it likes to the loopback; browsers say where such a request is from."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2] != request.host:
        raise Problem(403, "DENIED", "this request comes from a page of another site")


async def _read_json(request: Request) -> _WantedRun:
    media_type = (request.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "UNSUPPORTED", "send a JSON object as application/json; {} is a full run as configured")
    too_large = Problem(413, "UNSUPPORTED", f"a body has at most {BODY_MAX_BYTES} bytes")
    if (request.size_bytes or 0) > BODY_MAX_BYTES:
        raise too_large
    data = bytearray()
    if request.body is not None:
        async for chunk in request.body:
            data += chunk
            if len(data) > BODY_MAX_BYTES:
                raise too_large
    try:
        return msgspec.json.decode(data, type=_WantedRun)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed(f"the body can't be used: {error}") from error


def _parameter(request: Request, name: str, grammar: re.Pattern[str]) -> str | None:
    values = [value for each, value in request.query if each == name]
    if not values:
        return None
    if len(values) > 1 or not grammar.fullmatch(values[0]):
        raise _malformed(f"{name} is not one number: {', '.join(values)[:80]!r}")
    return values[0]


def _in_bounds(name: str, seconds: float) -> float:
    if seconds > SECONDS_MAX:
        raise _malformed(f"{name} must be at most {SECONDS_MAX}")
    return seconds


def _malformed(text: str) -> Problem:
    return Problem(400, "UNSUPPORTED", text)


def _run_unknown(name: str) -> Problem:
    return Problem(404, "RUN_UNKNOWN", f"no run {name!r:.80} is remembered; GET {PREFIX}/runs lists them")


def _problem(error: BlobstoreError) -> BlobstoreError:
    """An operator is told what a client of the registry isn't."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CollectionRunning):
        return Problem(409, "COLLECTION_RUNNING", str(error), headers=[("Retry-After", "1")])
    for kind, status, code in _SHOWN:
        if isinstance(error, kind):
            return Problem(status, code, str(error))
    return error


_SHOWN: tuple[tuple[type[BlobstoreError], int, str], ...] = (
    (DigestInvalid, 400, "DIGEST_INVALID"),
    (ConfigInvalid, 400, "UNSUPPORTED"),
    (NotFound, 404, "NOT_FOUND"),
    (Refused, 409, "REFUSED"),
)
