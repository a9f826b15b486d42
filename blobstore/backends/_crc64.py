"""CRC64 as Aliyun OSS computes it (ECMA-182 as xz has it), and joining those of parts without reading them again."""

from __future__ import annotations

import functools
from collections.abc import Iterable

_BITS = 64
_POLYNOMIAL = 0xC96C5795D7870F42
_ONE = 1 << (_BITS - 1)
# x to the power of eight: one zero byte behind.
_BYTE = 1 << (_BITS - 1 - 8)


def joined_crc64(parts: Iterable[tuple[int, int]]) -> int:
    """The checksum of parts behind each other.

    Args:
        parts: of each its checksum and its size in bytes.
    """
    joined = 0
    for checksum, size_bytes in parts:
        joined = _times(_zeros(size_bytes), joined) ^ checksum
    return joined


@functools.lru_cache(maxsize=64)
def _zeros(size_bytes: int) -> int:
    """What as many zero bytes behind it multiply a checksum with: x to the power of eight times their number."""
    result, power = _ONE, _BYTE
    while size_bytes:
        if size_bytes & 1:
            result = _times(result, power)
        power = _times(power, power)
        size_bytes >>= 1
    return result


def _times(first: int, second: int) -> int:
    """The product of two polynomials modulo that of the checksum; bits are reflected, the highest power is the lowest bit."""
    product = 0
    while first:
        if first & _ONE:
            product ^= second
        first = (first << 1) & ((1 << _BITS) - 1)
        second = (second >> 1) ^ (_POLYNOMIAL if second & 1 else 0)
    return product
