"""Units: durations and sizes as people write and read them."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from blobstore.errors import ConfigInvalid

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_BYTES = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)([smhd])", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,6})?)(B|KiB|MiB|GiB|TiB|)", re.ASCII)


def parse_duration_s(text: str) -> float:
    """Seconds from `90s`, `15m`, `24h` or `7d`; the unit is never guessed.

    Raises:
        ConfigInvalid: it is none of these.
    """
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigInvalid(f"{text!r:.80} is not a duration; write a number and s, m, h or d, such as 90s, 24h or 7d")
    return float(Decimal(match[1]) * _SECONDS[match[2]])


def parse_size_bytes(text: str) -> int:
    """Bytes from `10GiB`, `512KiB` or `1048576`.

    Raises:
        ConfigInvalid: it is none of these, or not a whole number of bytes.
    """
    match = _SIZE.fullmatch(text)
    # Fraction, as Decimal would round what has more than 28 digits.
    size = Fraction(match[1]) * _BYTES[match[2]] if match is not None else None
    if size is None or size.denominator != 1:
        raise ConfigInvalid(f"{text!r:.80} is not a size; write a number and KiB, MiB, GiB or TiB, such as 10GiB")
    return int(size)


def format_duration(seconds: float) -> str:
    """The largest unit that fits, without losing anything above a second: `24h`, `90s`, `7d`."""
    whole = int(seconds)
    if seconds != whole:
        return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
    # Two days and more read better in days; a day is a day's hours, as policies are written.
    for unit, factor, least in (("d", 24 * 3600, 2), ("h", 3600, 1), ("m", 60, 2)):
        if whole % factor == 0 and whole >= factor * least:
            return f"{whole // factor}{unit}"
    return f"{whole}s"


def format_age(seconds: float) -> str:
    """How long ago, in one unit, rounded down: `5s`, `12m`, `3h`, `40d`."""
    whole = max(0, int(seconds))
    for unit, factor in (("d", 24 * 3600), ("h", 3600), ("m", 60)):
        if whole >= factor:
            return f"{whole // factor}{unit}"
    return f"{whole}s"


def format_size(size_bytes: int) -> str:
    """Binary units with one decimal; bytes below 1 KiB are exact."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    size = float(size_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        size /= 1024
        # Not 1024.0 KiB: what would be rounded up to that is one of the next unit.
        if size < 1023.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1024:.1f} TiB"
