"""Names: what clients may call repositories, tags and uploads."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobstore.errors import NameInvalid, TagInvalid, UploadUnknown
from blobstore.names import RepositoryName, TagName, UploadId

# distribution-spec, Pulling manifests; written out again, so that both must be wrong in the same way.
REPOSITORY = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")


@given(st.from_regex(REPOSITORY, fullmatch=True, alphabet="ab09._-/"))
def test_repository_names_of_the_specification(text: str) -> None:
    """All of its grammar is taken up to 255 characters, and nothing longer."""
    if len(text) > 255:
        with pytest.raises(NameInvalid):
            RepositoryName.parse(text)
    else:
        assert RepositoryName.parse(text) == text


@given(st.text(alphabet="aZ0._-/\n é", max_size=12))
def test_no_other_repository_names(text: str) -> None:
    """A name is taken exactly if the specification's grammar matches all of it."""
    if REPOSITORY.fullmatch(text):
        assert RepositoryName.parse(text) == text
        return
    with pytest.raises(NameInvalid):
        RepositoryName.parse(text)


@pytest.mark.parametrize(
    "text",
    ["", "/", "a/", "/a", "a//b", "a\n", "a/b\n", "\na", "A", "a/B", "a___b", "a..b", "a._b", "-a", "a-", "a b", "../a",
     "a/../b", "a:b", "a@b", "é", "a\0", "a/-", "٣"],
)  # fmt: skip
def test_refused_repository_names(text: str) -> None:
    """Empty components, climbing, other letters, anything before or after."""
    with pytest.raises(NameInvalid):
        RepositoryName.parse(text)


@pytest.mark.parametrize(
    "text", ["a", "a/b", "a-b", "a--b", "a---b", "a_b", "a__b", "a.b", "0/1", "a" * 255, "a/" * 127 + "a"]
)
def test_accepted_repository_names(text: str) -> None:
    """Up to and with 255 characters."""
    assert RepositoryName.parse(text) == text


def test_a_long_name_is_refused_quickly() -> None:
    """A hostile name costs no more than any other."""
    for text in ("a" * 256, "a-" * 1_000_000, "-" * 200 + "!"):
        with pytest.raises(NameInvalid) as error:
            RepositoryName.parse(text)
        assert len(str(error.value)) < 600


@given(st.from_regex(TAG, fullmatch=True))
def test_tags_of_the_specification(text: str) -> None:
    """All of its grammar is taken."""
    assert TagName.parse(text) == text


@pytest.mark.parametrize("text", ["", ".a", "-a", "a\n", "a b", "a/b", "a:b", "a" * 129, "é", "a\0", "\na", "٣"])
def test_refused_tags(text: str) -> None:
    """Wrong first characters, other letters, 129 characters, anything before or after."""
    with pytest.raises(TagInvalid):
        TagName.parse(text)


def test_upload_ids_are_random_and_parse() -> None:
    """32 hex characters, never twice the same."""
    ids = {UploadId.random() for _ in range(100)}
    assert len(ids) == 100
    for upload in ids:
        assert UploadId.parse(str(upload)) == upload


@pytest.mark.parametrize("text", ["", "a" * 31, "a" * 33, "A" * 32, "a" * 32 + "\n", "g" * 32, "../" + "a" * 29])
def test_refused_upload_ids(text: str) -> None:
    """What can't be one of ours is unknown, not invalid: clients learn nothing."""
    with pytest.raises(UploadUnknown):
        UploadId.parse(text)


@pytest.mark.parametrize("parse", [RepositoryName.parse, TagName.parse, UploadId.parse])
@pytest.mark.parametrize("value", [None, 7, b"a" * 32])
def test_only_text_parses(parse, value: object) -> None:
    """Other values are refused as texts are."""
    with pytest.raises((NameInvalid, TagInvalid, UploadUnknown)):
        parse(value)
