"""Branches and tags, and what a revision means."""

from __future__ import annotations

import re
import sqlite3
import time

from qcity_nb.testing.emulators.hub import git
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.objects import Commit, ancestry, read_tree
from qcity_nb.testing.emulators.hub.objects import blobs as load_blobs
from qcity_nb.testing.emulators.hub.web import HubError, Kind

__all__ = ["bury", "find_commit", "head", "is_branch_name", "lfs_oids", "no_revision", "refs", "resolve", "set_ref"]

# `previous` is what the ref named before its last change: what a read that lags shows.
table(
    """CREATE TABLE IF NOT EXISTS ref (
        repo INTEGER NOT NULL REFERENCES repo (id) ON DELETE CASCADE, name TEXT NOT NULL, oid TEXT NOT NULL,
        previous TEXT, PRIMARY KEY (repo, name)) WITHOUT ROWID"""
)

_SHORT = re.compile(r"[0-9a-f]{7,40}")


def no_revision(revision: str) -> HubError:
    """The Hub's error for a revision that is not there."""
    return HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


def refs(db: sqlite3.Connection, repo: int) -> dict[str, str]:
    """All branches and tags by their full names."""
    rows = db.execute("SELECT name, oid FROM ref WHERE repo = ? ORDER BY name", (repo,))
    return {row["name"]: row["oid"] for row in rows}


def head(db: sqlite3.Connection, repo: int, branch: str) -> str | None:
    """The commit of a branch, as it is now."""
    row = db.execute("SELECT oid FROM ref WHERE repo = ? AND name = ?", (repo, _full(branch))).fetchone()
    return None if row is None else str(row["oid"])


def _full(branch: str) -> str:
    return branch if branch.startswith("refs/") else f"refs/heads/{branch}"


def set_ref(db: sqlite3.Connection, repo: int, name: str, oid: str | None) -> None:
    """Let a full name mean a commit; None deletes it."""
    if oid is None:
        db.execute("DELETE FROM ref WHERE repo = ? AND name = ?", (repo, name))
    else:
        db.execute(
            "INSERT INTO ref VALUES (?, ?, ?, NULL) ON CONFLICT (repo, name) DO UPDATE SET previous = oid, "
            "oid = excluded.oid",
            (repo, name, oid),
        )


def find_commit(db: sqlite3.Connection, repo: int, text: str, *, forget_s: float) -> str | None:
    """The commit whose id begins with ``text``, if there is exactly one and it is not forgotten."""
    if not _SHORT.fullmatch(text):
        return None
    rows = db.execute(
        "SELECT oid FROM git_commit WHERE repo = ? AND oid >= ? AND oid < ? "
        "AND (dead_at IS NULL OR dead_at > ?) LIMIT 2",
        (repo, text, text + "g", time.time() - forget_s),
    ).fetchall()
    return str(rows[0]["oid"]) if len(rows) == 1 else None


def resolve(hub: Hub, db: sqlite3.Connection, repo: int, revision: str, kind: Kind | None = "read") -> str:
    """The commit that a branch, a tag or a commit's id means.

    Args:
        kind: of the route that reads, which a fault may tell of the commit before; None: a writer, which none fools.

    Raises:
        HubError: 404 RevisionNotFound.
    """
    for name in (_full(revision), f"refs/tags/{revision}"):
        row = db.execute("SELECT oid, previous FROM ref WHERE repo = ? AND name = ?", (repo, name)).fetchone()
        if row is not None:
            is_branch = name.startswith("refs/heads/")
            if kind is not None and is_branch and row["previous"] and hub.faults.strike("stale-read", kind) is not None:
                return str(row["previous"])
            return str(row["oid"])
    commit = find_commit(db, repo, revision, forget_s=hub.options.forget_commits_s)
    if commit is None:
        raise no_revision(revision)
    return commit


def _reachable(db: sqlite3.Connection, repo: int) -> dict[str, Commit]:
    commits: dict[str, Commit] = {}
    for oid in set(refs(db, repo).values()):
        for commit in ancestry(db, repo, oid):
            if commit.oid in commits:
                break
            commits[commit.oid] = commit
    return commits


def lfs_oids(db: sqlite3.Connection, repo: int) -> set[str]:
    """The LFS objects that any commit of a branch or tag names."""
    seen: set[str] = set()
    files: set[str] = set()
    waiting = [commit.tree for commit in _reachable(db, repo).values()]
    while waiting:
        tree = waiting.pop()
        if tree in seen:
            continue
        seen.add(tree)
        for entry in read_tree(db, tree).values():
            if entry.is_tree:
                waiting.append(entry.oid)
            else:
                files.add(entry.oid)
    return {blob.lfs_oid for blob in load_blobs(db, files).values() if blob.lfs_oid}


def bury(db: sqlite3.Connection, repo: int) -> None:
    """Mark the commits that no branch or tag leads to any more."""
    alive = _reachable(db, repo)
    rows = db.execute("SELECT oid FROM git_commit WHERE repo = ? AND dead_at IS NULL", (repo,)).fetchall()
    for row in rows:
        if row["oid"] not in alive:
            db.execute("UPDATE git_commit SET dead_at = ? WHERE repo = ? AND oid = ?", (time.time(), repo, row["oid"]))


def is_branch_name(branch: str) -> bool:
    """Whether the Hub lets a user make a branch of that name."""
    return git.is_ref_name(branch) and not branch.startswith("refs/") and not git.is_oid(branch)
