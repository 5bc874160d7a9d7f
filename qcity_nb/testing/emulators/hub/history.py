"""What cannot be undone: squashing a branch, and deleting LFS files with the commits that name them rewritten."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from qcity_nb.testing.emulators.hub import objects, revisions, usage
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.git import EMPTY_TREE
from qcity_nb.testing.emulators.hub.refs import announce_refs, forget_unreachable
from qcity_nb.testing.emulators.hub.repos import Repo, iso, now_ms, repo_route
from qcity_nb.testing.emulators.hub.web import HubError, Request, Response, page_of

__all__ = ["delete_file", "delete_files", "list_files", "squash"]

FILES_PAGE = 1000


@repo_route("POST", "/super-squash/(?P<branch>[^/]+)", need="write", kind="commit")
def squash(hub: Hub, request: Request, repo: Repo, branch: str) -> Response:
    """Make a branch one commit of what it holds now."""
    body = request.json()
    message = body.get("message") if isinstance(body, dict) else None
    user = request.user
    assert user is not None
    with hub.db.write() as db:
        old = revisions.head(db, repo.id, branch)
        if old is None:
            if f"refs/tags/{branch}" in revisions.refs(db, repo.id):
                raise HubError(400, f"Invalid reference for a branch: {branch}")
            raise revisions.no_revision(branch)
        tree = next(objects.ancestry(db, repo.id, old)).tree
        commit = objects.add_commit(
            db,
            repo.id,
            tree=tree,
            parent=None,
            author=user.name,
            message=str(message or f"Super-squash branch '{branch}'"),
            at_ms=now_ms(),
        )
        ref = f"refs/heads/{branch}"
        revisions.set_ref(db, repo.id, ref, commit.oid)
        forget_unreachable(hub, db, repo)
    announce_refs(hub, request, repo, ref, old, commit.oid)
    return Response.json({"success": True, "commitOid": commit.oid})


@repo_route("GET", "/lfs-files", need="write")
def list_files(hub: Hub, request: Request, repo: Repo) -> Response:
    """The LFS files that commits of the repository were given, newest first, until their storage is given back."""
    with hub.db.read() as db:
        rows = db.execute(
            "SELECT * FROM lfs_file WHERE repo = ? AND filename IS NOT NULL "
            "AND (released_at IS NULL OR released_at > ?) ORDER BY pushed_ms DESC, oid",
            (repo.id, time.time()),
        ).fetchall()
    files = [
        {
            "fileOid": row["oid"],
            "oid": row["oid"],
            "filename": row["filename"],
            "size": row["size"],
            "pushedAt": iso(row["pushed_ms"]),
            "ref": row["ref"],
        }
        for row in rows
    ]
    page, headers = page_of(request, files, FILES_PAGE)
    return Response.json(page, headers=headers)


@repo_route("POST", "/lfs-files/batch", need="write")
def delete_files(hub: Hub, request: Request, repo: Repo) -> Response:
    """Delete LFS files at once; with ``rewriteHistory``, out of every commit too."""
    body = request.json()
    deletions = body.get("deletions") if isinstance(body, dict) else None
    oids = deletions.get("sha") if isinstance(deletions, dict) else None
    if not isinstance(oids, list) or not all(isinstance(oid, str) for oid in oids):
        raise HubError(400, "deletions.sha must be a list of object ids")
    assert isinstance(deletions, dict)
    moved: list[tuple[str, str, str]] = []
    with hub.db.write() as db:
        if deletions.get("rewriteHistory"):
            moved = _rewrite(db, repo.id, set(oids))
            revisions.bury(db, repo.id)
        for oid in oids:
            db.execute("DELETE FROM lfs_file WHERE repo = ? AND oid = ?", (repo.id, oid))
        usage.sweep(db, hub.folder)
    for ref, old, new in moved:
        announce_refs(hub, request, repo, ref, old, new)
    return Response.json({"success": True})


@repo_route("DELETE", "/lfs-files/(?P<oid>[0-9a-f]{64})", need="write")
def delete_file(hub: Hub, request: Request, repo: Repo, oid: str) -> Response:
    """Delete one LFS file."""
    with hub.db.write() as db:
        moved = _rewrite(db, repo.id, {oid}) if request.flag("rewriteHistory") else []
        if moved:
            revisions.bury(db, repo.id)
        db.execute("DELETE FROM lfs_file WHERE repo = ? AND oid = ?", (repo.id, oid))
        usage.sweep(db, hub.folder)
    for ref, old, new in moved:
        announce_refs(hub, request, repo, ref, old, new)
    return Response.json({})


def _rewrite(db: sqlite3.Connection, repo: int, oids: set[str]) -> list[tuple[str, str, str]]:
    """Make all commits again without these files. Returns: the refs that moved, with their commits before and after."""
    placeholders = ",".join("?" * len(oids))
    rows = db.execute(f"SELECT oid FROM blob WHERE lfs_oid IN ({placeholders})", list(oids))  # noqa: S608 (marks are ?)
    gone = {str(row["oid"]) for row in rows}
    trees: dict[str, str] = {EMPTY_TREE: EMPTY_TREE}
    made: dict[str, str] = {}
    moved = []
    for ref, head in revisions.refs(db, repo).items():
        for commit in reversed(list(objects.ancestry(db, repo, head))):
            if commit.oid in made:
                continue
            tree = _without(db, commit.tree, gone, trees)
            parent = commit.parent and made.get(commit.parent, commit.parent)
            if (tree, parent) == (commit.tree, commit.parent):
                made[commit.oid] = commit.oid
                continue
            message = f"{commit.title}\n\n{commit.message}" if commit.message else commit.title
            details: dict[str, Any] = {"author": commit.author, "message": message, "at_ms": commit.at_ms}
            made[commit.oid] = objects.add_commit(db, repo, tree=tree, parent=parent, **details).oid
        if made[head] != head:
            revisions.set_ref(db, repo, ref, made[head])
            moved.append((ref, head, made[head]))
    return moved


def _without(db: sqlite3.Connection, tree: str, gone: set[str], known: dict[str, str]) -> str:
    if tree not in known:
        changes: dict[str, str | None] = {
            entry.name: None
            for entry in objects.walk(db, tree, recursive=True)
            if not entry.is_tree and entry.oid in gone
        }
        known[tree] = objects.edit_tree(db, tree, changes) if changes else tree
    return known[tree]
