"""S17: what a request shows of itself is read strictly, or refused without an echo."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blobstore.server.auth.credentials import (
    BasicCredentials,
    BearerToken,
    CredentialsInvalid,
    basic_max_bytes,
    read_credentials,
    token_max_bytes,
)
from blobstore.server.protocol.messages import Headers

VISIBLE = st.characters(exclude_categories=["Cc", "Cs"])


def read(*values: str) -> BasicCredentials | BearerToken | None:
    return read_credentials(Headers(("Authorization", value) for value in values))


def encode(raw: bytes) -> str:
    return "Basic " + base64.b64encode(raw).decode()


@given(st.text(VISIBLE, max_size=60).filter(lambda user: ":" not in user), st.text(VISIBLE, max_size=60))
@settings(deadline=None)
@example("alice", "a:b:c")
@example("", "")
def test_a_name_and_a_password_come_out_as_they_went_in(user: str, password: str) -> None:
    """A password may hold colons, and any character that can be seen."""
    found = read(encode(f"{user}:{password}".encode()))
    assert found == BasicCredentials(user, password)


@given(st.text())
@settings(deadline=None)
@example("Basic")
@example("Basic ")
@example("Bearer a b")
@example("Basic YTpi, Basic YTpi")
@example("Bearer " + "a" * token_max_bytes)
def test_any_field_is_read_or_refused(value: str) -> None:
    """Whatever comes, nothing but one refusal is raised."""
    try:
        assert isinstance(read(value), BasicCredentials | BearerToken)
    except CredentialsInvalid as error:
        said = str(error)
    else:
        return
    assert len(value) < 4 or value not in said


@given(st.binary(max_size=80))
@settings(deadline=None)
@example(b"\xff:\xff")
@example(b"alice:pass\0word")
@example(b"ali\nce:x")
@example(b"no colon")
def test_any_bytes_are_a_name_and_a_password_or_refused(raw: bytes) -> None:
    """What isn't UTF-8, has no colon, or a control character in it, is nobody's."""
    try:
        found = read(encode(raw))
    except CredentialsInvalid:
        return
    assert isinstance(found, BasicCredentials)
    assert f"{found.user}:{found.password}".encode() == raw
    assert not any(byte < 0x20 or byte == 0x7F for byte in raw)


@pytest.mark.parametrize("raw", [b"a:\x7f", b"\x7fa:b", b"a\tb:c", b"a:b\r", b"\x00:"])
def test_a_control_character_is_in_no_name_and_no_password(raw: bytes) -> None:
    """RFC 7617, 2."""
    with pytest.raises(CredentialsInvalid, match="control characters"):
        read(encode(raw))


def test_nothing_shown_is_nobody() -> None:
    """Not an error: it may be enough."""
    assert read_credentials(Headers()) is None


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_a_scheme_has_no_case(scheme: str) -> None:
    """RFC 9110, 11.1."""
    assert read(f"{scheme} YTpi") == BasicCredentials("a", "b")


@pytest.mark.parametrize(
    "value",
    [
        "Basic YTpi!",
        "Basic YTp",
        "Basic YT-pi",
        "Basic YT.pi",
        "Basic YT pi",
        "Basic =YTpi",
        "Basic YTpi\n",
        "Digest YTpi",
    ],
)
def test_what_is_nearly_right_is_refused(value: str) -> None:
    """No junk between the characters, no missing padding, no other scheme."""
    with pytest.raises(CredentialsInvalid):
        read(value)


def test_two_fields_are_refused() -> None:
    """A proxy may have looked at the other one."""
    with pytest.raises(CredentialsInvalid, match="more than once"):
        read("Basic YTpi", "Basic YTpj")


@pytest.mark.parametrize(
    "value", [encode(b"a:" + b"b" * basic_max_bytes), "Bearer " + "a" * (token_max_bytes + 1)], ids=["basic", "bearer"]
)
def test_what_is_too_long_is_refused_unread(value: str) -> None:
    """Before anything is decoded."""
    with pytest.raises(CredentialsInvalid, match="longer"):
        read(value)


def test_no_secret_is_shown() -> None:
    """Neither in a log line nor in a traceback."""
    assert "secret" not in repr(BasicCredentials("alice", "secret")) + repr(BearerToken("secret"))
