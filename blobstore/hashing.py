"""SHA-256 whose state can be saved, so that an upload goes on in another process without being read again.

hashlib can't copy its state out. libcrypto's SHA256_* functions keep theirs in a plain struct (openssl/sha.h); they are used
through ctypes when a self-test shows that they behave, and hashlib otherwise: then `save` gives None and the bytes are
hashed again. The struct is that of one machine's byte order and stays on that machine, in its index.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import struct
from typing import Protocol

Buffer = bytes | bytearray | memoryview

INLINE_HASH_MAX_BYTES = 64 * 1024
"""What is hashed on the event loop; more goes to a thread."""

_STATE_MARK = b"sha256-libcrypto-1"
# SHA256_CTX: h[8], Nl, Nh, data[16], num, md_len, all 32-bit.
_CONTEXT = struct.Struct("=8I2I64s2I")
_BLOCK_BYTES = 64
_DIGEST_BYTES = 32


class Sha256(Protocol):
    """A running SHA-256."""

    def update(self, data: Buffer, /) -> None:
        """Hash more; releases the GIL."""

    def digest(self) -> bytes:
        """The hash so far."""

    def save(self) -> bytes | None:
        """The state, for `resume_sha256`; None where it can't be had."""


def new_sha256() -> Sha256:
    """A hash of nothing yet."""
    library = _libcrypto()
    return _SavableSha256(library, None) if library is not None else _PlainSha256()


def resume_sha256(state: bytes, hashed_bytes: int) -> Sha256 | None:
    """The hash that `save` saved after `hashed_bytes`; None if it is not such a state, so that the bytes must be hashed again."""
    library = _libcrypto()
    context = state[len(_STATE_MARK) :]
    if library is None or not state.startswith(_STATE_MARK) or len(context) != _CONTEXT.size:
        return None
    fields = _CONTEXT.unpack(context)
    low, high, buffered, length = fields[8], fields[9], fields[11], fields[12]
    # A state that doesn't fit would make libcrypto write outside of its buffer.
    if (high << 32 | low) != hashed_bytes * 8 or buffered != hashed_bytes % _BLOCK_BYTES or length != _DIGEST_BYTES:
        return None
    return _SavableSha256(library, context)


class _PlainSha256:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, data: Buffer, /) -> None:
        self._hash.update(data)

    def digest(self) -> bytes:
        return self._hash.digest()

    def save(self) -> bytes | None:
        return None


class _SavableSha256:
    def __init__(self, library: ctypes.CDLL, context: bytes | None) -> None:
        self._library = library
        self._context = ctypes.create_string_buffer(context or b"", _CONTEXT.size)
        if context is None:
            library.SHA256_Init(self._context)

    def update(self, data: Buffer, /) -> None:
        view = memoryview(data)
        if view.nbytes == 0:
            return
        # bytes go as they are; ctypes can only take the address of others if they can be written to.
        if isinstance(data, bytes):
            self._library.SHA256_Update(self._context, data, len(data))
        elif view.readonly:
            self._library.SHA256_Update(self._context, view.tobytes(), view.nbytes)
        else:
            self._library.SHA256_Update(self._context, (ctypes.c_char * view.nbytes).from_buffer(view), view.nbytes)

    def digest(self) -> bytes:
        copied = ctypes.create_string_buffer(self._context.raw, _CONTEXT.size)
        result = ctypes.create_string_buffer(_DIGEST_BYTES)
        self._library.SHA256_Final(result, copied)
        return result.raw

    def save(self) -> bytes | None:
        return _STATE_MARK + self._context.raw


@functools.cache
def _libcrypto() -> ctypes.CDLL | None:
    """The libcrypto that Python itself uses, if its SHA256 functions pass a self-test."""
    import _hashlib

    for name in (_hashlib.__file__, "libcrypto.so.3", "libcrypto.so.1.1"):
        try:
            library = ctypes.CDLL(name)
            library.SHA256_Init.argtypes = [ctypes.c_void_p]
            library.SHA256_Update.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
            library.SHA256_Final.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        except (OSError, AttributeError):
            # Not here under that name, or built without them: try the next, and do without in the end.
            continue
        if _passes_self_test(library):
            return library
    return None


def _passes_self_test(library: ctypes.CDLL) -> bool:
    text = bytes(range(256)) * 5
    for cut in (0, 1, 63, 64, 65, 1000):
        first = _SavableSha256(library, None)
        first.update(text[:cut])
        fields = _CONTEXT.unpack(first._context.raw)  # noqa: SLF001 - its own class
        if (fields[8], fields[11], fields[12]) != (cut * 8, cut % _BLOCK_BYTES, _DIGEST_BYTES):
            return False
        second = _SavableSha256(library, first._context.raw)  # noqa: SLF001 - its own class
        second.update(text[cut:])
        if second.digest() != hashlib.sha256(text).digest():
            return False
    return True
