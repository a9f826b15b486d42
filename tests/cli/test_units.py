"""Durations, sizes and references as people write them."""

from __future__ import annotations

import pytest

from blobstore import units
from blobstore.cli._references import parse_reference
from blobstore.errors import BlobstoreError, ConfigInvalid


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("15m", 900), ("24h", 86400), ("7d", 604800), ("1.5h", 5400)]
)
def test_durations_have_a_unit(text: str, seconds: float):
    """Seconds, minutes, hours, days."""
    assert units.parse_duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "-1s", "1w", "1 h", "1H", "1h30m", "٣s", "1s\n", "1e3s", "nans"])
def test_what_is_no_duration_is_refused(text: str):
    """Nothing is guessed."""
    with pytest.raises(ConfigInvalid):
        units.parse_duration_s(text)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("512KiB", 524288), ("10GiB", 10737418240), ("1.5MiB", 1572864)])
def test_sizes_are_binary(text: str, size: int):
    """KiB is 1024 bytes."""
    assert units.parse_size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "10GB", "1.5", "-1", "KiB", "1 KiB", "0.1B"])
def test_what_is_no_size_is_refused(text: str):
    """Decimal units and parts of bytes are not."""
    with pytest.raises(ConfigInvalid):
        units.parse_size_bytes(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1024**2 - 1, "1.0 MiB"), (1536 * 1024, "1.5 MiB"),
        (1024**3, "1.0 GiB"), (5 * 1024**4, "5.0 TiB"),
    ],
)  # fmt: skip
def test_sizes_are_printed_with_one_decimal(size: int, text: str):
    """In the largest unit that fits, rounded."""
    assert units.format_size(size) == text


@pytest.mark.parametrize("text", ["0s", "90s", "15m", "24h", "7d", "36h"])
def test_durations_are_printed_as_they_are_written(text: str):
    """What is parsed and printed is the same again."""
    assert units.format_duration(units.parse_duration_s(text)) == text


def test_references_have_three_forms():
    """A repository, a tag in it, a digest in it."""
    zeros = "sha256:" + "0" * 64
    for text in ("library/app", "library/app:v1", f"library/app@{zeros}"):
        assert str(parse_reference(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", ":", "@", "a:", "a@", ":b", "a:b:c", "host:5000/a", "a@b", "A:b", "a:b@sha256:" + "0" * 64, " a", "a\n"],
)
def test_what_is_no_reference_is_refused(text: str):
    """No host, no default tag, not a tag and a digest at once."""
    with pytest.raises(BlobstoreError):
        parse_reference(text)
