"""`Warning` headers: what people should know, and no client acts on (distribution-spec, Warnings)."""

from __future__ import annotations

_TOTAL_MAX_BYTES = 4096
_FRAME = '299 - "{}"'


def warnings(*texts: str | None) -> list[tuple[str, str]]:
    """The headers for some texts, cut where all of them would be longer than the specification allows."""
    found: list[tuple[str, str]] = []
    room = _TOTAL_MAX_BYTES
    for text in filter(None, texts):
        room -= len(_FRAME.format("").encode())
        quoted = _quoted(text, room)
        room -= len(quoted.encode())
        if quoted:
            found.append(("Warning", _FRAME.format(quoted)))
    return found


def _quoted(text: str, room_bytes: int) -> str:
    """Inside of a quoted string, in one line."""
    quoted = ""
    for char in " ".join(text.split()):
        if not char.isprintable():
            continue
        more = f"\\{char}" if char in '"\\' else char
        room_bytes -= len(more.encode())
        if room_bytes < 0:
            break
        quoted += more
    return quoted
