"""Faults on demand: which request they wait for, and what they do to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

KINDS = {
    "refuse": "answers an error; nothing is done",
    "reset": "closes the connection; nothing is done",
    "reset_in_body": "takes half of the body, then closes the connection; nothing is done",
    "hang": "never answers; nothing is done",
    "lose": "does it, then closes the connection without an answer",
    "hang_after": "does it, then never answers",
    "refuse_after": "does it, then answers an error",
    "late": "never answers; it is done when the faults are released",
    "cut": "closes the connection in the middle of the body it sends",
    "stall": "sends half of the body, then nothing any more",
    "garble": "changes a byte of the body it sends",
    "wrong_crc": "does it, and tells a checksum that is wrong",
    "no_crc": "does it, and tells no checksum",
    "garble_received": "takes a body whose last byte was changed on the way",
    "whole": "ignores the range that was asked for",
}


@dataclass
class Fault:
    """What happens to the next `times` requests of an operation."""

    operation: str
    kind: str
    times: int = 1
    skip: int = 0
    contains: str = ""
    """Only where the key holds this text."""
    status: int = 500
    code: str = "InternalError"
    details: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.kind in KINDS, self.kind


class Faults:
    """Those that wait."""

    def __init__(self) -> None:
        self._waiting: list[Fault] = []

    def add(self, **fields: Any) -> None:
        self._waiting.append(Fault(**fields))

    def clear(self) -> None:
        self._waiting.clear()

    def take(self, operation: str, key: str) -> Fault | None:
        """The fault of this request, if there is one."""
        for fault in self._waiting:
            if fault.operation not in (operation, "*") or fault.contains not in key:
                continue
            if fault.skip > 0:
                fault.skip -= 1
                continue
            fault.times -= 1
            if fault.times <= 0:
                self._waiting.remove(fault)
            return fault
        return None
