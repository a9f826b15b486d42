"""The operator's API says what the command line says, starts runs, and takes nothing it should not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.gc.explain import explain
from blobstore.server.operations.collecting import Collecting
from blobstore.server.operations.config import CollectConfig
from blobstore.server.operations.operator import BODY_MAX_BYTES, OperatorApi
from blobstore.server.protocol.messages import Headers, Request, Response
from blobstore.usage import totals_document
from tests.gc.scene import Bench

JSON = ("Content-Type", "application/json")


class Operator:
    """Somebody who asks."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.collecting = Collecting(
            bench.store, GcPolicy(grace_s=0, delete_untagged=True), CollectConfig(enabled=False)
        )
        self.api = OperatorApi(bench.store, self.collecting, version="1.0")

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *headers: tuple[str, str],
        query: list[tuple[str, str]] | None = None,
        prefix: str = "/api/v1",
    ) -> Response:
        data = body if isinstance(body, bytes) else msgspec.json.encode(body) if body is not None else None
        request = Request(
            method=method,
            path=f"{prefix}{path}",
            query=query or (),
            headers=Headers(headers or ([JSON] if body is not None else [])),
            body=_chunks(data) if data is not None else None,
            host="127.0.0.1:5000",
        )
        return await self.api.answer(request)

    async def document(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        return decoded(await self.ask(method, path, body, **more))

    async def run(self, **body: Any) -> str:
        """Start one and wait for its end."""
        answer = await self.ask("POST", "/runs", body)
        assert answer.status == 202, answer
        await self.collecting.wait()
        name = decoded(answer)["run"]
        assert isinstance(name, str)
        return name


async def _chunks(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]


def decoded(answer: Response) -> Any:
    assert isinstance(answer.payload, bytes)
    assert answer.header("Content-Type") == "application/json"
    return msgspec.json.decode(answer.payload)


@pytest.fixture
async def operator(bench: Bench) -> AsyncIterator[Operator]:
    found = Operator(bench)
    yield found
    await found.collecting.aclose()


async def test_stats_are_those_of_the_command_line(operator: Operator) -> None:
    """The same document."""
    store = operator.bench.store
    await operator.bench.push_image(b"config", [b"layer"], "1")
    answer = await operator.ask("GET", "/stats")
    assert answer.header("Cache-Control") == "no-store"
    assert decoded(answer) == totals_document(await store.totals(), store.backend.location, store.store_id)


async def test_a_dry_run_names_what_the_run_then_does(operator: Operator) -> None:
    """Asked over the API: 202 with where the report will be, then the report of `gc --json`."""
    bench = operator.bench
    await bench.push_image(b"config", [b"layer"], "1")
    await bench.push_image(b"untagged", [b"layer"])
    await bench.push_blob(b"garbage")
    foreseen = (await bench.collector(operator.collecting.policy).dry_run()).to_json()
    answer = await operator.ask("POST", "/runs", {"dry_run": True})
    location = answer.header("Location") or ""
    assert answer.status == 202
    assert location == f"/api/v1/runs/{decoded(answer)['run']}"
    early = await operator.ask("GET", location, prefix="")
    assert (early.status, decoded(early)["state"]) == (202, "running")
    await operator.collecting.wait()
    dry = await operator.document("GET", location, prefix="")
    for key in ("blobs", "bytes", "manifests", "drops", "candidates", "due", "later", "policy", "full"):
        assert dry[key] == foreseen[key], key
    assert set(dry) == set(foreseen)
    assert dry["dry_run"] is True
    run = await operator.document("GET", f"/runs/{await operator.run()}")
    assert run["candidates"] == dry["candidates"]
    assert run["drops"] == dry["drops"] != []
    assert run["blobs"]["condemned"] == 3


async def test_a_run_may_have_a_policy_of_its_own(operator: Operator) -> None:
    """What isn't said is as configured."""
    await operator.bench.push_blob(b"garbage")
    name = await operator.run(full=False, policy={"quarantine_s": 0, "max_share": 1})
    report = await operator.document("GET", f"/runs/{name}")
    assert report["policy"] == {"grace_s": 0.0, "quarantine_s": 0.0, "delete_untagged": True}
    assert (report["full"], report["blobs"]["freed"]) == (False, 1)


async def test_progress_says_what_runs_what_ran_and_what_comes(operator: Operator) -> None:
    """Also of a run that was refused, whose report there is none of."""
    nothing = {"running": None, "latest": None, "next": {"incremental": None, "full": None}}
    assert await operator.document("GET", "/progress") == nothing
    answer = await operator.ask("POST", "/runs", {})
    name = decoded(answer)["run"]
    assert (await operator.document("GET", "/progress"))["running"]["run"] == name
    await operator.collecting.wait()
    found = await operator.document("GET", f"/runs/{name}/progress")
    assert (found["state"], found["error"]) == ("done", None)
    await operator.bench.store.index.freeze("an older copy")
    name = await operator.run()
    found = await operator.document("GET", f"/runs/{name}/progress")
    assert found["state"] == "refused"
    answer = await operator.ask("GET", f"/runs/{name}")
    assert answer.status == 409
    assert "an older copy" in decoded(answer)["errors"][0]["message"]


async def test_two_runs_at_once_are_refused(operator: Operator) -> None:
    """With how to go on."""
    first = await operator.ask("POST", "/runs", {})
    second = await operator.ask("POST", "/runs", {"dry_run": True})
    assert (first.status, second.status) == (202, 409)
    assert decoded(second)["errors"][0]["code"] == "COLLECTION_RUNNING"
    assert second.header("Retry-After") == "1"


async def test_past_runs_are_listed_as_the_command_line_does(operator: Operator) -> None:
    """Newest first, with counts in place of lists; so many as are asked for."""
    names = []
    for number in range(3):
        operator.bench.clock.advance(1000)
        names.append(await operator.run(full=number % 2 == 0))
    runs = (await operator.document("GET", "/runs"))["runs"]
    assert [run["run"] for run in runs] == names[::-1]
    assert runs[0]["candidates"] == 0
    assert "finished_at" in runs[0]
    assert len((await operator.document("GET", "/runs", query=[("limit", "2")]))["runs"]) == 2


async def test_a_run_of_an_earlier_process_is_shown_by_its_summary(operator: Operator) -> None:
    """The index remembers it."""
    name = await operator.run()
    later = Operator(operator.bench)
    assert await later.document("GET", f"/runs/{name}") == (await later.document("GET", "/runs"))["runs"][0]
    assert (await later.ask("GET", f"/runs/{name}/progress")).status == 404


async def test_undo_brings_back(operator: Operator) -> None:
    """What is still in quarantine."""
    blob = await operator.bench.push_blob(b"garbage")
    name = await operator.run()
    undone = await operator.document("POST", f"/runs/{name}/undo")
    assert undone == {"blobs": [str(blob.digest)], "too_late": [], "manifests": [], "manifests_lost": []}
    for unknown in ("0" * 16, "x", "%00"):
        assert (await operator.ask("POST", f"/runs/{unknown}/undo")).status == 404


async def test_explain_says_what_the_command_line_says(operator: Operator) -> None:
    """With another grace, if one is given."""
    bench = operator.bench
    manifest = await bench.push_image(b"config", [b"layer"], "1")
    policy, now_ms = operator.collecting.policy, bench.clock.now_ms()
    for digest in (manifest.digest, Digest.of(b"layer")):
        found = await explain(bench.store.index, digest, policy, now_ms)
        assert await operator.document("GET", f"/explain/{digest}") == found.to_json()
    await bench.push_blob(b"loose")
    path = f"/explain/{Digest.of(b'loose')}"
    assert (await operator.document("GET", path))["holds"][0]["lapsed"] is True
    assert (await operator.document("GET", path, query=[("grace_s", "3600")]))["holds"][0]["lapsed"] is False
    assert (await operator.ask("GET", f"/explain/{Digest.of(b'nothing')}")).status == 404
    assert (await operator.ask("GET", "/explain/sha256:../../etc")).status == 404
    assert (await operator.ask("GET", "/explain/sha256:abc")).status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"full"',
        b'{"ful": true}',
        b'{"full": 1}',
        b'{"full": null}',
        b'{"policy": {"grace_s": -1}}',
        b'{"policy": {"grace_s": 1e308}}',
        b'{"policy": {"grace_s": NaN}}',
        b'{"policy": {"grace_s": "1h"}}',
        b'{"policy": {"max_share": 1.1}}',
        b'{"policy": {"batch_max": 1}}',
        b'{"full": true, "x": ' + b"[" * 5000,
        b"\xff",
    ],
)
async def test_a_body_that_can_not_be_used_starts_nothing(operator: Operator, body: bytes) -> None:
    """It is refused with what is wrong."""
    answer = await operator.ask("POST", "/runs", body)
    assert answer.status == 400
    assert decoded(answer)["errors"][0]["message"]
    assert operator.collecting.latest is None


