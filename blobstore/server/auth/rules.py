"""Who may do what with which repositories: globs, public pulls and the table of rights."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Self, TypeVar

from blobstore.errors import ConfigInvalid
from blobstore.names import RepositoryName, repository_name_max_chars
from blobstore.server.protocol.access import Action, Need

ANY_USER = "*"
"""In the table of rights: everybody who has good credentials."""
_ANY_ACTION = "*"
_COMPONENT = re.compile(r"[a-z0-9._*-]+", re.ASCII)

Item = TypeVar("Item")


class RepositoryGlob:
    """A pattern of repository names: `*` is any part of one component, `**` as a component any number of them."""

    def __init__(self, components: Sequence[str]) -> None:
        self._components = components

    @classmethod
    def parse(cls, text: str) -> Self:
        """A glob from text.

        Raises:
            ConfigInvalid: nothing could match it, or it was meant otherwise.
        """
        components = text.split("/")
        if len(text) > repository_name_max_chars or not all(map(_is_component, components)):
            raise ConfigInvalid(
                f"{text!r:.300} is not a glob of repositories: lower-case components such as in library/nginx, in which "
                "'*' is any part of a component and '**' any number of components: 'team/*', 'team/**', '**'"
            )
        return cls(components)

    def matches(self, repository: RepositoryName) -> bool:
        """Whether a repository is one of those."""
        return _is_match(self._components, repository.split("/"), lambda each: each == "**", _is_component_match)


class Rules:
    """The rights of an htpasswd's users, and of anybody; without a table all users may do everything."""

    def __init__(
        self, public: Iterable[str] = (), rights: Mapping[str, Mapping[str, Sequence[str]]] | None = None
    ) -> None:
        self._public = [RepositoryGlob.parse(text) for text in public]
        self._rights = [
            (RepositoryGlob.parse(text), {user: _actions(names) for user, names in users.items()})
            for text, users in (rights or {}).items()
        ]

    def is_public(self, need: Need) -> bool:
        """Whether anybody may: pulls alone. The catalog is nobody's, as clients show no password before they are asked for it."""
        if need.repository is None or need.actions != {Action.PULL}:
            return False
        return any(glob.matches(need.repository) for glob in self._public)

    def allows(self, user: str, need: Need) -> bool:
        """Whether a user may; the catalog is everybody's, as it lists only what its reader may pull."""
        if need.repository is None or not self._rights:
            return True
        granted: set[Action] = set()
        for glob, users in self._rights:
            if glob.matches(need.repository):
                granted |= users.get(user, frozenset()) | users.get(ANY_USER, frozenset())
        return need.actions <= granted or self.is_public(need)


def _actions(names: Sequence[str]) -> frozenset[Action]:
    return frozenset(Action) if _ANY_ACTION in names else frozenset(map(Action, names))


def _is_component(text: str) -> bool:
    return text == "**" or (_COMPONENT.fullmatch(text) is not None and "**" not in text)


def _is_component_match(pattern: str, text: str) -> bool:
    return _is_match(pattern, text, lambda each: each == "*", lambda one, other: one == other)


def _is_match(
    pattern: Sequence[Item],
    text: Sequence[Item],
    is_star: Callable[[Item], bool],
    is_equal: Callable[[Item, Item], bool],
) -> bool:
    """Whether stars of a pattern, each for any number of items, can be filled so that it is the text. Only the last star met is
    ever filled anew, so that this takes no longer than both lengths multiplied, whatever the pattern."""
    at = done = 0
    star: int | None = None
    filled = 0
    while done < len(text):
        if at < len(pattern) and is_star(pattern[at]):
            star, filled = at, done
            at += 1
        elif at < len(pattern) and is_equal(pattern[at], text[done]):
            at += 1
            done += 1
        elif star is not None:
            filled += 1
            at, done = star + 1, filled
        else:
            return False
    return all(is_star(item) for item in pattern[at:])
