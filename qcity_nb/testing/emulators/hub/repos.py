"""Repositories: made, deleted, set and described; who sees them."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from qcity_nb.testing.emulators.hub import objects, revisions, usage
from qcity_nb.testing.emulators.hub.accounts import object_id
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Event, Hub
from qcity_nb.testing.emulators.hub.git import EMPTY_TREE
from qcity_nb.testing.emulators.hub.patterns import ATTRIBUTES
from qcity_nb.testing.emulators.hub.web import HubError, Kind, Request, Response, route

__all__ = [
    "MORE_INFO",
    "REPO_PATH",
    "Repo",
    "create",
    "delete",
    "find_repo",
    "info",
    "info_at",
    "iso",
    "load_repo",
    "now_ms",
    "repo_route",
    "settings",
    "validate",
    "web_route",
]

table(
    """CREATE TABLE IF NOT EXISTS repo (
        id INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, namespace TEXT NOT NULL COLLATE NOCASE,
        name TEXT NOT NULL COLLATE NOCASE, private INTEGER NOT NULL, settings TEXT NOT NULL,
        created_ms INTEGER NOT NULL, modified_ms INTEGER NOT NULL, UNIQUE (type, namespace, name))"""
)

REPO_PATH = r"/api/(?P<kind>models|datasets|spaces)/(?P<namespace>[^/]+)/(?P<name>[^/]+)"
_WEB_PATH = r"/(?:(?P<kind>datasets|spaces)/)?(?P<namespace>[^/]+)/(?P<name>[^/]+?)"
_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][A-Za-z0-9._-]{0,95}(?<![.-])")


@dataclass(frozen=True, slots=True)
class Repo:
    """One repository. ``settings`` are what it was made with and given since, such as ``sdk`` and ``gated``."""

    id: int
    type: str
    namespace: str
    name: str
    private: bool
    created_ms: int
    modified_ms: int
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """Namespace and name."""
        return f"{self.namespace}/{self.name}"

    @property
    def page(self) -> str:
        """The path of the repository's page."""
        return f"/{'' if self.type == 'model' else self.type + 's/'}{self.full_name}"


MORE_INFO: list[Callable[[Hub, Repo], dict[str, Any]]] = []
"""What other modules add to a repository's description."""


def iso(at_ms: int) -> str:
    """A time as the Hub writes it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def now_ms() -> int:
    """The emulator's own clock."""
    return int(time.time() * 1000)


def load_repo(db: sqlite3.Connection, type_: str, namespace: str, name: str) -> Repo | None:
    """The repository of that name, whatever the case of its letters."""
    row = db.execute(
        "SELECT * FROM repo WHERE type = ? AND namespace = ? AND name = ?", (type_, namespace, name)
    ).fetchone()
    if row is None:
        return None
    fields = {key: row[key] for key in ("id", "type", "namespace", "name", "created_ms", "modified_ms")}
    return Repo(**fields, private=bool(row["private"]), settings=json.loads(row["settings"]))


def find_repo(hub: Hub, request: Request, type_: str, namespace: str, name: str, need: str = "read") -> Repo:
    """The repository, if the request's user may read or write it.

    Raises:
        HubError: 401 or 404 RepoNotFound to those who may not know of it, 403 to those who may only read it.
    """
    with hub.db.read() as db:
        repo = load_repo(db, type_, namespace, name)
    user = request.user
    entity = repo.full_name if repo else ""
    if repo is None or (repo.private and not hub.can(user, "read", owner=repo.namespace, entity=entity)):
        # To somebody unknown the Hub does not even say that nothing is there.
        status, message = (401, "Invalid username or password.") if user is None else (404, "Repository not found")
        raise HubError(status, message, "RepoNotFound")
    if need == "write":
        hub.require(request, "write", owner=repo.namespace, entity=entity)
    return repo


def repo_route(
    method: str, suffix: str, *, need: str = "read", kind: Kind = "api"
) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """A route below a repository's API address, whose handler is given the repository: ``f(hub, request, repo)``."""
    return _route(method, REPO_PATH + suffix, need, kind)


def web_route(
    method: str, suffix: str, *, need: str = "read", kind: Kind = "api"
) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    """The same below its page's address."""
    return _route(method, _WEB_PATH + suffix, need, kind)


