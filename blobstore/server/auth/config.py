"""The table `[server.auth]`: who may use the registry, as the configuration says it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec

from blobstore.errors import ConfigInvalid
from blobstore.server.auth.rules import ANY_USER, RepositoryGlob
from blobstore.units import parse_duration_s

GrantedAction: TypeAlias = Literal["pull", "push", "delete", "*"]
Rights: TypeAlias = Mapping[str, Mapping[str, tuple[GrantedAction, ...]]]

_CACHE_MAX_S = 3600.0
_FAILURES_MAX = 10_000


class HtpasswdConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.auth.htpasswd]`."""

    file: str | None = None
    """Lines of `user:bcrypt hash`; read again when it changes."""
    realm: str = "blobstore"
    """What a client's dialogue shows."""
    cache: str = "60s"
    """How long a password that was right isn't computed again; one that was changed or removed is refused all the same."""


class TokenConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.auth.token]`."""

    realm: str | None = None
    """URL where clients ask for a token."""
    service: str | None = None
    """What tokens call this registry: their `aud`."""
    issuer: str | None = None
    """What their issuer calls itself: their `iss`."""
    keys: str | None = None
    """File of the issuer's public keys: a JWK set, or PEM blocks of keys or certificates; read again when it changes."""
    roots: str | None = None
    """Certificates (PEM) that may vouch for a key which a token brings along (`x5c`); without them such keys are ignored."""


class FailureLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.auth.limits]`: wrong passwords in a row before one has to wait."""

    per_source: int = 20
    """From one address (IPv6: one /64)."""
    per_user: int = 50
    """For one name, from anywhere."""
    recover: str = "6s"
    """After this long one more try is allowed."""


class AuthConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The table `[server.auth]`; checked by `check_auth`."""

    method: Literal["none", "htpasswd", "token"] = "none"
    anonymous_pull: tuple[str, ...] = ()
    """Globs of repositories that anybody may pull from."""
    htpasswd: HtpasswdConfig = HtpasswdConfig()
    token: TokenConfig = TokenConfig()
    limits: FailureLimits = FailureLimits()
    rights: dict[str, dict[str, tuple[GrantedAction, ...]]] | None = None
    """Glob of repositories → user (`*`: every user) → actions. Without it all users may do everything."""


def check_auth(config: AuthConfig) -> None:
    """See that the values can be used, and fit each other; what the files hold is checked when they are read.

    Raises:
        ConfigInvalid: one can't, with its key.
    """
    for problem in (*_problems_of_method(config), *_problems_of_rules(config), *_problems_of_limits(config.limits)):
        raise ConfigInvalid(problem)


def _problems_of_method(config: AuthConfig) -> Iterator[str]:
    if config.method != "htpasswd":
        if config.htpasswd != HtpasswdConfig():
            yield f"[server.auth.htpasswd] has no use while server.auth.method is {config.method!r}; say 'htpasswd', or remove it"
        if config.rights is not None:
            yield f"[server.auth.rights] needs server.auth.method = 'htpasswd'; with {config.method!r} " + (
                "the issuer of the tokens decides" if config.method == "token" else "everybody may do everything"
            )
    if config.method != "token" and config.token != TokenConfig():
        yield f"[server.auth.token] has no use while server.auth.method is {config.method!r}; say 'token', or remove it"
    if config.method == "none" and config.anonymous_pull:
        yield "server.auth.anonymous_pull needs a server.auth.method: with 'none' anybody may pull, push and delete"
    if config.method == "htpasswd":
        yield from _problems_of_htpasswd(config.htpasswd)
    if config.method == "token":
        yield from _problems_of_token(config.token)


def _problems_of_htpasswd(config: HtpasswdConfig) -> Iterator[str]:
    if not config.file:
        yield "server.auth.htpasswd.file must name the file of users and bcrypt hashes (htpasswd -B)"
    yield from _problems_of_header("htpasswd.realm", config.realm)
    cache_s = _duration_s("htpasswd.cache", config.cache)
    if not 0 <= cache_s <= _CACHE_MAX_S:
        yield f"the key server.auth.htpasswd.cache must be at most 1h, not {config.cache}"


def _problems_of_token(config: TokenConfig) -> Iterator[str]:
    for key in ("realm", "service", "issuer", "keys"):
        if not getattr(config, key):
            yield f"server.auth.token.{key} is needed with server.auth.method = 'token'"
    yield from _problems_of_header("token.service", config.service or "")
    yield from _problems_of_header("token.realm", config.realm or "")
    realm = urlsplit(config.realm or "")
    if realm.scheme not in ("http", "https") or not realm.hostname or "@" in realm.netloc:
        yield f"the key server.auth.token.realm must be an http or https URL without a password, not {config.realm!r}"


def _problems_of_header(key: str, text: str) -> Iterator[str]:
    """It goes into a quoted string of a header field."""
    if not text.isascii() or not text.isprintable() or '"' in text or "\\" in text:
        yield f"the key server.auth.{key} must be printable ASCII without quotes and backslashes, not {text!r}"


def _problems_of_rules(config: AuthConfig) -> Iterator[str]:
    rights = config.rights or {}
    if config.rights is not None and not rights:
        yield "[server.auth.rights] is empty; say who may do what, or remove the table, and every user may do everything"
    for glob in (*config.anonymous_pull, *rights):
        try:
            RepositoryGlob.parse(glob)
        except ConfigInvalid as error:
            yield f"[server.auth]: {error}"
    for glob, users in rights.items():
        for user, actions in users.items():
            if not user or ":" in user or (ANY_USER in user and user != ANY_USER):
                yield f"[server.auth.rights]: {user!r} is not a user; globs are for repositories, {ANY_USER!r} alone is everybody"
            if not actions:
                yield f"[server.auth.rights]: {user!r} has no actions on {glob!r}; say which of pull, push, delete"


def _problems_of_limits(limits: FailureLimits) -> Iterator[str]:
    for key in ("per_source", "per_user"):
        if not 1 <= getattr(limits, key) <= _FAILURES_MAX:
            yield f"the key server.auth.limits.{key} must be between 1 and {_FAILURES_MAX}, not {getattr(limits, key)}"
    if not 0 < _duration_s("limits.recover", limits.recover) <= _CACHE_MAX_S:
        yield f"the key server.auth.limits.recover must be more than 0s and at most 1h, not {limits.recover}"


def _duration_s(key: str, text: str) -> float:
    try:
        return parse_duration_s(text)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"the key server.auth.{key} can't be used: {error}") from error
