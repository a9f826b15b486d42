"""What a request shows of itself: the `Authorization` field, taken apart.

Sources: RFC 9110, 11.6.2 (Authorization); RFC 7617 (Basic); RFC 6750, 2.1 (Bearer).
"""

from __future__ import annotations

import base64
import binascii
import re

import msgspec

from blobstore.errors import InvalidInput
from blobstore.server.protocol.messages import Headers

basic_max_bytes = 4096
token_max_bytes = 16 * 1024

_FIELD = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+) +([A-Za-z0-9+/._~-]+=*) *", re.ASCII)


class CredentialsInvalid(InvalidInput):
    """An `Authorization` field is not one; says nothing of what it holds."""


class BasicCredentials(msgspec.Struct, frozen=True):
    """A name and a password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"BasicCredentials({self.user!r}, …)"

    @property
    def are_empty(self) -> bool:
        """What containers/image sends where it was asked for a password and has none: nobody's."""
        return not self.user and not self.password


class BearerToken(msgspec.Struct, frozen=True):
    """A token, of which only the length and the characters are known."""

    text: str

    def __repr__(self) -> str:
        return "BearerToken(…)"


def read_credentials(headers: Headers) -> BasicCredentials | BearerToken | None:
    """What the request shows; None if nothing.

    Raises:
        CredentialsInvalid: a field that is malformed, too long, of another scheme, or comes twice.
    """
    fields = headers.every("Authorization")
    if not fields:
        return None
    if len(fields) > 1:
        # Whoever stands in front may have looked at another one than we would.
        raise CredentialsInvalid("the Authorization field comes more than once")
    if len(fields[0]) > token_max_bytes + len("Bearer "):
        raise CredentialsInvalid(f"the Authorization field is longer than {token_max_bytes} bytes")
    match = _FIELD.fullmatch(fields[0])
    if match is None:
        raise CredentialsInvalid("the Authorization field is not a scheme and its credentials")
    match match[1].lower():
        case "basic":
            return _basic(match[2])
        case "bearer":
            return BearerToken(match[2])
        case _:
            raise CredentialsInvalid("the scheme of the Authorization field is neither Basic nor Bearer")


def _basic(text: str) -> BasicCredentials:
    if len(text) > basic_max_bytes:
        raise CredentialsInvalid(f"the Basic credentials are longer than {basic_max_bytes} bytes")
    try:
        decoded = base64.b64decode(text, validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise CredentialsInvalid("the Basic credentials are not base64 of UTF-8") from error
    user, colon, password = decoded.partition(":")
    if not colon or any(ord(each) < 0x20 or ord(each) == 0x7F for each in decoded):
        raise CredentialsInvalid(
            "the Basic credentials are not a name, a colon and a password without control characters"
        )
    return BasicCredentials(user, password)
