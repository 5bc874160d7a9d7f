"""Git LFS: which objects to upload where, multipart uploads completed, and the check afterwards."""

from __future__ import annotations

import math
import re
import secrets
import sqlite3
from pathlib import Path
from typing import Any

from qcity_nb.testing.emulators.hub import objects, usage
from qcity_nb.testing.emulators.hub.accounts import object_id
from qcity_nb.testing.emulators.hub.commits import storage_full
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Hub, starting
from qcity_nb.testing.emulators.hub.files import content_url
from qcity_nb.testing.emulators.hub.repos import Repo, find_repo, web_route
from qcity_nb.testing.emulators.hub.web import HubError, Request, Response, route

__all__ = ["batch", "complete", "part_path", "purge", "verify"]

table(
    """CREATE TABLE IF NOT EXISTS upload (
        id TEXT PRIMARY KEY, repo INTEGER NOT NULL REFERENCES repo (id) ON DELETE CASCADE, oid TEXT NOT NULL,
        size INTEGER NOT NULL, part_size INTEGER NOT NULL)"""
)
table(
    """CREATE TABLE IF NOT EXISTS part (
        upload TEXT NOT NULL REFERENCES upload (id) ON DELETE CASCADE, number INTEGER NOT NULL, etag TEXT NOT NULL,
        size INTEGER NOT NULL, PRIMARY KEY (upload, number)) WITHOUT ROWID"""
)

_OID = re.compile(r"[0-9a-f]{64}")
_JSON = {"Content-Type": "application/vnd.git-lfs+json; charset=utf-8"}
MAX_PARTS = 10_000


def part_path(hub: Hub, upload: str) -> Path:
    """The file that the parts of an upload are written into, each at its place."""
    return hub.folder / "incoming" / f"upload-{upload}"


@starting
def purge(hub: Hub) -> None:
    """Delete the files of uploads that a kill cut off; those in parts can be continued."""
    with hub.db.read() as db:
        kept = {f"upload-{row['id']}" for row in db.execute("SELECT id FROM upload")}
    for path in hub.folder.glob("incoming/*"):
        if path.name not in kept:
            path.unlink()


@web_route("POST", r"\.git/info/lfs/objects/batch", kind="lfs")
def batch(hub: Hub, request: Request, repo: Repo) -> Response:
    """Where to put or fetch each object; one that the repository has needs no upload."""
    body = request.json()
    requested = body.get("objects") if isinstance(body, dict) else None
    if not isinstance(requested, list) or not all(_is_object(each) for each in requested):
        raise HubError(422, "objects must be a list of oid and size", headers=_JSON)
    if body.get("operation") == "download":
        return Response.json({"transfer": "basic", "objects": _downloads(hub, repo, requested)}, headers=_JSON)
    find_repo(hub, request, repo.type, repo.namespace, repo.name, "write")
    with hub.db.read() as db:
        missing = [each for each in requested if usage.has_file(db, repo.id, each["oid"]) is None]
        used = usage.used_bytes(db, namespace=repo.namespace)
    limit = hub.options.storage_limit
    is_full = limit is not None and used + sum(each["size"] for each in missing) > limit
    if (is_full and missing) or hub.faults.strike("storage-full", "lfs") is not None:
        raise storage_full()
    transfers = body.get("transfers") or ["basic"]
    if hub.options.xet and "xet" in transfers:
        # Client 0.36 asks here whether to use Xet, whose own protocol knows what is missing.
        return Response.json({"transfer": "xet", "objects": [_plain(each) for each in requested]}, headers=_JSON)
    by_parts = "multipart" in transfers and any(each["size"] > hub.options.part_size for each in missing)
    todo = {each["oid"]: _upload(hub, request, repo, each, by_parts=by_parts) for each in missing}
    answers = [
        {**_plain(each), **({"actions": todo[each["oid"]]} if each["oid"] in todo else {})} for each in requested
    ]
    return Response.json({"transfer": "multipart" if by_parts else "basic", "objects": answers}, headers=_JSON)


def _is_object(value: object) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("oid"), str)
        and _OID.fullmatch(value["oid"]) is not None
        and isinstance(value.get("size"), int)
        and value["size"] >= 0
    )


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    return {"oid": entry["oid"], "size": entry["size"], "authenticated": True}


