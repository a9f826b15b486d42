"""Docker's token authentication: somebody else issues tokens, and the registry checks what they allow.

Sources: distribution's token authentication (challenge, `access`, scopes); RFC 7515, 7519 and 8725 (what a checker of tokens must
look at); RFC 6750, 3 (errors of a challenge).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from jwt import PyJWS
from jwt.exceptions import PyJWTError

from blobstore.clock import Clock, SystemClock
from blobstore.errors import InvalidInput
from blobstore.events import EventSink, discard
from blobstore.server.auth.config import AuthConfig
from blobstore.server.auth.credentials import BearerToken, CredentialsInvalid, read_credentials
from blobstore.server.auth.rules import Rules
from blobstore.server.auth.token_keys import Roots, TokenKey, TokenKeys, parse_keys, parse_roots
from blobstore.server.auth.watched_file import WatchedFile
from blobstore.server.protocol.access import ANYBODY, Access, Need, Principal, Unauthenticated
from blobstore.server.protocol.messages import Request

leeway_s = 60
"""By how much the clocks of issuer and registry may differ."""
subject_max_chars = 255

_REFUSED_HEADERS = frozenset({"jku", "x5u", "jwk", "crit", "b64", "enc", "zip"})
"""Those that would have us take a key from the token or the network, and those that change what is signed."""
_ANY_ACTION = "*"


class TokenInvalid(InvalidInput):
    """A token can't be trusted. Its text says why, never what the token holds."""


class Grants(msgspec.Struct, frozen=True):
    """What a token allows."""

    repositories: Mapping[str, frozenset[str]]
    sees_catalog: bool


class _Entry(msgspec.Struct, frozen=True):
    type: str
    name: str
    actions: tuple[str, ...] | None = None


class _Claims(msgspec.Struct, frozen=True):
    iss: str
    aud: str | tuple[str, ...]
    exp: int | float
    nbf: int | float | None = None
    sub: str | None = None
    """Nobody, if it is empty: issuers give tokens for public repositories to anybody."""
    access: tuple[_Entry, ...] | None = None


class TokenChecker:
    """Which tokens may be trusted, and what they allow."""

    def __init__(
        self,
        keys: WatchedFile[TokenKeys],
        roots: WatchedFile[Roots] | None,
        clock: Clock,
        *,
        issuer: str,
        service: str,
    ) -> None:
        self._keys, self._roots, self._clock = keys, roots, clock
        self._issuer, self._service = issuer, service

    def check(self, token: str) -> Principal:
        """Who a token speaks of, and what it allows.

        Raises:
            TokenInvalid: it isn't signed by a key of ours with that key's algorithm, or is not for us, or not for now.
        """
        try:
            header = PyJWS().get_unverified_header(token)
            key = self._key(header)
            payload = PyJWS(algorithms=[key.algorithm]).decode_complete(token, key.public, algorithms=[key.algorithm])
            claims = msgspec.json.decode(payload["payload"], type=_Claims)
        except PyJWTError as error:
            raise TokenInvalid("the token is malformed, or its signature is wrong") from error
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise TokenInvalid("the claims of the token are not those of a registry's token") from error
        self._check_claims(claims)
        return Principal(claims.sub or None, _grants(claims.access or ()))

    def _key(self, header: Mapping[str, Any]) -> TokenKey:
        """The key, from our configuration alone; what the token says of itself can only choose among these."""
        if refused := _REFUSED_HEADERS & header.keys():
            raise TokenInvalid(f"tokens with the header {min(refused)!r} are not accepted")
        if str(header.get("typ", "JWT")).upper() != "JWT":
            raise TokenInvalid("the type of the token is not JWT")
        kid, chain = header.get("kid"), header.get("x5c")
        key = self._keys.current().find(kid)
        if key is None and self._roots is not None and isinstance(chain, list) and all(map(_is_text, chain)):
            key = self._roots.current().key_of(chain, self._clock.now_ms())
        if key is None:
            raise TokenInvalid("the token is signed by a key that is not known here")
        if header.get("alg") != key.algorithm:
            raise TokenInvalid("the algorithm of the token is not that of its key")
        return key

    def _check_claims(self, claims: _Claims) -> None:
        now_s = self._clock.now_ms() / 1000
        if claims.iss != self._issuer:
            raise TokenInvalid("the token is from another issuer")
        if self._service not in ((claims.aud,) if isinstance(claims.aud, str) else claims.aud):
            raise TokenInvalid("the token is for another service")
        if claims.exp + leeway_s <= now_s:
            raise TokenInvalid("the token has expired")
        if claims.nbf is not None and claims.nbf - leeway_s > now_s:
            raise TokenInvalid("the token is not valid yet")
        if len(claims.sub or "") > subject_max_chars or not (claims.sub or "").isprintable():
            raise TokenInvalid("the subject of the token is no name")


