"""Contents on disk by their digest, and git's trees and commits in the database."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from qcity_nb.testing.emulators.hub import git
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.git import EMPTY_TREE, Entry

__all__ = [
    "Blob",
    "Clash",
    "Commit",
    "add_blob",
    "add_commit",
    "ancestry",
    "blobs",
    "edit_tree",
    "entry_at",
    "lfs_path",
    "put",
    "read_blob",
    "read_tree",
    "regular_path",
    "sha256_of",
    "walk",
]

table("CREATE TABLE IF NOT EXISTS blob (oid TEXT PRIMARY KEY, size INTEGER NOT NULL, lfs_oid TEXT, lfs_size INTEGER)")
table("CREATE TABLE IF NOT EXISTS tree (oid TEXT PRIMARY KEY, data BLOB NOT NULL)")
table(
    """CREATE TABLE IF NOT EXISTS git_commit (
        repo INTEGER NOT NULL REFERENCES repo (id) ON DELETE CASCADE, oid TEXT NOT NULL, parent TEXT,
        tree TEXT NOT NULL, author TEXT NOT NULL, title TEXT NOT NULL, message TEXT NOT NULL, at_ms INTEGER NOT NULL,
        dead_at REAL, PRIMARY KEY (repo, oid)) WITHOUT ROWID"""
)


class Clash(Exception):
    """A path is a file where a directory is needed, or the other way round."""


@dataclass(frozen=True, slots=True)
class Blob:
    """A file's content. ``size`` is that of what git holds: of the pointer, where ``lfs_oid`` is set."""

    oid: str
    size: int
    lfs_oid: str | None = None
    lfs_size: int | None = None


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit of one repository."""

    oid: str
    parent: str | None
    tree: str
    author: str
    title: str
    message: str
    at_ms: int


# --- contents


def regular_path(folder: Path, oid: str) -> Path:
    """Where the content of a file lies that git itself holds."""
    return folder / "git" / oid[:2] / oid[2:]


def lfs_path(folder: Path, oid: str) -> Path:
    """Where an LFS object lies."""
    return folder / "lfs" / oid[:2] / oid[2:4] / oid


def put(path: Path, data: bytes) -> None:
    """Write content under its name, whole or not at all. What is there already stays."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    Path(temporary).replace(path)


def add_blob(db: sqlite3.Connection, folder: Path, data: bytes) -> Blob:
    """Store a file that git holds; an LFS pointer's text is an LFS file, whoever wrote it."""
    oid = git.blob_oid(data)
    put(regular_path(folder, oid), data)
    pointer = git.parse_pointer(data)
    blob = Blob(oid, len(data), *(pointer or (None, None)))
    db.execute("INSERT OR IGNORE INTO blob VALUES (?, ?, ?, ?)", (blob.oid, blob.size, blob.lfs_oid, blob.lfs_size))
    return blob


def blobs(db: sqlite3.Connection, oids: Iterable[str]) -> dict[str, Blob]:
    """What is known of these contents."""
    names, blobs_by_oid = list(dict.fromkeys(oids)), {}
    for start in range(0, len(names), 500):
        part = names[start : start + 500]
        placeholders = ",".join("?" * len(part))
        for row in db.execute(f"SELECT * FROM blob WHERE oid IN ({placeholders})", part):  # noqa: S608 (marks are ?)
            blobs_by_oid[row["oid"]] = Blob(row["oid"], row["size"], row["lfs_oid"], row["lfs_size"])
    return blobs_by_oid


def read_blob(folder: Path, oid: str) -> bytes:
    """The content that git holds."""
    return regular_path(folder, oid).read_bytes()


# --- trees


@lru_cache(maxsize=4096)
def _decoded(oid: str, data: bytes) -> dict[str, Entry]:
    return {entry.name: entry for entry in git.decode_tree(data)}


