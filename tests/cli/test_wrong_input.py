"""Every kind of bad input: its exit status, one line on standard error, nothing on standard output, nothing made."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from blobstore.cli import _run
from blobstore.errors import IndexPoisoned
from tests.cli.conftest import Cli

ZEROS = "sha256:" + "0" * 64
NEED_A_STORE = [
    ["get", ZEROS], ["stat", ZEROS], ["unpin", ZEROS], ["ls"], ["ls", "a/b"], ["tag", "a:b", "c"], ["untag", "a:b"],
    ["rm", "a"], ["rm", f"a@{ZEROS}"], ["gc"], ["gc", "--dry-run", "--plan", "plan"], ["gc", "explain", ZEROS],
    ["gc", "undo", "x"], ["gc", "runs"], ["du"], ["du", "a"], ["stats"], ["check"], ["check", "--read-data"],
    ["index", "rebuild"], ["export", "a:b", "out"],
]  # fmt: skip
WRONG_USAGE = [
    [], ["--json"], ["nope"], ["gc", "nope"], ["index"], ["ls", "--bogus"], ["ls", "a", "b"], ["put"], ["put", "--bogus"],
    ["put", ""], ["get", "sha256:short"], ["get", ZEROS.upper()], ["stat", "md5:" + "0" * 32], ["ls", "Upper"],
    ["ls", "a//b"], ["put", "-", "--repository", "../x"], ["tag", "a", "b"], ["tag", "a:b", "-x"], ["tag", "a:b", "c:d"],
    ["untag", "a"], ["untag", f"a@{ZEROS}"], ["rm", "a:b"], ["rm", f"a:b@{ZEROS}"], ["rm", "host:5000/a"],
    ["export", "a", "x"], ["import", ".", f"a@{ZEROS}"], ["import", ".", "A"], ["gc", "--grace", "5"],
    ["gc", "--grace", "-5s"], ["gc", "--quarantine", "1 h"], ["gc", "--grace", "99999999d"], ["gc", "--max-share", "2"],
    ["gc", "--max-share", "half"], ["gc", "--plan", "-"], ["gc", "--grace", "1s", "--grace", "2s"], ["check", "x"],
    ["ls", "--store", ""], ["ls", "--store", "s3://bucket"], ["ls", "--store", "gopher://x"],
    ["ls", "--store", "file://host/x"], ["ls", "--index", "mysql://x"], ["ls", "--config", "absent.toml"],
    ["ls", "--json=maybe"], ["runs"], ["gc", "runs", "--limit", "x"], ["du", "a", "B"],
]  # fmt: skip


@pytest.mark.parametrize("argv", NEED_A_STORE, ids=" ".join)
def test_a_mistyped_store_makes_nothing(cli: Cli, place: Path, argv: list[str]):
    """Exit 2, the place in the message, no directory, no lock, no file."""
    result = cli(*argv)
    assert (result.status, result.out) == (2, "")
    assert result.err == f"blobstore: error: there is no store at {place}; `blobstore init` makes one\n"
    assert not place.exists()
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("argv", WRONG_USAGE, ids=lambda argv: " ".join(argv)[:40] or "nothing")
def test_wrong_usage_exits_2(cli: Cli, place: Path, argv: list[str]):
    """One line says what is wrong; no store is made on the way."""
    result = cli(*argv)
    assert (result.status, result.out) == (2, "")
    if argv:
        assert result.err.startswith("blobstore: error: ")
        assert result.err.count("\n") == 1
    assert not place.exists()


@pytest.mark.parametrize(
    "argv", [["put", "absent"], ["put", "."], ["import", "absent", "a/b"], ["get", ZEROS, "--json"]]
)
def test_a_missing_file_exits_1(cli: Cli, place: Path, argv: list[str]):
    """And makes no store; with --json nothing is on standard output either."""
    if argv[0] == "get":
        cli("init")
    result = cli(*argv)
    assert (result.status, result.out) == (1, "")
    assert result.err.count("\n") == 1
    assert argv[0] == "get" or not place.exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["stat", ZEROS],
        ["ls", "a/b"],
        ["untag", "a:b"],
        ["rm", f"a@{ZEROS}"],
        ["tag", "a:b", "c"],
        ["export", "a:b", "x"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_exits_1(cli: Cli, store: Path, argv: list[str]):
    """Well formed, but unknown."""
    result = cli(*argv, "--json")
    assert (result.status, result.out) == (1, "")
    assert result.err.count("\n") == 1


def test_what_is_no_archive_exits_1(cli: Cli, store: Path):
    """An archive is content, not usage."""
    Path("text").write_text("hello")
    result = cli("import", "text", "a/b")
    assert (result.status, result.out) == (1, "")


def test_a_destination_that_cannot_be_written_exits_1(cli: Cli, store: Path):
    """One line names the path."""
    Path("blob").write_text("x")
    digest = cli("put", "blob").out.strip()
    for path in ("no/such/directory", "."):
        result = cli("get", digest, "-o", path)
        assert result.status == 1
        assert result.err.count("\n") == 1
        assert ".part" not in result.err


def test_a_store_of_another_format_exits_2(cli: Cli, store: Path):
    """It is not opened, whatever is asked."""
    marker = next(path for path in store.iterdir() if path.is_file() and b'"format"' in path.read_bytes())
    marker.write_bytes(marker.read_bytes().replace(b'"format": 1', b'"format": 99'))
    result = cli("ls")
    assert result.status == 2
    assert "99" in result.err


def test_values_are_shown_as_they_are(cli: Cli, place: Path):
    """Neither markup nor control characters of an argument reach the terminal."""
    result = cli("put", "[red]x\x1b[31m\nnext")
    assert result.status == 1
    assert result.err == "blobstore: error: [red]x\\x1b[31m next: No such file or directory\n"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(), 141, ""),
        (IndexPoisoned("a sync failed"), 1, "a sync failed"),
        (OSError(errno.EIO, "Input/output error", "/x"), 1, "/x: Input/output error"),
        (ExceptionGroup("two", [IndexPoisoned("the first"), ValueError("the second")]), 1, "the first"),
        (ZeroDivisionError("oops"), 1, "ZeroDivisionError: oops"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_error_becomes_one_line(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, text: str
):
    """An interrupt exits 130, a closed pipe is silent, a bug names its type; none shows a traceback."""

    def fail(*_: object) -> int:
        raise error

    monkeypatch.setattr(_run, "_run", fail)
    result = cli("ls")
    assert (result.status, result.out) == (status, "")
    assert result.err.count("\n") == (1 if text else 0)
    assert text in result.err


def test_debugging_shows_the_traceback(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: Path):
    """BLOBSTORE_DEBUG=1."""
    monkeypatch.setenv("BLOBSTORE_DEBUG", "1")
    assert _run.run_command(["ls"]) == 2
    assert "Traceback" in capfd.readouterr().err
