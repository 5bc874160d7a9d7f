"""Commits: what is to be uploaded how, and the one request that moves a branch."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from qcity_nb.testing.emulators.hub import git, objects, revisions, usage
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.patterns import is_ignored, is_lfs
from qcity_nb.testing.emulators.hub.receive import receive
from qcity_nb.testing.emulators.hub.refs import announce_refs
from qcity_nb.testing.emulators.hub.repos import Repo, now_ms, repo_route
from qcity_nb.testing.emulators.hub.web import Gone, HubError, Request, Response

__all__ = ["check_path", "commit", "preupload", "storage_full"]

PREUPLOAD_FILES = 256


def check_path(path: object) -> str:
    """A path that a commit may name.

    Raises:
        HubError: 422.
    """
    if not isinstance(path, str) or not path or "\\" in path or "\0" in path:
        raise HubError(422, f"Invalid path: {path}")
    parts = path.split("/")
    if any(part in ("", ".", "..", ".git") for part in parts):
        raise HubError(422, f"Invalid path: {path}")
    return path


# --- before a commit


def _text_at(db: sqlite3.Connection, hub: Hub, tree: str, path: str) -> str:
    entry = objects.entry_at(db, tree, path)
    if entry is None or entry.is_tree:
        return ""
    return objects.read_blob(hub.folder, entry.oid).decode("utf-8", "replace")


@repo_route("POST", "/preupload/(?P<revision>[^/]+)", need="write", kind="commit")
def preupload(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """For each file of a commit to come: whether it is LFS, whether it is ignored, and what is there now."""
    body = request.json()
    files = body.get("files") if isinstance(body, dict) else None
    if not isinstance(files, list) or len(files) > PREUPLOAD_FILES:
        raise HubError(400, f"files must be a list of at most {PREUPLOAD_FILES}")
    with hub.db.read() as db:
        oid = revisions.resolve(hub, db, repo.id, revision, None)
        tree = next(objects.ancestry(db, repo.id, oid)).tree
        attributes = body.get("gitAttributes") or _text_at(db, hub, tree, ".gitattributes")
        ignore = body.get("gitIgnore") or _text_at(db, hub, tree, ".gitignore")
        answers = [_mode(db, hub, tree, file, str(attributes), str(ignore)) for file in files]
    return Response.json({"files": answers, "commitOid": oid})


def _mode(
    db: sqlite3.Connection, hub: Hub, tree: str, file: dict[str, Any], attributes: str, ignore: str
) -> dict[str, Any]:
    path, size = check_path(file.get("path")), file.get("size")
    if not isinstance(size, int):
        raise HubError(400, f"{path}: size is missing")
    try:
        sample = base64.b64decode(file.get("sample") or "")
    except (binascii.Error, TypeError):
        raise HubError(400, f"{path}: the sample is not base64") from None
    is_large = is_lfs(attributes, path) or size > hub.options.lfs_threshold or _is_binary(sample)
    answer = {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": is_ignored(ignore, path)}
    entry = objects.entry_at(db, tree, path)
    if entry is not None and not entry.is_tree:
        blob = objects.blobs(db, [entry.oid])[entry.oid]
        answer["oid"] = blob.lfs_oid or blob.oid
    return answer


def _is_binary(sample: bytes) -> bool:
    """Whether a content that begins so is no text: it has a NUL byte, or is not UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)  # which does not mind a cut in a letter at the end
    except UnicodeDecodeError:
        return True
    return b"\0" in sample


# --- the commit


@dataclass(slots=True)
class _Upload:
    """What a commit's body asks for, in order: a path's last operation counts."""

    message: str
    parent: str | None
    changes: dict[str, bytes | tuple[str, int | None] | None] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)