def _route(
    method: str, pattern: str, need: str, kind: Kind
) -> Callable[[Callable[..., Response]], Callable[..., Response]]:
    def collect(handler: Callable[..., Response]) -> Callable[..., Response]:
        def answer(hub: Hub, request: Request, **groups: str) -> Response:
            type_ = groups.pop("kind", "models").removesuffix("s")
            repo = find_repo(hub, request, type_, groups.pop("namespace"), groups.pop("name"), need)
            return handler(hub, request, repo, **groups)

        route(method, pattern, kind=kind)(answer)
        return handler

    return collect


# --- making and deleting


def _named(request: Request) -> tuple[dict[str, Any], str, str, str]:
    body = request.json()
    name, organization = (body.get("name"), body.get("organization")) if isinstance(body, dict) else (None, None)
    if isinstance(name, str) and "/" in name and not organization:
        organization, _, name = name.partition("/")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise HubError(400, f"Invalid repo name: {name}")
    type_ = body.get("type") or "model"
    if type_ not in ATTRIBUTES:
        raise HubError(400, f"Invalid repo type: {type_}")
    user = request.user
    if user is None:
        raise HubError(401, "Invalid username or password.")
    return body, type_, organization or user.name, name


def _is_private(body: dict[str, Any]) -> bool | None:
    visibility = body.get("visibility")
    if visibility is not None:
        return bool(visibility == "private")
    private = body.get("private")
    return None if private is None else bool(private)


@route("POST", "/api/repos/create")
def create(hub: Hub, request: Request) -> Response:
    """Make a repository, with its first commit; 409 if there is one."""
    body, type_, namespace, name = _named(request)
    user = request.user
    assert user is not None
    if not hub.can(user, "write", owner=namespace):
        raise HubError(403, f'You don\'t have the rights to create a {type_} under the namespace "{namespace}"')
    if type_ == "space" and body.get("sdk") not in ("gradio", "streamlit", "docker", "static"):
        raise HubError(400, "Invalid sdk: a Space needs one of gradio, docker, static")
    kept = {key: body[key] for key in ("sdk", "template", "gated") if body.get(key) is not None}
    with hub.db.write() as db:
        existing = load_repo(db, type_, namespace, name)
        if existing is not None:
            address = request.origin + existing.page
            raise HubError(409, f"You already created this {type_} repo: {existing.full_name}", extra={"url": address})
        at_ms = now_ms()
        made = db.execute(
            "INSERT INTO repo (type, namespace, name, private, settings, created_ms, modified_ms) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (type_, namespace, name, int(_is_private(body) or False), json.dumps(kept), at_ms, at_ms),
        )
        number = int(made.lastrowid or 0)
        blob = objects.add_blob(db, hub.folder, ATTRIBUTES[type_].encode())
        tree = objects.edit_tree(db, EMPTY_TREE, {".gitattributes": blob.oid})
        commit = objects.add_commit(
            db, number, tree=tree, parent=None, author=user.name, message="initial commit", at_ms=at_ms
        )
        revisions.set_ref(db, number, "refs/heads/main", commit.oid)
        repo = load_repo(db, type_, namespace, name)
        assert repo is not None
    hub.announce(Event("create", "repo", type_, repo.full_name, user.name, {"body": body}))
    return Response.json(
        {"url": request.origin + repo.page, "name": repo.full_name, "id": _oid(repo)},
        headers={"X-Repo-Commit": commit.oid},
    )


@route("DELETE", "/api/repos/delete")
def delete(hub: Hub, request: Request) -> Response:
    """Delete a repository, at once and for ever."""
    _, type_, namespace, name = _named(request)
    repo = find_repo(hub, request, type_, namespace, name, "write")
    user = hub.require(request, "write", owner=repo.namespace, entity=repo.full_name)
    with hub.db.write() as db:
        db.execute("DELETE FROM repo WHERE id = ?", (repo.id,))
        usage.sweep(db, hub.folder)
    hub.announce(Event("delete", "repo", type_, repo.full_name, user.name))
    return Response.json({})


