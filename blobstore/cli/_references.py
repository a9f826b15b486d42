"""References as people write them: REPOSITORY, REPOSITORY:TAG, REPOSITORY@DIGEST. Pure."""

from __future__ import annotations

import msgspec

from blobstore.cli._errors import UsageInvalid
from blobstore.digest import Digest
from blobstore.names import RepositoryName, TagName


class Reference(msgspec.Struct, frozen=True):
    """A repository, and what in it; never both a tag and a digest."""

    repository: RepositoryName
    tag: TagName | None = None
    digest: Digest | None = None

    @property
    def target(self) -> TagName | Digest | None:
        """The tag or digest, if there is one."""
        return self.tag if self.tag is not None else self.digest

    def __str__(self) -> str:
        if self.digest is not None:
            return f"{self.repository}@{self.digest}"
        return f"{self.repository}:{self.tag}" if self.tag is not None else str(self.repository)


def parse_reference(text: str) -> Reference:
    """Any of the three forms. There is no host before the name, and no default tag.

    Raises:
        UsageInvalid: it has both a tag and a digest.
        NameInvalid, TagInvalid, DigestInvalid: as their names say.
    """
    name, at, digest = text.partition("@")
    if at:
        if ":" in name:
            raise UsageInvalid(f"{text!r:.300} has a tag and a digest; write REPOSITORY:TAG or REPOSITORY@DIGEST")
        return Reference(RepositoryName.parse(name), digest=Digest.parse(digest))
    # A colon before a slash would be a host's port: the name is then refused as one.
    name, colon, tag = text.rpartition(":")
    if colon and "/" not in tag:
        return Reference(RepositoryName.parse(name), tag=TagName.parse(tag))
    return Reference(RepositoryName.parse(text))


def parse_target(text: str) -> Reference:
    """REPOSITORY:TAG or REPOSITORY@DIGEST.

    Raises:
        UsageInvalid: it names a repository only; also see `parse_reference`.
    """
    found = parse_reference(text)
    if found.target is None:
        raise UsageInvalid(f"{text!r:.300} names a repository; write {found}:TAG or {found}@DIGEST")
    return found


def parse_tagged(text: str) -> Reference:
    """REPOSITORY:TAG.

    Raises:
        UsageInvalid: it has no tag; also see `parse_reference`.
    """
    found = parse_reference(text)
    if found.tag is None:
        raise UsageInvalid(f"{text!r:.300} has no tag; write {found.repository}:TAG")
    return found
