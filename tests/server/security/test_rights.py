"""S10, S11: who may do what follows from the table of rights alone, by the repository that is asked for."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blobstore.errors import ConfigInvalid
from blobstore.names import RepositoryName
from blobstore.server.auth.rules import RepositoryGlob, Rules
from tests.server.security.asking import CATALOG, DELETE, PULL, PUSH, need

COMPONENT = st.from_regex(r"[a-c]{1,3}", fullmatch=True)
NAME = st.lists(COMPONENT, min_size=1, max_size=4).map("/".join)
PATTERN = st.lists(
    st.one_of(st.just("**"), st.from_regex(r"[a-c]{0,2}(\*[a-c]{1,2}){0,2}\*?", fullmatch=True).filter(bool)),
    min_size=1,
    max_size=4,
).map("/".join)


def reference(pattern: str) -> re.Pattern[str]:
    """The same as a regular expression over components that all end with a slash."""
    parts = pattern.split("/")
    return re.compile(
        "".join(
            "(?:[^/]+/)*"
            if part == "**"
            else "".join("[^/]*" if each == "*" else re.escape(each) for each in part) + "/"
            for part in parts
        )
    )


@given(PATTERN, NAME)
@settings(deadline=None)
@example("**", "a")
@example("a/**", "a")
@example("a/**/c", "a/c")
@example("**/b/**", "a/b/b/a")
@example("*a*b", "aab")
def test_a_glob_matches_as_its_regular_expression_would(pattern: str, name: str) -> None:
    """One star stays within a component, two are any number of them."""
    found = RepositoryGlob.parse(pattern).matches(RepositoryName.parse(name))
    assert found == (reference(pattern).fullmatch(name + "/") is not None)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("library/nginx", ["library/nginx"], ["library/nginx2", "x/library/nginx", "library"]),
        ("library/*", ["library/a"], ["library", "library/a/b", "libraryx/a"]),
        ("team/**", ["team/a", "team/a/b", "team"], ["teams", "a/team"]),
        ("**/cache", ["cache", "a/cache", "a/b/cache"], ["cache/a"]),
        ("app-*", ["app-", "app-1"], ["app", "app-1/x"]),
    ],
)
def test_globs_by_example(pattern: str, matching: list[str], others: list[str]) -> None:
    """As the page on security explains them."""
    glob = RepositoryGlob.parse(pattern)
    assert all(glob.matches(RepositoryName(name)) for name in matching)
    assert not any(glob.matches(RepositoryName(name)) for name in others)


@pytest.mark.parametrize(
    "pattern", ["", "/", "a/", "/a", "a//b", "a**", "**a", "A", "a b", "a\n", "a/../b?", "[a]", "***", "a" * 256]
)
def test_what_could_never_match_is_refused(pattern: str) -> None:
    """A pattern that means something else to its author must not be silently empty."""
    with pytest.raises(ConfigInvalid, match="glob"):
        RepositoryGlob.parse(pattern)


def test_a_glob_of_stars_takes_no_exponential_time() -> None:
    """The worst pattern over the worst name: a regular expression would not end."""
    glob = RepositoryGlob.parse("*a" * 60 + "*b")
    assert not glob.matches(RepositoryName("a" * 255))


def test_without_a_table_every_user_may_do_everything() -> None:
    """The default."""
    assert Rules().allows("alice", need("a/b", PULL, PUSH, DELETE))


def test_with_a_table_nothing_is_allowed_that_it_does_not_say() -> None:
    """Rights of several globs add up; a right to push is none to delete."""
    rules = Rules(rights={"team/**": {"alice": ["pull", "push"], "bob": ["pull"]}, "team/x": {"bob": ["delete"]}})
    assert rules.allows("alice", need("team/x", PULL, PUSH))
    assert not rules.allows("alice", need("team/x", DELETE))
    assert rules.allows("bob", need("team/x", PULL, DELETE))
    assert not rules.allows("bob", need("team/y", DELETE))
    assert not rules.allows("bob", need("team/y", PULL, PUSH))
    assert not rules.allows("alice", need("other", PULL))
    assert not rules.allows("carol", need("team/x", PULL))


def test_a_star_is_every_user_and_every_action() -> None:
    """`*` among users, and among actions."""
    rules = Rules(rights={"**": {"*": ["pull"], "root": ["*"]}})
    assert rules.allows("whoever", need("a", PULL))
    assert not rules.allows("whoever", need("a", PUSH))
    assert rules.allows("root", need("a", PULL, PUSH, DELETE))


def test_what_is_public_may_be_pulled_and_no_more() -> None:
    """Neither pushed to, nor deleted from, nor listed in the catalog by nobody."""
    rules = Rules(["public/**"], {"private/**": {"alice": ["pull"]}})
    assert rules.is_public(need("public/a", PULL))
    assert not any(
        map(rules.is_public, [need("public/a", PULL, PUSH), need("public/a", DELETE), need("private/a", PULL), CATALOG])
    )
    assert not rules.is_public(need("public/a"))
    assert rules.allows("bob", need("public/a", PULL))
    assert not rules.allows("bob", need("public/a", PUSH))
