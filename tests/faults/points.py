"""One point of failure: a flow, a fault and the number of the call it hits; tried in one process, judged in a new one."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path
from typing import Any, NamedTuple

from blobstore.errors import ArchiveInvalid, BlobstoreError, IndexPoisoned, StorageFailed
from blobstore.testing.fakes import START_MS
from blobstore.testing.invariants import find_broken, find_garbage
from tests.faults import flows_push, flows_whole
from tests.faults.children import Tell, in_child
from tests.faults.flows import FLOWS, Flow, push_what_must_stay
from tests.faults.judge import collect, do_again, judge
from tests.faults.shim import FAULTS, NO_FAULT, Board, Call, Fault
from tests.faults.stage import (
    Contents,
    Stage,
    contents,
    fingerprint,
    look,
    restage,
)
from tests.faults.without_threads import do_at_once, draw_the_same

assert flows_push, flows_whole  # they fill FLOWS

_SYNCS = ("fsync", "fdatasync")
_WRITES = ("write", "pwrite64", "writev", "pwritev")


class Point(NamedTuple):
    """The call number `at`, counted from 1 among those that the fault can hit; or among those of one name, on paths that hold
    `part`, which says the same call when the engine has changed elsewhere."""

    flow: str
    fault: str
    at: int
    call: str = ""
    part: str = ""

    def __str__(self) -> str:
        return ":".join(map(str, self)).rstrip(":")

    @classmethod
    def parse(cls, text: str) -> Point:
        """The point that `str` named."""
        flow, fault, at, *narrowed = text.split(":")
        return cls(flow, fault, int(at), *narrowed)


class Result(NamedTuple):
    """What came of a point. `hit` is the call that failed, "" if there were not so many; `error` what the caller was told."""

    point: str
    hit: str
    error: str
    problems: list[str]


class Workshop:
    """A directory for stages, and the shim; belongs to a process that has no threads, since it forks."""

    def __init__(self, base: Path, library: Path) -> None:
        self._templates, self._library = base / "templates", library
        self._root = base / f"stage-{os.getpid()}"
        self._board = Board()
        self._root.mkdir()
        self._staged, self._template = "", Contents()
        self._lies_there: Contents | None = None
        self._whole: set[str] = set()

    # What a flow should do

    def learn(self, name: str) -> dict[str, int]:
        """Make a flow's template and note what is seen before and after it where nothing fails; how many calls each fault can
        hit."""
        flow, template = FLOWS[name], self._templates / name
        template.mkdir(parents=True)
        now_ms = _said(in_child(lambda tell: _prepare(flow, template / "stage", tell)))["now_ms"]
        expected: dict[str, Any] = {"now_ms": now_ms}
        self._restage(name)
        if not flow.creates:
            expected["before"] = _said(in_child(lambda tell: self._see(now_ms, tell)))["view"]
        counts = {fault: self._count(flow, now_ms, FAULTS[fault]) for fault in FAULTS}
        expected |= _said(in_child(lambda tell: self._see_after(flow, now_ms, tell)))
        (template / "expected.json").write_text(json.dumps(expected))
        return counts

    def _count(self, flow: Flow, now_ms: int, fault: Fault) -> int:
        self._restage(flow.name)
        self._board.prepare(self._root, fault)
        _said(in_child(lambda tell: self._act(flow, now_ms, tell, has_threads=fault.has_threads)))
        return self._board.counted

    async def _see(self, now_ms: int, tell: Tell) -> None:
        stage = Stage(self._root, now_ms)
        async with stage.opened() as store:
            assert await find_broken(store) == []
            tell(view=await look(store, now_ms))

    async def _see_after(self, flow: Flow, now_ms: int, tell: Tell) -> None:
        stage = Stage(self._root, now_ms)
        async with stage.opened() as store:
            assert await find_broken(store) == []
            tell(after=await look(store, now_ms))
        tell(again=await do_again(stage, flow, has_happened=True))
        collections, final = 2, await collect(stage, 2)
        while await find_garbage(stage.store):
            # The flow itself left an image without a tag: that is let go of record by record before it is garbage.
            collections, final = collections + 1, await collect(stage, 1)
        tell(collections=collections, final=final)
        await stage.close()

    def trace(self, name: str) -> list[Call]:
        """The calls of a flow where nothing fails."""
        self._count(FLOWS[name], self._expected(name)["now_ms"], NO_FAULT)
        return self._board.calls()

    def run_unwatched(self, name: str) -> Path:
        """A flow without the shim, for another tracer, between calls that ask for `--begin--` and `--end--`; its root."""
        self._restage(name)
        now_ms = self._expected(name)["now_ms"]

        async def act(tell: Tell) -> None:
            stage = Stage(self._root, now_ms)
            flow = FLOWS[name]
            if not flow.opens:
                await stage.open()
            os.path.exists(self._root / "--begin--")
            await flow.act(stage)
            await stage.close()
            os.path.exists(self._root / "--end--")
            tell(done=True)

        _said(in_child(act))
        return self._root

    # A point

    def attempt(self, point: Point) -> Result:
        """Try a point, then look at what it left in a new process."""
        flow, expected = FLOWS[point.flow], self._expected(point.flow)
        self._restage(flow.name)
        fault = FAULTS[point.fault]
        self._board.prepare(self._root, fault, point.at, point.call, point.part)
        tried = in_child(lambda tell: self._act(flow, expected["now_ms"], tell, has_threads=fault.has_threads))
        hit = self._board.hit
        problems = list(tried.said.get("problems", []))
        if "crash" in tried.said:
            problems.append(tried.said["crash"])
        if os.WIFSIGNALED(tried.status) and not (
            hit and point.fault == "kill" and os.WTERMSIG(tried.status) == signal.SIGKILL
        ):
            problems.append(f"the process died of signal {os.WTERMSIG(tried.status)}")
        problems += _synced_again(self._board.calls())
        is_done = bool(tried.said.get("done"))
        problems += self._judge(flow, expected, is_done=is_done)
        named = f"{hit.name} {hit.path.removeprefix(str(self._root))}" if hit is not None else ""
        return Result(str(point), named, tried.said.get("error", ""), problems)

    def _judge(self, flow: Flow, expected: dict[str, Any], *, is_done: bool) -> list[str]:
        """What is wrong with what lies there now. Many faults leave the same; what is whole is looked at once."""
        self._lies_there = contents(self._root)
        left = f"{flow.name} {is_done} {fingerprint(self._lies_there)}"
        if left in self._whole:
            return []
        self._lies_there = None
        judged = in_child(lambda tell: judge(Stage(self._root, expected["now_ms"]), flow, expected, is_done, tell))
        problems = list(judged.said.get("problems", []))
        if "crash" in judged.said:
            problems.append("after it: " + judged.said["crash"])
        elif not judged.said.get("judged"):
            problems.append(f"the process that looked at it died: {judged.status}")
        if not problems:
            self._whole.add(left)
        return problems

    async def _act(self, flow: Flow, now_ms: int, tell: Tell, *, has_threads: bool = False) -> None:
        """The flow, from an open store to a closed one, under the fault that the board holds."""
        draw_the_same("the flow")
        if not has_threads:
            do_at_once()
        self._board.install(self._library)
        stage, problems = Stage(self._root, now_ms), list[str]()
        if not flow.opens:
            await stage.open()
        self._board.arm()
        failed: BaseException | None = None
        try:
            await flow.act(stage)
            tell(done=True)
            problems += self._answered_after_failed_sync()
        except BaseException as error:  # noqa: BLE001 - what the caller is told is looked at
            failed = error
            tell(error=f"{type(error).__name__}: {error}")
        if not flow.opens:
            problems += await self._wrongly_usable(stage, failed)
        try:
            await stage.close()
        except BaseException as error:  # noqa: BLE001 - as above
            problems += _wrongly_told(error, "closing")
        self._board.disarm()
        if failed is not None:
            hit = self._board.hit
            is_of_source = hit is not None and hit.path.startswith(str(stage.source))
            problems += [] if is_of_source and isinstance(failed, ArchiveInvalid) else _wrongly_told(failed, "the flow")
        if isinstance(failed, IndexPoisoned) and not flow.opens:
            problems += await _opens_poisoned(stage)
        tell(problems=problems)

    def _answered_after_failed_sync(self) -> list[str]:
        """Success after a failed sync of bytes or of their name is a lie; only EINTR, which says that it did not happen, is
        tried again. On a full disk the journal and the index write anew, elsewhere; they are not looked at here."""
        hit = self._board.hit
        if hit is None or hit.name not in _SYNCS or hit.result == -errno.EINTR or not _holds_bytes(hit.path):
            return []
        named = [
            call.name
            for call in self._board.calls()
            if os.path.dirname(call.path) == hit.path and call.name in {"link", "linkat", "rename", "unlink"}
        ]
        if named and named[-1] == "unlink":
            # The cleaner's, behind the answer: it deletes what turned out not to be needed.
            return []
        return [f"success was answered after {hit.name} of {hit.path} had failed"]

    async def _wrongly_usable(self, stage: Stage, failed: BaseException | None) -> list[str]:
        """After a failed sync or write of the index everything is refused."""
        hit = self._board.hit
        is_lost = hit is not None and hit.path.endswith("/index/data.mdb") and hit.result in {-errno.EIO, -errno.EDQUOT}
        if isinstance(failed, IndexPoisoned) or (is_lost and hit.name in (*_SYNCS, *_WRITES)):
            try:
                await stage.store.index.totals()
            except IndexPoisoned:
                return []
            return ["the index answers although a write of it failed"]
        return []

    def _expected(self, name: str) -> dict[str, Any]:
        return json.loads((self._templates / name / "expected.json").read_text())

    def _restage(self, name: str) -> None:
        """The stage as it is before a flow."""
        if name != self._staged:
            template = contents(self._templates / name / "stage")
            # A store that misses its ballast takes it again.
            self._template = {path: data for path, data in template.items() if not path.endswith("/ballast")}
            self._staged = name
        restage(self._root, contents(self._root) if self._lies_there is None else self._lies_there, self._template)
        self._lies_there = None


def _said(told: Any) -> dict[str, Any]:
    assert "crash" not in told.said, told.said["crash"]
    assert told.status == 0, told
    assert not told.said.get("problems"), told.said
    return told.said


async def _prepare(flow: Flow, template: Path, tell: Tell) -> None:
    do_at_once()
    draw_the_same("what is there before")
    template.mkdir()
    stage = Stage(template, START_MS)
    if not flow.creates:
        await stage.open(create=True)
        await push_what_must_stay(stage)
        if flow.prepare is not None:
            await flow.prepare(stage)
        await stage.close()
    tell(now_ms=stage.clock.now_ms())


def _wrongly_told(error: BaseException, doing: str) -> list[str]:
    """What fails below is told as that, and not as one of Python's or LMDB's errors, nor as an answer about the content."""
    if isinstance(error, StorageFailed):
        return []
    kind = "a wrong kind of error" if isinstance(error, BlobstoreError) else "a foreign error"
    return [f"{doing} raised {kind}: {type(error).__name__}: {error}"]


async def _opens_poisoned(stage: Stage) -> list[str]:
    try:
        await stage.open()
    except IndexPoisoned:
        return []
    except BlobstoreError as error:
        return [f"a poisoned index opened again says {error!r}"]
    await stage.close()
    return ["a poisoned index could be opened again in the same process"]


def _holds_bytes(path: str) -> bool:
    return "/store/blobs/" in path or "/store/uploads/" in path


def _synced_again(calls: list[Call]) -> list[str]:
    """A second sync of a descriptor after one failed: the kernel has marked the pages clean, it would lie."""
    for at, call in enumerate(calls):
        if call.is_hit and call.name in _SYNCS and call.result not in {0, -errno.EINTR} and "/index" not in call.path:
            for later in calls[at + 1 :]:
                if later.descriptor == call.descriptor and later.name == "close":
                    break
                if later.descriptor == call.descriptor and later.name in _SYNCS:
                    return [f"{call.path} was synced again after a sync of it had failed"]
    return []
