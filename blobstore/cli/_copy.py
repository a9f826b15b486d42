"""`copy`: one store into another."""

# ruff: noqa: D417 - docstrings are the help of the command; `common` is told option by option, in _common.py

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from blobstore.app import hold_terms, open_store
from blobstore.cli._common import Common
from blobstore.cli._errors import FAILED, UsageInvalid
from blobstore.cli._output import Output, complain, counted
from blobstore.cli._owner import check_owner
from blobstore.cli._progress import reporting
from blobstore.config import Config, load_config
from blobstore.errors import StoreBusy, StoreFrozen, StoreMismatch, StoreUnknown
from blobstore.events import Alarm, Event, EventSink
from blobstore.locations import FilesystemLocation, NasLocation, parse_store_url
from blobstore.store import Store
from blobstore.units import format_size

if TYPE_CHECKING:
    from blobstore.abc.records import ManifestKey
    from blobstore.replication import CopyReport, TagDifference

_DEFAULTS = Common()
_Path = Annotated[str, Parameter(allow_leading_hyphen=True)]
_SHOWN_MAX = 20


async def copy(
    source: _Path,
    target: _Path,
    /,
    *,
    to_index: Annotated[str | None, Parameter(help="The target's index, lmdb:///path.")] = None,
    to_config: Annotated[
        str | None, Parameter(help="The target's configuration; without one, that of --config.")
    ] = None,
    delete: Annotated[bool, Parameter(help="Delete tags and manifests that only the target has.")] = False,
    dry_run: Annotated[bool, Parameter(help="Change nothing, say what would be copied.")] = False,
    common: Common = _DEFAULTS,
) -> int:
    """Copy a store into another, made if it is new: all images, tags and pins, every blob verified, nothing sent twice.

    Run again, it goes on where it was cut short, and copies what is new. The source is only read. Both may be in use.

    Parameters
    ----------
    source
        The store to read, a path or URL; --index and --config are its.
    target
        The store to write, a path or URL.
    """
    from blobstore.replication import copy_store

    if common.store is not None:
        raise UsageInvalid("copy takes both stores as arguments; leave --store out")
    from_config = load_config(common.config) if common.config is not None else Config()
    into_config = load_config(to_config) if to_config is not None else from_config
    if _place(source, from_config) == _place(target, into_config):
        raise UsageInvalid(f"{source!r:.300} and {target!r:.300} are the same store")
    with reporting(common, phase_in_lines="copy") as events:
        # The source first: for a mistyped one no store is to be made.
        async with AsyncExitStack() as stack:
            with _naming("source", source):
                reading = open_store(source, index=common.index, config=from_config, events=_without_alarms(events))
                read = await stack.enter_async_context(reading)
            with _naming("target", target), _one_index_twice(source, target):
                writing = _open_target(target, to_index, into_config, events, is_dry_run=dry_run)
                written = await stack.enter_async_context(writing)
            report = await copy_store(read, written, deletes_extra=delete, is_dry_run=dry_run, progress=events)
    if dry_run:
        report.target = target
    _tell(Output(common), report)
    return 0 if report.is_complete else FAILED


def _without_alarms(events: EventSink) -> EventSink:
    """What is damaged at the source is in the report."""

    def tell(event: Event, /) -> None:
        if not isinstance(event, Alarm):
            events(event)

    return tell


@asynccontextmanager
async def _open_target(
    url: str, index: str | None, config: Config, events: EventSink, *, is_dry_run: bool
) -> AsyncIterator[Store | None]:
    terms = hold_terms(config.gc)
    if not is_dry_run:
        check_owner(url)
    async with AsyncExitStack() as stack:
        opening = open_store(url, index=index, config=config, create=not is_dry_run, terms=terms, events=events)
        try:
            store = await stack.enter_async_context(opening)
        except StoreUnknown:
            if not is_dry_run:
                raise
            store = None
        yield store


@contextmanager
def _naming(role: str, url: str) -> Iterator[None]:
    """Which of the two stores could not be opened; an error of one alone need not say."""
    try:
        yield
    except (StoreMismatch, StoreFrozen) as error:
        raise type(error)(f"the {role} {url!r:.300}: {error}") from error


