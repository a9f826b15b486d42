"""Which keys a backend takes: relative, of plain characters, nothing that could climb out of a directory."""

from __future__ import annotations

import re

from blobstore.errors import InvalidInput

key_max_chars = 512
_COMPONENT = re.compile(r"[A-Za-z0-9_+=@:,~-][A-Za-z0-9._+=@:,~-]{0,254}", re.ASCII)


def checked_key(key: str) -> str:
    """The key, if it may be one.

    Raises:
        InvalidInput: it may not.
    """
    if len(key) > key_max_chars or not all(_COMPONENT.fullmatch(part) for part in key.split("/")):
        raise InvalidInput(
            f"{key!r:.120} is not a key: components of letters, digits and ._+=@:,~- that begin with no dot"
        )
    return key
