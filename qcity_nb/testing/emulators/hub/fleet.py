"""The emulator's jobs: started, watched, ended, and remembered over restarts of the server."""

from __future__ import annotations

import json
import logging
import secrets as random
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qcity_nb.testing.emulators.hub import runner
from qcity_nb.testing.emulators.hub.database import table
from qcity_nb.testing.emulators.hub.emulator import Hub, starting
from qcity_nb.testing.emulators.hub.hardware import FLAVORS
from qcity_nb.testing.emulators.hub.job_spec import DEFAULT_TIMEOUT_S
from qcity_nb.testing.emulators.hub.web import HubError

__all__ = ["NO_CREDIT", "TERMINAL", "Fleet", "Job", "fleet_of", "new_id", "stamp"]

log = logging.getLogger(__name__)

table(
    "CREATE TABLE IF NOT EXISTS jobs (id TEXT PRIMARY KEY, namespace TEXT NOT NULL, created TEXT NOT NULL,"
    " spec TEXT NOT NULL, creator TEXT NOT NULL, initiator TEXT NOT NULL, stage TEXT NOT NULL, message TEXT,"
    " cancel_reason TEXT, failures INTEGER NOT NULL DEFAULT 0, started TEXT, finished TEXT,"
    " ending TEXT NOT NULL DEFAULT '', pid INTEGER, pid_started TEXT)"
)
table("CREATE INDEX IF NOT EXISTS jobs_namespace ON jobs (namespace, created)")

TERMINAL = ("COMPLETED", "CANCELED", "ERROR", "DELETED")

NO_CREDIT = "Pre-paid credit balance is insufficient - add more credits to your account to use Jobs."
"""What the real service answers with 402, as several of its users quote it."""

_TICK_S = 0.05
_END_S = 15.0


