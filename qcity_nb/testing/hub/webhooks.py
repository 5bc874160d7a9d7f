"""Webhooks: kept over HTTP, and delivered to loopback addresses or by starting a job."""

from __future__ import annotations

import ipaddress
import json
import logging
import queue
import sqlite3
import threading
import time
from collections import deque
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import Any
from urllib.parse import urlsplit

from qcity_nb.testing.hub import revisions
from qcity_nb.testing.hub.accounts import object_id, role_in
from qcity_nb.testing.hub.database import table
from qcity_nb.testing.hub.emulator import Event, Hub, starting
from qcity_nb.testing.hub.fleet import fleet_of, new_id, stamp
from qcity_nb.testing.hub.job_spec import read_spec, read_strings
from qcity_nb.testing.hub.repos import Repo, load_repo
from qcity_nb.testing.hub.sealed import Seal
from qcity_nb.testing.hub.web import HubError, Request, Response, User, route

__all__ = ["Post", "post_of"]

log = logging.getLogger(__name__)

table(
    "CREATE TABLE IF NOT EXISTS webhook (id TEXT PRIMARY KEY, user TEXT NOT NULL, url TEXT, spec TEXT, source TEXT,"
    " watched TEXT NOT NULL, domains TEXT NOT NULL, sealed TEXT NOT NULL, disabled INTEGER NOT NULL DEFAULT 0,"
    " triggered TEXT)"
)

DAILY_LIMIT = 1000
"""Source: docs/hub/webhooks.md of huggingface/hub-docs, "Rate limiting"."""

_DELIVER_S = 10.0
_KINDS = ("dataset", "model", "space", "bucket", "kernel", "user", "org")
_DOMAINS = ("repo", "discussion")
_SECRET = ".secret"  # beside the names of a job's environment, which have no dots


class Post:
    """Delivers events, one after the other, in a thread of its own.

    Does not: try again what failed, or keep what was not delivered when the server stops.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.seal = Seal(hub.folder)
        self._events: queue.SimpleQueue[tuple[Event, dict[str, Any]] | None] = queue.SimpleQueue()
        self._times: dict[str, deque[float]] = {}
        hub.subscribe(self._take)
        self._thread = threading.Thread(target=self._deliver, name="hub-webhooks", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop after the delivery under way."""
        self._events.put(None)
        self._thread.join()

    def _take(self, event: Event) -> None:
        # Now, while the repository is as the event found it.
        self._events.put((event, _payload(self._hub, event)))

    def _deliver(self) -> None:
        while (item := self._events.get()) is not None and not self._hub.stopping.is_set():
            event, payload = item
            with self._hub.db.read() as db:
                rows = db.execute("SELECT * FROM webhook WHERE NOT disabled ORDER BY id").fetchall()
            for row in rows:
                if _is_watched(self._hub, row, event, payload) and self._may_go(row["id"]):
                    self._trigger(row, event, {**payload, "webhook": {"id": row["id"], "version": 3}})
        self._hub.db.forget()

    def _may_go(self, webhook_id: str) -> bool:
        times, now = self._times.setdefault(webhook_id, deque()), time.monotonic()
        while times and times[0] < now - 86400:
            times.popleft()
        if len(times) >= DAILY_LIMIT:
            log.warning("hub emulator: the webhook %s was triggered %d times in a day", webhook_id, DAILY_LIMIT)
            return False
        times.append(now)
        return True

    def _trigger(self, row: sqlite3.Row, event: Event, payload: dict[str, Any]) -> None:
        secrets = self.seal.open_up(row["sealed"])
        secret = secrets.pop(_SECRET, None)
        text = json.dumps(payload)
        try:
            if row["url"]:
                _send(row["url"], text.encode(), secret)
            else:
                more = {
                    "WEBHOOK_PAYLOAD": text,
                    "WEBHOOK_REPO_ID": event.repo_id,
                    "WEBHOOK_REPO_TYPE": event.repo_type,
                    **({"WEBHOOK_SECRET": secret} if secret else {}),
                }
                initiator = {"type": "webhook", "id": row["id"]}
                spec = json.loads(row["spec"])
                fleet_of(self._hub).start(
                    row["user"], spec, secrets, creator=row["user"], initiator=initiator, more=more
                )
        except (HubError, OSError, HTTPException) as error:
            log.warning("hub emulator: the webhook %s was not delivered: %s", row["id"], error)
        with self._hub.db.write() as db:
            db.execute("UPDATE webhook SET triggered = ? WHERE id = ?", (stamp(datetime.now(UTC)), row["id"]))


