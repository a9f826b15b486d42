"""The real command in a process of its own: streams, signals, terminals."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Layout

COMMAND = (sys.executable, "-m", "blobstore")
BIG = bytes(range(256)) * 4096 * 20
DIGEST = f"sha256:{hashlib.sha256(BIG).hexdigest()}"
SOURCE = str(Path(__file__).parents[2])


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A store's place, and where the code is."""
    monkeypatch.chdir(tmp_path)
    path = os.pathsep.join(filter(None, (SOURCE, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "BLOBSTORE_STORE": str(tmp_path / "store"), "PYTHONPATH": path, "COLUMNS": "200"}


def call(environment: dict[str, str], *argv: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run((*COMMAND, *argv), env=environment, input=data, capture_output=True, timeout=60, check=False)


def start(environment: dict[str, str], *argv: str, **streams: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen((*COMMAND, *argv), env=environment, **streams)


def test_a_blob_goes_through_pipes_and_comes_back(environment: dict[str, str]):
    """`put -` reads to the end of a pipe, `get` writes into one."""
    assert call(environment, "put", "-", data=BIG).stdout.decode() == DIGEST + "\n"
    found = call(environment, "get", DIGEST)
    assert (found.returncode, found.stdout, found.stderr) == (0, BIG, b"")


def test_a_life_from_import_to_gc(environment: dict[str, str], layout: Layout):
    """Every step by the command alone: two images, one deleted, a dry run, a run, the other exported."""
    shared, own = layout.layer(), layout.layer()
    layout.image("keep", [shared])
    layout.image("drop", [shared, own])
    steps = [
        ["import", str(layout.path), "library/app"],
        ["untag", "library/app:drop"],
        ["gc", "--dry-run", "--plan", "plan", "--delete-untagged", "--grace", "0s", "--quarantine", "0s"],
        ["gc", "--plan", "plan", "--json"],
        ["export", "library/app:keep", "out.tar"],
        ["check", "--read-data"],
    ]
    outputs = []
    for step in steps:
        done = call(environment, *step)
        assert (done.returncode, done.stderr) == (0, b""), step
        outputs.append(done.stdout)
    assert own["digest"].encode() in outputs[2]
    assert shared["digest"].encode() not in outputs[2]
    assert json.loads(outputs[3])["blobs"]["freed"] == 3


def test_version_and_help_need_no_store(environment: dict[str, str]):
    """They print to standard output and exit 0."""
    assert call(environment, "--version").stdout.startswith(b"blobstore 0.")
    shown = call(environment, "gc", "--help")
    assert shown.returncode == 0
    assert b"--delete-untagged" in shown.stdout


def test_a_reader_that_stops_early_is_no_error_to_speak_of(environment: dict[str, str]):
    """`blobstore get … | head -c 1`: nothing on standard error, the status a shell shows for SIGPIPE."""
    call(environment, "put", "-", data=BIG)
    for argv in (["get", DIGEST], ["gc", "--help"], ["stat", DIGEST], ["stats", "--json"]):
        reading, writing = os.pipe()
        os.close(reading)
        process = start(environment, *argv, stdout=writing, stderr=subprocess.PIPE)
        os.close(writing)
        _, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (141, b""), argv


def test_a_full_disk_under_standard_output_is_told(environment: dict[str, str]):
    """A report that could not be written is a failure."""
    call(environment, "put", "-", data=BIG)
    with open("/dev/full", "wb") as full:
        process = start(environment, "stat", DIGEST, stdout=full, stderr=subprocess.PIPE)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == b"blobstore: error: No space left on device\n"


@pytest.mark.parametrize(
    ("number", "status", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_put_that_waits_for_input(environment: dict[str, str], number: int, status: int, said: str):
    """At once, in one line, without a traceback; the upload is cancelled and nothing is stored."""
    call(environment, "init")
    process = start(environment, "put", "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(BIG[: 3 * 1024 * 1024])
    process.stdin.flush()
    uploads = Path("store/uploads")
    deadline = time.monotonic() + 30
    while not list(uploads.iterdir()) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    out, err = process.stdout.read(), process.stderr.read()  # type: ignore[union-attr]
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()  # type: ignore[union-attr]
    assert (out, err.decode()) == (b"", f"blobstore: error: {said}\n")
    stats = json.loads(call(environment, "stats", "--json").stdout)
    assert (stats["uploads"], stats["blobs"]) == (0, 0)
    assert list(uploads.iterdir()) == []


def test_a_blob_is_not_written_to_a_terminal(environment: dict[str, str]):
    """Exit 2 and the way out; a file or a pipe is fine."""
    call(environment, "put", "-", data=BIG)
    leader, follower = pty.openpty()
    process = start(environment, "get", DIGEST, stdout=follower, stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=60)
    os.close(follower)
    os.close(leader)
    assert process.returncode == 2
    assert b"use -o FILE" in said


def on_terminal(environment: dict[str, str], *argv: str) -> bytes:
    """What a command writes to a terminal as its standard error."""
    leader, follower = pty.openpty()
    terminal = {**environment, "TERM": "xterm"}
    process = start(terminal, *argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            piece = os.read(leader, 65536)
        except OSError:
            break
        if not piece:
            break
        shown += piece
    process.communicate(timeout=60)
    os.close(leader)
    assert process.returncode == 0
    return shown


def test_progress_is_shown_on_a_terminal_only(environment: dict[str, str], tmp_path: Path):
    """A bar on a terminal; neither with --quiet or --json nor in a log."""
    (tmp_path / "blob").write_bytes(BIG)
    assert b"put" in on_terminal(environment, "put", "blob")
    assert on_terminal(environment, "put", "blob", "--quiet") == b""
    assert on_terminal(environment, "put", "blob", "--json") == b""
    assert call(environment, "put", "blob").stderr == b""