def read_tree(db: sqlite3.Connection, oid: str) -> Mapping[str, Entry]:
    """The entries of a tree by name."""
    if oid == EMPTY_TREE:
        return {}
    row = db.execute("SELECT data FROM tree WHERE oid = ?", (oid,)).fetchone()
    return _decoded(oid, row["data"])


def _write_tree(db: sqlite3.Connection, entries: Iterable[Entry]) -> str:
    data = git.encode_tree(entries)
    oid = git.oid_of("tree", data)
    db.execute("INSERT OR IGNORE INTO tree VALUES (?, ?)", (oid, data))
    return oid


def entry_at(db: sqlite3.Connection, tree: str, path: str) -> Entry | None:
    """What lies at ``path``; its ``name`` is the whole path."""
    entry: Entry | None = Entry("", True, tree)
    for name in path.split("/"):
        if entry is None or not entry.is_tree:
            return None
        entry = read_tree(db, entry.oid).get(name)
    return entry and entry._replace(name=path)


def walk(db: sqlite3.Connection, tree: str, *, recursive: bool, below: str = "") -> Iterator[Entry]:
    """What lies in a tree, in git's order, directories included; names are paths that begin with ``below``."""
    for entry in read_tree(db, tree).values():
        path = f"{below}{entry.name}"
        yield entry._replace(name=path)
        if entry.is_tree and recursive:
            yield from walk(db, entry.oid, recursive=True, below=f"{path}/")


def edit_tree(db: sqlite3.Connection, tree: str, changes: Mapping[str, str | None]) -> str:
    """A tree with files changed: paths to contents, None to take the path away. Empty directories vanish.

    Raises:
        Clash: a path leads through a file, or a file shall lie where a directory is.
    """
    entries = dict(read_tree(db, tree))
    below: dict[str, dict[str, str | None]] = {}
    files: dict[str, str] = {}
    for path, oid in changes.items():
        name, _, rest = path.partition("/")
        if rest:
            below.setdefault(name, {})[rest] = oid
        elif oid is None:
            entries.pop(name, None)
        else:
            files[name] = oid
    for name, inner in below.items():
        existing = entries.get(name)
        if existing is not None and not existing.is_tree:
            if all(oid is None for oid in inner.values()):
                continue
            raise Clash(name)
        made = edit_tree(db, existing.oid if existing else EMPTY_TREE, inner)
        if made == EMPTY_TREE:
            entries.pop(name, None)
        else:
            entries[name] = Entry(name, True, made)
    for name, oid in files.items():
        if name in entries and entries[name].is_tree:
            raise Clash(name)
        entries[name] = Entry(name, False, oid)
    return _write_tree(db, entries.values()) if entries else EMPTY_TREE


# --- commits


def add_commit(
    db: sqlite3.Connection, repo: int, *, tree: str, parent: str | None, author: str, message: str, at_ms: int
) -> Commit:
    """Store a commit; the first line of its message is its title."""
    title, _, rest = message.partition("\n")
    oid = git.commit_oid(tree, parent, author, at_ms // 1000, message)
    commit = Commit(oid, parent, tree, author, title, rest.strip("\n"), at_ms)
    db.execute(
        "INSERT OR IGNORE INTO git_commit VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
        (repo, oid, parent, tree, author, title, commit.message, at_ms),
    )
    # A forgotten commit that is re-created with the same fields in the same second exists again.
    db.execute("UPDATE git_commit SET dead_at = NULL WHERE repo = ? AND oid = ?", (repo, oid))
    return commit


def ancestry(db: sqlite3.Connection, repo: int, oid: str | None) -> Iterator[Commit]:
    """A commit and those before it, newest first."""
    while oid is not None:
        row = db.execute("SELECT * FROM git_commit WHERE repo = ? AND oid = ?", (repo, oid)).fetchone()
        if row is None:
            return
        yield Commit(*(row[name] for name in Commit.__slots__))
        oid = row["parent"]


def sha256_of(path: Path) -> str:
    """The digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
