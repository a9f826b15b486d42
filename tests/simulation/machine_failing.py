"""Rules of misfortune: crashes, rot, an index that is lost or goes back, a journal that is damaged."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from blobstore.abc.records import BlobState
from blobstore.errors import CollectionRefused, StoreFrozen
from blobstore.generation import Generation
from blobstore.layout import CHECKPOINT_PREFIX, JOURNAL_PREFIX, journal_key, parse_journal_key
from tests.simulation.catalogue import CONTENTS, MANIFESTS
from tests.simulation.machine_collecting import POLICIES, CollectingRules
from tests.simulation.machine_pushing import PushingRules

_HARMLESS = ("none", "journal object twice", "damaged twin", "newest checkpoint")


class FailingRules(PushingRules, CollectingRules):
    """What happens to machines."""

    # Crashes

    @rule(ticks=st.integers(1, 24))
    def crash_soon(self, ticks: int) -> None:
        """The process will die in one of the next requests."""
        self.world.fuse.arm(ticks)

    @rule()
    def crash(self) -> None:
        self.reopen()
        self.count("died at rest")

    @rule()
    def restart(self) -> None:
        self.world.fuse.disarm()
        for session in [each for each in self.sessions if each.upload is not None]:
            # A server that ends in peace closes what is open.
            assert session.upload is not None
            self.run(session.upload.aclose())
            session.upload = None
        self.run(self.world.stop())
        self.forget_process()
        self.run(self.world.start())
        self.count("restarts")

    # Rot

    @rule(data=st.data(), how=st.sampled_from(["flip", "cut", "gone"]))
    def rot(self, data: st.DataObject, how: str) -> None:
        """The disk destroys the bytes of a blob."""
        found = self.run(self.present_names())
        if not found:
            return
        name, digest = data.draw(st.sampled_from(found))
        before = self.world.read_raw(name)
        flipped = before[:-1] + bytes([before[-1] ^ 1]) if before else b"x"
        self.world.write_raw(name, {"flip": flipped, "cut": before[:-1] if before else b"x", "gone": None}[how])
        self.rotten[name] = digest
        self.oracle.lost.add(digest)
        self.count("rotten")

    async def present_names(self) -> list[tuple[str, object]]:
        page = await self.store.index.scan_references(None, 1000)
        blobs = [each.blob for each in page.items if each.blob.state is not BlobState.SUSPECT]
        return [(blob.names[0], blob.digest) for blob in blobs if blob.names[0] not in self.rotten]

    # The index

    @rule(
        data=st.data(), journal=st.sampled_from(_HARMLESS), dies=st.none() | st.integers(1, 60), is_lost=st.booleans()
    )
    def rebuild(self, data: st.DataObject, journal: str, dies: int | None, is_lost: bool) -> None:
        """The index is lost, or given up."""
        self.world.fuse.disarm()
        if data.draw(st.booleans()):
            self.run(self.world.stop())
        else:
            self.run(self.world.kill())
        self.touch_journal(data, journal)
        if is_lost:
            self.world.lose_index()
        self.restore(dies)

    def restore(self, dies: int | None = None) -> None:
        """Rebuild, perhaps at the second try, and open."""
        if dies is not None:
            self.run(self.world.begin_rebuild(dies))
            self.count("died in a rebuild")
        report = self.run(self.world.rebuild())
        told = [text for text in report.problems if not self.is_expected(text)]
        assert not told, told
        self.sessions.clear()
        self.has_copy = False
        self.plans.clear()
        self.runs.clear()
        self.forget_process()
        self.oracle.rebuilt(self.now_ms)
        self.run(self.world.start())
        self.is_journaled = True
        self.count("rebuilds")

    def is_expected(self, problem: str) -> bool:
        """Whether it tells of what the disk destroyed, or of an object that this machine damaged."""
        return (
            any(str(digest) in problem for digest in self.oracle.lost)
            or "is damaged" in problem
            or (
                # A crash before the first change was journaled.
                "neither journal nor checkpoint" in problem and not self.oracle.records()
            )
        )

    def touch_journal(self, data: st.DataObject, how: str) -> None:
        """Do to the journal what must do no harm."""
        objects = self.run(self.keys(JOURNAL_PREFIX))
        checkpoints = self.run(self.keys(CHECKPOINT_PREFIX))
        if how == "newest checkpoint" and len(checkpoints) > 1:
            self.damage(checkpoints[-1])
            self.count("checkpoint damaged")
        elif how in ("journal object twice", "damaged twin") and objects:
            key = data.draw(st.sampled_from(objects))
            name = parse_journal_key(key)
            assert name is not None
            twin = journal_key(
                name.first, name.last, Generation(data.draw(st.sampled_from([1, 2**63])), (1 << 63) + len(objects))
            )
            if twin not in objects:
                self.world.write_raw(twin, self.world.read_raw(key))
            if how == "damaged twin":
                self.damage(twin)
            self.count("journal object twice")

    def damage(self, key: str) -> None:
        data = self.world.read_raw(key)
        self.world.write_raw(
            key, data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        )

    async def keys(self, prefix: str) -> list[str]:
        backend = self.world._make_backend()
        await backend.open()
        try:
            return [info.key async for info in backend.list(prefix)]
        finally:
            await backend.aclose()

    @rule()
    def copy_index(self) -> None:
        """Somebody makes a backup."""
        self.world.copy_index()
        self.has_copy, self.is_copy_older = True, False

    @precondition(lambda self: self.has_copy)
    @rule(kind=st.sampled_from(["at once, untagged", "default"]), is_full=st.booleans())
    def index_goes_back(self, kind: str, is_full: bool) -> None:
        """The backup is put in the place of the index. If the journal knows more than it, collecting is off."""
        self.world.fuse.disarm()
        self.run(self.world.kill())
        self.world.restore_index()
        self.forget_process()
        self.run(self.world.start())
        if self.run(self.store.index.guards()).frozen is not None:
            before = self.run(self.keys("blobs/"))
            collector = self.collector(POLICIES[kind])
            for work in (collector.run, collector.plan):
                # A quiet grace refuses a run, too, and is asked first.
                with pytest.raises((StoreFrozen, CollectionRefused)):
                    self.run(work(is_full=is_full))
            assert self.run(self.keys("blobs/")) == before
            self.count("frozen")
            # It takes pushes all the same, and owes them as much.
            self.push_family("app", MANIFESTS["other"], "latest")
            self.pin_content(CONTENTS["layer 2"])
        else:
            assert not self.is_copy_older, "references were changed since, and nobody noticed"
        self.run(self.world.kill())
        self.restore()
