"""What the kernel says of the mount that a directory lies on (proc(5), /proc/self/mountinfo)."""

from __future__ import annotations

import os
import re

import msgspec

NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "lustre", "nfs", "nfs4", "ocfs2", "smb3",
})  # fmt: skip
"""Types that other hosts reach, too. FUSE says nothing of what is behind it."""
FSTAB = "/etc/fstab"
_ESCAPED = re.compile(r"\\([0-7]{3})")
_THREE_FIELDS, _SIX_FIELDS = 3, 6


class Mount(msgspec.Struct, frozen=True):
    """One mount: where it is, what kind of file system lies there, and how it was mounted."""

    place: str
    kind: str
    source: str
    options: tuple[str, ...]

    @property
    def is_nfs(self) -> bool:
        """Whether the kernel's NFS client serves it."""
        return self.kind in ("nfs", "nfs4")

    @property
    def is_fuse(self) -> bool:
        """Whether a process serves it."""
        return self.kind == "fuse" or self.kind.startswith(("fuse.", "fuseblk"))


def mount_of(path: str) -> Mount:
    """The mount that a directory lies on, or will: that of its nearest parent that exists. Of kind "unknown" in a sandbox that
    doesn't tell. Blocks as long as a server does that doesn't answer."""
    nearest = os.path.abspath(path)
    while True:
        try:
            # Opened, not only looked up: that makes an automounter mount what belongs there.
            handle = os.open(nearest, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            break
        except (FileNotFoundError, NotADirectoryError):
            nearest = os.path.dirname(nearest)
    try:
        with open(f"/proc/self/fdinfo/{handle}", encoding="ascii") as file:
            number = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "-1")
    finally:
        os.close(handle)
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return parse_mounts(file.read()).get(int(number)) or Mount(nearest, "unknown", "unknown", ())


def parse_mounts(text: str) -> dict[int, Mount]:
    """The lines of a mountinfo, by the numbers of their mounts."""
    found: dict[int, Mount] = {}
    for line in text.splitlines():
        before, _, behind = line.partition(" - ")
        fields, (kind, source, options) = before.split(" "), behind.split(" ", 2)
        # Those of this mount, then those of the file system: NFS tells `soft` in the latter.
        all_options = (*fields[_SIX_FIELDS - 1].split(","), *options.split(","))
        found[int(fields[0])] = Mount(_unescaped(fields[4]), kind, _unescaped(source), all_options)
    return found


def expected_share(path: str, fstab: str) -> Mount | None:
    """The network file system that a table of mounts, as /etc/fstab is one (fstab(5)), has for a directory, whether it is mounted
    or not."""
    found: Mount | None = None
    for line in fstab.splitlines():
        fields = [_unescaped(field) for field in line.split()]
        if len(fields) < _THREE_FIELDS or fields[0].startswith("#"):
            continue
        mount = Mount(os.path.normpath(fields[1]), fields[2], fields[0], ())
        is_inner = found is None or is_below(mount.place, found.place)
        if (mount.kind in NETWORK_FILE_SYSTEMS or mount.is_fuse) and is_below(path, mount.place) and is_inner:
            found = mount
    return found


def is_below(path: str, place: str) -> bool:
    """Whether a path is a directory or in it."""
    return path == place or path.startswith(place.rstrip("/") + "/")


def read_fstab() -> str:
    """The table of mounts of this host; empty where there is none."""
    try:
        with open(FSTAB, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        # Containers have none. It is asked only for a better answer.
        return ""


def _unescaped(text: str) -> str:
    """Blanks, tabs, line ends and backslashes come as three octal digits."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)
