"""Every parser holds its promise for some thousand inputs that coverage leads to, for the seeds, and for what once broke it."""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections import Counter
from pathlib import Path

import pytest

from tests.fuzz import attempts
from tests.fuzz.running import describe, run
from tests.fuzz.targets import TARGETS, lower_limits

executions = 5000
seed = 20261121

# What broke a target once, as it was found; shortened by hand where that shows better what was wrong.
REGRESSIONS: list[tuple[str, bytes]] = [
    # urlsplit raised its own error, dropped a query, took an unknown scheme for a path, lost a line end, guessed at bytes.
    ("locations", b"file://["),
    ("locations", b"file:///a?b"),
    ("locations", b"file:///a#b"),
    ("locations", b"s3_x://bucket/path"),
    ("locations", b"//host/a://b"),
    ("locations", b"://b"),
    ("locations", b"file:///a\nb"),
    ("locations", b"file:///%ff"),
    ("locations", b"file:///a%00"),
    # The refusal could not be printed.
    ("locations", b"f\xe9le://["),
    # A fraction was shown as 1.23457e+06s; a size of 37 digits was rounded until it was a whole number of bytes.
    ("units", b"1234567.5s"),
    ("units", b"999999999999999999.999999TiB"),
    # tomllib let through errors of int() and of the stack; a wrong duration was found only when it was used.
    ("configuration", b"a = " + b"9" * 5000),
    ("configuration", b"a = " + b"[" * 5000),
    ("configuration", b'[gc]\nupload_idle = "90x"\n'),
    # A number that the index can't count: a rebuild would have failed on it.
    ("layout", b"journal/00000000000000000001-99999999999999999999.0123456789abcdef0000000000000042"),
    ("layout", b"checkpoint/99999999999999999999.0123456789abcdef0000000000000042"),
    # Errors of msgspec's that are none of its DecodeErrors.
    ("plan", b'{"version":1,"run":"\xff"}'),
    ("plan", b'{"x":' + b"[" * 2900),
    ("plan", TARGETS["plan"].inputs[1].replace(b'"size":5', b'"size":' + b"9" * 30, 1)),
    ("plan", TARGETS["plan"].inputs[1].replace(b'"trash":0', b'"trash":' + b"9" * 30)),
    ("plan", TARGETS["plan"].inputs[1].replace(b'"batch_max":1000', b'"batch_max":' + b"9" * 30)),
    ("marker", b'{"format":1,"store_id":"\xd1","index_id":"i"}'),
    ("marker", b'{"x":' + b"[" * 1000),
    # Rows: a field too many, counters cut off, text that is none, a state and a generation that are none, a number below 0.
    ("index_row", b"\x09\x94\x01\xa5store\xa5index\x00"),
    ("index_row", b"\x0a\x91\x01"),
    ("index_row", b"\x09\x93\x01\xa1\xff\xa1i"),
    ("index_row", b"\x00\x97\x01\xff\xc4\x10" + bytes(16) + b"\x05\xc0\x90\x90"),
    ("index_row", b"\x00\x97\x01\x00\xc4\x0f" + bytes(15) + b"\x05\xc0\x90\x90"),
    ("index_row", b"\x04\x93\x01\xff\xc0"),
    ("digest_key", b""),
    ("digest_key", b"\x00"),
    ("digest_key", b"\x01" + bytes(31)),
    # Objects whose check is right: without a sequence, rows that are no changes, bytes behind the end, a time and an alias that
    # no row can hold.
    ("journal", b"\x00\x92\xaacheckpoint\x01\x92\xa3end\x00"),
    ("journal", b"\x00\x93\xaacheckpoint\x01\xa1x\x92\xa3end\x00"),
    ("journal", b"\x01\x94\xa7journal\x01\x01\x01\x91\x01\x92\xa3end\x01"),
    ("journal", b"\x01\x94\xa7journal\x01\x01\x01\x92\x01\x05\x92\xa3end\x01"),
    ("journal", b"\x00\x93\xaacheckpoint\x01\x03\x92\xa3end\x00\xc4\x05a"),
    ("journal", TARGETS["journal"].inputs[2].replace(b"\xcf\x00\x00\x01", b"\xcf\xff\xff\x01")),
    ("journal", TARGETS["journal"].inputs[2].replace(b"\xcf\x00\x00\x01\x8b\xcf\xe5h\x00", b"\xff")),
]  # fmt: skip


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    lower_limits(monkeypatch.setattr)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes(name: str, tmp_path: Path) -> None:
    """Bytes that coverage leads to are taken or refused as promised."""
    if importlib.util.find_spec("atheris") is None:
        reason = "atheris is not installed; pip install atheris, which has wheels for CPython 3.11 to 3.13"
        if os.environ.get("REQUIRE_ALL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    outcome = run(name, executions, seed, tmp_path)
    assert outcome.broken_by is None, describe(name, outcome)
    assert outcome.executions >= executions


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_and_what_is_near(name: str) -> None:
    """Each seed whole, cut, and with a changed byte, the same ones each time and without atheris. Some are taken and some
    refused: else a search that begins with them would stand before a closed door, or there would be none."""
    target, before = TARGETS[name], Counter(attempts.outcomes)
    for data in target.inputs:
        target.check(data)
        for step in range(100):
            at = zlib.crc32(b"%d" % step + data) % (len(data) + 1)
            target.check(data[:at])
            target.check(data[:at] + bytes([step * 37 % 256]) + data[at + 1 :])
    assert (attempts.outcomes - before).keys() == {"taken", "refused"}


@pytest.mark.parametrize(("name", "data"), REGRESSIONS, ids=lambda value: repr(value)[:60])
def test_what_once_broke(name: str, data: bytes) -> None:
    """It is taken or refused as promised."""
    TARGETS[name].check(data)
