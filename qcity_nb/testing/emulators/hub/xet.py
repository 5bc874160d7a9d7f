"""Xet, over HTTP: tokens on the Hub's side; xorbs, shards and reconstructions on the storage's.

The client's hf_xet is sent to the storage listener by the tokens' ``casUrl``. Not here: global deduplication, upload
grants, and any check of hashes (see ``xet_format``); hf_xet works without the first two.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import sqlite3
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

from qcity_nb.testing.emulators.hub import objects, usage
from qcity_nb.testing.emulators.hub.commits import storage_full
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.files import ranged
from qcity_nb.testing.emulators.hub.receive import receive_file
from qcity_nb.testing.emulators.hub.repos import Repo, find_repo, repo_route
from qcity_nb.testing.emulators.hub.web import FileRange, HubError, Request, Response, route
from qcity_nb.testing.emulators.hub.xet_format import Chunk, Malformed, ShardFile, Term, chunks_of, read_shard, unpacked

__all__ = [
    "duplicate",
    "find_chunk",
    "get_xorb",
    "grant",
    "put_shard",
    "put_shard_with_progress",
    "put_xorb",
    "read_token",
    "reconstruction",
    "telemetry",
    "unpack_object",
    "write_token",
]

table("CREATE TABLE IF NOT EXISTS xet_file (hash TEXT PRIMARY KEY, sha256 TEXT, size INTEGER, terms TEXT NOT NULL)")

TOKEN_S = 3600
_HASH = r"(?P<hash>[0-9a-f]{64})"
_CAS = r"/cas/[0-9a-f]{12}"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


# --- tokens


def _cas_url(hub: Hub) -> str:
    # hf_xet remembers by this address what is stored there: another emulator on the same port must have another.
    return f"{hub.storage_url}/cas/{hub.sign('cas')[:12]}"


def _token(hub: Hub, scope: str, repo: Repo) -> Response:
    if not hub.options.xet:
        raise HubError(404, "Xet is not enabled for this repository")
    expires = int(time.time()) + TOKEN_S
    token = f"xet_{scope}_{repo.id}_{expires}_{hub.sign('xet', scope, str(repo.id), str(expires))}"
    headers = {
        "X-Xet-Cas-Url": _cas_url(hub),
        "X-Xet-Access-Token": token,
        "X-Xet-Token-Expiration": str(expires),
    }
    return Response.json({"casUrl": _cas_url(hub), "accessToken": token, "exp": expires}, headers=headers)


@repo_route("GET", "/xet-read-token/[^/]+", kind="xet")
def read_token(hub: Hub, request: Request, repo: Repo) -> Response:
    """A token to fetch the repository's files with."""
    return _token(hub, "read", repo)


@repo_route("GET", "/xet-write-token/[^/]+", need="write", kind="xet")
def write_token(hub: Hub, request: Request, repo: Repo) -> Response:
    """A token to upload files for the repository with."""
    limit = hub.options.storage_limit
    with hub.db.read() as db:
        used = usage.used_bytes(db, namespace=repo.namespace)
    if hub.faults.strike("storage-full", "xet") is not None or (limit is not None and used >= limit):
        raise storage_full()
    return _token(hub, "write", repo)


def _repo_of(hub: Hub, request: Request, need: str) -> int:
    """The repository that the request's token is for."""
    parts = (request.headers.get("Authorization") or "").removeprefix("Bearer ").split("_")
    if len(parts) != 5 or parts[0] != "xet":
        raise HubError(401, "Unauthorized")
    _, scope, repo, expires, signature = parts
    if not secrets.compare_digest(signature, hub.sign("xet", scope, repo, expires)) or int(expires) < time.time():
        raise HubError(401, "Unauthorized")
    if need == "write" and scope != "write":
        raise HubError(403, "Forbidden")
    return int(repo)


# --- uploads


def _xorb_path(hub: Hub, xorb: str) -> Path:
    return hub.folder / "xorbs" / xorb[:2] / xorb


@lru_cache(maxsize=256)
def _chunks(path: Path) -> list[Chunk]:
    return chunks_of(path)


@route("POST", f"{_CAS}/v1/xorbs/default/{_HASH}", kind="storage")
def put_xorb(hub: Hub, request: Request, hash: str) -> Response:
    """A xorb."""
    _repo_of(hub, request, "write")
    path, _, _ = receive_file(hub, request, hash, algorithms=())
    target = _xorb_path(hub, hash)
    is_new = not target.exists()
    try:
        chunks_of(path)
    except Malformed as error:
        path.unlink()
        raise HubError(400, f"Bad xorb: {error}") from None
    target.parent.mkdir(parents=True, exist_ok=True)
    path.replace(target)
    return Response.json({"was_inserted": is_new})


