"""What the operator's API is, as OpenAPI 3.1 writes it."""

from __future__ import annotations

from typing import Any

SECONDS_MAX = 100 * 365 * 24 * 3600
"""The longest duration of a policy."""

_DIGEST = r"^(sha256|blake3):[0-9a-f]{64}$|^sha512:[0-9a-f]{128}$"
_RUN = "^[0-9a-f]{16}$"

Schema = dict[str, Any]


def make_document(version: str) -> Schema:
    """The document. Every object names all its properties, and has no others."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "blobstore, operator's API",
            "version": version,
            "description": "What a store holds, its collections, and why a blob lives. Reports are those of the command line.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": {f"/api/v1{path}": operations for path, operations in _paths().items()},
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
        },
        # Without a token where none is configured.
        "security": [{}, {"operator": []}],
    }


def _paths() -> Schema:
    return {
        "/stats": {"get": _get("getStats", "Counters of the store; no scan.", "Stats")},
        "/runs": {"get": _list_runs(), "post": _start_run()},
        "/runs/{run}": {"get": _show_run()},
        "/runs/{run}/progress": {
            "get": _get(
                "getRunProgress",
                "How far a run has come that was begun here, also one that was refused or failed.",
                "Progress",
                parameters=[_run_parameter()],
                more={"404": _error("No such run was begun here, or too long ago.")},
            )
        },
        "/runs/{run}/undo": {
            "post": _get(
                "undoRun",
                "Bring back what a run condemned and is still in quarantine, and the manifests it dropped.",
                "Undone",
                parameters=[_run_parameter()],
                more={
                    "403": _error("The request comes from a page of another site."),
                    "404": _error("No such run is remembered."),
                    "409": _error("The store is not in a state for it."),
                },
            )
        },
        "/progress": {"get": _get("getProgress", "What runs now, what ran last, and what comes next.", "AllProgress")},
        "/explain/{digest}": {"get": _explain()},
        "/openapi.json": {
            "get": {
                "operationId": "getDocument",
                "summary": "This document.",
                "responses": {"200": _json("OpenAPI 3.1.", {"type": "object"}), **_FAILURES},
            }
        },
    }


def _list_runs() -> Schema:
    limit = {
        "name": "limit",
        "in": "query",
        "description": "How many at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 20},
    }
    return _get(
        "listRuns",
        "Past runs, newest first, as `blobstore gc runs --json` lists them.",
        "Runs",
        parameters=[limit],
        more={"400": _error("The limit can't be used.")},
    )


def _start_run() -> Schema:
    return {
        "operationId": "startRun",
        "summary": "Begin a collection, or a dry run of one, which goes on by itself.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": _reference("WantedRun")}}},
        "responses": {
            "202": {
                **_json("It is under way.", _reference("Progress")),
                "headers": {
                    "Location": {"description": "Where its report will be.", "schema": {"type": "string"}},
                    "Retry-After": _RETRY_AFTER,
                },
            },
            "400": _error("The body can't be used."),
            "403": _error("The request comes from a page of another site."),
            "409": {
                **_error("A collection is under way, here or in another process."),
                "headers": {"Retry-After": _RETRY_AFTER},
            },
            "413": _error("The body is too long."),
            "415": _error("The body is not JSON."),
            **_FAILURES,
        },
    }


def _show_run() -> Schema:
    return {
        "operationId": "getRun",
        "summary": "The report of a run, as `blobstore gc --json` prints it; of one that ended long ago its summary.",
        "parameters": [_run_parameter()],
        "responses": {
            "200": _json("Its report.", {"oneOf": [_reference("Report"), _reference("Summary")]}),
            "202": {
                **_json("It is under way.", _reference("Progress")),
                "headers": {"Retry-After": _RETRY_AFTER},
            },
            "404": _error("No such run is remembered."),
            "409": _error("It was refused, failed or was stopped, and changed nothing."),
            **_FAILURES,
        },
    }


def _explain() -> Schema:
    digest = {"name": "digest", "in": "path", "required": True, "schema": {"type": "string", "pattern": _DIGEST}}
    grace = {
        "name": "grace_s",
        "in": "query",
        "description": "The grace that promises are counted with, seconds; as configured without.",
        "schema": {"type": "number", "minimum": 0, "maximum": SECONDS_MAX, "multipleOf": 0.000001},
    }
    return _get(
        "explainBlob",
        "What keeps a blob alive, or why it may go and when, as `blobstore gc explain --json` says it.",
        "Explanation",
        parameters=[digest, grace],
        more={"400": _error("The digest or the grace is none."), "404": _error("There is no such blob.")},
    )


_RETRY_AFTER: Schema = {
    "description": "Ask again after so many seconds.",
    "schema": {"type": "string", "pattern": "^[0-9]+$"},
}


def _get(
    name: str, summary: str, schema: str, *, parameters: list[Schema] | None = None, more: Schema | None = None
) -> Schema:
    return {
        "operationId": name,
        "summary": summary,
        **({"parameters": parameters} if parameters else {}),
        "responses": {"200": _json("Done.", _reference(schema)), **(more or {}), **_FAILURES},
    }


def _run_parameter() -> Schema:
    return {"name": "run", "in": "path", "required": True, "schema": {"type": "string", "pattern": _RUN}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def _error(text: str) -> Schema:
    return _json(text, _reference("Errors"))


_FAILURES: Schema = {
    "401": _error("The operator's token is missing or wrong."),
    "500": _error("Something failed; the log says what."),
    "503": _error("The storage or the index doesn't answer."),
    "507": _error("No space is left."),
}


# Schemas


def _object(**properties: Schema) -> Schema:
    """All of these, and nothing else."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _options(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"oneOf": [schema, {"type": "null"}]}


