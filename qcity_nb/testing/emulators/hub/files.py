"""Files of a revision: listed, described, and served."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from mimetypes import guess_type
from typing import Any
from urllib.parse import quote

from qcity_nb.testing.emulators.hub import objects, revisions, usage
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.git import Entry
from qcity_nb.testing.emulators.hub.objects import Blob, Commit
from qcity_nb.testing.emulators.hub.repos import Repo, iso, repo_route, web_route
from qcity_nb.testing.emulators.hub.web import FileRange, HubError, Request, Response, page_of

__all__ = ["XET_HEADERS", "content_url", "no_entry", "paths_info", "ranged", "resolve", "tree", "xet_headers"]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def no_entry(path: str, revision: str, oid: str = "") -> HubError:
    """The Hub's error for a file that is not there; it names the commit, so that clients can remember it."""
    headers = {"X-Repo-Commit": oid} if oid else None
    return HubError(404, f'{path} does not exist on "{revision}"', "EntryNotFound", headers=headers)


# --- listing


@repo_route("GET", r"/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", kind="read")
def tree(hub: Hub, request: Request, repo: Repo, revision: str, path: str = "") -> Response:
    """What lies in a directory, or below it."""
    expand = request.flag("expand")
    path = path.strip("/")
    with hub.db.read() as db:
        oid = revisions.resolve(hub, db, repo.id, revision)
        commit = next(objects.ancestry(db, repo.id, oid))
        top = objects.entry_at(db, commit.tree, path) if path else Entry("", True, commit.tree)
        if top is None or not top.is_tree:
            raise no_entry(path, revision, oid)
        below = f"{path}/" if path else ""
        entries = list(objects.walk(db, top.oid, recursive=request.flag("recursive"), below=below))
        size = hub.options.expanded_page if expand else hub.options.tree_page
        page, headers = page_of(request, entries, size)
        described = _described(db, repo, commit, page, expand=expand)
    return Response.json(described, headers={**headers, "X-Repo-Commit": oid})