class TokenAccess(Access):
    """Whoever has a token may do what it says; nobody is told more than which token is missing."""

    def __init__(self, checker: TokenChecker, rules: Rules, *, realm: str, service: str) -> None:
        self._checker, self._rules = checker, rules
        self._challenge = f'Bearer realm="{realm}",service="{service}"'

    async def admit(self, request: Request, needs: Sequence[Need], wishes: Sequence[Need] = ()) -> Principal:
        """See `Access.admit`. A token that allows too little is answered as none is, so that the client asks for another."""
        wanted = (*needs, *wishes)
        try:
            credentials = read_credentials(request.headers)
        except CredentialsInvalid as error:
            raise self._unauthenticated(str(error), wanted, "invalid_token") from error
        if credentials is None and needs and all(map(self._rules.is_public, needs)):
            return ANYBODY
        if not isinstance(credentials, BearerToken):
            raise self._unauthenticated("a token is needed", wanted)
        try:
            principal = self._checker.check(credentials.text)
        except TokenInvalid as error:
            raise self._unauthenticated(str(error), wanted, "invalid_token") from error
        if not all(self.may(principal, need) for need in needs):
            raise self._unauthenticated("the token does not allow this", wanted, "insufficient_scope")
        return principal

    def may(self, principal: Principal, need: Need) -> bool:
        """See `Access.may`."""
        if self._rules.is_public(need):
            return True
        grants = principal.grants
        if not isinstance(grants, Grants):
            return False
        if need.repository is None:
            return grants.sees_catalog
        granted = grants.repositories.get(need.repository, frozenset())
        return _ANY_ACTION in granted or need.actions <= granted

    def sees(self, principal: Principal, repository: str) -> bool:
        """See `Access.sees`."""
        del repository
        return isinstance(principal.grants, Grants) and principal.grants.sees_catalog

    def _unauthenticated(self, text: str, needs: Sequence[Need], error: str | None = None) -> Unauthenticated:
        scope = format_scopes(needs)
        scoped = f',scope="{scope}"' if scope else ""
        return Unauthenticated(text, self._challenge + scoped + (f',error="{error}"' if error else ""))


def format_scopes(needs: Sequence[Need]) -> str:
    """What to ask a token for: one scope for each repository, in the order of the needs, as `repository:a/b:pull,push`."""
    wanted: dict[str, set[str]] = {}
    for need in needs:
        name = "registry:catalog" if need.repository is None else f"repository:{need.repository}"
        wanted.setdefault(name, set()).update(need.actions if need.repository is not None else (_ANY_ACTION,))
    return " ".join(f"{name}:{','.join(sorted(actions))}" for name, actions in wanted.items() if actions)


def make_token_access(config: AuthConfig, *, clock: Clock | None = None, events: EventSink = discard) -> TokenAccess:
    """The access control that a checked configuration asks for; reads the files of keys.

    Raises:
        ConfigInvalid: one of them can't be used.
    """
    clock, token = clock or SystemClock(), config.token
    assert token.realm and token.service and token.issuer and token.keys, "check_auth was not asked"  # noqa: PT018
    checker = TokenChecker(
        WatchedFile(token.keys, parse_keys, clock, events),
        WatchedFile(token.roots, parse_roots, clock, events) if token.roots else None,
        clock,
        issuer=token.issuer,
        service=token.service,
    )
    return TokenAccess(checker, Rules(config.anonymous_pull), realm=token.realm, service=token.service)


def _grants(entries: Sequence[_Entry]) -> Grants:
    repositories: dict[str, frozenset[str]] = {}
    sees_catalog = False
    for entry in entries:
        actions = frozenset(entry.actions or ())
        if entry.type == "repository":
            repositories[entry.name] = repositories.get(entry.name, frozenset()) | actions
        elif (entry.type, entry.name) == ("registry", "catalog"):
            sees_catalog = sees_catalog or _ANY_ACTION in actions
    return Grants(repositories, sees_catalog)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