def _lines(data: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(filter(None, data.split(b"\n")), 1):
        try:
            item = json.loads(line)
            key, value = item["key"], item["value"]
        except (ValueError, KeyError, TypeError):
            raise HubError(400, f"line {number} of the commit is not a key and a value") from None
        if not isinstance(key, str) or not isinstance(value, dict):
            raise HubError(400, f"line {number} of the commit is not a key and a value")
        yield key, value


def _parse(data: bytes) -> _Upload:
    lines = _lines(data)
    key, header = next(lines, ("", {}))
    summary = header.get("summary")
    if key != "header" or not isinstance(summary, str) or not summary:
        raise HubError(400, "A commit begins with a header that has a summary")
    description = header.get("description") or ""
    message = f"{summary}\n\n{description}" if description else summary
    upload = _Upload(message, header.get("parentCommit"))
    for key, value in lines:
        path = check_path(str(value.get("path") or "").rstrip("/"))
        if key == "file":
            content = str(value.get("content") or "")
            try:
                data = (
                    base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()
                )
            except binascii.Error:
                raise HubError(400, f"{path}: the content is not base64") from None
            upload.changes[path] = data
        elif key == "lfsFile":
            oid, size = value.get("oid"), value.get("size")
            if value.get("algo") != "sha256" or not isinstance(oid, str) or len(oid) != 64:
                raise HubError(400, f"{path}: an LFS file needs algo sha256 and an oid")
            upload.changes[path] = (oid, size if isinstance(size, int) else None)
        elif key == "deletedFile":
            upload.changes[path] = None
        elif key == "deletedFolder":
            upload.folders.append(path)
        else:
            raise HubError(400, f"a commit has no operation {key}")
    return upload


@repo_route("POST", "/commit/(?P<revision>[^/]+)", need="write", kind="commit")
def commit(hub: Hub, request: Request, repo: Repo, revision: str) -> Response:
    """Make a commit on a branch, if the branch is where the request says."""
    faults = hub.faults
    if request.flag("create_pr"):
        raise HubError(403, "This emulator has no pull requests")
    ref = f"refs/heads/{revision.removeprefix('refs/heads/')}"
    faults.fire("commit.begin", repo=repo.full_name, ref=ref)
    upload = _parse(b"".join(receive(hub, request, "commit", repo.full_name)))
    if faults.strike("commit-500-before", "commit") is not None:
        raise HubError(500, "Internal Server Error")
    if faults.strike("commit-412", "commit") is not None:
        raise _stale()
    if faults.strike("storage-full", "commit") is not None:
        raise storage_full()
    made, old = _land(hub, request, repo, ref, upload)
    announce_refs(hub, request, repo, ref, old, made)
    faults.fire("commit.landed", repo=repo.full_name, ref=ref, oid=made)
    delay = faults.strike("commit-slow", "commit")
    if delay is not None and hub.stopping.wait(delay):
        raise Gone("the server stops")
    if faults.strike("commit-lost", "commit") is not None:
        raise Gone("the fault commit-lost")
    if faults.strike("commit-500", "commit") is not None:
        raise HubError(500, "Internal Server Error")
    address = f"{request.origin}{repo.page}/commit/{made}"
    return Response.json({"success": True, "commitOid": made, "commitUrl": address, "hookOutput": ""})


def _stale() -> HubError:
    return HubError(412, "The branch was updated since you opened this page. Please refresh and try again.")


def storage_full() -> HubError:
    """The Hub's error where a namespace holds as much as it may."""
    return HubError(
        403,
        "Private repository storage limit reached, please upgrade your plan to increase your private storage limit.",
    )


def _land(hub: Hub, request: Request, repo: Repo, ref: str, upload: _Upload) -> tuple[str, str]:
    """Compare and set, in one transaction. Returns: the branch's commits after and before."""
    user = request.user
    assert user is not None
    with hub.db.write() as db:
        old = revisions.head(db, repo.id, ref)
        if old is None:
            raise revisions.no_revision(ref.removeprefix("refs/heads/"))
        parent = upload.parent
        if parent is not None and (len(parent) < 7 or not old.startswith(parent)):
            raise _stale()
        tree = next(objects.ancestry(db, repo.id, old)).tree
        try:
            made_tree = objects.edit_tree(db, tree, _changes(hub, db, repo, ref, tree, upload))
        except objects.Clash as clash:
            raise HubError(422, f"{clash}: a file and a folder cannot have the same path") from None
        at_ms = now_ms()
        made = objects.add_commit(
            db, repo.id, tree=made_tree, parent=old, author=user.name, message=upload.message, at_ms=at_ms
        )
        revisions.set_ref(db, repo.id, ref, made.oid)
        db.execute("UPDATE repo SET modified_ms = ? WHERE id = ?", (at_ms, repo.id))
    return made.oid, old


def _changes(
    hub: Hub, db: sqlite3.Connection, repo: Repo, ref: str, tree: str, upload: _Upload
) -> dict[str, str | None]:
    """The contents that paths shall have, stored."""
    changes: dict[str, str | None] = {}
    for folder in upload.folders:
        entry = objects.entry_at(db, tree, folder)
        if entry is None or not entry.is_tree:
            raise HubError(404, f"A folder with this name doesn't exist: {folder}", "EntryNotFound")
        changes |= _files_below(db, entry)
    for path, content in upload.changes.items():
        if content is None:
            entry = objects.entry_at(db, tree, path)
            if entry is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            changes |= _files_below(db, entry) if entry.is_tree else {path: None}
        elif isinstance(content, bytes):
            changes[path] = objects.add_blob(db, hub.folder, content).oid
        else:
            oid, size = content
            stored = usage.has_file(db, repo.id, oid)
            if stored is None or (size is not None and size != stored):
                raise HubError(
                    400,
                    "Your push was rejected because an LFS pointer pointed to a file that does not exist. "
                    f"Offending file: {path}",
                )
            changes[path] = objects.add_blob(db, hub.folder, git.pointer(oid, stored)).oid
            usage.note_push(db, repo.id, oid, path, ref)
    return changes


def _files_below(db: sqlite3.Connection, folder: git.Entry) -> dict[str, str | None]:
    inside = objects.walk(db, folder.oid, recursive=True, below=f"{folder.name}/")
    return {entry.name: None for entry in inside if not entry.is_tree}
