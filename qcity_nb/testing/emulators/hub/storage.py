"""The other listener: objects put and fetched at signed addresses, as the real Hub's storage serves them."""

from __future__ import annotations

import hashlib
import os
import secrets

from qcity_nb.testing.emulators.hub import objects, usage
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.files import ranged
from qcity_nb.testing.emulators.hub.lfs import part_path
from qcity_nb.testing.emulators.hub.receive import receive, receive_file
from qcity_nb.testing.emulators.hub.web import FileRange, HubError, Request, Response, route
from qcity_nb.testing.emulators.hub.xet import unpack_object

__all__ = ["fetch", "put"]

_OBJECT = r"/repos/[0-9a-f]{2}/[0-9a-f]{2}/(?:[0-9a-f]{24}/)?(?P<oid>[0-9a-f]{64})"


def _check(hub: Hub, request: Request, *parts: str) -> None:
    if not secrets.compare_digest(request.query.get("X-Amz-Signature", ""), hub.sign(*parts)):
        raise HubError(403, "SignatureDoesNotMatch")


@route("GET", _OBJECT, kind="storage")
def fetch(hub: Hub, request: Request, oid: str) -> Response:
    """An object, or a part of it."""
    _check(hub, request, "get", oid)
    unpack_object(hub, oid)
    path = objects.lfs_path(hub.folder, oid)
    size = path.stat().st_size
    headers = {
        "ETag": f'"{oid}"',
        "Accept-Ranges": "bytes",
        "Content-Type": "binary/octet-stream",
        "Content-Disposition": request.query.get("response-content-disposition", "inline"),
    }
    return ranged(request, FileRange(path, 0, size), headers)


@route("PUT", _OBJECT, kind="storage")
def put(hub: Hub, request: Request, oid: str) -> Response:
    """An object, or with ``uploadId`` one part of it."""
    upload = request.query.get("uploadId")
    return _put_whole(hub, request, oid) if upload is None else _put_part(hub, request, oid, upload)


def _put_whole(hub: Hub, request: Request, oid: str) -> Response:
    repo, size = request.query.get("repo", ""), request.query.get("size", "")
    _check(hub, request, "put", repo, oid, size)
    path, received, (digest,) = receive_file(hub, request, oid, algorithms=("sha256",))
    if digest != oid or received != int(size):
        path.unlink()
        raise HubError(400, "BadDigest: the content does not have the sha256 and size that were promised")
    target = objects.lfs_path(hub.folder, oid)
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    with hub.db.write() as db:
        if db.execute("SELECT 1 FROM repo WHERE id = ?", (int(repo),)).fetchone() is None:
            raise HubError(404, "NoSuchKey")
        usage.add_object(db, int(repo), oid, received)
    return Response(200, b"", {"ETag": f'"{digest}"'})


def _put_part(hub: Hub, request: Request, oid: str, upload: str) -> Response:
    number = request.query.get("partNumber", "")
    _check(hub, request, "part", upload, number)
    with hub.db.read() as db:
        row = db.execute("SELECT * FROM upload WHERE id = ? AND oid = ?", (upload, oid)).fetchone()
    if row is None:
        raise HubError(404, "NoSuchUpload")
    start = (int(number) - 1) * row["part_size"]
    expected = min(row["part_size"], row["size"] - start)
    path = part_path(hub, upload)
    path.parent.mkdir(exist_ok=True)
    digest, done = hashlib.sha1(usedforsecurity=False), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    with os.fdopen(descriptor, "wb") as file:
        file.seek(start)
        for part in receive(hub, request, "storage", oid):
            done += len(part)
            if done > expected:
                raise HubError(400, "EntityTooLarge: the part is larger than the chunk size")
            digest.update(part)
            file.write(part)
    if done != expected:
        raise HubError(400, "EntityTooSmall: the part is smaller than the chunk size")
    etag = f'"{digest.hexdigest()}"'
    with hub.db.write() as db:
        db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?)", (upload, int(number), etag, done))
    return Response(200, b"", {"ETag": etag})
