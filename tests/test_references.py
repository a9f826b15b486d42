"""Journal and checkpoint objects: replayed they give the state, and any damage is seen."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.digest import Algorithm, Digest
from blobstore.errors import BlobstoreError, FormatUnsupported, JournalDamaged
from blobstore.names import RepositoryName, TagName
from blobstore.references import ManifestEntry, References, RowEncoder, TagTarget, apply_all, decode_rows

A, B = (str(Digest.of(data)) for data in (b"a", b"b"))
ALIAS = str(Digest.of(b"a", Algorithm.SHA512))
REPOSITORY = RepositoryName("r")

changes = st.one_of(
    st.tuples(
        st.just("manifest"), st.sampled_from(["r", "s"]), st.sampled_from([A, B]), st.just("type"), st.integers(0, 9)
    ),
    st.tuples(
        st.just("tag"),
        st.sampled_from(["r", "s"]),
        st.sampled_from(["x", "y"]),
        st.sampled_from([A, B]),
        st.integers(0, 9),
    ),
    st.tuples(st.just("untag"), st.sampled_from(["r", "s"]), st.sampled_from(["x", "y"])),
    st.tuples(st.just("delete"), st.sampled_from(["r", "s"]), st.sampled_from([A, B])),
    st.tuples(st.just("remove"), st.sampled_from(["r", "s"])),
    st.tuples(st.sampled_from(["pin", "unpin"]), st.sampled_from([A, B])),
    st.tuples(st.just("alias"), st.just(ALIAS), st.just(A)),
).map(list)


def _object(rows: list[object], kind: str = "journal", *header: object) -> bytes:
    encoder = RowEncoder()
    return b"".join([encoder.header(kind, *header), *[encoder.row(row) for row in rows], encoder.end()])


def _replayed(*done: list[object]) -> References:
    references = References()
    apply_all(references, done, "test")
    return references


def test_each_change_sets_a_state() -> None:
    """Manifests, tags, pins and aliases come and go."""
    manifest = ["manifest", "r", A, "type", 5]
    tag = ["tag", "r", "x", A, 6]
    found = _replayed(manifest, tag, ["pin", B], ["alias", ALIAS, A])
    assert found.repositories[REPOSITORY].manifests == {Digest.parse(A): ManifestEntry("type", 5, 1)}
    assert found.repositories[REPOSITORY].tags == {TagName("x"): TagTarget(Digest.parse(A), 6)}
    assert (found.pins, found.aliases) == ({Digest.parse(B)}, {Digest.parse(ALIAS): Digest.parse(A)})
    assert _replayed(manifest, tag, ["untag", "r", "x"]).repositories[REPOSITORY].tags == {}
    assert _replayed(["pin", B], ["unpin", B]).pins == set()
    assert _replayed(manifest, tag, ["remove", "r"]).repositories == {}


def test_a_deleted_manifest_takes_its_tags_along() -> None:
    """And no others."""
    found = _replayed(
        ["manifest", "r", A, "t", 1], ["manifest", "r", B, "t", 1], ["tag", "r", "x", A, 1], ["tag", "r", "y", B, 1],
        ["delete", "r", A],
    )  # fmt: skip
    assert set(found.repositories[REPOSITORY].manifests) == {Digest.parse(B)}
    assert set(found.repositories[REPOSITORY].tags) == {"y"}


@given(st.lists(changes, max_size=30))
def test_replaying_twice_does_no_harm(done: list[list[object]]) -> None:
    """Each change again right behind itself gives the same state."""
    once = _replayed(*done)
    twice = _replayed(*[each for change in done for each in (change, change)])
    assert _without_positions(once) == _without_positions(twice)
    assert (once.pins, once.aliases) == (twice.pins, twice.aliases)


def _without_positions(references: References) -> object:
    """What was replayed, but for when, and what follows from when: whether a subject went after its referrer came."""
    return {
        name: (
            {digest: (entry.media_type, entry.pushed_at_ms) for digest, entry in found.manifests.items()},
            found.tags,
            set(found.gone_at),
            {
                (digest, subject)
                for digest in found.manifests
                for subject in (Digest.parse(A), Digest.parse(B))
                if references.is_subject_gone(name, digest, subject)
            },
        )
        for name, found in references.repositories.items()
    }


@given(st.lists(changes, max_size=15), st.lists(changes, max_size=15))
def test_changes_may_overlap_a_checkpoint(before: list[list[object]], after: list[list[object]]) -> None:
    """A checkpoint that saw some of the later changes, with all of those replayed over it, gives the same pins and aliases."""
    right = _replayed(*before, *after)
    for seen in range(len(after) + 1):
        found = _replayed(*before, *after[:seen], *after)
        assert (found.pins, found.aliases) == (right.pins, right.aliases)


@given(st.lists(changes, max_size=10))
def test_rows_come_back(done: list[list[object]]) -> None:
    """Header and rows, in order."""
    header, rows = decode_rows("journal", _object(done, "journal", 3, 4), "x")
    assert (header, rows) == ([3, 4], done)


def test_damage_of_any_byte_is_seen() -> None:
    """Each byte changed, missing, or doubled; and every cut."""
    data = _object([["pin", A], ["tag", "r", "x", A, 6]], "journal", 1, 2)
    for at in range(len(data)):
        for wrong in (
            data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
            data[:at] + bytes([data[at] ^ 0x80]) + data[at + 1 :],
            data[:at] + data[at + 1 :],
            data[: at + 1] + data[at:],
            data[:at],
        ):
            if wrong != data:
                with pytest.raises(JournalDamaged):
                    decode_rows("journal", wrong, "x")
    with pytest.raises(JournalDamaged):
        decode_rows("journal", data + b"\0", "x")


def test_rows_that_are_missing_are_seen() -> None:
    """Also where the hash is right: the end tells their number."""
    encoder = RowEncoder()
    pieces = [encoder.header("journal", 1, 2), encoder.row(["pin", A])]
    encoder._count = 2
    with pytest.raises(JournalDamaged):
        decode_rows("journal", b"".join([*pieces, encoder.end()]), "x")


@pytest.mark.parametrize(
    "pieces", [[], [["journal", 1]], [7, ["end", 0]], [["end", 0]], [["journal", 1], ["end", 1]], [{}, {}]]
)
def test_other_shapes_are_refused(pieces: list[object]) -> None:
    """With a right hash, too."""
    import blake3

    body = b"".join(msgpack.packb(piece) for piece in pieces)
    with pytest.raises(JournalDamaged):
        decode_rows("journal", body + blake3.blake3(body).digest(), "x")


def test_kind_and_version_are_checked() -> None:
    """A checkpoint is no journal; a later version is not guessed at."""
    with pytest.raises(JournalDamaged):
        decode_rows("journal", _object([], "checkpoint", 1), "x")
    encoder = RowEncoder()
    data = encoder._piece(["journal", 2, 1, 1]) + encoder.end()
    with pytest.raises(FormatUnsupported):
        decode_rows("journal", data, "x")


@pytest.mark.parametrize(
    "change",
    [["what", "r"], [], ["pin"], ["pin", 7], ["tag", "r", "x", A], ["manifest", "r", A, "t", "5"], ["pin", A, "more"]],
)
def test_unknown_changes_are_refused(change: list[object]) -> None:
    """By what they are, never guessed at."""
    with pytest.raises(FormatUnsupported):
        _replayed(change)


@pytest.mark.parametrize(
    "change", [["pin", "sha256:1"], ["tag", "r", "-", A, 1], ["tag", "R", "x", A, 1], ["delete", "r", "x"]]
)
def test_values_that_are_none_are_damage(change: list[object]) -> None:
    """Told with the object they come from."""
    with pytest.raises(JournalDamaged, match="object-1"):
        apply_all(References(), [change], "object-1")


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    """With our errors alone."""
    with pytest.raises(BlobstoreError):
        decode_rows("journal", noise, "x")


def test_golden_object() -> None:
    """These bytes lie on people's backends: they never change within a format version."""
    data = _object([[1, [["pin", A]]]], "journal", 1, 1)
    rows = msgpack.packb(["journal", 1, 1, 1]) + msgpack.packb([1, [["pin", A]]]) + msgpack.packb(["end", 1])
    assert data[:-32] == rows
    assert data.hex() == GOLDEN


GOLDEN = (
    "94a76a6f75726e616c01010192019192a370696ed9477368613235363a636139373831313263613162626463616661633233"
    "3162333961323364633464613738366566663831343763346537326239383037373835616665653438626292a3656e6401da"
    "8f76b6fe7a7405a9429c99ba09c4202f119410f103bbdc1765e5905d0e3e48"
)