@repo_route("POST", r"/paths-info/(?P<revision>[^/]+)", kind="read")
def paths_info(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """What lies at these paths; those where nothing lies are left out."""
    form = request.form()
    expand = form.get("expand", [""])[-1].lower() in ("true", "1")
    with hub.db.read() as db:
        oid = revisions.resolve(hub, db, repo.id, revision)
        commit = next(objects.ancestry(db, repo.id, oid))
        paths = dict.fromkeys(path.strip("/") for path in form.get("paths", []))
        entries = [objects.entry_at(db, commit.tree, path) for path in paths if path]
        described = _described(db, repo, commit, [entry for entry in entries if entry is not None], expand=expand)
    return Response.json(described)


def _described(
    db: sqlite3.Connection, repo: Repo, commit: Commit, entries: list[Entry], *, expand: bool
) -> list[dict[str, Any]]:
    known = objects.blobs(db, (entry.oid for entry in entries if not entry.is_tree))
    xet = _xet_hashes(db, (blob.lfs_oid for blob in known.values() if blob.lfs_oid is not None))
    last = _last_commits(db, repo, commit, entries) if expand else {}
    answers = []
    for entry in entries:
        answer: dict[str, Any] = {"type": "directory" if entry.is_tree else "file", "oid": entry.oid, "size": 0}
        if not entry.is_tree:
            blob = known[entry.oid]
            answer["size"] = blob.size if blob.lfs_size is None else blob.lfs_size
            if blob.lfs_oid is not None:
                answer["lfs"] = {"oid": blob.lfs_oid, "size": blob.lfs_size, "pointerSize": blob.size}
                if blob.lfs_oid in xet:
                    answer["xetHash"] = xet[blob.lfs_oid]
        answer["path"] = entry.name
        if entry.name in last:
            commit_of_entry = last[entry.name]
            answer["lastCommit"] = {
                "id": commit_of_entry.oid,
                "title": commit_of_entry.title,
                "date": iso(commit_of_entry.at_ms),
            }
        answers.append(answer)
    return answers


def _xet_hashes(db: sqlite3.Connection, oids: Iterable[str]) -> dict[str, str]:
    hashes = {}
    for oid in set(oids):
        row = db.execute("SELECT xet_hash FROM lfs_object WHERE oid = ?", (oid,)).fetchone()
        if row is not None and row["xet_hash"] is not None:
            hashes[oid] = str(row["xet_hash"])
    return hashes


def _last_commits(db: sqlite3.Connection, repo: Repo, commit: Commit, entries: list[Entry]) -> dict[str, Commit]:
    """For each path, the newest commit that changed it."""
    open_ = {entry.name: entry.oid for entry in entries}
    newest: dict[str, Commit] = {}
    newer = None
    for older in objects.ancestry(db, repo.id, commit.oid):
        if newer is not None and older.tree != newer.tree:
            for path, oid in list(open_.items()):
                before = objects.entry_at(db, older.tree, path)
                if before is None or before.oid != oid:
                    newest[path] = newer
                    del open_[path]
        newer = older
        if not open_:
            return newest
    assert newer is not None
    return {**newest, **dict.fromkeys(open_, newer)}


# --- serving


@web_route("GET", r"/(?:resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)", kind="resolve")
def resolve(hub: Hub, request: Request, repo: Repo, revision: str, path: str) -> Response:
    """A file: git's own are sent, LFS files are redirected to the storage."""
    with hub.db.read() as db:
        oid = revisions.resolve(hub, db, repo.id, revision, "resolve")
        commit = next(objects.ancestry(db, repo.id, oid))
        entry = objects.entry_at(db, commit.tree, path)
        if entry is None or entry.is_tree:
            raise no_entry(path, revision, oid)
        blob = objects.blobs(db, [entry.oid])[entry.oid]
        is_stored = blob.lfs_oid is not None and usage.has_file(db, repo.id, blob.lfs_oid) is not None
        xet = _xet_hashes(db, [blob.lfs_oid]) if blob.lfs_oid is not None else {}
    headers = {"X-Repo-Commit": oid, "Accept-Ranges": "bytes", **_disposition(path)}
    if blob.lfs_oid is None or "/raw/" in request.raw_path:
        return _regular(hub, request, blob, headers)
    if not is_stored:
        raise no_entry(path, revision, oid)  # deleted for good, though commits still name it
    headers |= {"ETag": f'"{blob.lfs_oid}"', "X-Linked-Etag": f'"{blob.lfs_oid}"', "X-Linked-Size": str(blob.lfs_size)}
    if hub.options.xet and blob.lfs_oid in xet:
        headers |= xet_headers(request, repo, oid, xet[blob.lfs_oid])
    name = path.rpartition("/")[2]
    headers["Location"] = content_url(hub, blob.lfs_oid, name)
    return Response(302, b"Found. Redirecting to the storage", {"Content-Type": "text/plain", **headers})


def content_url(hub: Hub, oid: str, name: str) -> str:
    """An address of the storage that is its own permission."""
    query = f"response-content-disposition={quote(f'inline; filename={name}', safe='')}"
    return f"{hub.storage_url}/repos/{oid[:2]}/{oid[2:4]}/{oid}?{query}&X-Amz-Signature={hub.sign('get', oid)}"


XET_HEADERS = ("X-Xet-Hash", "X-Xet-Refresh-Route", "Link")


def xet_headers(request: Request, repo: Repo, oid: str, xet_hash: str) -> dict[str, str]:
    """How a client that has Xet is to fetch the file instead."""
    route = f"{request.origin}/api/{repo.type}s/{repo.full_name}/xet-read-token/{oid}"
    return dict(zip(XET_HEADERS, (xet_hash, route, f'<{route}>; rel="xet-auth"'), strict=True))


def _disposition(path: str) -> dict[str, str]:
    name = path.rpartition("/")[2]
    plain = name.encode("ascii", "replace").decode().replace('"', "'").replace("\\", "/")
    return {"Content-Disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{plain}\";"}


def _regular(hub: Hub, request: Request, blob: Blob, headers: dict[str, str]) -> Response:
    headers["ETag"] = f'"{blob.oid}"'
    headers["Content-Type"] = guess_type(request.path)[0] or "text/plain; charset=utf-8"
    return ranged(request, FileRange(objects.regular_path(hub.folder, blob.oid), 0, blob.size), headers)


def ranged(request: Request, whole: FileRange, headers: dict[str, str]) -> Response:
    """The file, or the part of it that the request asks for: 200, 206, 304 or 416."""
    etag = headers["ETag"]
    if etag in (request.headers.get("If-None-Match") or ""):
        return Response(304, b"", headers)
    match = _RANGE.fullmatch((request.headers.get("Range") or "").replace(" ", ""))
    condition = request.headers.get("If-Range")
    if match is None or (not match[1] and not match[2]) or (condition is not None and condition != etag):
        return Response(200, whole, headers)
    size = whole.length
    if match[1]:
        start, end = int(match[1]), min(int(match[2] or size), size - 1)
    else:
        start, end = max(size - int(match[2]), 0), size - 1
    if start > end:
        raise HubError(416, "Range Not Satisfiable", headers={"Content-Range": f"bytes */{size}"})
    part = FileRange(whole.path, start, end - start + 1)
    return Response(206, part, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"})
