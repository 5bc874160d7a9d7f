"""Scheduled jobs: kept, run when their time comes, over HTTP."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from datetime import datetime
from typing import Any

from qcity_nb.testing.emulators.hub import cron
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Hub, starting
from qcity_nb.testing.emulators.hub.fleet import Job, fleet_of, new_id, stamp
from qcity_nb.testing.emulators.hub.job_spec import answer_spec, read_body, read_labels, read_spec
from qcity_nb.testing.emulators.hub.jobs import answer, matches, owner_of, read_label_filters
from qcity_nb.testing.emulators.hub.sealed import Seal
from qcity_nb.testing.emulators.hub.web import HubError, Request, Response, route

__all__ = [
    "Timetable",
    "create",
    "delete",
    "inspect",
    "label",
    "listed",
    "reschedule",
    "resume",
    "run",
    "suspend",
    "timetable_of",
]

log = logging.getLogger(__name__)

table(
    "CREATE TABLE IF NOT EXISTS scheduled_jobs (id TEXT PRIMARY KEY, namespace TEXT NOT NULL, created TEXT NOT NULL,"
    " creator TEXT NOT NULL, spec TEXT NOT NULL, secrets TEXT NOT NULL, schedule TEXT NOT NULL,"
    " suspend INTEGER NOT NULL, concurrency INTEGER NOT NULL, next TEXT NOT NULL, last_job TEXT, last_at TEXT)"
)

_CHECK_S = 0.1
_BUSY = (
    "Another job is already running at the same time, set `concurrency` to allow multiple instances of scheduled jobs"
    " to run concurrently"
)
_ALL = r"/api/scheduled-jobs/(?P<namespace>[^/]+)"
_ONE = _ALL + r"/(?P<scheduled_id>[^/]+)"


class Timetable:
    """Runs scheduled jobs when ``Options.now`` says that their time has come.

    Does not: make up for runs that were due while the server was down, or while the clock jumped over several.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = threading.RLock()
        self._seal = Seal(hub.folder)
        self._changed = threading.Event()
        self._closed = False
        for row in self.rows():
            self._postpone(row)
        self._thread = threading.Thread(target=self._watch, name="hub-timetable", daemon=True)
        self._thread.start()

    def add(self, namespace: str, creator: str, body: dict[str, Any]) -> str:
        """Keep a scheduled job; returns its id."""
        spec, secrets = read_spec(body.get("jobSpec"))
        schedule = _schedule(body.get("schedule"))
        flags = [body.get(name, False) for name in ("suspend", "concurrency")]
        if not all(isinstance(flag, bool) for flag in flags):
            raise HubError(400, "Invalid input: suspend and concurrency are booleans")
        scheduled_id, now = new_id(), self._hub.options.now()
        values = (
            scheduled_id,
            namespace,
            stamp(now),
            creator,
            json.dumps(spec),
            self._seal.close_up(secrets),
            body["schedule"],
            *flags,
            stamp(schedule.next_after(now)),
        )
        with self._hub.db.write() as db:
            db.execute(
                "INSERT INTO scheduled_jobs (id, namespace, created, creator, spec, secrets, schedule, suspend,"
                " concurrency, next) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
        self._changed.set()
        return scheduled_id

    def rows(self, namespace: str | None = None) -> list[sqlite3.Row]:
        """All, or a namespace's, the newest first."""
        query = (
            "SELECT * FROM scheduled_jobs WHERE :namespace IS NULL OR namespace = :namespace "
            "ORDER BY created DESC, rowid DESC"
        )
        with self._hub.db.read() as db:
            return db.execute(query, {"namespace": namespace}).fetchall()

    def get(self, scheduled_id: str) -> sqlite3.Row | None:
        """One."""
        with self._hub.db.read() as db:
            row: sqlite3.Row | None = db.execute(
                "SELECT * FROM scheduled_jobs WHERE id = ?", (scheduled_id,)
            ).fetchone()
        return row

    def change(self, scheduled_id: str, **changes: Any) -> None:
        """Set members."""
        columns = ", ".join(f"{name} = ?" for name in changes)  # this module's own names, never a request's
        with self._hub.db.write() as db:
            db.execute(f"UPDATE scheduled_jobs SET {columns} WHERE id = ?", (*changes.values(), scheduled_id))  # noqa: S608
        self._changed.set()

    def remove(self, scheduled_id: str) -> None:
        """Forget one; jobs that it started continue."""
        with self._hub.db.write() as db:
            db.execute("DELETE FROM scheduled_jobs WHERE id = ?", (scheduled_id,))

    def trigger(self, row: sqlite3.Row) -> Job:
        """Run one now.

        Raises:
            HubError: 409 while a job of it runs and it may have one only; what starting a job raises.
        """
        with self._lock:
            fleet = fleet_of(self._hub)
            initiator = {"type": "scheduled-job", "id": row["id"]}
            if not row["concurrency"]:
                mine = [job for job in fleet.jobs(row["namespace"]) if job.initiator == initiator]
                if not all(job.is_over for job in mine):
                    raise HubError(409, _BUSY)
            secrets = self._seal.open_up(row["secrets"])
            spec = json.loads(row["spec"])
            job = fleet.start(row["namespace"], spec, secrets, creator=row["creator"], initiator=initiator)
            self.change(row["id"], last_job=job.id, last_at=stamp(self._hub.options.now()))
            return job

    def tick(self) -> None:
        """Run what is due; one tick at a time."""
        with self._lock:
            now = self._hub.options.now()
            for row in self.rows():
                if datetime.fromisoformat(row["next"]) > now:
                    continue
                self._postpone(row)  # first: a run may be lost, but not come twice
                if row["suspend"]:
                    continue
                try:
                    self.trigger(row)
                except HubError as error:
                    log.warning("hub emulator: the scheduled job %s did not run: %s", row["id"], error.message)

    def close(self) -> None:
        """Stop running things."""
        self._closed = True
        self._changed.set()
        self._thread.join()

    def _postpone(self, row: sqlite3.Row) -> None:
        next_at = stamp(cron.parse(row["schedule"]).next_after(self._hub.options.now()))
        if next_at != row["next"]:
            self.change(row["id"], next=next_at)

    def _watch(self) -> None:
        while not self._closed:
            self._changed.wait(_CHECK_S if self.rows() else None)
            self._changed.clear()
            if not self._closed:
                self.tick()
        self._hub.db.forget()


def _schedule(text: Any) -> cron.Schedule:
    try:
        return cron.parse(text if isinstance(text, str) else "")
    except ValueError as error:
        raise HubError(400, f"Invalid input: {error}, at schedule") from None


def timetable_of(hub: Hub) -> Timetable:
    """The scheduled jobs of a started emulator."""
    timetable = hub.parts["timetable"]
    assert isinstance(timetable, Timetable)
    return timetable


@starting
def _begin(hub: Hub) -> None:
    timetable = Timetable(hub)
    hub.parts["timetable"] = timetable
    hub.closing.append(timetable.close)


def _answer(hub: Hub, row: sqlite3.Row) -> dict[str, Any]:
    last = {"id": row["last_job"], "at": row["last_at"]} if row["last_job"] else None
    return {
        "id": row["id"],
        "type": "scheduled-job",
        "createdAt": row["created"],
        "schedule": row["schedule"],
        "suspend": bool(row["suspend"]),
        "concurrency": bool(row["concurrency"]),
        "owner": owner_of(hub, row["namespace"]),
        "initiator": owner_of(hub, row["creator"]),
        "status": {"lastJob": last, "nextJobRunAt": row["next"]},
        "jobSpec": answer_spec(json.loads(row["spec"])),
    }


def _find(hub: Hub, request: Request, namespace: str, scheduled_id: str, need: str = "write") -> sqlite3.Row:
    hub.require(request, need, owner=namespace, scope=f"job.{need}")
    row = timetable_of(hub).get(scheduled_id)
    if row is None or row["namespace"] != namespace:
        raise HubError(404, "Scheduled job not found")
    return row


def _current(hub: Hub, scheduled_id: str) -> Response:
    row = timetable_of(hub).get(scheduled_id)
    if row is None:
        raise HubError(404, "Scheduled job not found")
    return Response.json(_answer(hub, row))


@route("POST", _ALL, kind="jobs")
def create(hub: Hub, request: Request, namespace: str) -> Response:
    """Keep a job for its times."""
    user = hub.require(request, "write", owner=namespace, scope="job.write")
    return _current(hub, timetable_of(hub).add(namespace, user.name, read_body(request)))


@route("GET", _ALL, kind="jobs")
def listed(hub: Hub, request: Request, namespace: str) -> Response:
    """A namespace's scheduled jobs, by label, suspended ones too."""
    hub.require(request, "read", owner=namespace, scope="job.read")
    filters = read_label_filters(request)
    rows = timetable_of(hub).rows(namespace)
    return Response.json([_answer(hub, row) for row in rows if matches(json.loads(row["spec"])["labels"], filters)])


@route("GET", _ONE, kind="jobs")
def inspect(hub: Hub, request: Request, namespace: str, scheduled_id: str) -> Response:
    """One scheduled job."""
    return Response.json(_answer(hub, _find(hub, request, namespace, scheduled_id, "read")))


@route("DELETE", _ONE, kind="jobs")
def delete(hub: Hub, request: Request, namespace: str, scheduled_id: str) -> Response:
    """Forget one."""
    _find(hub, request, namespace, scheduled_id)
    timetable_of(hub).remove(scheduled_id)
    return Response(200)


@route("POST", _ONE + "/suspend", kind="jobs")
def suspend(hub: Hub, request: Request, namespace: str, scheduled_id: str) -> Response:
    """Let its times pass."""
    _find(hub, request, namespace, scheduled_id)
    timetable_of(hub).change(scheduled_id, suspend=True)
    return Response(200)


@route("POST", _ONE + "/resume", kind="jobs")
def resume(hub: Hub, request: Request, namespace: str, scheduled_id: str) -> Response:
    """Run it again from its next time on."""
    _find(hub, request, namespace, scheduled_id)
    timetable_of(hub).change(scheduled_id, suspend=False)
    return Response(200)


@route("POST", _ONE + "/run", kind="jobs")
def run(hub: Hub, request: Request, namespace: str, scheduled_id: str) -> Response:
    """Run it now, besides its times; suspended or not."""
    row = _find(hub, request, namespace, scheduled_id)
    return Response.json(answer(hub, timetable_of(hub).trigger(row)))


@route("POST", _ONE + "/schedule", kind="jobs")
def reschedule(hub: Hub, request: Request, namespace: str, scheduled_id: str) -> Response:
    """Change its times."""
    _find(hub, request, namespace, scheduled_id)
    text = read_body(request).get("schedule")
    next_at = _schedule(text).next_after(hub.options.now())
    timetable_of(hub).change(scheduled_id, schedule=text, next=stamp(next_at))
    return _current(hub, scheduled_id)


@route("PUT", _ONE + "/labels", kind="jobs")
def label(hub: Hub, request: Request, namespace: str, scheduled_id: str) -> Response:
    """Replace the labels that its jobs will have."""
    spec = json.loads(_find(hub, request, namespace, scheduled_id)["spec"])
    spec["labels"] = read_labels(read_body(request).get("labels"))
    timetable_of(hub).change(scheduled_id, spec=json.dumps(spec))
    return _current(hub, scheduled_id)
