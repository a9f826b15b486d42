"""What tests need of the machine they run on."""

from __future__ import annotations

import os
import shutil

import pytest


def require_tool(name: str, *, how: str | None = None) -> str:
    """The path of a program; without it the test is skipped, or failed where nothing may be (REQUIRE_ALL=1)."""
    found = shutil.which(name)
    if found is not None:
        return found
    reason = f"{name} is not installed; {how or f'Debian: apt-get install {name}'}"
    if os.environ.get("REQUIRE_ALL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
