"""A recorder of the verbs that an index really committed, in the order in which it committed them."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from blobstore.index import _records as records
from blobstore.index._key_value import KeyValueIndex
from blobstore.index._tables import Table, Transaction
from tests.model.guards import PROBLEMS_MAX, Guards
from tests.model.plain import LEFT_OUT, plain
from tests.model.state import read_state
from tests.model.trace import Entry, Ran, Session, Settled, Spill, lineages, merged


class Recorder:
    """Watches an index from outside: `attach` before the store is opened, `check` when nothing writes.

    Without `spill` the guards are asked as verbs are committed, and nothing is kept of the verbs; that is for an index that
    only this process writes. With it, verbs go to a file, for `check_spilled`: it is appended to by the next process, and what
    a killed one left in it counts.
    """

    def __init__(self, spill: str | Path | None = None) -> None:
        self._spill = Spill(Path(spill)) if spill is not None else None
        self._guards: Guards | None = None
        self._index: KeyValueIndex | None = None
        self._has_begun = False
        self._ran: list[_Run] = []
        self._last: int | None = None
        self._problems: list[str] = []
        # Verbs are settled in the writer's thread, and asked about in the loop's.
        self._lock = threading.Lock()

    def attach(self, index: KeyValueIndex) -> None:
        """See the verbs of an index from now on."""
        assert self._index is None, "a recorder watches one index"
        self._index = index
        write, settle = index._write, index._minter.settle

        async def recorded(verb: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
            return await write(_Watched(verb, self), *args, **kwargs)

        def settled(tx: Transaction) -> None:
            settle(tx)
            self._settle(tx)

        # Whatever the engine: verbs go in through the one, and the other hears of each transaction once it is durable.
        index._write = recorded  # type: ignore[method-assign]
        index._minter.settle = settled  # type: ignore[method-assign]

    def check(self) -> list[str]:
        """Each verb whose outcome the guards forbid; and, while the index is open, each row that the verbs don't explain."""
        if self._spill is not None:
            return check_spilled([self._spill.path])
        with self._lock:
            if self._guards is None or self._index is None or self._problems:
                return list(self._problems)
            return self._guards.compare(self._index._read(read_state))

    # In the thread that writes

    def before(self, tx: Transaction) -> None:
        """A verb is about to run: at the very first one, what the index held before."""
        if self._has_begun:
            return
        self._has_begun = True
        if self._spill is not None:
            self._spill.put(Session(_number(tx), _lineage(tx), read_state(tx)))
        else:
            self._guards = Guards(read_state(tx))

    def ran(self, watched: _Watched, tx: Transaction, entry: Entry) -> None:
        """A verb ran; whether that will count is not known yet."""
        if self._spill is not None:
            self._spill.put(Ran(entry))
        if entry.refusal is not None and not hasattr(tx, "_txn"):
            # In memory a refused verb is rolled back alone, and has no commit to wait for.
            self._commit([entry])
        else:
            self._ran.append(_Run(watched, tx, entry))

    def _settle(self, tx: Transaction) -> None:
        """A transaction is durable. Its verbs ran in `tx` itself; or, where a batch was run again, each in a transaction nested
        in it: then they are the latest runs, each verb once."""
        own = [run for run in self._ran if run.tx is tx] or self._latest()
        self._ran.clear()
        self._commit([run.entry for run in own])

    def _latest(self) -> list[_Run]:
        found: list[_Run] = []
        seen: set[int] = set()
        for run in reversed(self._ran):
            if id(run.watched) in seen:
                break
            seen.add(id(run.watched))
            found.insert(0, run)
        return found

    def _commit(self, entries: list[Entry]) -> None:
        if self._spill is not None:
            self._spill.put(Settled(len(entries)))
            return
        assert self._guards is not None
        with self._lock:
            for entry in entries:
                if len(self._problems) < PROBLEMS_MAX:
                    self._problems += _gap(self._last, entry)
                    self._problems += self._guards.step(entry)
                self._last = max(entry.transaction, self._last or 0)


class _Run:
    __slots__ = ("entry", "tx", "watched")

    def __init__(self, watched: _Watched, tx: Transaction, entry: Entry) -> None:
        self.watched, self.tx, self.entry = watched, tx, entry


class _Watched:
    """A verb that tells the recorder what it did. It passes for the verb itself where the engine looks it up in a set."""

    __slots__ = ("_recorder", "_verb")

    def __init__(self, verb: Callable[..., Any], recorder: Recorder) -> None:
        self._verb, self._recorder = verb, recorder

    def __hash__(self) -> int:
        return hash(self._verb)

    def __eq__(self, other: object) -> bool:
        return other is self or other is self._verb

    @property
    def __name__(self) -> str:
        return self._verb.__name__

    def __call__(self, tx: Transaction, *args: Any, **kwargs: Any) -> Any:
        self._recorder.before(tx)
        # Before it runs: it may change what it was given.
        entry = Entry(_number(tx), time.monotonic_ns(), self.__name__, _arguments(self._verb, args, kwargs))
        try:
            result = self._verb(tx, *args, **kwargs)
        except Exception as error:
            entry.refusal = type(error).__name__
            raise
        else:
            entry.outcome = plain(result)
            return result
        finally:
            entry.has_written = tx.has_written
            self._recorder.ran(self, tx, entry)


def check_spilled(paths: Iterable[str | Path]) -> list[str]:
    """What all recorders that wrote these files saw go wrong, together: see `Recorder.check`. For when none of them writes."""
    files = [Path(path) for path in paths]
    problems: list[str] = []
    for lineage in lineages(files):
        problems += _check_lineage(files, lineage)
    return problems


def _check_lineage(files: list[Path], lineage: str) -> list[str]:
    guards: Guards | None = None
    last: int | None = None
    problems: list[str] = []
    for item in merged(files, lineage):
        if guards is None:
            # A new index, whose first session has no lineage yet, begins with nothing.
            guards = Guards(item.state) if isinstance(item, Session) else Guards()
        problems += _gap(last, item)
        if isinstance(item, Session):
            problems += guards.compare(item.state)
            last = item.transaction - 1
        else:
            problems += guards.step(item)
            last = max(item.transaction, last or 0)
        if len(problems) >= PROBLEMS_MAX:
            break
    return problems


def _gap(last: int | None, item: Session | Entry) -> list[str]:
    """A transaction that nobody recorded: whatever follows can't be judged."""
    seen = item.transaction - 1 if isinstance(item, Session) else item.transaction
    if last is None or seen <= last + (0 if isinstance(item, Session) else 1):
        return []
    return [
        f"transactions between {last} and {item.transaction} were not recorded: attach to every process, with `spill`"
    ]


def _lineage(tx: Transaction) -> str | None:
    stored = tx.get(Table.META, records.META_IDENTITY)
    return records.IDENTITY.decode(stored).index_id if stored else None


def _number(tx: Transaction) -> int:
    """Of the LMDB transaction; 0 in memory."""
    transaction = getattr(tx, "_txn", None)
    return transaction.id() if transaction is not None else 0


@functools.cache
def _parameters(verb: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(verb).parameters)[1:]


def _arguments(verb: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    named = dict(zip(_parameters(verb), args, strict=False)) | kwargs
    return {name: plain(value) for name, value in named.items() if name not in LEFT_OUT}
