"""The access control that a configuration asks for."""

from __future__ import annotations

from blobstore.clock import Clock
from blobstore.events import EventSink, discard
from blobstore.server.auth.config import AuthConfig, check_auth
from blobstore.server.protocol.access import Access, OpenAccess


def make_access(config: AuthConfig, *, clock: Clock | None = None, events: EventSink = discard) -> Access:
    """Check the table `[server.auth]`, read its files, and build what it describes. Each process makes its own, after any fork.

    `events` is told, then and later, of files that can't be used; see `WatchedFile`.

    Raises:
        ConfigInvalid: the table, or a file that it names, can't be used.
    """
    check_auth(config)
    if config.method == "htpasswd":
        from blobstore.server.auth.htpasswd_access import make_htpasswd_access

        return make_htpasswd_access(config, clock=clock, events=events)
    if config.method == "token":
        from blobstore.server.auth.token_access import make_token_access

        return make_token_access(config, clock=clock, events=events)
    return OpenAccess()