async def test_a_body_is_taken_only_as_json_and_only_so_long(operator: Operator) -> None:
    """A form that a page in a browser sends is none; a long one isn't read to its end."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        assert (await operator.ask("POST", "/runs", b"{}", ("Content-Type", kind))).status == 415
    assert (await operator.ask("POST", "/runs")).status == 415
    assert (await operator.ask("POST", "/runs", b" " * (BODY_MAX_BYTES + 1))).status == 413
    fine = await operator.ask("POST", "/runs", b"{}", ("content-type", "Application/JSON; charset=utf-8"))
    assert fine.status == 202


@pytest.mark.parametrize("path", ["/runs", f"/runs/{'0' * 16}/undo"])
async def test_a_page_of_another_site_starts_nothing(operator: Operator, path: str) -> None:
    """A browser says where a request is from; its own pages may."""
    for origin in ("https://evil.example", "null", "http://127.0.0.1:5001", "http://["):
        answer = await operator.ask("POST", path, b"{}", JSON, ("Origin", origin))
        assert answer.status == 403
    own = await operator.ask("POST", path, b"{}", JSON, ("Origin", "http://127.0.0.1:5000"))
    assert own.status in (202, 404)


@pytest.mark.parametrize(
    "query",
    [
        [("limit", "0")],
        [("limit", "1001")],
        [("limit", "x")],
        [("limit", "1"), ("limit", "2")],
        [("limit", "9" * 5000)],
    ],
)
async def test_a_limit_that_can_not_be_used_is_refused(operator: Operator, query: list[tuple[str, str]]) -> None:
    """No number makes a large answer, or a long one."""
    answer = await operator.ask("GET", "/runs", query=query)
    assert answer.status == 400
    assert isinstance(answer.payload, bytes)
    assert len(answer.payload) < 500


async def test_what_is_no_path_or_no_method_is_refused(operator: Operator) -> None:
    """With what is allowed; HEAD is, where GET is."""
    for path in ("", "/", "/nothing", "/runs/", "/runs/a/b", "/stats/", "x/stats"):
        assert (await operator.ask("GET", path)).status == 404, path
    assert (await operator.ask("GET", "/stats", prefix="/api/v2")).status == 404
    refused = await operator.ask("DELETE", "/runs")
    assert (refused.status, refused.header("Allow")) == (405, "GET, HEAD, POST")
    assert (await operator.ask("GET", f"/runs/{'0' * 16}/undo")).header("Allow") == "POST"
    head = await operator.ask("HEAD", "/stats")
    assert (head.status, head.payload) == (200, b"")
    assert int(head.header("Content-Length") or 0) > 100


async def test_a_client_that_goes_does_not_end_its_run(operator: Operator) -> None:
    """The run belongs to the daemon."""
    await operator.bench.push_blob(b"garbage")
    asking = asyncio.create_task(operator.ask("POST", "/runs", {"policy": {"quarantine_s": 0}}))
    while operator.collecting.running is None:
        await asyncio.sleep(0)
    asking.cancel()
    await operator.collecting.wait()
    assert not await operator.bench.is_there(b"garbage")