def _send(url: str, body: bytes, secret: str | None) -> None:
    parts = urlsplit(url)
    headers = {"Content-Type": "application/json", **({"X-Webhook-Secret": secret} if secret else {})}
    # Without a proxy: loopback is this machine.
    connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_DELIVER_S)
    try:
        connection.request("POST", parts._replace(scheme="", netloc="").geturl() or "/", body, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status >= 400:
        raise OSError(f"it answered {status}")


def _is_loopback(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
        host = parts.hostname or ""
        return parts.scheme == "http" and (host == "localhost" or ipaddress.ip_address(host).is_loopback)
    except ValueError:
        return False


def _payload(hub: Hub, event: Event) -> dict[str, Any]:
    namespace, _, name = event.repo_id.partition("/")
    with hub.db.read() as db:
        repo = load_repo(db, event.repo_type, namespace, name)
        head = revisions.head(db, repo.id, "main") if repo else None
    kind = f"{event.repo_type}s"
    page = repo.page if repo else f"/{'' if event.repo_type == 'model' else kind + '/'}{event.repo_id}"
    found: dict[str, Any] = {
        "event": {"action": event.action, "scope": event.scope},
        "repo": {
            "type": event.repo_type,
            "name": event.repo_id,
            "id": _repo_id(repo, event),
            "private": repo.private if repo else False,
            "url": {"web": hub.url + page, "api": f"{hub.url}/api/{kind}/{event.repo_id}"},
            "owner": {"id": object_id("user" if namespace in hub.users.names() else "org", namespace)},
        },
    }
    if head:
        found["repo"]["headSha"] = head
    # Only these: an event's facts may hold what a Space was made with.
    if "updatedRefs" in event.facts:
        found["updatedRefs"] = event.facts["updatedRefs"]
    if event.scope == "repo.config":
        found["updatedConfig"] = {"private": event.facts["private"]} if "private" in event.facts else {}
    return found


def _repo_id(repo: Repo | None, event: Event) -> str:
    return object_id("repo", str(repo.id) if repo else event.repo_id)


def _is_watched(hub: Hub, row: sqlite3.Row, event: Event, payload: dict[str, Any]) -> bool:
    if event.scope.partition(".")[0] not in json.loads(row["domains"]):
        return False
    owner = event.repo_id.partition("/")[0]
    if payload["repo"]["private"] and not _belongs(hub, row["user"], owner):
        return False
    named = ((event.repo_type, event.repo_id), ("user", owner), ("org", owner))
    return any((one["type"], one["name"]) in named for one in json.loads(row["watched"]))


def _belongs(hub: Hub, name: str, owner: str) -> bool:
    users = [*hub.users.tokens.values(), hub.users.other]
    return any(user is not None and user.name == name and role_in(user, owner) for user in users)


def post_of(hub: Hub) -> Post:
    """The webhooks of a started emulator."""
    post = hub.parts["post"]
    assert isinstance(post, Post)
    return post


@starting
def _begin(hub: Hub) -> None:
    post = Post(hub)
    hub.parts["post"] = post
    hub.closing.append(post.close)


# --- over HTTP

_ALL = "/api/settings/webhooks"
_ONE = _ALL + r"/(?P<webhook_id>[^/]+)"


def _answer(hub: Hub, row: sqlite3.Row) -> dict[str, Any]:
    """A webhook as the API shows it: not its secret, and of its job's secrets the names."""
    names = post_of(hub).seal.open_up(row["sealed"])
    found: dict[str, Any] = {
        "id": row["id"],
        "watched": json.loads(row["watched"]),
        "domains": json.loads(row["domains"]),
        "disabled": bool(row["disabled"]),
        "hasSecret": _SECRET in names,
    }
    if row["triggered"]:
        found["lastTriggerAt"] = row["triggered"]
    if row["url"]:
        found["url"] = row["url"]
    else:
        spec = json.loads(row["spec"])
        shown = ("dockerImage", "spaceId", "environment", "arguments", "command", "flavor", "labels")
        job = {name: spec[name] for name in shown if name in spec}
        secrets = sorted(name for name in names if name != _SECRET)
        found |= {"jobSourceId": row["source"], "job": {**job, "timeoutSeconds": spec["timeout"], "secrets": secrets}}
    return found


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
        if not isinstance(url, str) or not _is_loopback(url):
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
    found: dict[str, Any] = {}
    watched = body.get("watched")
    if not isinstance(watched, list) or not all(_is_item(one) for one in watched):
        raise HubError(400, f"Invalid input: watched is an array of names with a type, one of {'|'.join(_KINDS)}")
    found["watched"] = json.dumps([{"type": one["type"], "name": one["name"]} for one in watched])
    domains = body.get("domains")
    if domains is not None:
        if not isinstance(domains, list) or not set(domains) <= set(_DOMAINS):
            raise HubError(400, f"Invalid input: domains are {'|'.join(_DOMAINS)}")
        found["domains"] = json.dumps(domains)
    return found


def _is_item(one: Any) -> bool:
    return isinstance(one, dict) and one.get("type") in _KINDS and isinstance(one.get("name"), str)


def _secrets(body: dict[str, Any]) -> dict[str, str]:
    found = read_strings(body.get("secrets"), "secrets")
    if isinstance(body.get("job"), dict):
        found = {**read_strings(body["job"].get("secrets"), "job.secrets"), **found}
    secret = body.get("secret")
    if secret is not None:
        if not isinstance(secret, str) or not secret.isascii() or not secret.isprintable():
            raise HubError(400, "Invalid input: a secret is of printable ASCII")
        found[_SECRET] = secret
    return found


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
    body = request.json()
    members = {"domains": json.dumps(_DOMAINS), **_members(body), **_target(hub, user, body)}
    if "url" not in members:
        raise HubError(400, "Invalid input: one of url, job and jobSourceId")
    webhook_id = new_id()
    facts = {"id": webhook_id, "user": user.name, "sealed": post_of(hub).seal.close_up(_secrets(body)), **members}
    columns, marks = ", ".join(facts), ", ".join("?" * len(facts))
    with hub.db.write() as db:
        db.execute(f"INSERT INTO webhook ({columns}) VALUES ({marks})", tuple(facts.values()))  # noqa: S608
    return _wrapped(hub, webhook_id)


@route("GET", _ONE)
def get(hub: Hub, request: Request, webhook_id: str) -> Response:
    """One of the user's webhooks."""
    _find(hub, request, webhook_id, "read")
    return _wrapped(hub, webhook_id)


@route("POST", _ONE)
def update(hub: Hub, request: Request, webhook_id: str) -> Response:
    """Change one. What it watches is replaced by what the body says, also by nothing, which clients send unasked."""
    row, body = _find(hub, request, webhook_id), request.json()
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


def _set(hub: Hub, webhook_id: str, facts: dict[str, Any]) -> None:
    columns = ", ".join(f"{name} = ?" for name in facts)  # this module's own names, never a request's
    with hub.db.write() as db:
        db.execute(f"UPDATE webhook SET {columns} WHERE id = ?", (*facts.values(), webhook_id))  # noqa: S608
