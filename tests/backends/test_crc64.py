"""Checksums of parts join to that of the whole."""

import random  # noqa: TID251 - seeded

from fastcrc import crc64

from blobstore.backends._crc64 import joined_crc64

SEED = 20261121


def test_the_kind_is_that_of_oss() -> None:
    """The check value that catalogues of checksums give for CRC-64/XZ."""
    assert crc64.xz(b"123456789") == 0x995DC9BBDF1939FA


def test_parts_join_to_the_whole() -> None:
    """However the bytes are cut, with empty parts among them."""
    print("seed", SEED)
    chance = random.Random(SEED)
    for _ in range(50):
        parts = [chance.randbytes(chance.choice([0, 1, 7, 8, 100, 4096, 70_001])) for _ in range(chance.randrange(6))]
        whole = b"".join(parts)
        assert joined_crc64((crc64.xz(part), len(part)) for part in parts) == crc64.xz(whole)


def test_sizes_beyond_memory() -> None:
    """A terabyte of zeros, doubled forty times, is what it is when it is joined at once."""
    one = crc64.xz(b"\0")
    doubled, size = one, 1
    for _ in range(40):
        doubled, size = joined_crc64([(doubled, size), (doubled, size)]), size * 2
    assert joined_crc64([(joined_crc64([(one, 1), (doubled, size)]), size + 1), (one, 1)]) == joined_crc64(
        [(one, 1), (joined_crc64([(doubled, size), (one, 1)]), size + 1)]
    )


def test_order_matters() -> None:
    """Parts that were exchanged are noticed."""
    first, second = b"first part", b"second part"
    rows = [(crc64.xz(first), len(first)), (crc64.xz(second), len(second))]
    assert joined_crc64(rows) != joined_crc64(rows[::-1])
