"""Digests: the only door from text lets nothing else through."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.digest import Algorithm, Digest
from blobstore.errors import DigestInvalid

HEX = "a" * 64


@given(st.binary(max_size=200), st.sampled_from(Algorithm))
def test_text_and_back(data: bytes, algorithm: Algorithm) -> None:
    """Parsing what a digest prints gives the digest."""
    digest = Digest.of(data, algorithm)
    assert Digest.parse(str(digest)) == digest
    assert len(digest.value) == algorithm.size_bytes


@given(st.text(max_size=150))
def test_nothing_else_parses(text: str) -> None:
    """A text is refused, or it is exactly what the digest prints."""
    try:
        assert str(Digest.parse(text)) == text
    except DigestInvalid:
        return


@pytest.mark.parametrize(
    "text",
    [
        "", "sha256", "sha256:", HEX, f"sha256:{HEX}\n", f"\nsha256:{HEX}", f" sha256:{HEX}", f"sha256:{HEX} ",
        f"sha256:{HEX.upper()}", f"SHA256:{HEX}", f"sha256:{HEX[1:]}", f"sha256:{HEX}a", f"sha256:{HEX}{HEX}",
        f"sha512:{HEX}", f"blake3:{HEX}{HEX}", f"sha384:{'a' * 96}", f"md5:{'a' * 32}", f"sha256:{'g' * 64}",
        f"sha256:{HEX[:-1]}\u0661", f"sha256-{HEX}", f"sha256::{HEX}", f"sha256:{HEX}\0", f"sha256+b64:{HEX}",
    ],
)  # fmt: skip
def test_refused(text: str) -> None:
    """Wrong length, case, algorithm, or anything before or after: refused, and the error shows it."""
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@pytest.mark.parametrize("value", [None, 7, b"sha256:" + HEX.encode(), ["sha256"]])
def test_only_text_parses(value: object) -> None:
    """Bytes and other values are refused as texts are, not with a TypeError."""
    with pytest.raises(DigestInvalid):
        Digest.parse(value)  # type: ignore[arg-type]


def test_a_long_text_is_not_repeated_in_full() -> None:
    """An error message stays readable."""
    with pytest.raises(DigestInvalid) as error:
        Digest.parse("x" * 1_000_000)
    assert len(str(error.value)) < 500


def test_known_values() -> None:
    """The algorithms are the real ones."""
    assert Digest.of(b"").hex == hashlib.sha256(b"").hexdigest()
    assert Digest.of(b"", Algorithm.SHA512).hex == hashlib.sha512(b"").hexdigest()
    blake3 = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert str(Digest.of(b"", Algorithm.BLAKE3)) == f"blake3:{blake3}"


@given(st.binary(max_size=100))
def test_any_buffer_hashes_alike(data: bytes) -> None:
    """bytes, bytearray, memoryview."""
    for algorithm in Algorithm:
        views = (data, bytearray(data), memoryview(data))
        assert len({Digest.of(view, algorithm) for view in views}) == 1


def test_digests_sort_by_algorithm_and_value() -> None:
    """So that pages of digests have an order."""
    low, high = Digest.from_sha256(b"\0" * 32), Digest.from_sha256(b"\xff" * 32)
    assert sorted([high, low]) == [low, high]
    assert len({low, Digest.from_sha256(b"\0" * 32)}) == 1
    with pytest.raises(AssertionError):
        Digest.from_sha256(b"short")
