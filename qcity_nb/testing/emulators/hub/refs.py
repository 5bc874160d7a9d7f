"""Branches, tags and the list of commits."""

from __future__ import annotations

import sqlite3
from typing import Any

from qcity_nb.testing.emulators.hub import git, objects, revisions, usage
from qcity_nb.testing.emulators.hub.emulator import Event, Hub
from qcity_nb.testing.emulators.hub.repos import Repo, iso, repo_route
from qcity_nb.testing.emulators.hub.web import HubError, Request, Response, page_of

__all__ = [
    "announce_refs",
    "create_branch",
    "create_tag",
    "delete_branch",
    "delete_tag",
    "forget_unreachable",
    "list_commits",
    "list_refs",
]

COMMITS_PAGE = 50


def announce_refs(hub: Hub, request: Request, repo: Repo, ref: str, old: str | None, new: str | None) -> None:
    """Tell what became of a branch or tag, in the form of a webhook's payload."""
    user = request.user
    update = {"ref": ref, "oldSha": old, "newSha": new}
    details = {"updatedRefs": [update]}
    hub.announce(Event("update", "repo.content", repo.type, repo.full_name, user.name if user else "", details))


def forget_unreachable(hub: Hub, db: sqlite3.Connection, repo: Repo) -> None:
    """After a branch lost commits: they are forgotten, and the storage that they alone used is given back later."""
    revisions.bury(db, repo.id)
    usage.release(db, repo.id, revisions.lfs_oids(db, repo.id), after_s=hub.options.release_s)


@repo_route("GET", "/refs", kind="read")
def list_refs(hub: Hub, request: Request, repo: Repo) -> Response:
    """All branches and tags."""
    answer: dict[str, list[dict[str, Any]]] = {"branches": [], "converts": [], "tags": []}
    if request.flag("include_prs"):
        answer["pullRequests"] = []
    with hub.db.read() as db:
        for ref in revisions.refs(db, repo.id):
            is_tag = ref.startswith("refs/tags/")
            name = ref.split("/", 2)[2]
            # A branch read by its full name cannot be taken for a tag or a commit; and a read may lag.
            oid = revisions.resolve(hub, db, repo.id, ref)
            answer["tags" if is_tag else "branches"].append({"name": name, "ref": ref, "targetCommit": oid})
    return Response.json(answer)


@repo_route("POST", "/branch/(?P<branch>[^/]+)", need="write")
def create_branch(hub: Hub, request: Request, repo: Repo, branch: str) -> Response:
    """Make a branch at ``startingPoint``; 409 if there is one."""
    if not revisions.is_branch_name(branch):
        raise HubError(400, f"Invalid reference for a branch: {branch}")
    body = request.json()
    start = body.get("startingPoint") if isinstance(body, dict) else None
    ref = f"refs/heads/{branch}"
    with hub.db.write() as db:
        if revisions.head(db, repo.id, branch) is not None:
            raise HubError(409, f"Reference {ref} already exists")
        oid = revisions.resolve(hub, db, repo.id, start or "main", None)
        revisions.set_ref(db, repo.id, ref, oid)
    announce_refs(hub, request, repo, ref, None, oid)
    return Response.json({})


@repo_route("DELETE", "/branch/(?P<branch>[^/]+)", need="write")
def delete_branch(hub: Hub, request: Request, repo: Repo, branch: str) -> Response:
    """Delete a branch; what it alone led to is forgotten."""
    ref = f"refs/heads/{branch}"
    if branch == "main":
        raise HubError(403, f"Cannot delete {ref}")
    with hub.db.write() as db:
        oid = revisions.head(db, repo.id, branch)
        if oid is None:
            raise revisions.no_revision(branch)
        revisions.set_ref(db, repo.id, ref, None)
        forget_unreachable(hub, db, repo)
    announce_refs(hub, request, repo, ref, oid, None)
    return Response.json({})


@repo_route("POST", "/tag/(?P<revision>[^/]+)", need="write")
def create_tag(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """Make a tag; 409 if there is one."""
    body = request.json()
    tag = body.get("tag") if isinstance(body, dict) else None
    with hub.db.write() as db:
        oid = revisions.resolve(hub, db, repo.id, revision, None)
        if not isinstance(tag, str) or not git.is_ref_name(tag):
            raise HubError(400, f"Invalid tag name: {tag}")
        ref = f"refs/tags/{tag}"
        if ref in revisions.refs(db, repo.id):
            raise HubError(409, f"Reference {ref} already exists")
        revisions.set_ref(db, repo.id, ref, oid)
    announce_refs(hub, request, repo, ref, None, oid)
    return Response.json({})


@repo_route("DELETE", "/tag/(?P<tag>[^/]+)", need="write")
def delete_tag(hub: Hub, request: Request, repo: Repo, tag: str) -> Response:
    """Delete a tag."""
    ref = f"refs/tags/{tag}"
    with hub.db.write() as db:
        oid = revisions.refs(db, repo.id).get(ref)
        if oid is None:
            raise revisions.no_revision(tag)
        revisions.set_ref(db, repo.id, ref, None)
        forget_unreachable(hub, db, repo)
    announce_refs(hub, request, repo, ref, oid, None)
    return Response.json({})


@repo_route("GET", "/commits/(?P<revision>[^/]+)", kind="read")
def list_commits(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """The commits that lead to a revision, newest first."""
    is_formatted = "formatted" in [*request.queries.get("expand[]", []), *request.queries.get("expand", [])]
    with hub.db.read() as db:
        oid = revisions.resolve(hub, db, repo.id, revision)
        commits = list(objects.ancestry(db, repo.id, oid))
    page, headers = page_of(request, commits, COMMITS_PAGE)
    return Response.json(
        [
            {
                "id": commit.oid,
                "title": commit.title,
                "message": commit.message,
                "authors": [{"user": commit.author, "avatar": ""}],
                "date": iso(commit.at_ms),
                **({"formatted": {"title": commit.title, "message": commit.message}} if is_formatted else {}),
            }
            for commit in page
        ],
        headers={**headers, "X-Total-Count": str(len(commits))},
    )
