"""Webhooks over HTTP: made, changed, switched on and off (``delivery.py`` does what they are for)."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from qcity_nb.testing.emulators.hub.delivery import HEADER, is_loopback, post_of
from qcity_nb.testing.emulators.hub.emulator import Hub
from qcity_nb.testing.emulators.hub.fleet import fleet_of, new_id
from qcity_nb.testing.emulators.hub.job_spec import read_body, read_spec, read_strings
from qcity_nb.testing.emulators.hub.web import HubError, Request, Response, User, route

__all__ = ["create", "delete", "get", "listed", "switch", "update"]

_KINDS = ("dataset", "model", "space", "bucket", "kernel", "user", "org")
_DOMAINS = ("repo", "discussion")
_ALL = "/api/settings/webhooks"
_ONE = _ALL + r"/(?P<webhook_id>[^/]+)"


def _answer(hub: Hub, row: sqlite3.Row) -> dict[str, Any]:
    """A webhook as the API shows it: not its secret, and of its job's secrets the names."""
    names = post_of(hub).seal.open_up(row["sealed"])
    answer: dict[str, Any] = {
        "id": row["id"],
        "watched": json.loads(row["watched"]),
        "domains": json.loads(row["domains"]),
        "disabled": bool(row["disabled"]),
        "hasSecret": HEADER in names,
    }
    if row["triggered"]:
        answer["lastTriggerAt"] = row["triggered"]
    if row["url"]:
        answer["url"] = row["url"]
    else:
        spec = json.loads(row["spec"])
        shown = ("dockerImage", "spaceId", "environment", "arguments", "command", "flavor", "labels")
        job = {name: spec[name] for name in shown if name in spec}
        secrets = sorted(name for name in names if name != HEADER)
        answer |= {"jobSourceId": row["source"], "job": {**job, "timeoutSeconds": spec["timeout"], "secrets": secrets}}
    return answer


def _wrapped(hub: Hub, webhook_id: str) -> Response:
    with hub.db.read() as db:
        row = db.execute("SELECT * FROM webhook WHERE id = ?", (webhook_id,)).fetchone()
    return Response.json({"webhook": _answer(hub, row)})


def _find(hub: Hub, request: Request, webhook_id: str, need: str = "write") -> sqlite3.Row:
    user = hub.require(request, need, scope="user.webhooks." + need)
    with hub.db.read() as db:
        row: sqlite3.Row | None = db.execute(
            "SELECT * FROM webhook WHERE id = ? AND user = ?", (webhook_id, user.name)
        ).fetchone()
    if row is None:
        raise HubError(404, "Webhook not found")
    return row


def _target(hub: Hub, user: User, body: dict[str, Any]) -> dict[str, Any]:
    """The members that say what an event leads to; none if the body has none of them."""
    url, source = body.get("url"), body.get("jobSourceId")
    if (url is not None) + (source is not None) + (body.get("job") is not None) > 1:
        raise HubError(400, "Invalid input: one of url, job and jobSourceId")
    if url is not None:
        if not isinstance(url, str) or not is_loopback(url):
            raise HubError(501, "The Hub emulator delivers webhooks to http addresses of this machine alone")
        return {"url": url, "spec": None, "source": None}
    if body.get("job") is not None:
        spec, _ = read_spec(body["job"])
        return {"url": None, "spec": json.dumps(spec), "source": None}
    if source is None:
        return {}
    job = fleet_of(hub).get(str(source))
    if job is None or not hub.can(user, "read", owner=job.namespace, scope="job.read"):
        raise HubError(404, "Job not found")
    return {"url": None, "spec": json.dumps({**job.spec, "secrets": []}), "source": job.id}