@route("POST", f"{_CAS}/v1/shards", kind="storage")
def put_shard(hub: Hub, request: Request) -> Response:
    """A shard, which makes files of chunks."""
    return Response.json({"result": int(_register(hub, request))})


@route("POST", f"{_CAS}/v2/shards", kind="storage")
def put_shard_with_progress(hub: Hub, request: Request) -> Response:
    """A shard, with its progress as it is sent; here there is none."""
    _register(hub, request)
    return Response(200, json.dumps({"type": "result"}).encode() + b"\n", {"Content-Type": "application/x-ndjson"})


def _register(hub: Hub, request: Request) -> bool:
    repo = _repo_of(hub, request, "write")
    try:
        files = read_shard(request.read())
        for file in files:
            for term in file.terms:
                _check(hub, term)
    except (Malformed, FileNotFoundError) as error:
        raise HubError(400, f"Bad shard: {error}") from None
    with hub.db.write() as db:
        owner = db.execute("SELECT namespace FROM repo WHERE id = ?", (repo,)).fetchone()
        if owner is None:
            raise HubError(404, "The repository is gone")
        is_new = [_add_file(db, repo, file) for file in files]
        limit = hub.options.storage_limit
        if limit is not None and usage.used_bytes(db, namespace=owner["namespace"]) > limit:
            raise storage_full()
    return any(is_new)


def _check(hub: Hub, term: Term) -> None:
    chunks = _chunks(_xorb_path(hub, term.xorb))[term.start : term.end]
    if len(chunks) != term.end - term.start or sum(chunk.size for chunk in chunks) != term.size:
        raise Malformed(f"xorb {term.xorb} does not have these chunks")


def _add_file(db: sqlite3.Connection, repo: int, file: ShardFile) -> bool:
    made = db.execute(
        "INSERT OR IGNORE INTO xet_file VALUES (?, ?, ?, ?)",
        (file.hash, file.sha256, file.size, json.dumps(file.terms)),
    )
    if file.sha256 is not None:
        usage.add_object(db, repo, file.sha256, file.size, file.hash)
    return bool(made.rowcount)


# --- downloads


def _terms(db: sqlite3.Connection, hash: str) -> list[Term]:
    row = db.execute("SELECT terms FROM xet_file WHERE hash = ?", (hash,)).fetchone()
    return [] if row is None else [Term(*term) for term in json.loads(row["terms"])]


def _requested_terms(hub: Hub, request: Request, hash: str) -> tuple[list[Term], int]:
    """The terms that the request's range needs, cut at chunks, and where in the first of them it begins."""
    repo = _repo_of(hub, request, "read")
    with hub.db.read() as db:
        row = db.execute("SELECT sha256, size FROM xet_file WHERE hash = ?", (hash,)).fetchone()
        if row is None or row["sha256"] is None or usage.has_file(db, repo, row["sha256"]) is None:
            raise HubError(404, "File not found")
        terms = _terms(db, hash)
    match = _RANGE.fullmatch(request.headers.get("Range") or "")
    start = int(match[1]) if match else 0
    end = min(int(match[2]) + 1 if match and match[2] else row["size"], row["size"])
    if match and start >= row["size"]:
        raise HubError(416, "Range Not Satisfiable")
    needed: list[Term] = []
    skipped, at = 0, 0
    for term in terms:
        first, last, size, before = term.end, term.start, 0, at
        for index in range(term.start, term.end):
            length = _chunks(_xorb_path(hub, term.xorb))[index].size
            if before < end and before + length > start:
                if not needed and first == term.end:
                    skipped = start - before
                first, last, size = min(first, index), index + 1, size + length
            before += length
        at = before
        if last > first:
            needed.append(Term(term.xorb, size, first, last))
    return needed, max(skipped, 0)


def _fetches(hub: Hub, terms: list[Term]) -> dict[str, list[dict[str, Any]]]:
    """For each xorb the runs of chunks that are needed, with where to fetch them."""
    fetches: dict[str, list[dict[str, Any]]] = {}
    for xorb in dict.fromkeys(term.xorb for term in terms):
        runs: list[list[int]] = []
        for start, end in sorted({(term.start, term.end) for term in terms if term.xorb == xorb}):
            if runs and start <= runs[-1][1]:
                runs[-1][1] = max(runs[-1][1], end)
            else:
                runs.append([start, end])
        chunks = _chunks(_xorb_path(hub, xorb))
        url = f"{hub.storage_url}/xorbs/default/{xorb}?X-Amz-Signature={hub.sign('xorb', xorb)}"
        fetches[xorb] = [
            {
                "url": url,
                "range": {"start": start, "end": end},
                "url_range": {"start": chunks[start].at, "end": chunks[end - 1].at + chunks[end - 1].length - 1},
            }
            for start, end in runs
        ]
    return fetches


