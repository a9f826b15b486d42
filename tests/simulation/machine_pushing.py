"""Rules of clients: pushes, manifests, tags, deletes, reads."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from blobstore.abc.records import Blob
from blobstore.digest import Algorithm, Digest
from blobstore.errors import (
    BlobDamaged,
    BlobstoreError,
    BlobUnknown,
    DigestMismatch,
    ManifestBlobUnknown,
    ManifestUnknown,
    StillReferenced,
    UploadInterrupted,
    UploadUnknown,
)
from blobstore.manifest import Manifest
from blobstore.names import RepositoryName
from blobstore.promises import HoldTerms
from blobstore.uploads import resume_upload, start_upload
from tests.simulation.catalogue import (
    BY_DIGEST,
    BYTES,
    CONTENT_OF,
    CONTENTS,
    DIGESTS,
    MANIFESTS,
    REPOSITORIES,
    TAGS,
    family,
    needs,
)
from tests.simulation.machine_base import DIED, MachineBase, Session
from tests.simulation.oracle import Change, Fact, Pin, Record, Tag

repositories = st.sampled_from(REPOSITORIES)
contents = st.sampled_from([*CONTENTS])
manifests = st.sampled_from([*MANIFESTS])
blobs = st.sampled_from([*DIGESTS])
tags = st.sampled_from(TAGS)
SESSIONS_MAX = 3
_WRONG = Digest.of(b"something else")


class PushingRules(MachineBase):
    """What clients ask for."""

    # Blobs

    @rule(repository=repositories, content=contents, claim=st.sampled_from(["none", "sha256", "sha512", "wrong"]))
    def push_blob(self, repository: str, content: str, claim: str) -> None:
        data = CONTENTS[content]
        algorithm = Algorithm.SHA512 if claim == "sha512" else Algorithm.SHA256
        claimed = {"none": None, "wrong": _WRONG}.get(claim, Digest.of(data, algorithm))
        self.push(repository, data, claimed)

    def push(self, repository: str, content: bytes, claimed: Digest | None = None) -> None:
        async def send() -> None:
            async with self.repository(repository).open_upload(claimed) as upload:
                await upload.write(content[:3])
                await upload.write(content[3:])
                await upload.commit(claimed)

        digest, is_wrong = Digest.of(content), claimed == _WRONG
        was_suspect = self.is_suspect(digest)
        answer = self.attempt(send(), Change(promises=[] if is_wrong else [(repository, digest)]))
        if is_wrong:
            assert answer is DIED or isinstance(answer, DigestMismatch), answer
            return
        assert not isinstance(answer, BlobstoreError), answer
        if was_suspect and answer is not DIED:
            assert self.run(self.is_whole(digest)), f"{digest} was pushed anew, and is not healed"
            self.count("healed")

    @rule(repository=repositories, blob=blobs)
    def head(self, repository: str, blob: str) -> None:
        digest = DIGESTS[blob]
        before = self.blob(digest)
        answer = self.attempt(self.repository(repository).stat_blob(digest), Change(promises=[(repository, digest)]))
        self.check_unknown(answer, (repository, digest))
        if before is not None and before.state == "condemned" and isinstance(answer, Blob):
            self.count("revived by HEAD")

    @rule(source=repositories, into=repositories, blob=blobs)
    def mount(self, source: str, into: str, blob: str) -> None:
        digest = DIGESTS[blob]
        answer = self.attempt(self.repository(into).mount_blob(digest, source), Change(promises=[(into, digest)]))
        self.check_unknown(answer, (source, digest))

    def check_unknown(self, answer: object, place: tuple[str, Digest]) -> None:
        """A promise within its term is never answered "unknown"."""
        if isinstance(answer, BlobstoreError):
            assert isinstance(answer, BlobUnknown), answer
            assert place not in self.oracle.promises or place[1] in self.oracle.lost, f"{place} was promised: {answer}"
        elif answer is not DIED:
            assert place in self.oracle.may_see

    @rule(repository=repositories, blob=blobs)
    def delete_blob(self, repository: str, blob: str) -> None:
        digest = DIGESTS[blob]
        needed = [
            record
            for record in self.oracle.records()
            if record.repository == repository and digest in needs(BY_DIGEST[record.digest])
        ]
        answer = self.attempt(self.repository(repository).delete_blob(digest), Change(lets_go=[(repository, digest)]))
        if needed and answer is not DIED:
            is_lost = digest in self.oracle.lost and isinstance(answer, BlobUnknown)
            assert is_lost or isinstance(answer, StillReferenced), f"{needed} need it: {answer}"

    @rule(repository=repositories, blob=blobs, start=st.integers(0, 12), length=st.integers(0, 12) | st.none())
    def read_blob(self, repository: str, blob: str, start: int, length: int | None) -> None:
        """What is given is right, or nothing is."""
        digest = DIGESTS[blob]
        start = min(start, len(BYTES[digest]))
        stop = None if length is None else start + length
        is_whole = start == 0 and (stop is None or stop >= len(BYTES[digest]))

        async def read() -> bytes:
            async with self.repository(repository).open_blob(digest, start, stop) as blob:
                return await blob.read()

        is_owed = self.run(self.is_seen((repository, digest))) and digest not in self.oracle.lost
        found = self.attempt(read())
        if isinstance(found, BlobstoreError):
            assert not is_owed, found
        elif isinstance(found, bytes) and (is_whole or digest not in self.oracle.lost):
            assert found == BYTES[digest][start:stop]
            self.count("read")

    @rule(content=contents)
    def pin(self, content: str) -> None:
        self.pin_content(CONTENTS[content])

    def pin_content(self, data: bytes) -> None:
        async def send() -> None:
            async with await self.store.open_pinned_upload() as upload:
                await upload.write(data)
                await upload.commit()

        answer = self.attempt(send(), Change({Pin(Digest.of(data)): True}), is_journaled=True)
        assert not isinstance(answer, BlobstoreError), answer

    @rule(content=contents)
    def unpin(self, content: str) -> None:
        fact = Pin(DIGESTS[content])
        answer = self.attempt(self.store.unpin(fact.digest), Change({fact: False}), is_journaled=True)
        assert not isinstance(answer, BlobstoreError) or False in self.oracle.values(fact), answer

    # Uploads that take longer than one request

    @precondition(lambda self: len(self.sessions) < SESSIONS_MAX)
    @rule(repository=repositories, content=contents, is_known=st.booleans())
    def open_upload(self, repository: str, content: str, is_known: bool) -> None:
        data = CONTENTS[content]

        async def begin() -> Session:
            digest = Digest.of(data) if is_known else None
            upload = await start_upload(self.store.parts, RepositoryName(repository), digest)
            return Session(upload, repository, data, self.now_ms)

        life = self.world.fuse
        session = self.attempt(begin())
        if isinstance(session, Session):
            if self.world.fuse is not life:
                # It died behind its answer.
                session.upload, session.may_have_lost_bytes = None, True
            self.sessions.append(session)

    def session(self, data: st.DataObject, *, is_open: bool) -> Session:
        return data.draw(st.sampled_from([each for each in self.sessions if (each.upload is not None) == is_open]))

    @precondition(lambda self: any(each.upload for each in self.sessions))
    @rule(data=st.data(), is_all=st.booleans())
    def write(self, data: st.DataObject, is_all: bool) -> None:
        session = self.session(data, is_open=True)
        assert session.upload is not None
        rest = session.content[session.sent :]
        piece = rest if is_all else rest[: len(rest) // 2 + 1]
        if self.take(session, self.attempt(session.upload.write(piece))):
            session.sent, session.sent_at_ms = session.sent + len(piece), self.now_ms

    @precondition(lambda self: any(each.upload for each in self.sessions))
    @rule(data=st.data())
    def close_upload(self, data: st.DataObject) -> None:
        session = self.session(data, is_open=True)
        upload, session.upload = session.upload, None
        assert upload is not None
        if self.attempt(upload.aclose()) is DIED:
            session.may_have_lost_bytes = True

    @precondition(lambda self: any(each.upload is None for each in self.sessions))
    @rule(data=st.data())
    def resume_upload(self, data: st.DataObject) -> None:
        session = self.session(data, is_open=False)

        async def resume() -> None:
            session.upload = await resume_upload(
                self.store.parts, RepositoryName(session.repository), session.upload_id
            )

        life = self.world.fuse
        answer = self.attempt(resume())
        if isinstance(answer, BlobstoreError):
            assert isinstance(answer, UploadUnknown), answer
            assert session.may_be_gone or session.may_have_lost_bytes, f"{session.upload_id}: {answer}"
            self.sessions.remove(session)
        elif self.world.fuse is life and session.upload is not None:
            offset = session.upload.offset
            assert offset == session.sent or session.may_have_lost_bytes, f"{offset}, not {session.sent}"
            session.sent, session.may_have_lost_bytes = offset, False
            self.count("resumed")

    @precondition(lambda self: any(each.upload for each in self.sessions))
    @rule(data=st.data())
    def commit_upload(self, data: st.DataObject) -> None:
        session = self.session(data, is_open=True)
        assert session.upload is not None
        digest = Digest.of(session.content)
        is_whole = session.sent == len(session.content)
        change = Change(promises=[(session.repository, digest)] if is_whole else [])
        self.sessions.remove(session)
        answer = self.attempt(session.upload.commit(digest), change)
        if isinstance(answer, BlobstoreError):
            assert not is_whole or (isinstance(answer, UploadInterrupted) and session.may_be_gone), answer
        elif answer is not DIED:
            assert is_whole, "half of it was taken"
            self.count("committed after a while")

    @precondition(lambda self: any(each.upload for each in self.sessions))
    @rule(data=st.data())
    def cancel_upload(self, data: st.DataObject) -> None:
        session = self.session(data, is_open=True)
        assert session.upload is not None
        self.sessions.remove(session)
        answer = self.attempt(session.upload.cancel())
        assert not isinstance(answer, BlobstoreError), answer

    def take(self, session: Session, answer: object) -> bool:
        """Whether an upload lives on; one that was expired tells so."""
        if isinstance(answer, BlobstoreError):
            assert isinstance(answer, UploadInterrupted), answer
            assert session.may_be_gone, answer
            self.sessions.remove(session)
        return answer is None and session.upload is not None

    # Manifests

    @rule(repository=repositories, name=manifests, tagged=st.none() | tags)
    def put_manifest(self, repository: str, name: str, tagged: str | None) -> None:
        manifest = MANIFESTS[name]
        self.put(repository, manifest, tagged)

    @rule(repository=repositories, name=manifests, tagged=st.none() | tags)
    def push_image(self, repository: str, name: str, tagged: str | None) -> None:
        self.push_family(repository, MANIFESTS[name], tagged)

    def push_family(self, repository: str, manifest: Manifest, tagged: str | None) -> None:
        """As a client does: the blobs first, then the manifests, the lowest first."""
        for each in family(manifest):
            for reference in each.references:
                if reference.kind == "blob":
                    self.push(repository, CONTENT_OF[reference.digest], reference.digest)
            self.put(repository, each, tagged if each is manifest else None)

    def put(self, repository: str, manifest: Manifest, tagged: str | None) -> None:
        records = [Record(repository, each.digest) for each in family(manifest)]
        # What a rebuild could not read is missing below a manifest that was pushed before: such a one is not looked below.
        facts: dict[Fact, object] = {
            each: True for each in records if each.digest == manifest.digest or each not in self.oracle.undecided
        }
        if tagged is not None:
            facts[Tag(repository, tagged)] = manifest.digest
        sees = {(repository, digest) for each in family(manifest) for digest in needs(each)}
        sees |= {(repository, digest) for digest in _foreign(manifest)}
        missing = self.missing(repository, manifest)
        was_suspect = self.is_suspect(manifest.digest)
        tags = [tagged] if tagged is not None else []
        answer = self.attempt(
            self.repository(repository).put_manifest(manifest.body, manifest.media_type, tags=tags),
            Change(facts, sees=sees),
            is_journaled=True,
        )
        if isinstance(answer, ManifestBlobUnknown):
            if set(answer.missing) != missing:
                # A child whose own record was gone, and of whose children something is missing.
                below = {each for child in family(manifest) for each in self.missing(repository, child)}
                assert set(answer.missing) <= below, (answer.missing, missing)
            self.count("refused: names what is missing")
        elif isinstance(answer, BlobstoreError):
            is_damaged = any(each.digest in self.oracle.lost for each in family(manifest))
            assert isinstance(answer, BlobDamaged), answer
            assert is_damaged, answer
        elif answer is not DIED:
            assert not missing, f"{missing} are not here, and it was taken"
            if was_suspect:
                assert self.run(self.is_whole(manifest.digest)), f"{manifest.digest} is not healed"
                self.count("healed")

    def missing(self, repository: str, manifest: Manifest) -> set[Digest]:
        """What a manifest names and its repository can't be given."""
        index, name, now_ms = self.store.index, RepositoryName(repository), self.now_ms
        named = [each.digest for each in manifest.references if each.kind != "foreign"]
        return {digest for digest in named if not self.run(index.view_blob(name, digest, now_ms, HoldTerms()))}

    @rule(repository=repositories, name=manifests, tag=tags)
    def tag(self, repository: str, name: str, tag: str) -> None:
        manifest = MANIFESTS[name]
        answer = self.attempt(
            self.repository(repository).tag(manifest.digest, tag),
            Change({Tag(repository, tag): manifest.digest}),
            is_journaled=True,
        )
        self.check_record(answer, Record(repository, manifest.digest))

    @rule(repository=repositories, tag=tags)
    def untag(self, repository: str, tag: str) -> None:
        fact = Tag(repository, tag)
        before = self.oracle.values(fact)
        answer = self.attempt(self.repository(repository).untag(tag), Change({fact: None}), is_journaled=True)
        if isinstance(answer, BlobstoreError):
            assert None in before, answer

    @rule(repository=repositories, name=manifests)
    def read_manifest(self, repository: str, name: str) -> None:
        manifest = MANIFESTS[name]
        answer = self.attempt(self.repository(repository).get_manifest(manifest.digest))
        if isinstance(answer, BlobDamaged):
            assert manifest.digest in self.oracle.lost, answer
            return
        self.check_record(answer, Record(repository, manifest.digest))
        if isinstance(answer, Manifest):
            assert answer.body == manifest.body

    def check_record(self, answer: object, record: Record) -> None:
        """There and answered so, or not there and answered so."""
        values = self.oracle.values(record)
        if isinstance(answer, ManifestUnknown):
            assert False in values, answer
        else:
            assert not isinstance(answer, BlobstoreError), answer

    @rule(repository=repositories, name=manifests)
    def delete_manifest(self, repository: str, name: str) -> None:
        manifest = MANIFESTS[name]
        record = Record(repository, manifest.digest)
        parents = [
            each
            for each in self.oracle.records()
            if each.repository == repository and manifest in family(BY_DIGEST[each.digest])[:-1]
        ]
        change = Change({record: False})
        change.facts |= self.oracle.untagging(repository, manifest.digest)
        answer = self.attempt(self.repository(repository).delete_manifest(manifest.digest), change, is_journaled=True)
        # A rebuild that could not read it has kept those that list it.
        is_lost = isinstance(answer, ManifestUnknown) and record in self.oracle.undecided
        if parents and answer is not DIED and not is_lost:
            assert isinstance(answer, StillReferenced), f"{parents} list it: {answer}"

    @rule(repository=repositories)
    def remove_repository(self, repository: str) -> None:
        facts: dict[Fact, object] = {Record(repository, digest): False for digest in BY_DIGEST}
        facts |= {Tag(repository, tag): None for tag in TAGS}
        lets_go = [(repository, digest) for digest in BYTES]
        answer = self.attempt(self.repository(repository).remove(), Change(facts, lets_go=lets_go), is_journaled=True)
        if isinstance(answer, BlobstoreError):
            assert not [each for each in self.oracle.records() if each.repository == repository], answer


def _foreign(manifest: Manifest) -> set[Digest]:
    """Layers that need not be here; where they are, they are kept."""
    return {each.digest for member in family(manifest) for each in member.references if each.kind == "foreign"}