@contextmanager
def _one_index_twice(source: str, target: str) -> Iterator[None]:
    """One bucket by two names of its server: that is found out when its index is opened for the second time."""
    try:
        yield
    except StoreBusy as error:
        if isinstance(error.__cause__, BlockingIOError):
            # Somebody else's lock.
            raise
        raise UsageInvalid(
            f"{source!r:.300} and {target!r:.300} are the same store, or were given the same index: {error}"
        ) from error


def _place(url: str, config: Config) -> object:
    """What tells two places apart. A bucket of one name may be on two servers; then their ids tell, once they are open."""
    location = parse_store_url(url)
    if isinstance(location, FilesystemLocation | NasLocation):
        return os.path.realpath(location.path)
    return location, config.s3.endpoint, config.oss.endpoint


def _tell(output: Output, report: CopyReport) -> None:
    output.document(_document(report))
    for failure in report.failures:
        complain(f"{failure.digest} was left out: {failure.why}")
    for key in report.left_out:
        complain(f"{key} was left out, as bytes it needs are damaged at the source")
    would_be = "would be " if report.is_dry_run else ""
    extra = f"{would_be}deleted, as only the target had it" if report.is_extra_deleted else "only at the target"
    _list(output, [f"{each}  {would_be}moved from {each.target} to {each.source}" for each in report.tags_moved])
    _list(
        output, [f"{each}  left as it is: moved at the target later than at the source" for each in report.tags_newer]
    )
    _list(output, [f"{each}  {extra}" for each in (*report.tags_extra, *report.manifests_extra)])
    if report.gone:
        output.remark(f"{counted(report.gone, 'manifest')} deleted at the source meanwhile")
    pins = f", {counted(report.pins_copied, 'pin')}" if report.pins_copied else ""
    output.remark(
        f"{'would copy' if report.is_dry_run else 'copied'} {counted(report.blobs_copied, 'blob')}, "
        f"{counted(report.manifests_copied, 'manifest')}, {counted(report.tags_copied + len(report.tags_moved), 'tag')}{pins} "
        f"({format_size(report.bytes_copied)}); {counted(report.blobs_present, 'blob')} and "
        f"{counted(report.manifests_present, 'manifest')} there before"
    )


def _list(output: Output, lines: list[str]) -> None:
    for line in lines[:_SHOWN_MAX]:
        output.remark(line)
    if len(lines) > _SHOWN_MAX:
        output.remark(f"… and {len(lines) - _SHOWN_MAX} more; --json lists them all")


def _document(report: CopyReport) -> dict[str, Any]:
    def tags(found: list[TagDifference]) -> list[dict[str, Any]]:
        return [
            {
                "repository": each.repository,
                "tag": each.tag,
                "source": str(each.source) if each.source is not None else None,
                "target": str(each.target) if each.target is not None else None,
            }
            for each in found
        ]

    def manifests(found: list[ManifestKey]) -> list[dict[str, Any]]:
        return [{"repository": key.repository, "digest": str(key.digest)} for key in found]

    return {
        "source": report.source,
        "target": report.target,
        "dry_run": report.is_dry_run,
        "complete": report.is_complete,
        "blobs_copied": report.blobs_copied,
        "blobs_present": report.blobs_present,
        "bytes_copied": report.bytes_copied,
        "manifests_copied": report.manifests_copied,
        "manifests_present": report.manifests_present,
        "tags_copied": report.tags_copied,
        "tags_moved": tags(report.tags_moved),
        "tags_newer": tags(report.tags_newer),
        "tags_extra": tags(report.tags_extra),
        "manifests_extra": manifests(report.manifests_extra),
        "extra_deleted": report.is_extra_deleted,
        "pins_copied": report.pins_copied,
        "aliases_copied": report.aliases_copied,
        "gone": report.gone,
        "failures": [{"digest": str(each.digest), "error": each.why} for each in report.failures],
        "left_out": manifests(report.left_out),
    }
