"""The runtime of Spaces, as the API tells it: stage, hardware, sleep, secrets and variables. No app is run.

A Space is built at the first look at it after a commit or a restart, and runs from the second look on.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from qcity_nb.testing.emulators.hub import objects, revisions
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Event, Hub, starting
from qcity_nb.testing.emulators.hub.fleet import NO_CREDIT
from qcity_nb.testing.emulators.hub.hardware import FLAVORS
from qcity_nb.testing.emulators.hub.job_spec import read_body
from qcity_nb.testing.emulators.hub.repos import MORE_INFO, Repo, iso, load_repo, now_ms, repo_route
from qcity_nb.testing.emulators.hub.web import HubError, Request, Response, route

__all__ = [
    "add_secret",
    "add_variable",
    "delete_secret",
    "delete_variable",
    "delete_volumes",
    "hardware",
    "logs",
    "pause",
    "request_hardware",
    "restart",
    "runtime",
    "secrets",
    "set_volumes",
    "sleep_time",
    "variables",
]

table(
    "CREATE TABLE IF NOT EXISTS space (repo INTEGER PRIMARY KEY REFERENCES repo (id) ON DELETE CASCADE,"
    " paused INTEGER NOT NULL DEFAULT 0, built TEXT NOT NULL DEFAULT '', requested TEXT NOT NULL DEFAULT 'cpu-basic',"
    " current TEXT, sleep_s INTEGER, secrets TEXT NOT NULL DEFAULT '{}', variables TEXT NOT NULL DEFAULT '{}',"
    " volumes TEXT)"
)

BASIC_SLEEP_S = 48 * 3600
"""Free hardware sleeps after this, whatever is asked. Source: docs/hub/spaces-gpus.md of huggingface/hub-docs."""

_KEY = re.compile(r"[a-zA-Z][_a-zA-Z0-9]*")
_APP_FILES = {"docker": ("Dockerfile",), "static": ("index.html",)}
_FREE = "cpu-basic"


@starting
def _begin(hub: Hub) -> None:
    def made(event: Event) -> None:
        if event.repo_type == "space" and (event.action, event.scope) == ("create", "repo"):
            _fill(hub, event.repo_id, event.details.get("body", {}))

    hub.subscribe(made)


def _fill(hub: Hub, name: str, body: dict[str, Any]) -> None:
    """Take over what a Space was made with."""
    with hub.db.write() as db:
        repo = load_repo(db, "space", *name.split("/"))
        if repo is None:
            return
        _row(db, repo)
        flavor, sleep_s = body.get("hardware"), body.get("sleepTimeSeconds")
        if isinstance(flavor, str) and flavor in FLAVORS:
            _change(db, repo, requested=flavor, sleep_s=sleep_s if isinstance(sleep_s, int) else None)
        for kind in ("secrets", "variables"):
            values = body.get(kind)
            entries = [each for each in values if isinstance(each, dict)] if isinstance(values, list) else []
            entries_by_key = {
                each["key"]: _entry(each, kind) for each in entries if _KEY.fullmatch(str(each.get("key")))
            }
            _change(db, repo, **{kind: json.dumps(entries_by_key)})


def _row(db: sqlite3.Connection, repo: Repo) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM space WHERE repo = ?", (repo.id,)).fetchone()
    if row is None:
        db.execute("INSERT INTO space (repo) VALUES (?)", (repo.id,))
        return _row(db, repo)
    return row


def _change(db: sqlite3.Connection, repo: Repo, **changes: Any) -> None:
    columns = ", ".join(f"{name} = ?" for name in changes)  # this module's own names, never a request's
    db.execute(f"UPDATE space SET {columns} WHERE repo = ?", (*changes.values(), repo.id))  # noqa: S608


def _runtime(hub: Hub, repo: Repo, *, is_look: bool = True) -> dict[str, Any]:
    """The runtime now; a look at it moves a build on."""
    with hub.db.write() as db:
        row = _row(db, repo)
        stage, built = _stage(db, repo, row)
        if is_look and stage != "PAUSED" and built != row["built"]:
            _change(db, repo, built=built, current=row["requested"])
        row = row if is_look else _row(db, repo)
    runs = stage.startswith("RUNNING")
    runtime = {
        "stage": stage,
        "hardware": {"current": row["current"] if runs else None, "requested": row["requested"]},
        "storage": None,
        "gcTimeout": BASIC_SLEEP_S if row["requested"] == _FREE else row["sleep_s"],
        "replicas": {"requested": 1},
        "devMode": False,
        "domains": [{"domain": f"{repo.namespace}-{repo.name}.hf.space".lower(), "stage": "READY"}],
    }
    if row["volumes"]:
        runtime["volumes"] = json.loads(row["volumes"])
    return runtime


def _stage(db: sqlite3.Connection, repo: Repo, row: sqlite3.Row) -> tuple[str, str]:
    """The stage, and what will have been built once it was looked at."""
    if row["paused"]:
        return "PAUSED", row["built"]
    sdk = repo.settings.get("sdk")
    head = revisions.head(db, repo.id, "main")
    tree = next((commit.tree for commit in objects.ancestry(db, repo.id, head)), "")
    needed = _APP_FILES.get(str(sdk), ("app.py",))
    if not any(objects.entry_at(db, tree, name) for name in needed):
        return "NO_APP_FILE", row["built"]
    if sdk == "static" or row["built"] == head:
        return "RUNNING", str(head)
    return ("RUNNING_BUILDING" if row["built"] else "BUILDING"), str(head)


def _space(hub: Hub, repo: Repo, *, need_container: bool = False) -> None:
    if repo.type != "space":
        raise HubError(404, "Sorry, we can't find the page you are looking for.")
    if need_container and repo.settings.get("sdk") == "static":
        raise HubError(400, "Static Spaces are always running: this cannot be done to them")


def _more_info(hub: Hub, repo: Repo) -> dict[str, Any]:
    return {"runtime": _runtime(hub, repo, is_look=False)} if repo.type == "space" else {}


MORE_INFO.append(_more_info)


@route("GET", "/api/spaces/hardware")
def hardware(hub: Hub, request: Request) -> Response:
    """What Spaces can run on; the smallest is free."""
    flavors = [flavor.answer(has_disk=False) for flavor in FLAVORS.values()]
    free = {"unitCostMicroUSD": 0, "unitCostUSD": 0}
    return Response.json([{**each, **free} if each["name"] == _FREE else each for each in flavors])


@repo_route("GET", "/runtime")
def runtime(hub: Hub, request: Request, repo: Repo) -> Response:
    """Stage, hardware and the rest."""
    _space(hub, repo)
    return Response.json(_runtime(hub, repo))


@repo_route("POST", "/pause", need="write")
def pause(hub: Hub, request: Request, repo: Repo) -> Response:
    """Stop it until it is restarted."""
    _space(hub, repo, need_container=True)
    with hub.db.write() as db:
        _row(db, repo)
        _change(db, repo, paused=True)
    return Response.json(_runtime(hub, repo))


@repo_route("POST", "/restart", need="write")
def restart(hub: Hub, request: Request, repo: Repo) -> Response:
    """Build it again and run it, paused or not; ``factory`` makes no difference here."""
    _space(hub, repo, need_container=True)
    with hub.db.write() as db:
        _row(db, repo)
        _change(db, repo, paused=False, built="")
    return Response.json(_runtime(hub, repo, is_look=False))


@repo_route("POST", "/hardware", need="write")
def request_hardware(hub: Hub, request: Request, repo: Repo) -> Response:
    """Ask for other hardware, on which it starts anew."""
    _space(hub, repo, need_container=True)
    body = read_body(request)
    flavor, sleep_s = body.get("flavor"), body.get("sleepTimeSeconds")
    if not isinstance(flavor, str) or flavor not in FLAVORS:
        raise HubError(400, f"Invalid input: flavor is one of {'|'.join(FLAVORS)}")
    if flavor != _FREE and hub.faults.strike("credit", "jobs") is not None:
        raise HubError(402, NO_CREDIT)
    with hub.db.write() as db:
        _row(db, repo)
        _change(db, repo, requested=flavor, built="", sleep_s=_seconds(sleep_s) if sleep_s is not None else None)
    return Response.json(_runtime(hub, repo, is_look=False))


@repo_route("POST", "/sleeptime", need="write")
def sleep_time(hub: Hub, request: Request, repo: Repo) -> Response:
    """After how many seconds without a visitor it sleeps; -1: never. Kept, and without effect."""
    _space(hub, repo, need_container=True)
    with hub.db.write() as db:
        _row(db, repo)
        _change(db, repo, sleep_s=_seconds(read_body(request).get("seconds")))
    return Response.json(_runtime(hub, repo, is_look=False))


def _seconds(value: Any) -> int | None:
    if not isinstance(value, int) or isinstance(value, bool) or value < -1:
        raise HubError(400, "Invalid input: a time is a number of seconds, or -1")
    return None if value == -1 else value


# --- secrets and variables


def _entry(value: dict[str, Any], kind: str) -> dict[str, Any]:
    """What is kept of a secret or variable: of a secret not its value, which no app is there to read."""
    entry = {"key": value["key"], "updatedAt": iso(now_ms())}
    if value.get("description"):
        entry["description"] = value["description"]
    if kind == "variables":
        entry["value"] = str(value.get("value") or "")
    return entry


def _change_entries(hub: Hub, request: Request, repo: Repo, kind: str, *, is_removed: bool) -> dict[str, Any]:
    _space(hub, repo)
    body = read_body(request)
    key = body.get("key")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise HubError(400, "Invalid input: a key is letters, digits and underscores, and begins with a letter")
    with hub.db.write() as db:
        entries: dict[str, Any] = json.loads(_row(db, repo)[kind])
        if is_removed:
            entries.pop(key, None)
        else:
            entries[key] = _entry(body, kind)
        _change(db, repo, **{kind: json.dumps(entries)})
    user = request.user
    hub.announce(Event("update", "repo.config", "space", repo.full_name, user.name if user else ""))
    return entries


def _entries(hub: Hub, repo: Repo, kind: str) -> Response:
    _space(hub, repo)
    with hub.db.write() as db:
        return Response.json(json.loads(_row(db, repo)[kind]))


@repo_route("GET", "/secrets", need="write")
def secrets(hub: Hub, request: Request, repo: Repo) -> Response:
    """The names of its secrets."""
    return _entries(hub, repo, "secrets")


@repo_route("POST", "/secrets", need="write")
def add_secret(hub: Hub, request: Request, repo: Repo) -> Response:
    """Set a secret."""
    _change_entries(hub, request, repo, "secrets", is_removed=False)
    return Response.json({})


@repo_route("DELETE", "/secrets", need="write")
def delete_secret(hub: Hub, request: Request, repo: Repo) -> Response:
    """Take a secret away; nothing happens if there is none."""
    _change_entries(hub, request, repo, "secrets", is_removed=True)
    return Response.json({})


@repo_route("GET", "/variables", need="write")
def variables(hub: Hub, request: Request, repo: Repo) -> Response:
    """Its variables."""
    return _entries(hub, repo, "variables")


@repo_route("POST", "/variables", need="write")
def add_variable(hub: Hub, request: Request, repo: Repo) -> Response:
    """Set a variable."""
    return Response.json(_change_entries(hub, request, repo, "variables", is_removed=False))


@repo_route("DELETE", "/variables", need="write")
def delete_variable(hub: Hub, request: Request, repo: Repo) -> Response:
    """Take a variable away."""
    return Response.json(_change_entries(hub, request, repo, "variables", is_removed=True))


# --- volumes and logs


@repo_route("PUT", "/volumes", need="write")
def set_volumes(hub: Hub, request: Request, repo: Repo) -> Response:
    """Say what is mounted; it is kept, and nothing is."""
    _space(hub, repo, need_container=True)
    volumes = read_body(request).get("volumes")
    if not isinstance(volumes, list) or not all(
        isinstance(volume, dict) and volume.get("source") for volume in volumes
    ):
        raise HubError(400, "Invalid input: volumes is an array of volumes")
    with hub.db.write() as db:
        _row(db, repo)
        _change(db, repo, volumes=json.dumps(volumes))
    return Response.json({})


@repo_route("DELETE", "/volumes", need="write")
def delete_volumes(hub: Hub, request: Request, repo: Repo) -> Response:
    """Mount nothing more; 400 if nothing was."""
    _space(hub, repo)
    with hub.db.write() as db:
        if not _row(db, repo)["volumes"]:
            raise HubError(400, "No volumes are attached to this Space")
        _change(db, repo, volumes=None)
    return Response.json({})


@repo_route("GET", "/logs/(?P<kind_of_log>build|run)", need="write")
def logs(hub: Hub, request: Request, repo: Repo, kind_of_log: str) -> Response:
    """One line: there is nothing to log."""
    _space(hub, repo)
    line = {"data": "[qcity's Hub emulator] Spaces are not built or run\n", "timestamp": iso(now_ms())}

    def lines() -> Iterator[bytes]:
        yield b"data: " + json.dumps(line).encode() + b"\n\n"

    return Response(200, lines(), {"Content-Type": "text/event-stream"})