@route("GET", f"{_CAS}/(?P<version>v1|v2)/reconstructions/{_HASH}", kind="storage")
def reconstruction(hub: Hub, request: Request, version: str, hash: str) -> Response:
    """How to make a file, or a range of it, of chunks."""
    terms, skipped = _requested_terms(hub, request, hash)
    answer: dict[str, Any] = {
        "offset_into_first_range": skipped,
        "terms": [
            {"hash": term.xorb, "unpacked_length": term.size, "range": {"start": term.start, "end": term.end}}
            for term in terms
        ],
    }
    fetches = _fetches(hub, terms)
    if version == "v1":
        answer["fetch_info"] = fetches
    else:
        answer["xorbs"] = {
            xorb: [
                {"url": each["url"], "ranges": [{"chunks": each["range"], "bytes": each["url_range"]}]} for each in runs
            ]
            for xorb, runs in fetches.items()
        }
    return Response.json(answer)


@route("GET", f"/xorbs/default/{_HASH}", kind="storage")
def get_xorb(hub: Hub, request: Request, hash: str) -> Response:
    """The bytes of a xorb that a reconstruction pointed at."""
    if not secrets.compare_digest(request.query.get("X-Amz-Signature", ""), hub.sign("xorb", hash)):
        raise HubError(403, "SignatureDoesNotMatch")
    path = _xorb_path(hub, hash)
    return ranged(request, FileRange(path, 0, path.stat().st_size), {"ETag": f'"{hash}"'})


@route("GET", f"{_CAS}/v1/chunks/[^/]+/{_HASH}", kind="storage")
def find_chunk(hub: Hub, request: Request, hash: str) -> Response:
    """Whether a chunk is known already: nothing is, so that clients upload it."""
    raise HubError(404, "Chunk not found")


@route("POST", f"{_CAS}/v1/xorb-grants/[^/]+/{_HASH}", kind="storage")
def grant(hub: Hub, request: Request, hash: str) -> Response:
    """An address to put a xorb at: there are none, so that clients send it here."""
    request.read()
    raise HubError(404, "Not found")


@route("POST", "/v1/telemetry", kind="storage")
def telemetry(hub: Hub, request: Request) -> Response:
    """What hf_xet tells of its work; nobody listens."""
    request.read()
    return Response.json({})


def unpack_object(hub: Hub, sha256: str) -> None:
    """Put an object that came by Xet where plain downloads read it, if it is not there.

    Raises:
        HubError: 404, there is no such object; 500, what was uploaded does not have the sha256 that was said.
    """
    target = objects.lfs_path(hub.folder, sha256)
    if target.exists():
        return
    with hub.db.read() as db:
        row = db.execute("SELECT xet_hash FROM lfs_object WHERE oid = ?", (sha256,)).fetchone()
        terms = _terms(db, row["xet_hash"]) if row is not None and row["xet_hash"] else []
    if row is None or not row["xet_hash"]:
        raise HubError(404, "NoSuchKey")
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    descriptor, text = tempfile.mkstemp(dir=target.parent, prefix=".")
    with os.fdopen(descriptor, "wb") as file:
        for term in terms:
            path = _xorb_path(hub, term.xorb)
            for part in unpacked(path, _chunks(path)[term.start : term.end]):
                digest.update(part)
                file.write(part)
    if digest.hexdigest() != sha256:
        Path(text).unlink()
        raise HubError(500, "The content does not have the sha256 that its uploader said")
    Path(text).replace(target)


@repo_route("POST", "/lfs-files/duplicate", kind="lfs")
def duplicate(hub: Hub, request: Request, repo: Repo) -> Response:
    """Give LFS files of this repository to another one, so that a commit there can name them."""
    body = request.json()
    target, files = (body.get("target"), body.get("files")) if isinstance(body, dict) else (None, None)
    if not isinstance(target, dict) or not isinstance(files, list):
        raise HubError(400, "target and files are needed")
    namespace, _, name = str(target.get("name")).partition("/")
    target_repo = find_repo(hub, request, str(target.get("type") or "model"), namespace, name, "write")
    failed = []
    with hub.db.write() as db:
        for file in files:
            size = usage.has_file(db, repo.id, str(file.get("sha256")))
            if size is None:
                failed.append({"sha256": file.get("sha256"), "error": "File not found"})
            else:
                usage.add_object(db, target_repo.id, file["sha256"], size)
    return Response.json({"success": not failed, "failed": failed})
