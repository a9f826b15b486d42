"""The checksum of parts behind each other, by matrices over bits.

Not the arithmetic of the client, which is judged by it; nor oss2's, which takes 8 ms a part.
"""

from __future__ import annotations

import functools

_BITS = 64
_POLYNOMIAL = 0xC96C5795D7870F42

Matrix = tuple[int, ...]
"""What each bit of a checksum becomes."""


def joined(crc: int, next_crc: int, next_bytes: int) -> int:
    """The checksum of bytes with `crc` and behind them others with `next_crc`."""
    return _applied(_zeros(next_bytes), crc) ^ next_crc


@functools.lru_cache(maxsize=256)
def _zeros(count: int) -> Matrix:
    """What so many zero bytes behind it do to a checksum."""
    result, power = tuple(1 << bit for bit in range(_BITS)), _zero_byte()
    while count:
        if count & 1:
            result = _product(power, result)
        power = _product(power, power)
        count >>= 1
    return result


@functools.cache
def _zero_byte() -> Matrix:
    power: Matrix = (_POLYNOMIAL, *(1 << bit for bit in range(_BITS - 1)))
    for _ in range(3):
        power = _product(power, power)
    return power


def _product(second: Matrix, first: Matrix) -> Matrix:
    return tuple(_applied(second, row) for row in first)


def _applied(matrix: Matrix, bits: int) -> int:
    result = 0
    while bits:
        low = bits & -bits
        result ^= matrix[low.bit_length() - 1]
        bits ^= low
    return result
