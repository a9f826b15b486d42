"""Bytes in files of a share: a file system that a server keeps, above all NFS.

What differs from a local one is in `_nas_calls`; what is asked of the mount, here. How to mount is told in docs/backends/nas.md.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

from blobstore.abc.backend import BackendProperties
from blobstore.backends._file_backend import FileBackend
from blobstore.backends._files import translated
from blobstore.backends._local_locks import LocalLocks
from blobstore.backends._mounts import NETWORK_FILE_SYSTEMS, Mount, expected_share, is_below, mount_of, read_fstab
from blobstore.backends._nas_calls import NasCalls
from blobstore.errors import ConfigInvalid
from blobstore.pool import WorkerPool

Result = TypeVar("Result")

THREADS = 16
"""More than on a local disk: each waits for a server most of the time."""
LATE_REQUESTS_S = 5
"""What a process asked for before it was killed, or its host before it went down, may still be on its way to the server."""
RECHECK_S = 5
"""A `stat` that finds nothing has asked the server; this is for one that answers while another host takes over."""
SILENCE_S = 15
"""After how long an operator is told that the server does not answer. Nothing is given up."""
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
        tell_waiting: is told, while a call waits, that it waits for the server.
    """

    def __init__(
        self,
        root: str,
        state_directory: str,
        *,
        threads: int = THREADS,
        notify: Callable[[str], None] = _unheard,
        tell_waiting: Callable[[str], None] = _unheard,
    ) -> None:
        self._state_directory, self._notify = os.path.abspath(state_directory), notify
        self._nas_calls = NasCalls(os.path.abspath(root), LocalLocks(os.path.join(self._state_directory, "locks")))
        properties = BackendProperties(name="nas", late_requests_s=LATE_REQUESTS_S, recheck_s=RECHECK_S, is_shared=True)
        text = (
            f"no answer from the file server of {os.path.abspath(root)} for {SILENCE_S} s; what was asked waits until there is "
            "one, and goes on then"
        )
        pool = PatientPool(threads, SILENCE_S, lambda: tell_waiting(text))
        super().__init__(root, self._nas_calls, properties, pool)

    @property
    def silly_names_seen(self) -> int:
        """How many `.nfs…` listings left out so far: files deleted while a process of some host had them open."""
        return self._nas_calls.silly_names_seen

    async def open(self) -> None:
        """See `Backend.open`. Waits as long as the server doesn't answer.

        Raises:
            ConfigInvalid: the share is mounted so that it may lose what was written, or is not mounted, or the state directory is
                on a share, too.
            StoreUnknown: the root is there, but no directory.
        """
        with translated(f"look at the mount of {self._root}"):
            mount = await self._pool.run(mount_of, self._root)
            own = await self._pool.run(mount_of, self._state_directory)
            fstab = await self._pool.run(read_fstab)
        refuse_soft(mount, self._root)
        refuse_unmounted(mount, self._root, fstab)
        if own.kind in NETWORK_FILE_SYSTEMS:
            raise ConfigInvalid(
                f"{self._state_directory} is on {own.kind}, mounted at {own.place}: the index and the locks beside it are never "
                "on a share; give --index (or BLOBSTORE_INDEX) a place on a disk of this host, or set XDG_STATE_HOME to one"
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


def refuse_unmounted(mount: Mount, root: str, fstab: str) -> None:
    """What is below the place of a share that is not mounted is not that share: a store must not be made there.

    Raises:
        ConfigInvalid: /etc/fstab has a share for this place, which is not there.
    """
    share = expected_share(root, fstab)
    if share is not None and not is_below(mount.place, share.place):
        raise ConfigInvalid(
            f"{root} should be on {share.source}, which /etc/fstab mounts at {share.place}, but that is not mounted: run "
            f"`mount {share.place}`"
        )


def notice_of(mount: Mount, root: str) -> str | None:
    """What an operator should know of a mount that is used all the same: that it is not NFS, or asks the server too seldom."""
    where = f"{root} is on {mount.kind} ({mount.source}, mounted at {mount.place})"
    if mount.is_nfs:
        if "nocto" not in mount.options:
            return None
        return (
            f"{where} with the option `nocto`: what one host writes another may not see for a minute; mount it without"
        )
    if mount.is_fuse or mount.kind in NETWORK_FILE_SYSTEMS:
        return f"{where}: nas:// is tested over NFS; docs/backends/nas.md says what else it needs of a file system"
    return f"{where}, which is no share: is the right one mounted? A store on a local disk is better opened as file://{root}"


class PatientPool(WorkerPool):
    """Threads whose calls may wait for a server: once for each time that it is silent, that is told."""

    def __init__(self, threads: int, silence_s: float, tell: Callable[[], None]) -> None:
        super().__init__("files", threads)
        self._silence_s, self._tell = silence_s, tell
        self._is_told = False

    async def waiting(self, work: Awaitable[Result]) -> Result:
        """See `WorkerPool.waiting`."""
        timer = asyncio.get_running_loop().call_later(self._silence_s, self._say)
        try:
            result = await work
        finally:
            timer.cancel()
        self._is_told = False
        return result

    def _say(self) -> None:
        if not self._is_told:
            self._is_told = True
            self._tell()
