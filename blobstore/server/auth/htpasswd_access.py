"""Names and passwords: HTTP Basic over a file of bcrypt hashes.

Source: RFC 7617 (Basic).
"""

from __future__ import annotations

from collections.abc import Sequence

from blobstore.clock import Clock, SystemClock
from blobstore.errors import ConfigInvalid
from blobstore.events import Alarm, EventSink, discard
from blobstore.server.auth.config import AuthConfig
from blobstore.server.auth.credentials import BasicCredentials, CredentialsInvalid, read_credentials
from blobstore.server.auth.htpasswd_file import cost_advised, parse_users
from blobstore.server.auth.passwords import Passwords, password_max_bytes, published_users
from blobstore.server.auth.rate_limit import FailureLimit
from blobstore.server.auth.rules import ANY_USER, Rules
from blobstore.server.auth.watched_file import WatchedFile
from blobstore.server.protocol.access import ANYBODY, Access, Forbidden, Need, Principal, Unauthenticated
from blobstore.server.protocol.messages import Request
from blobstore.units import parse_duration_s


class HtpasswdAccess(Access):
    """Users of a file, each with the rights of a table."""

    def __init__(self, passwords: Passwords, rules: Rules, realm: str) -> None:
        self._passwords, self._rules = passwords, rules
        self._challenge = f'Basic realm="{realm}", charset="UTF-8"'

    async def admit(self, request: Request, needs: Sequence[Need], wishes: Sequence[Need] = ()) -> Principal:
        """See `Access.admit`."""
        del wishes
        credentials = self._read(request)
        if credentials is None:
            # Not the ping: told there that no password is needed, clients never show one again.
            if needs and all(map(self._rules.is_public, needs)):
                return ANYBODY
            raise self._unauthenticated("a user name and a password are needed")
        if len(credentials.password.encode()) > password_max_bytes:
            raise self._unauthenticated(f"a password can have at most {password_max_bytes} bytes")
        if not await self._passwords.are_right(credentials, request.peer):
            raise self._unauthenticated("the user name or the password is wrong")
        principal = Principal(credentials.user)
        for need in needs:
            if not self.may(principal, need):
                raise Forbidden(f"{credentials.user} may not {' and '.join(sorted(need.actions))} {need.repository}")
        return principal

    def may(self, principal: Principal, need: Need) -> bool:
        """See `Access.may`."""
        if principal.name is None:
            return self._rules.is_public(need)
        return self._rules.allows(principal.name, need)

    async def aclose(self) -> None:
        """See `Access.aclose`."""
        await self._passwords.aclose()

    def _read(self, request: Request) -> BasicCredentials | None:
        try:
            credentials = read_credentials(request.headers)
        except CredentialsInvalid as error:
            raise self._unauthenticated(str(error)) from error
        if isinstance(credentials, BasicCredentials):
            return None if credentials.are_empty else credentials
        if credentials is not None:
            raise self._unauthenticated("tokens are not known here, but user names and passwords")
        return None

    def _unauthenticated(self, text: str) -> Unauthenticated:
        return Unauthenticated(text, self._challenge)


def make_htpasswd_access(
    config: AuthConfig, *, clock: Clock | None = None, events: EventSink = discard
) -> HtpasswdAccess:
    """The access control that a checked configuration asks for; reads the file.

    Raises:
        ConfigInvalid: it can't be used, or a user has a password that everybody knows.
    """
    clock = clock or SystemClock()
    assert config.htpasswd.file is not None, "check_auth was not asked"
    file = WatchedFile(config.htpasswd.file, parse_users, clock, events)
    users = file.current()
    if published := published_users(users):
        raise ConfigInvalid(
            f"{config.htpasswd.file}: {', '.join(published)} has a password that stands in a registry's manual, and is tried "
            "first by whoever finds this one; choose another"
        )
    if users.weak:
        some = ", ".join(users.weak[:5])
        events(Alarm(f"{config.htpasswd.file}: hashed faster than advised: {some}; use htpasswd -B -C {cost_advised}"))
    rights = config.rights or {}
    for user in sorted({user for users_of in rights.values() for user in users_of} - {ANY_USER}):
        if user not in users:
            events(Alarm(f"[server.auth.rights] names {user!r}, who is not in {config.htpasswd.file}"))
    recover_ms = max(1, int(parse_duration_s(config.limits.recover) * 1000))
    passwords = Passwords(
        file,
        clock,
        cache_ms=int(parse_duration_s(config.htpasswd.cache) * 1000),
        per_source=FailureLimit(clock, burst=config.limits.per_source, recover_ms=recover_ms),
        per_user=FailureLimit(clock, burst=config.limits.per_user, recover_ms=recover_ms),
    )
    return HtpasswdAccess(passwords, Rules(config.anonymous_pull, rights), config.htpasswd.realm)
