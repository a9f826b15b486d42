"""What the same work costs without a store: each floor does the least that must be done, and nothing for safety beyond it."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import lmdb

# One commit: puts as (table, key, value), deletes with None for a value, in the order they were made.
Commit = list[tuple[int, bytes, bytes | None]]


def sha256(pieces: Iterable[bytes]) -> bytes:
    """Hash bytes that are in memory."""
    hasher = hashlib.sha256()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


def write_synced(path: Path, pieces: Iterable[bytes]) -> None:
    """Write bytes to a new file and sync it."""
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    try:
        for piece in pieces:
            os.write(handle, piece)
        os.fsync(handle)
    finally:
        os.close(handle)


def copy(source: Path, target: Path) -> None:
    """What a person would do to get a file, without letting the file system share its blocks."""
    subprocess.run(["cp", "--reflink=never", source, target], check=True)


def hash_file(path: Path) -> bytes:
    """Read a file and hash it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def hash_files(paths: Iterable[Path]) -> None:
    """Read files and hash each."""
    for path in paths:
        hashlib.sha256(path.read_bytes()).digest()


def copy_synced(paths: Iterable[Path], directory: Path) -> None:
    """Read files, hash each, and write it synced under another name; one after the other."""
    directory.mkdir(exist_ok=True)
    for path in paths:
        data = path.read_bytes()
        hashlib.sha256(data).digest()
        write_synced(directory / path.name, [data])


def unlink_all(paths: Iterable[Path]) -> None:
    """Unlink files, then sync each of their directories once."""
    directories = set()
    for path in paths:
        os.unlink(path)
        directories.add(path.parent)
    for directory in directories:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class RawLmdb:
    """An LMDB environment with the settings of the index and as many named databases, and no code of ours."""

    def __init__(self, path: Path, tables: list[str], map_size_bytes: int) -> None:
        self.env = lmdb.open(str(path), map_size=map_size_bytes, max_dbs=len(tables), max_readers=1024)
        self.databases = [self.env.open_db(name.encode()) for name in tables]

    def replay(self, commits: list[Commit]) -> None:
        """Make the same puts and deletes in the same synced transactions."""
        databases = self.databases
        for commit in commits:
            with self.env.begin(write=True) as txn:
                for table, key, value in commit:
                    if value is None:
                        txn.delete(key, db=databases[table])
                    else:
                        txn.put(key, value, db=databases[table])

    def scan(self, tables: list[int]) -> int:
        """Step through all rows of some tables."""
        seen = 0
        with self.env.begin() as txn:
            for table in tables:
                for _ in txn.cursor(db=self.databases[table]):
                    seen += 1
        return seen

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
