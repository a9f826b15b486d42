"""Errors as a person sees them: one line and an exit status."""

from __future__ import annotations

from blobstore.errors import (
    AccessDenied,
    BlobstoreError,
    BucketUnknown,
    ConfigInvalid,
    DigestInvalid,
    NameInvalid,
    StoreMismatch,
    StoreUnknown,
    TagInvalid,
)

FAILED = 1
USAGE = 2
INTERRUPTED = 130
TERMINATED = 143
PIPE_CLOSED = 141

_LINE_MAX_CHARS = 2000
_OF_USAGE = (
    AccessDenied,
    BucketUnknown,
    ConfigInvalid,
    DigestInvalid,
    NameInvalid,
    TagInvalid,
    StoreMismatch,
    StoreUnknown,
)


class UsageInvalid(ConfigInvalid):
    """Arguments that don't go together."""


def exit_status(error: BaseException) -> int:
    """2 for wrong usage, configuration or credentials, 1 for all else."""
    return USAGE if isinstance(error, _OF_USAGE) else FAILED


def message(error: BaseException) -> str:
    """What to say of an error, without a newline or control character, whatever it quotes."""
    if isinstance(error, BlobstoreError):
        return one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        return one_line(": ".join(str(part) for part in (error.filename, error.strerror) if part is not None))
    return one_line(
        f"this is a bug in blobstore: {type(error).__name__}: {error} (BLOBSTORE_DEBUG=1 shows where; please report it)"
    )


def one_line(text: str) -> str:
    """Text with everything that could leave its line, or command a terminal, escaped."""
    flat = " ".join(text.split()) if "\n" in text else text
    safe = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in flat)
    return safe if len(safe) <= _LINE_MAX_CHARS else f"{safe[:_LINE_MAX_CHARS]}…"


def unwrapped(error: BaseException) -> BaseException:
    """The first error of a group, which is the one that ended the others."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
