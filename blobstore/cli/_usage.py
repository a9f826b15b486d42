"""`du` and `stats`: where the bytes are."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

from typing import Any

from blobstore.cli._common import Common
from blobstore.cli._output import Output, counted
from blobstore.cli._progress import reporting
from blobstore.names import RepositoryName
from blobstore.store import Store
from blobstore.units import format_size
from blobstore.usage import Usage, repository_usage, tag_usage, totals_document

_DEFAULTS = Common()


async def du(*repositories: str, common: Common = _DEFAULTS) -> None:
    """Show the bytes each repository refers to, what it shares, and what deleting it would free.

    Parameters
    ----------
    repositories
        Show these, each tag by itself; without any, all repositories.
    """
    output = Output(common)
    names = list(dict.fromkeys(RepositoryName.parse(name) for name in repositories))
    with reporting(common) as events:
        async with common.open_store(events) as store:
            found, whole = await repository_usage(store.index)
            tags = {name: await _tags(store, name) for name in names}
    shown = {name: found.get(name, Usage()) for name in names} if names else dict(sorted(found.items()))
    document: dict[str, Any] = {
        "repositories": [
            {"repository": name, **usage.to_json(), **({"tags": tags[name]} if name in tags else {})}
            for name, usage in shown.items()
        ],
        "total": {"blobs": whole.blobs, "bytes": whole.logical_bytes},
    }
    output.document(document)
    rows = []
    for entry in document["repositories"]:
        rows.append(_row(entry["repository"], entry))
        rows += [_row(f"  :{each['tag']}", each) for each in entry.get("tags", ())]
    if rows:
        output.table(("REPOSITORY", ">BLOBS", ">LOGICAL", ">UNIQUE", ">SHARED", ">DELETING FREES"), rows)
    output.answer(f"all repositories together: {counted(whole.blobs, 'blob')}, {format_size(whole.logical_bytes)}")


async def _tags(store: Store, name: RepositoryName) -> list[dict[str, Any]]:
    return [
        {"tag": each.tag, "digest": str(each.digest), **each.usage.to_json()}
        for each in await tag_usage(store.index, name)
    ]


def _row(label: str, entry: dict[str, Any]) -> tuple[str, ...]:
    sizes = (format_size(entry[key]) for key in ("logical", "unique", "shared", "frees"))
    return (label, str(entry["blobs"]), *sizes)


async def stats(*, common: Common = _DEFAULTS) -> None:
    """Show what the store holds: blobs, bytes, how much sharing saves, garbage, open uploads."""
    output = Output(common)
    with reporting(common) as events:
        async with common.open_store(events) as store:
            totals, location, store_id = await store.totals(), store.backend.location, store.store_id
    document = totals_document(totals, location, store_id)
    output.document(document)
    for label, value in _lines(document):
        output.answer(f"{label + ':':20}{value}")


def _lines(document: dict[str, Any]) -> list[tuple[str, str]]:
    garbage, suspect = document["garbage"], document["suspect"]
    lines = [
        ("store", document["store"]),
        ("blobs", str(document["blobs"])),
        ("bytes stored", format_size(document["bytes_stored"])),
        ("bytes pushed", format_size(document["bytes_pushed"])),
        ("bytes deleted", format_size(document["bytes_deleted"])),
        ("pushed per stored", "-" if document["ratio"] is None else f"{document['ratio']:.2f}"),
        ("unreferenced", f"{counted(garbage['blobs'], 'blob')}, {format_size(garbage['bytes'])}"),
        ("damaged", f"{counted(suspect['blobs'], 'blob')}, {format_size(suspect['bytes'])}"),
        ("repositories", str(document["repositories"])),
        ("manifests", f"{document['manifests']}, {document['untagged_manifests']} of them untagged"),
        ("tags", str(document["tags"])),
        ("open uploads", str(document["uploads"])),
    ]
    return lines if suspect["blobs"] else [line for line in lines if line[0] != "damaged"]
