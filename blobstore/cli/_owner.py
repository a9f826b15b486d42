"""Whose a store is: what root writes into that of another user is root's, and that user can't read it."""

from __future__ import annotations

import contextlib
import os
import pwd
import tempfile

from blobstore.errors import ConfigInvalid
from blobstore.layout import MARKER_KEY
from blobstore.locations import FilesystemLocation, parse_store_url


def check_owner(url: str) -> None:
    """To be asked before anything is written. Only root gets so far: a store is open to nobody else.

    Raises:
        ConfigInvalid: the store is on a local disk, and another user's.
    """
    location = parse_store_url(url)
    if os.geteuid() != 0 or not isinstance(location, FilesystemLocation):
        return
    # What can't be looked at is told by whoever opens it.
    with contextlib.suppress(OSError):
        owner = os.stat(os.path.join(location.path, MARKER_KEY)).st_uid
        if owner != 0 and owner != _owner_of_new_files(location.path):
            name = _name(owner)
            raise ConfigInvalid(
                f"{location.path} belongs to the user {name}, who could not read what root puts there; "
                f"run this as that user: sudo -u '{name}' blobstore …"
            )


def _owner_of_new_files(directory: str) -> int:
    """There are mounts that give everything to one user, whoever makes it."""
    with tempfile.TemporaryFile(dir=directory) as file:
        return os.fstat(file.fileno()).st_uid


def _name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return f"#{number}"