def _members(body: dict[str, Any]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    watched = body.get("watched")
    if not isinstance(watched, list) or not all(_is_item(item) for item in watched):
        raise HubError(400, f"Invalid input: watched is an array of names with a type, one of {'|'.join(_KINDS)}")
    members["watched"] = json.dumps([{"type": item["type"], "name": item["name"]} for item in watched])
    domains = body.get("domains")
    if domains is not None:
        if not isinstance(domains, list) or not all(item in _DOMAINS for item in domains):
            raise HubError(400, f"Invalid input: domains are {'|'.join(_DOMAINS)}")
        members["domains"] = json.dumps(domains)
    return members


def _is_item(value: Any) -> bool:
    return isinstance(value, dict) and value.get("type") in _KINDS and isinstance(value.get("name"), str)


def _secrets(body: dict[str, Any]) -> dict[str, str]:
    secrets = read_strings(body.get("secrets"), "secrets")
    if isinstance(body.get("job"), dict):
        secrets = {**read_strings(body["job"].get("secrets"), "job.secrets"), **secrets}
    secret = body.get("secret")
    if secret is not None:
        if not isinstance(secret, str) or not secret.isascii() or not secret.isprintable():
            raise HubError(400, "Invalid input: a secret is of printable ASCII")
        secrets[HEADER] = secret
    return secrets


@route("GET", _ALL)
def listed(hub: Hub, request: Request) -> Response:
    """The user's webhooks."""
    user = hub.require(request, "read", scope="user.webhooks.read")
    with hub.db.read() as db:
        rows = db.execute("SELECT * FROM webhook WHERE user = ? ORDER BY id", (user.name,)).fetchall()
    return Response.json([_answer(hub, row) for row in rows])


@route("POST", _ALL)
def create(hub: Hub, request: Request) -> Response:
    """Make a webhook."""
    user = hub.require(request, "write", scope="user.webhooks.write")
    body = read_body(request)
    members = {"domains": json.dumps(_DOMAINS), **_members(body), **_target(hub, user, body)}
    if "url" not in members:
        raise HubError(400, "Invalid input: one of url, job and jobSourceId")
    webhook_id = new_id()
    fields = {"id": webhook_id, "user": user.name, "sealed": post_of(hub).seal.close_up(_secrets(body)), **members}
    columns, placeholders = ", ".join(fields), ", ".join("?" * len(fields))
    with hub.db.write() as db:
        db.execute(f"INSERT INTO webhook ({columns}) VALUES ({placeholders})", tuple(fields.values()))  # noqa: S608
    return _wrapped(hub, webhook_id)


@route("GET", _ONE)
def get(hub: Hub, request: Request, webhook_id: str) -> Response:
    """One of the user's webhooks."""
    _find(hub, request, webhook_id, "read")
    return _wrapped(hub, webhook_id)


@route("POST", _ONE)
def update(hub: Hub, request: Request, webhook_id: str) -> Response:
    """Change one. What it watches is replaced by what the body says, also by nothing, which clients send unasked."""
    row, body = _find(hub, request, webhook_id), read_body(request)
    user = hub.require(request)
    members = {**_members(body), **_target(hub, user, body)}
    seal = post_of(hub).seal
    secrets = {**seal.open_up(row["sealed"]), **_secrets(body)}
    members["sealed"] = seal.close_up({name: value for name, value in secrets.items() if value})
    _set(hub, webhook_id, members)
    return _wrapped(hub, webhook_id)


@route("POST", _ONE + r"/(?P<action>enable|disable)")
def switch(hub: Hub, request: Request, webhook_id: str, action: str) -> Response:
    """Deliver to it, or not."""
    _find(hub, request, webhook_id)
    _set(hub, webhook_id, {"disabled": action == "disable"})
    return _wrapped(hub, webhook_id)


@route("DELETE", _ONE)
def delete(hub: Hub, request: Request, webhook_id: str) -> Response:
    """Forget one."""
    _find(hub, request, webhook_id)
    with hub.db.write() as db:
        db.execute("DELETE FROM webhook WHERE id = ?", (webhook_id,))
    return Response.json({})


def _set(hub: Hub, webhook_id: str, changes: dict[str, Any]) -> None:
    columns = ", ".join(f"{name} = ?" for name in changes)  # this module's own names, never a request's
    with hub.db.write() as db:
        db.execute(f"UPDATE webhook SET {columns} WHERE id = ?", (*changes.values(), webhook_id))  # noqa: S608
