"""Every verb that is carried out passes the guards of the model; a trace that was tampered with does not."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blobstore.app import make_collector
from blobstore.backends.filesystem import FilesystemBackend
from blobstore.backends.memory import MemoryBackend
from blobstore.digest import Digest
from blobstore.gc import GcPolicy
from blobstore.index import _collecting, _state
from blobstore.index.lmdb import LmdbIndex
from blobstore.index.memory import MemoryIndex
from blobstore.names import UploadId
from blobstore.store import Store
from blobstore.testing.fakes import FakeClock, image
from tests.model.guards import GUARDS, NOT_OF_THE_PROTOCOL, Guards
from tests.model.recording import Recorder, check_spilled
from tests.model.trace import Entry, lineages, merged
from tests.model.workload import Workload

SEED = int(os.environ.get("SEED", "1"))
STEPS = int(os.environ.get("STEPS", "400"))
REBUILDING = {name for name in GUARDS if name.startswith("restore_")} | {"finish_rebuild"}


async def _work(store: Store, clock: FakeClock, seed: int, steps: int = STEPS) -> None:
    await store.open(create=True)
    try:
        await Workload(store, clock, seed).run(steps)
    finally:
        await store.aclose()


def _lmdb_store(folder: Path, clock: FakeClock, recorder: Recorder) -> Store:
    index = LmdbIndex(str(folder / "index"), ballast_bytes=4096)
    recorder.attach(index)
    return Store(FilesystemBackend(str(folder / "store")), index, clock=clock)


def _trace(path: Path) -> list[Entry]:
    (lineage,) = lineages([path])
    return [item for item in merged([path], lineage) if isinstance(item, Entry)]


def _judge(trace: list[Entry]) -> list[str]:
    guards = Guards()
    return [problem for entry in copy.deepcopy(trace) for problem in guards.step(entry)]


@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
async def test_a_random_workload_in_memory_passes(seed: int) -> None:
    """And the tables hold what the verbs explain, no more."""
    print(f"SEED={seed} STEPS={STEPS} python -m pytest tests/model/test_guards.py -k memory")
    clock, index, recorder = FakeClock(), MemoryIndex(), Recorder()
    recorder.attach(index)
    await _work(Store(MemoryBackend(), index, clock=clock), clock, seed)
    assert recorder.check() == []


@pytest.mark.parametrize("seed", range(SEED, SEED + 2))
async def test_a_random_workload_on_lmdb_passes(tmp_path: Path, seed: int) -> None:
    """Batches of verbs in one transaction are replayed in the order in which they ran."""
    print(f"SEED={seed} STEPS={STEPS} python -m pytest tests/model/test_guards.py -k lmdb")
    clock, recorder = FakeClock(), Recorder()
    store = _lmdb_store(tmp_path, clock, recorder)
    await store.open(create=True)
    await Workload(store, clock, seed).run(STEPS)
    assert recorder.check() == []
    await store.aclose()


async def test_the_workload_uses_every_verb(tmp_path: Path) -> None:
    """Else it would prove nothing of those left out. Each way in which a commit can end comes up too."""
    used: set[str] = set()
    outcomes: set[str] = set()
    for seed in range(4):
        clock, index = FakeClock(), MemoryIndex()
        recorder = Recorder(spill=tmp_path / f"{seed}.trace")
        recorder.attach(index)
        await _work(Store(MemoryBackend(), index, clock=clock), clock, seed, 800)
        trace = _trace(tmp_path / f"{seed}.trace")
        used |= {entry.verb for entry in trace}
        outcomes |= {entry.outcome["outcome"] for entry in trace if entry.verb == "put_manifest"}
    # A checkpoint's intent and an orphan take a thousand journal objects, or a kill; a frozen index, one that went back.
    assert set(GUARDS) - REBUILDING - used <= {"close_intent", "trash_orphans", "freeze"}
    assert outcomes == {"stored", "duplicate", "revived", "not published", "interrupted"}


# What the recorder sees


class _Refusal(Exception):
    """What a verb that is broken on purpose raises."""


async def test_a_batch_that_was_run_again_counts_once(tmp_path: Path) -> None:
    """A verb that raises after it wrote makes LMDB run its batch anew, each verb in a transaction of its own."""
    clock, recorder = FakeClock(), Recorder()
    store = _lmdb_store(tmp_path, clock, recorder)
    await store.open(create=True)

    def note_clock(tx: Any, why: str) -> None:
        _state.make_repository(tx, why)
        raise _Refusal

    uploads = [UploadId.random() for _ in range(3)]
    start = [store.index.start_upload(upload, None, None, 0, "") for upload in uploads]
    spoiler = store.index._write(note_clock, "nothing of this stays")
    results = await asyncio.gather(start[0], spoiler, *start[1:], return_exceptions=True)
    assert isinstance(results[1], _Refusal)
    assert recorder.check() == []
    assert recorder._guards is not None
    assert set(recorder._guards._world.state.intents) == set(uploads)
    await store.aclose()


async def test_a_caller_that_is_gone_leaves_no_gap(tmp_path: Path) -> None:
    """The writer commits a verb whose caller was cancelled, and the recorder sees it."""
    clock, recorder = FakeClock(), Recorder()
    store = _lmdb_store(tmp_path, clock, recorder)
    await store.open(create=True)
    upload = UploadId.random()
    task = asyncio.create_task(store.index.start_upload(upload, None, None, 0, ""))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    await store.index.close_intent(UploadId.random())
    assert await store.index.find_upload(upload) is not None
    assert recorder.check() == []
    await store.aclose()


async def test_an_index_that_held_something_is_taken_as_it_is(tmp_path: Path) -> None:
    """A recorder that comes late begins with what it finds; a file goes on where the process before left off."""
    clock = FakeClock()
    await _work(_lmdb_store(tmp_path, clock, Recorder()), clock, SEED, 100)
    for round_ in range(2):
        recorder = Recorder(spill=tmp_path / "trace")
        await _work(_lmdb_store(tmp_path, clock, recorder), clock, SEED + round_, 100)
    assert check_spilled([tmp_path / "trace"]) == []


async def test_a_process_that_nobody_recorded_is_noticed(tmp_path: Path) -> None:
    """Its transactions are missing from the numbers, and the state that follows from them from the model."""
    clock = FakeClock()
    await _work(_lmdb_store(tmp_path, clock, Recorder(spill=tmp_path / "trace")), clock, SEED, 40)
    unseen = LmdbIndex(str(tmp_path / "index"), ballast_bytes=4096)
    await _work(Store(FilesystemBackend(str(tmp_path / "store")), unseen, clock=clock), clock, SEED, 40)
    await _work(_lmdb_store(tmp_path, clock, Recorder(spill=tmp_path / "trace")), clock, SEED, 40)
    assert "were not recorded" in check_spilled([tmp_path / "trace"])[0]


_PROCESS = """
import asyncio, sys
from pathlib import Path
from blobstore.testing.fakes import FakeClock
from tests.model.recording import Recorder
from tests.model.test_guards import _lmdb_store, _work
folder, name, steps = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
clock = FakeClock()
asyncio.run(_work(_lmdb_store(folder, clock, Recorder(spill=folder / name)), clock, int(name), steps))
"""


async def test_processes_side_by_side_are_replayed_together(tmp_path: Path) -> None:
    """In the order of the transactions of the one index; what a killed one committed without saying so is found by the gap."""
    await _work(_lmdb_store(tmp_path, FakeClock(), Recorder(spill=tmp_path / "0")), FakeClock(), SEED, 4)
    command = [sys.executable, "-c", _PROCESS, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(number), "120"]) for number in (1, 2)]
    for number in (3, 4, 5):
        doomed = subprocess.Popen([*command, str(number), "100000"])
        while not (tmp_path / str(number)).exists() or (tmp_path / str(number)).stat().st_size < 40_000 * number:
            assert doomed.poll() is None
            await asyncio.sleep(0.01)
        doomed.send_signal(signal.SIGKILL)
        doomed.wait()
    assert [process.wait() for process in processes] == [0, 0]
    await _work(_lmdb_store(tmp_path, FakeClock(), Recorder(spill=tmp_path / "6")), FakeClock(), SEED, 4)
    files = [tmp_path / str(number) for number in range(7)]
    assert sum(1 for path in files for _ in _trace(path)) > 400
    assert check_spilled(files) == []
    assert check_spilled(files[:1] + files[2:]) != []


# Traces that were tampered with


async def _scene(path: Path) -> list[Entry]:
    """An image pushed, deleted, collected after its grace, pushed again; an upload abandoned."""
    clock, index, recorder = FakeClock(), MemoryIndex(), Recorder(spill=path)
    recorder.attach(index)
    store = Store(MemoryBackend(), index, clock=clock)
    await store.open(create=True)
    repository, policy = store.repository("app"), GcPolicy(grace_s=3600, quarantine_s=600)
    manifest = image(b"config", [b"layer"])
    for again in (False, True):
        for data in (b"config", b"layer"):
            async with repository.open_upload() as upload:
                await upload.write(data)
                await upload.commit()
        await repository.put_manifest(manifest.body, tag="1")
        if again:
            break
        async with repository.open_upload() as upload:
            await upload.write(b"half")
        await repository.delete_manifest(manifest.digest)
        for _ in range(3):
            clock.advance(30 * 3600 * 1000)
            await make_collector(store, policy).run()
    await store.aclose()
    return _trace(path)


def _first(trace: list[Entry], verb: str) -> int:
    return next(at for at, entry in enumerate(trace) if entry.verb == verb)


def _condemn_early(trace: list[Entry]) -> None:
    """A blob condemned while its manifest refers to it."""
    trace.insert(_first(trace, "delete_manifest"), trace.pop(_first(trace, "condemn")))


def _condemn_held(trace: list[Entry]) -> None:
    """A blob condemned while a hold of it stands."""
    entry = trace[_first(trace, "condemn")]
    entry.arguments["judged_at_ms"] = trace[_first(trace, "delete_manifest")].arguments["now_ms"] + 1000


def _commit_without_intent(trace: list[Entry]) -> None:
    """A commit that no intent fences."""
    del trace[_first(trace, "start_upload")]


def _commit_after_expiry(trace: list[Entry]) -> None:
    """A commit that says it stored bytes which are in the trash already."""
    at = _first(trace, "commit_blob")
    expired = copy.deepcopy(trace[_first(trace, "expire_upload")])
    intent = trace[at].arguments["intent"]
    expired.arguments |= {"upload": intent["upload"], "before_ms": 2**62}
    expired.outcome["generation"] = intent["generation"]
    trace.insert(at, expired)


def _retire_early(trace: list[Entry]) -> None:
    """A blob retired while it is in quarantine."""
    at = next(at for at, entry in enumerate(trace) if entry.verb == "retire" and _blobs(entry))
    trace[at].arguments["now_ms"] = 0


def _retire_held(trace: list[Entry]) -> None:
    """A blob retired after somebody asked for it, and was told yes."""
    at = next(at for at, entry in enumerate(trace) if entry.verb == "retire" and _blobs(entry))
    digest, now_ms = _blobs(trace[at])[0], trace[at].arguments["now_ms"]
    arguments = {"repository": "app", "digest": digest, "now_ms": now_ms, "terms": trace[at].arguments["terms"]}
    told = next(blob for entry in trace if entry.verb == "condemn" for blob in entry.outcome["blobs"])
    generation = next(row["generation"] for row in trace[at].outcome["retiring"] if row["digest"] == digest)
    trace.insert(at, Entry(0, 0, "touch_blob", arguments, {**told, "digest": digest, "generation": generation}))


def _blobs(entry: Entry) -> list[str]:
    return [row["digest"] for row in entry.outcome["retiring"] if row["digest"]]


def _forget_first(trace: list[Entry]) -> None:
    """A trash row that went before it was retiring."""
    at = next(at for at, entry in enumerate(trace) if entry.verb == "retire" and _blobs(entry))
    later = next(n for n in range(at, len(trace)) if trace[n].verb == "forget_trash" and _names_blob(trace[n]))
    trace.insert(at, trace.pop(later))


def _names_blob(entry: Entry) -> bool:
    return any(row["digest"] for row in entry.arguments["trash"])


def _put_without_child(trace: list[Entry]) -> None:
    """A manifest that stands although a blob of it was never committed."""
    del trace[_first(trace, "commit_blob")]


def _refuse_owed(trace: list[Entry]) -> None:
    """A manifest refused although all it refers to is here."""
    entry = trace[_first(trace, "put_manifest")]
    missing = entry.arguments["manifest"]["references"][0][0]
    entry.outcome |= {"outcome": "interrupted", "missing": [missing]}


def _mint_twice(trace: list[Entry]) -> None:
    """A name on the backend that was used before."""
    starts = [entry for entry in trace if entry.verb == "start_upload"]
    starts[-1].outcome["generation"] = starts[0].outcome["generation"]


def _delete_refused(trace: list[Entry]) -> None:
    """A delete refused that nothing stands against."""
    entry = trace[_first(trace, "delete_manifest")]
    entry.outcome, entry.refusal = None, "StillReferenced"


TAMPERED = (
    _condemn_early, _condemn_held, _commit_without_intent, _commit_after_expiry, _retire_early, _retire_held, _forget_first,
    _put_without_child, _refuse_owed, _mint_twice, _delete_refused,
)  # fmt: skip


@pytest.mark.parametrize("tamper", TAMPERED, ids=lambda tamper: tamper.__name__.strip("_"))
async def test_a_tampered_trace_is_reported(tmp_path: Path, tamper: Callable[[list[Entry]], None]) -> None:
    """Each in a trace that passes as it was."""
    trace = await _scene(tmp_path / "trace")
    assert _judge(trace) == []
    tamper(trace)
    assert _judge(trace) != []


async def test_a_row_that_no_verb_explains_is_reported() -> None:
    """Here a hold that somebody removed by hand."""
    clock, index, recorder = FakeClock(), MemoryIndex(), Recorder()
    recorder.attach(index)
    store = Store(MemoryBackend(), index, clock=clock)
    await store.open(create=True)
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"data")
        await upload.commit()
    assert recorder.check() == []
    index._tables[12].set(index._tables[12].keys[0], None)
    assert recorder.check() == [problem for problem in recorder.check() if problem.startswith("holds")] != []
    await store.aclose()


async def test_a_collector_that_forgets_a_check_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's own `condemn`, without its look at the edges."""
    monkeypatch.setattr(_collecting.state, "has_edge", lambda tx, raw: False)
    clock, index, recorder = FakeClock(), MemoryIndex(), Recorder()
    recorder.attach(index)
    store = Store(MemoryBackend(), index, clock=clock)
    await store.open(create=True)
    async with store.repository("app").open_upload() as upload:
        await upload.write(b"config")
        await upload.commit()
    await store.repository("app").put_manifest(image(b"config").body, tag="1")
    clock.advance(100 * 3600 * 1000)
    now_ms, policy = clock.now_ms(), GcPolicy()
    await index.condemn([Digest.of(b"config")], now_ms, policy.terms, now_ms, "run")
    assert any("condemn" in problem for problem in recorder.check())
    await store.aclose()


def test_verbs_left_out_have_no_guard() -> None:
    """A verb is in one of the two lists."""
    assert not NOT_OF_THE_PROTOCOL.keys() & GUARDS.keys()
