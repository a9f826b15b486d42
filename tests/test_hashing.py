"""Hashes whose state is saved: going on gives what hashing at once gives, and a hostile state is refused."""

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore import hashing
from blobstore.hashing import new_sha256, resume_sha256

DATA = bytes(range(256)) * 41
OFFSETS = [0, 1, 31, 55, 56, 57, 63, 64, 65, 127, 128, 129, 4096, 4097, 10_000, len(DATA)]
MARK = len(b"sha256-libcrypto-1")


@pytest.fixture(params=OFFSETS)
def saved(request: pytest.FixtureRequest) -> tuple[bytes, int]:
    state = _state(request.param)
    return state, request.param


def _state(offset: int) -> bytes:
    hasher = new_sha256()
    hasher.update(DATA[:offset])
    state = hasher.save()
    if state is None:
        pytest.skip("this libcrypto has no SHA256_* functions: states can't be saved here")
    return state


def test_a_resumed_hash_goes_on(saved: tuple[bytes, int]) -> None:
    """Wherever it was saved, on block borders and off them."""
    state, offset = saved
    hasher = resume_sha256(state, offset)
    assert hasher is not None
    assert hasher.digest() == hashlib.sha256(DATA[:offset]).digest()
    hasher.update(DATA[offset:])
    assert hasher.digest() == hashlib.sha256(DATA).digest()
    assert hasher.digest() == hashlib.sha256(DATA).digest()


def test_saving_again_and_again(saved: tuple[bytes, int]) -> None:
    """In five sessions."""
    state, offset = saved
    rest = DATA[offset:]
    step = len(rest) // 5 + 1
    at = offset
    for _ in range(5):
        hasher = resume_sha256(state, at)
        assert hasher is not None
        piece = DATA[at : at + step]
        hasher.update(piece)
        at += len(piece)
        state = hasher.save() or b""
    hasher = resume_sha256(state, at)
    assert hasher is not None
    assert hasher.digest() == hashlib.sha256(DATA).digest()


def test_a_state_of_another_offset_is_refused(saved: tuple[bytes, int]) -> None:
    """It must be exactly of so many bytes."""
    state, offset = saved
    for other in (offset + 1, offset + 64, offset - 1, offset + 2**61):
        assert resume_sha256(state, other) is None


@pytest.mark.parametrize("at", [8 * 4, 9 * 4, 10 * 4 + 64, 11 * 4 + 64])
@pytest.mark.parametrize("value", [1, 64, 65, 255, 2**31, 2**32 - 1])
def test_hostile_counters_are_refused(at: int, value: int) -> None:
    """A count of buffered bytes beyond the block would make libcrypto write outside of it."""
    state = bytearray(_state(100))
    if state[MARK + at : MARK + at + 4] == struct.pack("=I", value):
        pytest.fail("the hostile value is the right one")
    state[MARK + at : MARK + at + 4] = struct.pack("=I", value)
    assert resume_sha256(bytes(state), 100) is None


def test_cut_and_foreign_states_are_refused() -> None:
    """Of any other length or mark."""
    state = _state(100)
    for wrong in (
        b"",
        b"x",
        state[:-1],
        state + b"\0",
        state[:MARK],
        b"sha256-libcrypto-2" + state[MARK:],
        b"\0" * len(state),
    ):
        assert resume_sha256(wrong, 100) is None


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=2**40))
def test_noise_is_refused(noise: bytes, offset: int) -> None:
    """Whatever lies in the index."""
    assert resume_sha256(noise, offset) is None


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_pieces_hash_alike(pieces: list[bytes]) -> None:
    """bytes, bytearray, a view that can be written and one that can't; with and without libcrypto."""
    whole = hashlib.sha256(b"".join(pieces)).digest()
    for hasher in (new_sha256(), hashing._PlainSha256()):
        kinds = (bytes, bytearray, memoryview, lambda piece: memoryview(bytearray(piece)))
        for at, piece in enumerate(pieces):
            hasher.update(kinds[at % 4](piece))
        assert hasher.digest() == whole


def test_a_view_of_a_part_hashes_that_part() -> None:
    """Not what lies before or behind it."""
    for buffer in (DATA, bytearray(DATA)):
        hasher = new_sha256()
        hasher.update(memoryview(buffer)[10:500])
        assert hasher.digest() == hashlib.sha256(DATA[10:500]).digest()


def test_without_libcrypto_nothing_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashing works all the same, and states of others are refused."""
    state = _state(100)
    monkeypatch.setattr(hashing, "_libcrypto", lambda: None)
    hasher = new_sha256()
    hasher.update(DATA)
    assert hasher.digest() == hashlib.sha256(DATA).digest()
    assert hasher.save() is None
    assert resume_sha256(state, 100) is None
