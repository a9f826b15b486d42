"""Running one command: arguments in, exit status out; every error becomes one line."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Coroutine, Sequence
from typing import Any

from cyclopts import App, CycloptsError, UnknownCommandError, UnusedCliTokensError

from blobstore.cli import _app
from blobstore.cli._errors import (
    FAILED,
    INTERRUPTED,
    PIPE_CLOSED,
    TERMINATED,
    USAGE,
    UsageInvalid,
    exit_status,
    message,
    one_line,
    unwrapped,
)
from blobstore.cli._output import log_as_warnings

DEBUG_VARIABLE = "BLOBSTORE_DEBUG"
_WITH_VALUE = frozenset({"--store", "--index", "--config"})
_FLAGS = frozenset({"--json", "--quiet"})


def run_as_process(argv: Sequence[str]) -> int:
    """`run_command`, and see to it that the end of the process says nothing more."""
    with log_as_warnings(is_quiet="--quiet" in argv):
        status = run_command(argv)
    try:
        sys.stdout.flush()
    except OSError as error:
        # What could not be written is tried again when the interpreter ends, and would be complained about there.
        _silence_stdout()
        if isinstance(error, BrokenPipeError):
            return PIPE_CLOSED
        # A full disk is found out only now, when the buffer is written.
        _say(message(error))
        return FAILED
    return status


def run_command(argv: Sequence[str]) -> int:
    """Parse, run, translate errors."""
    try:
        return _run(_app.build(), list(argv))
    except CycloptsError as error:
        _say(_usage(error))
        return USAGE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except asyncio.CancelledError:
        _say("terminated")
        return TERMINATED
    except (BrokenPipeError, SystemExit):
        # Rich, which prints the help, ends the process when nobody reads it.
        return PIPE_CLOSED
    except Exception as error:  # noqa: BLE001 - the edge of the program: nothing may leave as a traceback
        return _fail(error)


def _run(app: App, argv: list[str]) -> int:
    if not argv:
        _show_help(app)
        return USAGE
    argv = _hoisted(app, argv)
    if not argv:
        raise UsageInvalid("no command was given; `blobstore --help` lists them")
    if argv == ["index"]:
        raise UsageInvalid("`index` is no command by itself; there is `blobstore index rebuild`")
    command, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
    result = command(*bound.args, **bound.kwargs)
    if inspect.iscoroutine(result):
        result = asyncio.run(_until_terminated(result))
    return result if isinstance(result, int) else 0


async def _until_terminated(work: Coroutine[Any, Any, int | None]) -> int | None:
    """SIGTERM ends a command as Ctrl-C does: half-written files go, uploads stay resumable."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    try:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    except (RuntimeError, ValueError):
        # Not the main thread: whoever runs us there sees to signals.
        return await work
    try:
        return await work
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _hoisted(app: App, argv: list[str]) -> list[str]:
    """Options that were written before the command go behind its name, where the parser expects them."""
    first: list[str] = []
    rest = list(argv)
    while rest and (rest[0] in _FLAGS or rest[0].partition("=")[0] in _WITH_VALUE):
        takes = 2 if rest[0] in _WITH_VALUE else 1
        first, rest = first + rest[:takes], rest[takes:]
    if not first or not rest:
        return rest
    chain, _, unused = app.parse_commands(rest)
    return [*chain, *first, *unused]


def _fail(raised: BaseException) -> int:
    error = unwrapped(raised)
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(raised)
    _say(message(error))
    return exit_status(error)


def _usage(error: CycloptsError) -> str:
    if isinstance(error, UnusedCliTokensError):
        text = f"unexpected argument {(error.unused_tokens or ['?'])[0]!r:.200}"
    elif isinstance(error, UnknownCommandError):
        text = f"there is no command {(error.unused_tokens or ['?'])[0]!r:.200}"
    else:
        text = one_line(str(error)).removesuffix(".")
        text = text[:1].lower() + text[1:]
    chain = " ".join(("blobstore", *(error.command_chain or ())))
    return f"{text} (see `{chain} --help`)"


def _show_help(app: App) -> None:
    from rich.console import Console

    app.help_print([], console=Console(file=sys.stderr))


def _say(text: str) -> None:
    try:
        print(f"blobstore: error: {text}", file=sys.stderr, flush=True)
    except OSError:
        # Nobody listens; the exit status says it.
        return


def _silence_stdout() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
