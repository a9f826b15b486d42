"""A part in pieces is the bytes that came, whatever became of their owners since, and few objects in little memory."""

import random  # noqa: TID251 - from a seed that the name of the test tells

import pytest

from blobstore.backends._multipart import PartBudget
from blobstore.backends._part_pieces import KEPT_MIN_BYTES, OWNER_MAX_BYTES, Pieces

MIB = 1024 * 1024
SEED = 20261121


@pytest.mark.parametrize("seed", range(SEED, SEED + 5))
def test_pieces_are_what_came(seed: int) -> None:
    """Short and long ones, of what can change and what can't, cut and read anywhere."""
    randomness = random.Random(seed)
    pieces, expected = Pieces(), bytearray()
    for _ in range(300):
        data = randomness.randbytes(randomness.choice((0, 1, 100, 5_000, KEPT_MIN_BYTES, 100_000)))
        pieces.append(memoryview(data))
        expected += data
        if randomness.random() < 0.1:
            kept = randomness.randrange(len(expected) + 1)
            pieces.cut(kept)
            del expected[kept:]
        start = randomness.randrange(len(expected) + 1)
        stop = randomness.randrange(start, len(expected) + 1)
        assert pieces.read(start, stop) == expected[start:stop]
        assert pieces.size_bytes == len(expected)
    assert pieces.joined() == expected == b"".join(pieces)
    pieces.cut(0)
    assert (pieces.size_bytes, list(pieces)) == (0, [])


def test_what_can_change_is_copied() -> None:
    """Its owner writes to it again as soon as it was taken."""
    owner = bytearray(b"x" * 2 * KEPT_MIN_BYTES)
    pieces = Pieces()
    pieces.append(memoryview(owner))
    pieces.append(memoryview(owner).toreadonly())
    owner[:] = bytes(len(owner))
    assert pieces.joined() == b"x" * 4 * KEPT_MIN_BYTES


def test_short_pieces_are_few() -> None:
    """A client that sends byte by byte fills a part as well."""
    pieces = Pieces()
    for _ in range(3 * KEPT_MIN_BYTES):
        pieces.append(memoryview(b"x"))
    assert len(list(pieces)) == 3


def test_a_piece_keeps_nothing_long_in_memory() -> None:
    """What can't change is kept as it is, unless it is a small part of something long."""
    whole, long = bytes(MIB), bytes(OWNER_MAX_BYTES + 1)
    pieces = Pieces()
    pieces.append(memoryview(whole))
    pieces.append(memoryview(long)[:KEPT_MIN_BYTES])
    owners = [piece.obj for piece in pieces]
    assert owners[0] is whole
    assert long not in owners[1:]


def test_a_buffer_of_pieces_takes_its_share_of_the_budget() -> None:
    """From when it begins to fill, though it holds nothing yet; and gives it back."""
    budget = PartBudget(4 * MIB)
    first = budget.try_fill(2 * MIB, in_pieces=True)
    assert first is not None
    assert first.pieces is not None
    assert budget.try_fill(1, in_pieces=True) is None
    first.pieces.append(memoryview(b"some"))
    first.begin_sending()
    assert first.whole() == b"some"
    assert budget.used_bytes == 2 * MIB
    first.release()
    assert (budget.used_bytes, first.whole()) == (0, b"")
