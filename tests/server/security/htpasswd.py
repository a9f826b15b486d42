"""Files of users for tests, hashed at the least cost."""

from __future__ import annotations

import functools
from pathlib import Path

import bcrypt

from blobstore.events import Event
from blobstore.server.auth.config import AuthConfig, HtpasswdConfig, check_auth
from blobstore.server.auth.htpasswd_access import HtpasswdAccess, make_htpasswd_access
from blobstore.testing import FakeClock

COST = 4


@functools.cache
def line(user: str, password: str, *, cost: int = COST, prefix: str = "2b") -> str:
    """One line, as htpasswd writes it."""
    found = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode()
    return f"{user}:{found.replace('$2b$', f'${prefix}$')}"


class Htpasswd:
    """An access control over a file of its own, with its clock and all that it told."""

    def __init__(self, folder: Path, clock: FakeClock, config: AuthConfig | None = None) -> None:
        self.path, self.clock = folder / "htpasswd", clock
        self.told: list[Event] = []
        if not self.path.exists():
            self.write(line("alice", "wonder"), line("bob", "builder"))
        config = config or AuthConfig(method="htpasswd", htpasswd=HtpasswdConfig(file=str(self.path)))
        check_auth(config)
        self.access: HtpasswdAccess = make_htpasswd_access(config, clock=clock, events=self.told.append)
        self.told.clear()

    def write(self, *lines: str) -> None:
        """A new file in place of the old one."""
        new = self.path.with_suffix(".new")
        new.write_text("".join(f"{each}\n" for each in lines))
        new.rename(self.path)