def _downloads(hub: Hub, repo: Repo, requested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    answers = []
    with hub.db.read() as db:
        for entry in requested:
            if usage.has_file(db, repo.id, entry["oid"]) is None:
                answers.append({**_plain(entry), "error": {"code": 404, "message": "Object does not exist"}})
            else:
                link = {"href": content_url(hub, entry["oid"], entry["oid"])}
                answers.append({**_plain(entry), "actions": {"download": link}})
    return answers


def _upload(hub: Hub, request: Request, repo: Repo, entry: dict[str, Any], *, by_parts: bool) -> dict[str, Any]:
    oid, size = entry["oid"], entry["size"]
    where = f"{hub.storage_url}/repos/{oid[:2]}/{oid[2:4]}/{object_id('repo', str(repo.id))}/{oid}"
    verify = {"href": f"{request.origin}{repo.page}.git/info/lfs/objects/verify"}
    if not by_parts or size <= hub.options.part_size:
        signature = hub.sign("put", str(repo.id), oid, str(size))
        href = f"{where}?repo={repo.id}&size={size}&X-Amz-Signature={signature}"
        return {"upload": {"href": href}, "verify": verify}
    part_size = max(hub.options.part_size, math.ceil(size / MAX_PARTS))
    upload = secrets.token_hex(16)
    with hub.db.write() as db:
        db.execute("INSERT INTO upload VALUES (?, ?, ?, ?, ?)", (upload, repo.id, oid, size, part_size))
    header = {"chunk_size": str(part_size)}
    for number in range(1, math.ceil(size / part_size) + 1):
        signature = hub.sign("part", upload, str(number))
        header[f"{number:05}"] = f"{where}?uploadId={upload}&partNumber={number}&X-Amz-Signature={signature}"
    href = f"{request.origin}/api/complete_multipart?uploadId={upload}&signature={hub.sign('complete', upload)}"
    return {"upload": {"href": href, "header": header}, "verify": verify}


@route("POST", "/api/complete_multipart", kind="lfs")
def complete(hub: Hub, request: Request) -> Response:
    """Make an object of the parts of an upload; it must be what was promised. The address is the permission."""
    upload = request.query.get("uploadId", "")
    if not secrets.compare_digest(request.query.get("signature", ""), hub.sign("complete", upload)):
        raise HubError(403, "Invalid signature")
    body = request.json()
    sent = body.get("parts") if isinstance(body, dict) else None
    with hub.db.read() as db:
        row = db.execute("SELECT * FROM upload WHERE id = ?", (upload,)).fetchone()
        parts = db.execute("SELECT * FROM part WHERE upload = ? ORDER BY number", (upload,)).fetchall()
        is_done = isinstance(body, dict) and _is_done(db, str(body.get("oid")))
    if row is None:
        # The reply to the first completion may have been lost, and the client asks again.
        if is_done:
            return Response.json({"success": True})
        raise HubError(404, "The specified upload does not exist")
    if body.get("oid") != row["oid"]:
        raise HubError(400, "The upload is of another object")
    stored = [{"partNumber": part["number"], "etag": part["etag"]} for part in parts]
    if sent != stored or sum(part["size"] for part in parts) != row["size"]:
        raise HubError(400, "InvalidPart: a part is missing or has another etag")
    path = part_path(hub, upload)
    if objects.sha256_of(path) != row["oid"]:
        raise HubError(400, "The uploaded content does not have the sha256 that was promised")
    target = objects.lfs_path(hub.folder, row["oid"])
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    with hub.db.write() as db:
        usage.add_object(db, row["repo"], row["oid"], row["size"])
        db.execute("DELETE FROM upload WHERE id = ?", (upload,))
    return Response.json({"success": True})


def _is_done(db: sqlite3.Connection, oid: str) -> bool:
    return db.execute("SELECT 1 FROM lfs_object WHERE oid = ?", (oid,)).fetchone() is not None


@web_route("POST", r"\.git/info/lfs/objects/verify", need="write", kind="lfs")
def verify(hub: Hub, request: Request, repo: Repo) -> Response:
    """Whether an upload arrived."""
    body = request.json()
    if not _is_object(body):
        raise HubError(422, "oid and size are needed", headers=_JSON)
    with hub.db.read() as db:
        stored = usage.has_file(db, repo.id, body["oid"])
    if stored != body["size"]:
        raise HubError(404, "Object does not exist", headers=_JSON)
    return Response.json({"message": "Object verified"}, headers=_JSON)
