"""Names people and clients use: repositories, tags, upload ids.

Sources: distribution-spec, Pulling manifests (grammars); a total of 255 characters is what clients allow.
"""

from __future__ import annotations

import re
from typing import Self

from blobstore.clock import random_hex
from blobstore.errors import NameInvalid, TagInvalid, UploadUnknown

repository_name_max_chars = 255
tag_max_chars = 128

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*", re.ASCII)
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_UPLOAD = re.compile(r"[0-9a-f]{32}", re.ASCII)


class RepositoryName(str):
    """A repository's name; made by `parse`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """A name from text.

        Raises:
            NameInvalid: it is empty, too long, or has a component outside the grammar.
        """
        # The length first: the matcher is linear, but there is no reason to read a megabyte.
        if not isinstance(text, str) or not 0 < len(text) <= repository_name_max_chars:
            raise NameInvalid(f"{text!r:.80} is not a repository name: 1 to {repository_name_max_chars} characters")
        if not all(_COMPONENT.fullmatch(component) for component in text.split("/")):
            raise NameInvalid(
                f"{text!r} is not a repository name: lower-case letters and digits, "
                "joined by one of '.', '_', '__' or dashes, in components separated by '/'"
            )
        return cls(text)


class TagName(str):
    """A tag; made by `parse`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """A tag from text.

        Raises:
            TagInvalid: it is outside the grammar.
        """
        if not isinstance(text, str) or not _TAG.fullmatch(text):
            raise TagInvalid(
                f"{text!r:.160} is not a tag: up to {tag_max_chars} letters, digits, '_', '.', '-', "
                "the first neither '.' nor '-'"
            )
        return cls(text)


class UploadId(str):
    """The random name clients see of an upload; says nothing of its place on the backend."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """An upload id from text.

        Raises:
            UploadUnknown: it can't be one of ours.
        """
        if not isinstance(text, str) or not _UPLOAD.fullmatch(text):
            raise UploadUnknown(f"{text!r:.80} is not an upload of this store")
        return cls(text)

    @classmethod
    def random(cls) -> Self:
        """A new one: 128 unguessable bits."""
        return cls(random_hex(16))
