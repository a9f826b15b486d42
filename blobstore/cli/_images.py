"""`import` and `export`: whole images."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from blobstore.cli._common import Common
from blobstore.cli._errors import UsageInvalid
from blobstore.cli._output import Output, counted
from blobstore.cli._progress import reporting
from blobstore.cli._references import parse_reference, parse_target
from blobstore.cli._streams import check_path
from blobstore.units import format_size

_DEFAULTS = Common()
_Path = Annotated[str, Parameter(allow_leading_hyphen=True)]


async def import_(source: _Path, target: str, /, *, common: Common = _DEFAULTS) -> None:
    """Import images: every blob verified, and not read at all where the repository has it.

    Parameters
    ----------
    source
        An OCI image layout, a directory or a tar, or a `docker save` tar.
    target
        REPOSITORY, for the source's own tags, or REPOSITORY:TAG.
    """
    from blobstore.importers import import_image

    output = Output(common)
    found = parse_reference(target)
    if found.digest is not None:
        raise UsageInvalid(f"{target!r:.300}: a digest can't be chosen; write REPOSITORY or REPOSITORY:TAG")
    # Looked at before the store is opened: for a mistyped source no store is to be made.
    os.stat(check_path(source))
    with reporting(common) as events:
        async with common.open_store(events, create=True) as store:
            report = await import_image(store, source, found.repository, found.tag, progress=events)
    output.document(
        {
            "repository": report.repository,
            "manifests": [
                {
                    "digest": str(each.digest),
                    "media_type": each.media_type,
                    "size": each.size_bytes,
                    "tags": list(each.tags),
                    "instead_of": str(each.instead_of) if each.instead_of is not None else None,
                }
                for each in report.manifests
            ],
            "manifests_put": report.manifests_put,
            "blobs_imported": report.blobs_imported,
            "blobs_skipped": report.blobs_skipped,
            "bytes_read": report.bytes_read,
            "ignored": [str(each.digest) for each in report.ignored],
        }
    )
    for each in report.manifests:
        names = ", ".join(f"{report.repository}:{tag}" for tag in each.tags) or f"{report.repository} (untagged)"
        output.remark(f"{each.digest}  {names}")
        if each.instead_of is not None:
            output.remark(f"  in place of the image index {each.instead_of}, of which the source holds no more")
    for ignored in report.ignored:
        output.remark(f"left out {ignored.digest}: {ignored.media_type} is no manifest")
    output.remark(
        f"{counted(report.blobs_imported, 'blob')} imported ({format_size(report.bytes_read)}), "
        f"{report.blobs_skipped} in {report.repository} before; {counted(report.manifests_put, 'manifest')}"
    )


async def export(reference: str, destination: _Path, /, *, common: Common = _DEFAULTS) -> None:
    """Write an image, with its referrers, as an OCI image layout.

    Parameters
    ----------
    reference
        REPOSITORY:TAG or REPOSITORY@DIGEST.
    destination
        A new file that ends in .tar, or a directory that is absent or empty.
    """
    from blobstore.exporter import export_image

    output = Output(common)
    found = parse_target(reference)
    check_path(destination)
    with reporting(common) as events:
        async with common.open_store(events) as store:
            report = await export_image(store, found.repository, str(found.target), destination, progress=events)
    left_out = [str(digest) for digest in report.foreign_left_out]
    output.document(
        {
            "destination": report.destination,
            "digest": str(report.digest),
            "manifests": report.manifests,
            "referrers": report.referrers,
            "blobs": report.blobs,
            "bytes_written": report.bytes_written,
            "foreign_left_out": left_out,
        }
    )
    output.remark(
        f"wrote {found} to {report.destination}: {counted(report.manifests, 'manifest')}, {counted(report.blobs, 'blob')}, "
        f"{format_size(report.bytes_written)}"
    )
    for digest in left_out:
        output.remark(f"left out {digest}: a foreign layer that this store does not hold")