_COUNT: Schema = {"type": "integer", "minimum": 0}
_TEXT: Schema = {"type": "string"}
_FLAG: Schema = {"type": "boolean"}
_TIME: Schema = {"type": "string", "format": "date-time"}
_NAME: Schema = {"type": "string", "pattern": _RUN}
_SECONDS: Schema = {"type": "number", "minimum": 0, "maximum": SECONDS_MAX}
_SPENT: Schema = {"type": "number", "minimum": 0}
_A_DIGEST: Schema = {"type": "string", "pattern": _DIGEST}


def _schemas() -> Schema:
    sized = _object(digest=_A_DIGEST, size=_COUNT)
    lists = {
        "drops": _list(_object(repository=_TEXT, digest=_A_DIGEST, reason={"enum": ["untagged", "subject-gone"]})),
        "candidates": _list(
            _object(
                digest=_A_DIGEST,
                size=_COUNT,
                reason={"enum": ["unreferenced", "damaged"]},
                held_until=_or_null(_TIME),
                last_referrer=_or_null(_TEXT),
            )
        ),
        "due": _list(sized),
        "abandoned_uploads": _list(_object(upload=_TEXT, size=_COUNT)),
    }
    summary = {**_report(), **dict.fromkeys(lists, _COUNT), "finished_at": _TIME}
    return {
        "Errors": _object(
            errors=_list(
                {
                    "type": "object",
                    "properties": {"code": _TEXT, "message": _TEXT, "detail": {}},
                    "required": ["code", "message"],
                    "additionalProperties": False,
                }
            )
        ),
        "Stats": _stats(),
        "WantedRun": _options(
            full={**_FLAG, "default": True},
            dry_run={**_FLAG, "default": False},
            policy=_options(
                grace_s=_or_null(_SECONDS),
                quarantine_s=_or_null(_SECONDS),
                upload_idle_s=_or_null(_SECONDS),
                delete_untagged=_or_null(_FLAG),
                max_share=_or_null({"type": "number", "minimum": 0, "maximum": 1}),
            ),
        ),
        "Report": _object(**_report(), **lists),
        "Summary": _object(**summary),
        "Runs": _object(runs=_list(_reference("Summary"))),
        "Progress": _progress(),
        "AllProgress": _object(
            running=_or_null(_reference("Progress")),
            latest=_or_null(_reference("Progress")),
            next=_object(incremental=_or_null(_TIME), full=_or_null(_TIME)),
        ),
        "Undone": _object(
            blobs=_list(_A_DIGEST), too_late=_list(_A_DIGEST), manifests=_list(_TEXT), manifests_lost=_list(_TEXT)
        ),
        "Explanation": _explanation(),
    }


def _stats() -> Schema:
    stock = _object(blobs=_COUNT, bytes=_COUNT)
    names = (
        "blobs",
        "bytes_stored",
        "bytes_pushed",
        "bytes_deleted",
        "repositories",
        "manifests",
        "untagged_manifests",
    )
    return _object(
        store=_TEXT,
        store_id={"type": "string", "pattern": "^[0-9a-f]{32}$"},
        ratio=_or_null({"type": "number", "minimum": 0}),
        garbage=stock,
        suspect=stock,
        tags=_COUNT,
        uploads=_COUNT,
        **dict.fromkeys(names, _COUNT),
    )


def _report() -> Schema:
    counts = _object(**dict.fromkeys(("total", "live", "held", "candidates", "waiting", "condemned", "freed"), _COUNT))
    return {
        "run": _NAME,
        "dry_run": _FLAG,
        "full": _FLAG,
        "started_at": _TIME,
        "refusal": _or_null(_TEXT),
        "policy": _object(grace_s=_SECONDS, quarantine_s=_SECONDS, delete_untagged=_FLAG),
        "blobs": counts,
        "bytes": counts,
        "manifests": _object(
            total=_COUNT, live=_COUNT, drops=_COUNT, untagged_kept=_COUNT, untagged_kept_bytes=_or_null(_COUNT)
        ),
        "later": _object(blobs=_COUNT, bytes=_COUNT),
        "orphans": _COUNT,
        "expired_uploads": _COUNT,
        "undeleted": _COUNT,
        "seconds": _object(mark=_SPENT, plan=_SPENT, condemn=_SPENT, retire=_SPENT),
    }


def _progress() -> Schema:
    return _object(
        run=_NAME,
        state={"enum": ["running", "done", "refused", "failed", "stopped"]},
        full=_FLAG,
        dry_run=_FLAG,
        scheduled=_FLAG,
        started_at=_TIME,
        finished_at=_or_null(_TIME),
        phase=_TEXT,
        done=_COUNT,
        total={**_COUNT, "description": "0 where it isn't known."},
        error=_or_null(_TEXT),
    )


def _explanation() -> Schema:
    hold = _object(
        repository=_or_null(_TEXT),
        pin=_FLAG,
        renewed_at=_or_null(_TIME),
        lapses_at=_or_null(_TIME),
        lapsed=_FLAG,
        last_referrer=_or_null(_TEXT),
    )
    keeper = _object(
        manifest=_TEXT, path=_list(_TEXT), tags=_list(_TEXT), root={"enum": ["tagged", "untagged", "subject-gone"]}
    )
    return _object(
        digest=_A_DIGEST,
        state={"enum": ["present", "condemned", "suspect"]},
        size=_COUNT,
        aliases=_list(_A_DIGEST),
        verdict=_TEXT,
        manifests=_list(keeper),
        more_manifests=_FLAG,
        holds=_list(hold),
        condemned_by=_or_null(_NAME),
        freed_after=_or_null(_TIME),
    )