def stamp(moment: datetime) -> str:
    """As the Hub writes times."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def new_id() -> str:
    """24 hexadecimal digits that grow with time, as the Hub's records have."""
    return f"{int(time.time()):08x}{random.token_hex(8)}"


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the database has it."""

    id: str
    namespace: str
    created: str
    spec: dict[str, Any]
    creator: str
    initiator: dict[str, Any]
    stage: str
    message: str | None
    cancel_reason: str | None
    failures: int
    started: str | None
    finished: str | None

    @property
    def is_over(self) -> bool:
        """Whether it will not run any more."""
        return self.stage in TERMINAL

    @classmethod
    def of(cls, row: sqlite3.Row) -> Job:
        """From its row."""
        fields = {name: row[name] for name in cls.__slots__}
        fields["spec"], fields["initiator"] = json.loads(row["spec"]), json.loads(row["initiator"])
        return cls(**fields)


def _outcome(state: runner.State, ending: str) -> tuple[str, str | None, str | None]:
    """Stage, message and cancelReason of a job that ended."""
    match state.cause:
        case "exit" if state.code == 0:
            return "COMPLETED", None, None
        case "exit":
            return "ERROR", f"Job failed with exit code: {state.code}. Reason: Error", None
        case "start":
            return "ERROR", f"Job failed with exit code: {state.code}. Reason: StartError", None
        case "timeout":
            return "ERROR", "Job timeout", None
        case "evicted":
            return "ERROR", f"Job failed with exit code: {state.code}. Reason: Evicted", None
        case "asked" if not ending:
            return "ERROR", "Job lost: somebody ended its process", None
        case "" if not ending:
            return "ERROR", "Job lost: its process is gone", None
    if ending == "credit":
        return "CANCELED", NO_CREDIT, "NO_CREDITS"
    return "CANCELED", None, None


class Fleet:
    """All jobs of one emulator.

    Does not: limit how many run at once, or what they use of this machine.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._lock = threading.RLock()
        self._pods: dict[str, runner.Pod] = {}  # of the jobs that are not over
        self._seen: dict[str, runner.State] = {}  # what the database says of these
        self._launching: set[str] = set()
        self._mine: list[str] = []  # those that this server started
        self._wake = threading.Event()
        self._closed = False
        self._recover()
        self._thread = threading.Thread(target=self._watch, name="hub-jobs", daemon=True)
        self._thread.start()

    def folder(self, job_id: str) -> Path:
        """Where a job's state and log are."""
        return self._hub.folder / "jobs" / job_id

    def start(
        self,
        namespace: str,
        spec: dict[str, Any],
        secrets: Mapping[str, str],
        *,
        creator: str,
        initiator: dict[str, Any],
        more: Mapping[str, str] | None = None,
    ) -> Job:
        """Run a job.

        Args:
            more: environment that is not the spec's, such as a webhook's payload.
        Returns: it, as it was before its process began.
        Raises:
            HubError: 402 while there is no credit.
        """
        if self._hub.faults.strike("credit", "jobs") is not None:
            raise HubError(402, NO_CREDIT)
        job_id = new_id()
        self._launching.add(job_id)
        with self._hub.db.write() as db:
            db.execute(
                "INSERT INTO jobs (id, namespace, created, spec, creator, initiator, stage)"
                " VALUES (?, ?, ?, ?, ?, ?, 'SCHEDULING')",
                (job_id, namespace, stamp(datetime.now(UTC)), json.dumps(spec), creator, json.dumps(initiator)),
            )
        job = self.get(job_id)
        assert job is not None
        try:
            self._launch(job, {**spec["environment"], **secrets, **(more or {})})
        finally:
            self._launching.discard(job_id)
        return job

    def _launch(self, job: Job, environ: Mapping[str, str]) -> None:
        flavor = FLAVORS[job.spec["flavor"]]
        folder = self.folder(job.id)
        image = job.spec.get("dockerImage") or f"of the Space {job.spec['spaceId']}"
        work = runner.Work(
            command=[*job.spec["command"], *job.spec["arguments"]],
            environment=runner.environment(
                folder,
                job_id=job.id,
                accelerator=flavor.accelerator,
                cpu_cores=str(flavor.cores),
                memory=f"{flavor.memory}Gi",
                requested=environ,
            ),
            timeout_s=job.spec["timeout"] or DEFAULT_TIMEOUT_S,
            attempts=job.spec["attempts"],
            notes=[f"[qcity's Hub emulator] the image {image} is not run: the command runs on the emulator's machine"],
        )
        try:
            if not work.command:
                raise OSError("it has no command, and the image's own is not known")
            pod = runner.launch(folder, work)
        except OSError as error:
            self._update(job.id, stage="ERROR", message=f"Job could not start: {error}", finished=stamp(_now()))
            return
        with self._lock:
            self._update(job.id, pid=pod.pid, pid_started=pod.started)
            self._pods[job.id] = pod
            self._mine.append(job.id)
            if self._ending(job.id):
                pod.end()
        self._wake.set()

    def get(self, job_id: str) -> Job | None:
        """A job, as it is now."""
        self._look(job_id)
        with self._hub.db.read() as db:
            row = db.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return Job.of(row) if row else None

    def jobs(self, namespace: str | None = None) -> list[Job]:
        """All jobs, or a namespace's, the newest first."""
        for job_id in list(self._pods):
            self._look(job_id)
        query = (
            "SELECT * FROM jobs WHERE :namespace IS NULL OR namespace = :namespace ORDER BY created DESC, rowid DESC"
        )
        with self._hub.db.read() as db:
            return [Job.of(row) for row in db.execute(query, {"namespace": namespace})]

    def end(self, job_ids: Sequence[str], why: str = "cancel") -> None:
        """Kill jobs and wait until they are gone; those that are over stay as they are.

        Args:
            why: ``cancel``, or ``credit`` if they died for want of it.
        """
        left = set()
        for job_id in job_ids:
            with self._lock:
                pod = self._pods.get(job_id)
                if pod is not None or job_id in self._launching:
                    left.add(job_id)
                    self._update(job_id, ending=why)
                if pod is not None:
                    pod.end()
        until = time.monotonic() + _END_S
        while left & (self._pods.keys() | self._launching) and time.monotonic() < until:
            for job_id in left:
                self._look(job_id)
            time.sleep(0.005)

    def evict(self, job_id: str) -> None:
        """Kill a job's present attempt as if its machine were taken away; another follows if it has one left."""
        pod = self._pods.get(job_id)
        if pod is not None:
            pod.evict()

    def relabel(self, job_id: str, **changes: Any) -> None:
        """Change members of a job's spec, such as its labels."""
        with self._hub.db.write() as db:
            row = db.execute("SELECT spec FROM jobs WHERE id = ?", (job_id,)).fetchone()
            spec = json.dumps({**json.loads(row["spec"]), **changes})
            db.execute("UPDATE jobs SET spec = ? WHERE id = ?", (spec, job_id))

    def close(self) -> None:
        """Stop watching; end the jobs that this server started if it was asked to."""
        if self._hub.ends_jobs:
            self.end([job_id for job_id in self._mine if job_id in self._pods])
        self._closed = True
        self._wake.set()
        self._thread.join()

    def _update(self, job_id: str, **changes: Any) -> None:
        # Names of columns are this module's own, never a request's.
        columns = ", ".join(f"{name} = ?" for name in changes)
        with self._hub.db.write() as db:
            db.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*changes.values(), job_id))  # noqa: S608

    def _ending(self, job_id: str) -> str:
        with self._hub.db.read() as db:
            return str(db.execute("SELECT ending FROM jobs WHERE id = ?", (job_id,)).fetchone()["ending"])

    def _look(self, job_id: str) -> None:
        """Write down what has become of a job since it was looked at last."""
        with self._lock:
            pod = self._pods.get(job_id)
            if pod is None:
                return
            is_alive = pod.is_alive  # before its last words are read: what it says afterwards would be missed
            state = runner.read_state(self.folder(job_id))
            if is_alive and not state.cause:
                if state.started and state != self._seen.get(job_id):
                    self._update(job_id, stage="RUNNING", started=state.started, failures=state.failures)
                    self._seen[job_id] = state
                return
            if not state.cause:
                runner.sweep(job_id)
            stage, message, reason = _outcome(state, self._ending(job_id))
            self._update(
                job_id,
                stage=stage,
                message=message,
                cancel_reason=reason,
                failures=state.failures,
                started=state.started,
                finished=state.finished or stamp(_now()),
            )
            del self._pods[job_id]
            self._seen.pop(job_id, None)
        log.info("hub emulator: job %s is %s: %s", job_id, stage, message or "no message")

    def _recover(self) -> None:
        """Find the jobs of the last server again; those that are gone end as their pods wrote, or as lost."""
        with self._hub.db.read() as db:
            rows = db.execute("SELECT * FROM jobs WHERE stage IN ('SCHEDULING', 'RUNNING')").fetchall()
        for row in rows:
            # Without a pid the server died while it launched: nothing can be alive under the empty start time.
            self._pods[row["id"]] = runner.Pod(row["pid"] or 0, row["pid_started"] or "")
            if row["ending"]:  # the last server died before it could say so
                self._pods[row["id"]].end()
            self._look(row["id"])

    def _watch(self) -> None:
        while not self._closed:
            self._wake.wait(_TICK_S if self._pods else None)
            self._wake.clear()
            for job_id in list(self._pods):
                self._look(job_id)
            for fault in ("evict", "credit-out"):
                self._strike(fault)
        self._hub.db.forget()

    def _strike(self, fault: str) -> None:
        if not self._hub.faults.is_set(fault):
            return
        running = next((job for job in reversed(self.jobs()) if job.stage == "RUNNING"), None)
        if running is None or self._hub.faults.strike(fault, "jobs") is None:
            return
        if fault == "evict":
            self.evict(running.id)
        else:
            self.end([running.id], "credit")


def _now() -> datetime:
    return datetime.now(UTC)


def fleet_of(hub: Hub) -> Fleet:
    """The jobs of a started emulator."""
    fleet = hub.parts["fleet"]
    assert isinstance(fleet, Fleet)
    return fleet


@starting
def _begin(hub: Hub) -> None:
    fleet = Fleet(hub)
    hub.parts["fleet"] = fleet
    hub.closing.append(fleet.close)
