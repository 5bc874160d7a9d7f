"""Which LFS objects are stored, which repositories have them, and how much that is."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection
from pathlib import Path

from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.objects import lfs_path

__all__ = ["add_object", "has_file", "note_push", "release", "remove_unused", "used_bytes"]

# An object is there for whoever knows its address; a file is an object that a repository was given.
table("CREATE TABLE IF NOT EXISTS lfs_object (oid TEXT PRIMARY KEY, size INTEGER NOT NULL, xet_hash TEXT)")
table(
    """CREATE TABLE IF NOT EXISTS lfs_file (
        repo INTEGER NOT NULL REFERENCES repo (id) ON DELETE CASCADE, oid TEXT NOT NULL, size INTEGER NOT NULL,
        filename TEXT, ref TEXT, pushed_ms INTEGER NOT NULL, released_at REAL, PRIMARY KEY (repo, oid)) WITHOUT ROWID"""
)
table("CREATE INDEX IF NOT EXISTS lfs_file_oid ON lfs_file (oid)")

_HELD = "(released_at IS NULL OR released_at > ?)"


def add_object(db: sqlite3.Connection, repo: int, oid: str, size: int, xet_hash: str | None = None) -> None:
    """An object was uploaded for a repository; its content is in its place already."""
    db.execute(
        "INSERT INTO lfs_object VALUES (?, ?, ?) ON CONFLICT (oid) DO UPDATE SET xet_hash = "
        "COALESCE(excluded.xet_hash, xet_hash)",
        (oid, size, xet_hash),
    )
    now = time.time()
    db.execute("DELETE FROM lfs_file WHERE repo = ? AND oid = ? AND released_at <= ?", (repo, oid, now))
    db.execute(
        "INSERT OR IGNORE INTO lfs_file VALUES (?, ?, ?, NULL, NULL, ?, NULL)",
        (repo, oid, size, int(now * 1000)),
    )


def has_file(db: sqlite3.Connection, repo: int, oid: str) -> int | None:
    """The size of an object that the repository was given; None if it was not, or no longer has it."""
    row = db.execute(
        f"SELECT size FROM lfs_file WHERE repo = ? AND oid = ? AND {_HELD}",  # noqa: S608 (a constant)
        (repo, oid, time.time()),
    ).fetchone()
    return None if row is None else int(row["size"])


def note_push(db: sqlite3.Connection, repo: int, oid: str, filename: str, ref: str) -> None:
    """A commit names the object: the first such path and branch are what ``lfs-files`` tells."""
    db.execute(
        "UPDATE lfs_file SET filename = COALESCE(filename, ?), ref = COALESCE(ref, ?), released_at = NULL "
        "WHERE repo = ? AND oid = ?",
        (filename, ref, repo, oid),
    )


def release(db: sqlite3.Connection, repo: int, kept: Collection[str], *, after_s: float) -> None:
    """Give back, ``after_s`` from now, the storage of objects that were committed and that no commit names any more."""
    now = time.time()
    for row in db.execute("SELECT oid FROM lfs_file WHERE repo = ? AND filename IS NOT NULL", (repo,)).fetchall():
        if row["oid"] not in kept:
            db.execute(
                "UPDATE lfs_file SET released_at = COALESCE(released_at, ?) WHERE repo = ? AND oid = ?",
                (now + after_s, repo, row["oid"]),
            )


def remove_unused(db: sqlite3.Connection, folder: Path) -> None:
    """Delete what is released by now, and objects that no repository has."""
    db.execute("DELETE FROM lfs_file WHERE released_at <= ?", (time.time(),))
    gone = db.execute("SELECT oid FROM lfs_object WHERE oid NOT IN (SELECT oid FROM lfs_file)").fetchall()
    for row in gone:
        db.execute("DELETE FROM lfs_object WHERE oid = ?", (row["oid"],))
        lfs_path(folder, row["oid"]).unlink(missing_ok=True)


def used_bytes(db: sqlite3.Connection, *, repo: int | None = None, namespace: str = "") -> int:
    """Bytes of LFS objects that a repository, or all of a namespace, holds; an object counts once a repository."""
    where, value = ("repo.id = ?", repo) if repo is not None else ("namespace = ?", namespace)
    query = "SELECT COALESCE(SUM(lfs_file.size), 0) AS size FROM lfs_file JOIN repo ON repo.id = lfs_file.repo"
    row = db.execute(f"{query} WHERE {where} AND {_HELD}", (value, time.time())).fetchone()
    return int(row["size"])
