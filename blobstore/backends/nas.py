"""Bytes in files of a share: a file system that a server keeps, above all NFS.

What differs from a local one is in `_nas_calls`; what is asked of the mount, here. How to mount is told in docs/backends/nas.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from blobstore.abc.backend import BackendProperties
from blobstore.backends._file_backend import FileBackend
from blobstore.backends._files import translated
from blobstore.backends._local_locks import LocalLocks
from blobstore.backends._mounts import NETWORK_FILE_SYSTEMS, Mount, mount_of
from blobstore.backends._nas_calls import NasCalls
from blobstore.errors import ConfigInvalid

THREADS = 16
"""More than on a local disk: each waits for a server most of the time."""
LATE_REQUESTS_S = 5
"""What a process asked for before it was killed, or its host before it went down, may still be on its way to the server."""
RECHECK_S = 5
"""A `stat` that finds nothing has asked the server; this is for one that answers while another host takes over."""
_SOFT = frozenset({"soft", "softerr"})


def _unheard(text: str) -> None:
    del text


class NasBackend(FileBackend):
    """Files below `root`, on a share that one host writes to.

    Args:
        root: a directory on the share.
        state_directory: a directory on a disk of this host, one for each store, used by all of its processes that write to it: it
            holds the locks that keep two sessions off one upload. Made when it is needed.
        notify: is told what an operator should see.
    """

    def __init__(
        self, root: str, state_directory: str, *, threads: int = THREADS, notify: Callable[[str], None] = _unheard
    ) -> None:
        self._state_directory, self._notify = os.path.abspath(state_directory), notify
        self._nas_calls = NasCalls(os.path.abspath(root), LocalLocks(os.path.join(self._state_directory, "locks")))
        properties = BackendProperties(name="nas", late_requests_s=LATE_REQUESTS_S, recheck_s=RECHECK_S, is_shared=True)
        super().__init__(root, self._nas_calls, properties, threads)

    @property
    def silly_names_seen(self) -> int:
        """How many `.nfs…` listings left out so far: files deleted while a process of some host had them open."""
        return self._nas_calls.silly_names_seen

    async def open(self) -> None:
        """See `Backend.open`. Waits as long as the server doesn't answer.

        Raises:
            ConfigInvalid: the share is mounted so that it may lose what was written, or the state directory is on a share, too.
            StoreUnknown: the root is there, but no directory.
        """
        with translated(f"look at the mount of {self._root}"):
            mount = await self._pool.run(mount_of, self._root)
            own = await self._pool.run(mount_of, self._state_directory)
        refuse_soft(mount, self._root)
        if own.kind in NETWORK_FILE_SYSTEMS:
            raise ConfigInvalid(
                f"{self._state_directory} is on {own.kind}, mounted at {own.place}: it keeps the processes of this host apart, "
                "so it must be on one of its own disks; set XDG_STATE_HOME to a directory there"
            )
        notice = notice_of(mount, self._root)
        if notice is not None:
            self._notify(notice)
        await super().open()


def refuse_soft(mount: Mount, root: str) -> None:
    """nfs(5): "soft … can cause silent data corruption".

    Raises:
        ConfigInvalid: the client gives up on a server that is slow, and what it should have written is lost.
    """
    soft = next((option for option in mount.options if mount.is_nfs and option in _SOFT), None)
    if soft is not None:
        raise ConfigInvalid(
            f"{root} is on {mount.source}, which is mounted at {mount.place} with the option `{soft}`: when the server is slow "
            f"to answer, writes are lost. Unmount it, and mount it with `hard` instead, in /etc/fstab or as "
            f"`mount -t nfs -o hard {mount.source} {mount.place}` (a remount does not change it)"
        )


def notice_of(mount: Mount, root: str) -> str | None:
    """What an operator should know of a mount that is not NFS: it is used all the same."""
    if mount.is_nfs:
        return None
    where = f"{root} is on {mount.kind} ({mount.source}, mounted at {mount.place})"
    if mount.is_fuse or mount.kind in NETWORK_FILE_SYSTEMS:
        return f"{where}: nas:// is tested over NFS; docs/backends/nas.md says what else it needs of a file system"
    return f"{where}, which is no share: is the right one mounted? A store on a local disk is better opened as file://{root}"
