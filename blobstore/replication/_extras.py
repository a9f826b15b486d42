"""What the target of a copy has and its source has not: told, and deleted if that is wanted."""

from __future__ import annotations

import contextlib

from blobstore.abc.paging import every, every_tag
from blobstore.abc.records import ManifestKey
from blobstore.errors import ManifestUnknown, RepositoryUnknown, StillReferenced, TagUnknown
from blobstore.names import RepositoryName
from blobstore.replication._report import CopyReport, TagDifference
from blobstore.store import Store

_PAGE = 1000


async def find_extras(source: Store, target: Store, report: CopyReport) -> None:
    """Note the tags and manifests that `target` alone has."""
    async for name in target.repositories():
        await _find_tags(source, target, name, report)
    async for node in every(lambda after: target.index.scan_manifests(after, _PAGE)):
        key = node.record.key
        if await source.index.resolve(key.repository, key.digest) is None:
            report.manifests_extra.append(key)


async def _find_tags(source: Store, target: Store, name: RepositoryName, report: CopyReport) -> None:
    with contextlib.suppress(RepositoryUnknown):
        # Removed at the target meanwhile.
        async for entry in every_tag(target.index, name, _PAGE):
            if await source.index.resolve(name, entry.tag) is None:
                report.tags_extra.append(TagDifference(name, entry.tag, None, entry.digest))


async def remove_extras(target: Store, report: CopyReport) -> None:
    """Delete them. A manifest stays while it has a tag or a parent that stays."""
    for each in report.tags_extra:
        with contextlib.suppress(TagUnknown):
            await target.repository(each.repository).untag(each.tag)
    waiting, left = list(report.manifests_extra), list[ManifestKey]()
    while waiting != left:
        left, waiting = waiting, [key for key in waiting if not await _remove(target, key)]
    stay = set(waiting)
    report.manifests_extra = [key for key in report.manifests_extra if key not in stay]


async def _remove(target: Store, key: ManifestKey) -> bool:
    """False: it has to stay, for now."""
    record = await target.index.resolve(key.repository, key.digest)
    if record is None:
        return True
    if record.tag_count:
        return False
    try:
        await target.repository(key.repository).delete_manifest(key.digest)
    except ManifestUnknown:
        return True
    except StillReferenced:
        return False
    return True
