"""Webhooks' way out: each event of a repository to those who watch it, by HTTP or by starting a job."""

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

from qcity_nb.testing.emulators.hub import revisions
from qcity_nb.testing.emulators.hub.accounts import object_id, role_in
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Event, Hub, starting
from qcity_nb.testing.emulators.hub.fleet import fleet_of, stamp
from qcity_nb.testing.emulators.hub.repos import Repo, load_repo
from qcity_nb.testing.emulators.hub.sealed import Seal
from qcity_nb.testing.emulators.hub.web import HubError

__all__ = ["HEADER", "Post", "is_loopback", "post_of"]

log = logging.getLogger(__name__)

table(
    "CREATE TABLE IF NOT EXISTS webhook (id TEXT PRIMARY KEY, user TEXT NOT NULL, url TEXT, spec TEXT, source TEXT,"
    " watched TEXT NOT NULL, domains TEXT NOT NULL, sealed TEXT NOT NULL, disabled INTEGER NOT NULL DEFAULT 0,"
    " triggered TEXT)"
)

DAILY_LIMIT = 1000
"""Source: docs/hub/webhooks.md of huggingface/hub-docs, "Rate limiting"."""

HEADER = "X-Webhook-Secret"
"""Also the name of a webhook's own secret among what is sealed: a job's environment has no such name."""

_DELIVER_S = 10.0


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
        secret = secrets.pop(HEADER, None)
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
    headers = {"Content-Type": "application/json", **({HEADER: secret} if secret else {})}
    # Without a proxy: loopback is this machine.
    connection = HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_DELIVER_S)
    try:
        connection.request("POST", parts._replace(scheme="", netloc="").geturl() or "/", body, headers)
        status = connection.getresponse().status
    finally:
        connection.close()
    if status >= 400:
        raise OSError(f"it answered {status}")


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine, and plain http."""
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
    payload: dict[str, Any] = {
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
        payload["repo"]["headSha"] = head
    # Only these: an event's facts may hold what a Space was made with.
    if "updatedRefs" in event.details:
        payload["updatedRefs"] = event.details["updatedRefs"]
    if event.scope == "repo.config":
        is_told = repo is not None and not event.details.keys().isdisjoint(("private", "visibility"))
        payload["updatedConfig"] = {"private": payload["repo"]["private"]} if is_told else {}
    return payload


def _repo_id(repo: Repo | None, event: Event) -> str:
    return object_id("repo", str(repo.id) if repo else event.repo_id)


def _is_watched(hub: Hub, row: sqlite3.Row, event: Event, payload: dict[str, Any]) -> bool:
    if event.scope.partition(".")[0] not in json.loads(row["domains"]):
        return False
    owner = event.repo_id.partition("/")[0]
    if payload["repo"]["private"] and not _belongs(hub, row["user"], owner):
        return False
    named = ((event.repo_type, event.repo_id), ("user", owner), ("org", owner))
    return any((item["type"], item["name"]) in named for item in json.loads(row["watched"]))


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
