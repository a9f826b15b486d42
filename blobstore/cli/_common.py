"""The options that every command has, and where they and the environment and the configuration file lead."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import msgspec
from cyclopts import Parameter

from blobstore.app import hold_terms, open_store
from blobstore.cli._owner import check_owner
from blobstore.config import Config, GcConfig, load_config
from blobstore.events import EventSink
from blobstore.locations import DEFAULT_STORE, parse_index_url, parse_store_url
from blobstore.store import Store

STORE_VARIABLE = "BLOBSTORE_STORE"
INDEX_VARIABLE = "BLOBSTORE_INDEX"


class Settings(msgspec.Struct, frozen=True):
    """Where the store is and how it is collected, after everything that may say so was asked."""

    store: str
    index: str | None
    config: Config

    @property
    def gc(self) -> GcConfig:
        """How it is collected."""
        return self.config.gc


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Common:
    """Options of every command. A dataclass, as Cyclopts reads its options off one."""

    store: Annotated[str | None, Parameter(help="The store, a path or URL [env: BLOBSTORE_STORE].")] = None
    index: Annotated[str | None, Parameter(help="The index, lmdb:///path [env: BLOBSTORE_INDEX].")] = None
    config: Annotated[str | None, Parameter(help="A configuration file, TOML.")] = None
    json: Annotated[bool, Parameter(help="Print one JSON document.")] = False
    quiet: Annotated[bool, Parameter(help="Print nothing but what was asked for.")] = False

    def settings(self) -> Settings:
        """Command line before environment before file before default. Empty variables count as unset.

        Raises:
            ConfigInvalid: one of them can't be used.
        """
        config = load_config(self.config) if self.config is not None else Config()
        store = _first(self.store, os.environ.get(STORE_VARIABLE) or None, config.store) or ""
        if self.store is None and not store:
            store = DEFAULT_STORE
        index = _first(self.index, os.environ.get(INDEX_VARIABLE) or None, config.index)
        parse_store_url(store)
        if index is not None:
            parse_index_url(index)
        return Settings(store, index, config)

    @asynccontextmanager
    async def open_store(
        self, events: EventSink, *, create: bool = False, writes: bool = False
    ) -> AsyncIterator[Store]:
        """The store these options name."""
        settings = self.settings()
        if create or writes:
            check_owner(settings.store)
        async with open_store(
            settings.store,
            index=settings.index,
            create=create,
            config=settings.config,
            terms=hold_terms(settings.gc),
            events=events,
        ) as store:
            yield store


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)
