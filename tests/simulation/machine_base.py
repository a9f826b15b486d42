"""What every rule of the machine stands on: one request at a time, an oracle that hears its answer, a look after each step."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from hypothesis import event
from hypothesis.stateful import RuleBasedStateMachine, invariant

from blobstore.abc.records import Blob, BlobState
from blobstore.digest import Digest
from blobstore.errors import BlobstoreError
from blobstore.gc import Collector
from blobstore.names import RepositoryName, TagName
from blobstore.promises import HoldTerms
from blobstore.repository import Repository
from blobstore.store import Store
from blobstore.testing.invariants import find_broken
from blobstore.uploads import Upload
from tests.simulation.catalogue import BLOBS, BY_DIGEST, REPOSITORIES, TAGS, needs
from tests.simulation.crashing import Crash
from tests.simulation.oracle import Change, Fact, Oracle, Pin, Place, Record, Tag
from tests.simulation.world import World

Answer = TypeVar("Answer")
OUTCOMES: Counter[str] = Counter()
"""How often something of interest happened, in all machines of this process; `steps` among it."""

TERM_MS = int(HoldTerms().grace_s * 1000)
"""What a promise is owed by a process that answers; the minute on top of it makes up for renewing once a minute."""
_UNIVERSE: tuple[Fact, ...] = (
    *(Record(repository, digest) for repository in REPOSITORIES for digest in BY_DIGEST),
    *(Tag(repository, tag) for repository in REPOSITORIES for tag in TAGS),
    *(Pin(digest) for digest in BLOBS),
)


class Died:
    """No answer: the process died under way."""


DIED = Died()


class Interruption:
    """Somebody wants this process to end: it does so between two steps, where nothing is under way."""

    is_asked_for = False


class Session:
    """An upload that a client has begun: what it sent so far, and the open upload while its process lives."""

    def __init__(self, upload: Upload, repository: str, content: bytes, now_ms: int) -> None:
        self.upload: Upload | None = upload
        self.upload_id, self.repository, self.content = upload.upload_id, repository, content
        self.sent = 0
        self.sent_at_ms = now_ms
        self.may_be_gone = self.may_have_lost_bytes = False


class MachineBase(RuleBasedStateMachine):
    """A store, its world and its oracle."""

    make_world: Callable[[], World]

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.runner.get_loop().set_exception_handler(_overlook_crashes)
        self.world = self.make_world()
        self.oracle = Oracle()
        self.rotten: dict[str, Digest] = {}
        """Names on the backend whose bytes the disk destroyed."""
        self.sessions: list[Session] = []
        self.collectors: dict[Any, Collector] = {}
        self.has_copy = self.is_copy_older = False
        self.latest_ms = self.world.clock.now_ms()
        self.is_journaled = False
        """Whether the journal has just been made to hold all that the index does."""
        self.run(self.world.start(create=True))

    # Words for rules

    @property
    def store(self) -> Store:
        return self.world.store

    @property
    def now_ms(self) -> int:
        return self.world.clock.now_ms()

    def repository(self, name: str) -> Repository:
        return self.store.repository(name)

    def run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        """Wait for something.

        Raises:
            Crash: the process died over it.
        """
        try:
            return self.runner.run(work)
        except ExceptionGroup as group:
            if self.world.fuse.is_blown:
                raise Crash from group
            raise

    def count(self, outcome: str, times: int = 1) -> None:
        """Something of interest happened."""
        if times:
            OUTCOMES[outcome] += times
            event(outcome)

    def attempt(
        self, work: Coroutine[Any, Any, Answer], change: Change | None = None, *, is_journaled: bool = False
    ) -> Answer | BlobstoreError | Died:
        """One request: its answer, or its refusal. The oracle hears of it before it begins, and how it ended."""
        change = change or Change()
        before = self.oracle.begin(change, self.now_ms)
        try:
            answer = self.run(work)
        except BlobstoreError as error:
            self.oracle.refused(before)
            self.count(f"refused: {type(error).__name__}")
            self.settle()
            return error
        except Crash:
            self.count("died under way")
            self.reopen()
            return DIED
        self.oracle.answered(change, self.now_ms)
        self.is_journaled = self.is_journaled or is_journaled
        self.is_copy_older = self.is_copy_older or (is_journaled and bool(change.facts))
        self.settle()
        return answer

    def settle(self) -> None:
        """Let the process do what it does behind its answers."""
        try:
            self.run(self.store.parts.cleaner.aclose())
        except Crash:
            self.count("died behind the answer")
            self.reopen()

    def reopen(self) -> None:
        """The process dies, and another opens the store: nobody has to repair anything."""
        self.run(self.world.kill())
        self.forget_process()
        self.run(self.world.start())
        self.count("restarts")

    def forget_process(self) -> None:
        """What lived in the process is gone."""
        self.collectors.clear()
        for session in self.sessions:
            session.may_have_lost_bytes = session.may_have_lost_bytes or session.upload is not None
            session.upload = None

    def blob(self, digest: Digest) -> Blob | None:
        """What the index says of a blob."""
        return self.run(self.store.index.find_blob(digest))

    def is_suspect(self, digest: Digest) -> bool:
        found = self.blob(digest)
        return found is not None and found.state is BlobState.SUSPECT

    # After each step

    @invariant()
    def all_is_well(self) -> None:
        """Every invariant of docs/storage.md, and all that was acknowledged."""
        if Interruption.is_asked_for:
            raise KeyboardInterrupt
        OUTCOMES["steps"] += 1
        self.latest_ms = max(self.latest_ms, self.now_ms)
        self.oracle.time_is(self.now_ms, TERM_MS)
        self.run(self.look())
        self.is_journaled = False

    async def look(self) -> None:
        assert not (broken := await self.find_broken()), broken
        for digest in list(self.oracle.lost):
            if await self.is_whole(digest):
                self.oracle.lost.discard(digest)
        await self.look_at_facts()
        for record in self.oracle.records():
            for digest in needs(BY_DIGEST[record.digest]):
                assert await self.is_seen((record.repository, digest)), f"{record} needs {digest}"
        for place in self.oracle.promises:
            assert await self.is_seen(place), f"{place} was promised"
        for pin in [fact for fact in self.oracle.facts if isinstance(fact, Pin) and self.oracle.values(fact) == {True}]:
            assert await self.is_seen((None, pin.digest)), f"{pin.digest} is pinned"
        for repository in REPOSITORIES:
            for digest in (*BLOBS, *BY_DIGEST):
                if (repository, digest) not in self.oracle.may_see:
                    view = await self.store.index.view_blob(
                        RepositoryName(repository), digest, self.now_ms, HoldTerms()
                    )
                    assert view is None, f"{repository} sees {digest}, which it never got or let go of"

    async def find_broken(self) -> list[str]:
        """Every invariant that does not hold, but for what the disk destroyed: bytes, and the records that no rebuild could
        read from them. A push heals both."""
        broken = await find_broken(self.store)
        lost = [fact.digest.hex for fact in self.oracle.undecided if isinstance(fact, Record)]
        excused = [*self.rotten, *(f"lists the manifest {digest}, which has no record" for digest in lost)]
        return [line for line in broken if not any(each in line for each in excused)]

    async def look_at_facts(self) -> None:
        pinned = set(await self.store.index.list_pins(None, 1000))
        for fact in _UNIVERSE:
            found = await self.observe(fact, pinned)
            assert found in self.oracle.values(fact), f"{fact} is {found}, not {self.oracle.values(fact)}"
            if self.is_journaled:
                self.oracle.narrow(fact, found)

    async def observe(self, fact: Fact, pinned: set[Digest]) -> object:
        """What the store says of a fact; changes nothing."""
        if isinstance(fact, Pin):
            return fact.digest in pinned
        what = TagName(fact.tag) if isinstance(fact, Tag) else fact.digest
        record = await self.store.index.resolve(RepositoryName(fact.repository), what)
        if isinstance(fact, Tag):
            return record.key.digest if record is not None else None
        return record is not None

    async def is_seen(self, place: Place) -> bool:
        """Whether a blob can be had in a place; its bytes were looked at before. What the disk destroyed need not."""
        repository, digest = place
        if digest in self.oracle.lost:
            return True
        index = self.store.index
        if repository is None:
            found = await index.find_blob(digest)
        else:
            found = await index.view_blob(RepositoryName(repository), digest, self.now_ms, HoldTerms())
        return found is not None and found.state is not BlobState.SUSPECT

    async def is_whole(self, digest: Digest) -> bool:
        """Whether the store has other bytes for a blob than those that were destroyed."""
        found = await self.store.index.find_blob(digest)
        is_bad = found is None or found.state is BlobState.SUSPECT or self.rotten.keys() & set(found.names)
        return not is_bad

    def release(self) -> None:
        """The end, whatever happened before."""
        try:
            self.run(self.world.close())
        finally:
            self.runner.close()


def _overlook_crashes(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A task of a dead process has nobody to tell."""
    if not isinstance(context.get("exception"), Crash):
        loop.default_exception_handler(context)