@repo_route("PUT", "/settings", need="write")
def settings(hub: Hub, request: Request, repo: Repo) -> Response:
    """Change whether a repository is private, and what else the Hub keeps with it."""
    body = request.json()
    if not isinstance(body, dict):
        raise HubError(400, "Invalid settings")
    private = _is_private(body)
    kept = {**repo.settings, **{key: body[key] for key in ("gated", "discussionsDisabled") if key in body}}
    with hub.db.write() as db:
        db.execute(
            "UPDATE repo SET private = ?, settings = ? WHERE id = ?",
            (int(repo.private if private is None else private), json.dumps(kept), repo.id),
        )
    user = request.user
    hub.announce(Event("update", "repo.config", repo.type, repo.full_name, user.name if user else "", body))
    return Response.json({"private": repo.private if private is None else private, **kept})


# --- describing


def _oid(repo: Repo) -> str:
    return object_id("repo", str(repo.id))


@repo_route("GET", r"/revision/(?P<revision>[^/]+)", kind="read")
def info_at(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """A repository as of a revision."""
    return _info(hub, request, repo, revision)


@repo_route("GET", "", kind="read")
def info(hub: Hub, request: Request, repo: Repo) -> Response:
    """A repository as of its main branch."""
    return _info(hub, request, repo, "main")


def _info(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    with hub.db.read() as db:
        oid = revisions.resolve(hub, db, repo.id, revision)
        commit = next(objects.ancestry(db, repo.id, oid))
        files = [entry for entry in objects.walk(db, commit.tree, recursive=True) if not entry.is_tree]
        known = objects.blobs(db, (entry.oid for entry in files)) if request.flag("blobs") else {}
        used = usage.used_bytes(db, repo=repo.id)
    siblings = []
    for entry in files:
        sibling: dict[str, Any] = {"rfilename": entry.name}
        if entry.oid in known:
            blob = known[entry.oid]
            sibling |= {"blobId": blob.oid, "size": blob.size if blob.lfs_size is None else blob.lfs_size}
            if blob.lfs_oid is not None:
                sibling["lfs"] = {"sha256": blob.lfs_oid, "size": blob.lfs_size, "pointerSize": blob.size}
        siblings.append(sibling)
    info: dict[str, Any] = {
        "_id": _oid(repo),
        "id": repo.full_name,
        **({"modelId": repo.full_name} if repo.type == "model" else {}),
        "author": repo.namespace,
        "sha": oid,
        "lastModified": iso(repo.modified_ms),
        "createdAt": iso(repo.created_ms),
        "private": repo.private,
        "gated": repo.settings.get("gated", False),
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "usedStorage": used,
        "siblings": siblings,
        **({"sdk": repo.settings.get("sdk")} if repo.type == "space" else {}),
    }
    for more in MORE_INFO:
        info |= more(hub, repo)
    expand = request.queries.get("expand") or request.queries.get("expand[]")
    if expand:
        info = {key: value for key, value in info.items() if key in {"_id", "id", "modelId", *expand}}
    return Response.json(info, headers={"X-Repo-Commit": oid})


# --- cards

_TOP_LINE = re.compile(r"""(?:[\w.-]+|"[^"]*"|'[^']*')\s*:(?:\s|$)|-(?:\s|$)|[\[{\]}]|#""")


@route("POST", "/api/validate-yaml")
def validate(hub: Hub, request: Request) -> Response:
    """Whether a card's metadata is YAML, as far as can be told without reading YAML: by the form of its lines."""
    body = request.json()
    content = body.get("content") if isinstance(body, dict) else None
    if not isinstance(content, str):
        raise HubError(400, "content is missing", extra={"errors": [{"message": "content is missing"}], "warnings": []})
    head, _, rest = content.lstrip("\ufeff").partition("\n")
    block, end, _ = rest.partition("\n---") if head.strip() == "---" else ("", "", "")
    if not end or not block.strip():
        warning = "empty or missing yaml metadata in repo card"
        return Response.json({"errors": [], "warnings": [{"message": warning}]})
    for number, line in enumerate(block.splitlines(), 2):
        if line.startswith("\t") or (line.strip() and line[0] != " " and not _TOP_LINE.match(line)):
            message = f"bad YAML at line {number}: {line.strip()[:80]}"
            answer = {"errors": [{"message": message}], "warnings": []}
            return Response.json(answer, 400, {"X-Error-Message": "Invalid YAML"})
    return Response.json({"errors": [], "warnings": []})
