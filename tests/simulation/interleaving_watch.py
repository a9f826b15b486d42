"""The watch: looks at tables and bytes after every commit and at every request, whatever is half done."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from blobstore.abc.records import Blob
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.index import _records as records
from blobstore.index import _state as state
from blobstore.index._key_value import KeyValueIndex
from blobstore.index._tables import Table, Transaction
from blobstore.layout import (
    parse_blob_key,
    parse_checkpoint_key,
    parse_journal_key,
    parse_upload_key,
)
from tests.model.recording import Recorder
from tests.model.state import read_state
from tests.simulation.interleaving_oracle import Oracle
from tests.simulation.schedule_index import Tables
from tests.simulation.weather import Sky


class Broken(AssertionError):
    """An invariant does not hold."""


class SharedRecorder(Recorder):
    """Replays what all processes of a scene commit against the guards of the protocol; only one of them ever runs."""

    def attach(self, index: KeyValueIndex) -> None:
        """Watch one more index over the same tables."""
        self._index = None
        super().attach(index)

    def problems(self, tables: Tables) -> list[str]:
        """What `check` finds, whichever process is closed by now."""
        if self._problems or self._guards is None:
            return list(self._problems)
        return self._guards.compare(tables.read(read_state))


@functools.lru_cache(maxsize=1000)
def _blob(raw: bytes, value: bytes) -> Blob:
    return state.blob_value(raw, records.BLOB.decode(value))


class Watch:
    """Checks I1, I2 and I7 at every moment. A commit is looked at whole: blobs, edges, trash, intents."""

    def __init__(self, tables: Tables, oracle: Oracle) -> None:
        self._tables, self._oracle = tables, oracle
        self.sky: Sky | None = None
        self.recorder = SharedRecorder()
        self.problems: list[str] = []
        self._named: dict[str, str] = {}
        self._retired: dict[bytes, set[str]] = {}
        self._written: set[str] = set()

    def committed(self) -> None:
        """A transaction became durable."""
        self._tables.read(self._look)

    def edges_go(self, now_ms: int, *, is_over: bool) -> None:
        """See `Oracle.edges_go`."""
        self._oracle.edges_go(now_ms, is_over=is_over)

    def _look(self, tx: Transaction) -> None:
        assert self.sky is not None
        objects = self.sky.objects._objects
        self._note_trash(tx)
        self._named.clear()
        sound: set[bytes] = set()
        for raw, value in tx.scan(Table.BLOBS, b""):
            blob = _blob(raw, value)
            # By name: what other sessions of its upload had left goes, too, and shares its generation.
            if not self._retired.get(blob.generation.key, set()).isdisjoint(blob.names):
                self._report(f"I7: {blob.names} was retired and is a blob again")
            if blob.state == "suspect":
                self._report(f"{blob.digest} is suspect, though no byte was ever lost")
                continue
            sound.add(raw)
            for name in blob.names:
                self._named[name] = str(blob.digest)
                if name not in objects:
                    self._report(f"I1: {blob.state} blob {blob.digest} has no bytes at {name}")
        for key, _ in tx.scan(Table.EDGES_TO, b""):
            if key[:32] not in sound:
                child, parent = Digest.from_sha256(key[:32]), Digest.from_sha256(key[36:])
                self._report(f"I2: manifest {parent} refers to {child}, which is gone")
        for generation, _ in tx.scan(Table.INTENTS_BY_GENERATION, b""):
            if generation in self._retired:
                self._report(f"I7: generation {generation.hex()} was retired and has an intent")
        frozen = tx.get(Table.META, records.META_FROZEN)
        if frozen is not None:
            self._report(f"the store froze: {frozen.decode()}")

    def _note_trash(self, tx: Transaction) -> None:
        for generation, value in tx.scan(Table.TRASH, b""):
            row = records.TRASH.decode(value)
            if row.state == records.TRASH_RETIRING:
                self._retired.setdefault(generation, set()).update(row.names)

    def _report(self, problem: str) -> None:
        # Raised by `check`, as whoever stumbled over it may be a thread or a process that nobody asks.
        if problem not in self.problems:
            self.problems.append(problem)

    def check_verbs(self) -> None:
        """Raise what the guards of the protocol say of the verbs that were carried out."""
        self.problems += self.recorder.problems(self._tables)
        self.check()

    def check(self) -> None:
        """Raise what was found so far."""
        if self.problems:
            raise Broken("\n".join(self.problems[:10]))

    def sends(self, what: str, keys: Sequence[str]) -> None:
        """A process asks for this: it must not delete what was not retired."""
        for key in keys:
            if what == "delete":
                self._may_delete(key)

    def lands(self, what: str, keys: Sequence[str]) -> None:
        """It happens now: no delete may hit the bytes of a blob."""
        for key in keys:
            if what == "delete" and key in self._named:
                self._report(f"I1: a delete of {key} hits the bytes of blob {self._named[key]}")

    def written(self, key: str) -> None:
        """Bytes arrived under a name that had none: it must never have had any. A request to write where bytes are is refused,
        and no harm: so a session ends that goes on with an upload which a dead one had published already."""
        if key in self._written:
            self._report(f"I7: {key} is written again")
        self._written.add(key)

    def _may_delete(self, key: str) -> None:
        blob, upload = parse_blob_key(key), parse_upload_key(key)
        generation: Generation | None = blob.generation if blob is not None else upload
        if generation is not None:
            if key not in self._retired.get(generation.key, ()):
                self._report(f"I7: {key} is deleted, but was not retired")
            return
        if not self._is_covered(key):
            self._report(f"I7: {key} is deleted, but no two checkpoints cover it")

    def _is_covered(self, key: str) -> bool:
        """Journal objects go when the older of two checkpoints covers them, checkpoints when there are two newer ones."""
        assert self.sky is not None
        journal = parse_journal_key(key)
        last = journal.last if journal is not None else (parse_checkpoint_key(key) or 0) + 1
        found = [parse_checkpoint_key(each) or 0 for each in self.sky.keys("checkpoint/")]
        return sum(sequence >= last for sequence in found) >= 2
