"""Names on the backend: what is formatted parses back, and nothing else is taken for a name of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.backends._keys import checked_key
from blobstore.digest import Digest
from blobstore.generation import Generation
from blobstore.layout import (
    BlobName,
    JournalName,
    blob_key,
    checkpoint_key,
    data_key,
    is_record_key,
    journal_key,
    parse_blob_key,
    parse_checkpoint_key,
    parse_data_key,
    parse_journal_key,
    parse_record_key,
    parse_upload_key,
    published_names,
    record_key,
    upload_key,
)

u64 = st.integers(min_value=0, max_value=2**64 - 1)
generations = st.builds(Generation, u64, u64)
digests = st.binary(min_size=32, max_size=32).map(Digest.from_sha256)
sequences = st.integers(min_value=0, max_value=2**63 - 1)
G = Generation(0x0123456789ABCDEF, 0x42)
PARSERS = (
    parse_blob_key,
    parse_data_key,
    parse_record_key,
    parse_upload_key,
    parse_journal_key,
    parse_checkpoint_key,
)


def test_golden_names() -> None:
    """These names lie on people's disks: they never change within a format version."""
    hexed = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert str(G) == "0123456789abcdef0000000000000042"
    assert blob_key(Digest.of(b""), G) == f"blobs/sha256/e3/{hexed}.0123456789abcdef0000000000000042"
    assert data_key(G) == "data/99/0123456789abcdef0000000000000042"
    assert record_key(blob_key(Digest.of(b""), G)) == f"commits/sha256/e3/{hexed}.0123456789abcdef0000000000000042"
    assert upload_key(G) == "uploads/0123456789abcdef0000000000000042"
    assert journal_key(1, 23, G) == "journal/00000000000000000001-00000000000000000023.0123456789abcdef0000000000000042"
    assert checkpoint_key(23, G) == "checkpoint/00000000000000000023.0123456789abcdef0000000000000042"


@given(digests, generations)
def test_blob_names(digest: Digest, generation: Generation) -> None:
    """There and back; and every backend takes them."""
    key = blob_key(digest, generation)
    assert parse_blob_key(key) == BlobName(digest, generation)
    assert checked_key(key) == key


@given(digests, generations)
def test_names_of_what_can_not_be_renamed(digest: Digest, generation: Generation) -> None:
    """There and back; which is which can be told; and every backend takes them."""
    key = blob_key(digest, generation)
    data, record = published_names(key, generation)
    assert (data, record) == (data_key(generation), record_key(key))
    assert parse_data_key(data) == generation
    assert parse_record_key(record) == BlobName(digest, generation)
    assert [is_record_key(each) for each in (key, data, record)] == [False, False, True]
    assert [checked_key(each) for each in (data, record)] == [data, record]
    assert parse_blob_key(record) is parse_record_key(key) is parse_record_key(data) is parse_data_key(record) is None


@given(generations)
def test_upload_names(generation: Generation) -> None:
    """There and back."""
    key = upload_key(generation)
    assert parse_upload_key(key) == generation
    assert checked_key(key) == key


@given(sequences, sequences, generations)
def test_journal_names(first: int, last: int, generation: Generation) -> None:
    """There and back."""
    key = journal_key(first, last, generation)
    assert parse_journal_key(key) == JournalName(key, first, last)
    assert checked_key(key) == key


@given(sequences, generations)
def test_checkpoint_names(sequence: int, generation: Generation) -> None:
    """There and back."""
    key = checkpoint_key(sequence, generation)
    assert parse_checkpoint_key(key) == sequence
    assert checked_key(key) == key


@given(sequences, sequences, generations, generations)
def test_journal_names_sort_as_their_sequences(a: int, b: int, g: Generation, h: Generation) -> None:
    """So that a listing is in order."""
    if a != b:
        assert (journal_key(a, a, g) < journal_key(b, b, h)) == (a < b)
        assert (checkpoint_key(a, g) < checkpoint_key(b, h)) == (a < b)


@given(generations, generations)
def test_generations_sort_as_their_keys_and_texts(a: Generation, b: Generation) -> None:
    """Whichever form is compared."""
    assert Generation.from_key(a.key) == a == Generation.parse(str(a))
    assert (a < b) == (a.key < b.key) == (str(a) < str(b))


@given(st.text(alphabet="0123456789abcdefABCDEF./-\n", max_size=140))
def test_other_text_is_no_name(text: str) -> None:
    """A parser gives back what formats to exactly this text, or None."""
    for prefix in ("", "blobs/sha256/", "uploads/", "journal/", "checkpoint/"):
        assert all(parse(prefix + text) is None or (prefix + text).count("\n") == 0 for parse in PARSERS)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key + "\n", lambda key: key.upper(), lambda key: f"/{key}", lambda key: f"x{key}", lambda key: key[:-1],
        lambda key: key + "0", lambda key: key.replace("/", "//", 1), lambda key: key + ".new-1-a", lambda key: key[:-1] + "g",
        lambda key: key[:-1] + "٣",
    ],
)  # fmt: skip
def test_damaged_names_are_not_ours(change) -> None:
    """A name that differs in one place is nobody's, and so never deleted."""
    blob = blob_key(Digest.of(b"x"), G)
    keys = (blob, data_key(G), record_key(blob), upload_key(G), journal_key(1, 2, G), checkpoint_key(1, G))
    for key, parse in zip(keys, PARSERS, strict=True):
        assert parse(key) is not None
        assert parse(change(key)) is None


def test_a_blob_in_the_wrong_shard_is_not_ours() -> None:
    """The two letters of the folder are those of the digest."""
    key = blob_key(Digest.of(b""), G)
    assert parse_blob_key(key.replace("/e3/", "/e4/")) is None
