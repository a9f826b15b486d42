"""`tag`, `untag`, `rm`: references only; bytes go with gc."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

from blobstore.cli._common import Common
from blobstore.cli._errors import UsageInvalid
from blobstore.cli._output import Output
from blobstore.cli._progress import reporting
from blobstore.cli._references import parse_reference, parse_tagged, parse_target
from blobstore.names import TagName

_DEFAULTS = Common()


async def tag(reference: str, new_tag: str, /, *, common: Common = _DEFAULTS) -> None:
    """Point a tag at a manifest of the same repository. A tag that exists moves.

    Parameters
    ----------
    reference
        REPOSITORY:TAG or REPOSITORY@DIGEST.
    new_tag
        The tag.
    """
    output = Output(common)
    found, wanted = parse_target(reference), TagName.parse(new_tag)
    assert found.target is not None
    with reporting(common) as events:
        async with common.open_store(events, writes=True) as store:
            repository = store.repository(found.repository)
            await repository.tag(found.target, wanted)
            record = await repository.find_manifest(wanted)
    output.document({"repository": found.repository, "tag": wanted, "digest": str(record.key.digest)})
    output.remark(f"{found.repository}:{wanted} is {record.key.digest}")


async def untag(reference: str, /, *, common: Common = _DEFAULTS) -> None:
    """Remove a tag. The manifest stays: `gc --delete-untagged` lets it go, or `rm`.

    Parameters
    ----------
    reference
        REPOSITORY:TAG.
    """
    output = Output(common)
    found = parse_tagged(reference)
    assert found.tag is not None
    with reporting(common) as events:
        async with common.open_store(events, writes=True) as store:
            await store.repository(found.repository).untag(found.tag)
    output.document({"repository": found.repository, "tag": found.tag, "removed": True})
    output.remark(f"removed the tag {found}; its manifest stays")


async def rm(reference: str, /, *, common: Common = _DEFAULTS) -> None:
    """Remove a manifest with its tags, or a whole repository; gc frees the bytes.

    Parameters
    ----------
    reference
        REPOSITORY@DIGEST or REPOSITORY.
    """
    output = Output(common)
    found = parse_reference(reference)
    if found.tag is not None:
        raise UsageInvalid(
            f"`rm` takes REPOSITORY@DIGEST or REPOSITORY; to remove the tag alone, `blobstore untag {found}`"
        )
    with reporting(common) as events:
        async with common.open_store(events, writes=True) as store:
            repository = store.repository(found.repository)
            await (repository.remove() if found.digest is None else repository.delete_manifest(found.digest))
    digest = str(found.digest) if found.digest is not None else None
    output.document({"repository": found.repository, "digest": digest, "removed": True})
    output.remark(f"removed {found}; `blobstore gc` frees what nothing else needs")
