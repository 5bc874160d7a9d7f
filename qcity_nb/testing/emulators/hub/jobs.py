"""Jobs over HTTP: run, list, inspect, cancel, labels, logs and metrics as streams, hardware."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qcity_nb.testing.emulators.hub import runner
from qcity_nb.testing.emulators.hub.accounts import object_id
from qcity_nb.testing.emulators.hub.emulator import Hub, before
from qcity_nb.testing.emulators.hub.fleet import TERMINAL, Fleet, Job, fleet_of
from qcity_nb.testing.emulators.hub.hardware import FLAVORS
from qcity_nb.testing.emulators.hub.job_spec import answer_spec, read_body, read_labels, read_ports, read_spec
from qcity_nb.testing.emulators.hub.web import Gone, HubError, Kind, Request, Response, page_of, route

__all__ = [
    "answer",
    "cancel",
    "duplicate",
    "expose",
    "find",
    "hardware",
    "inspect",
    "label",
    "listed",
    "logs",
    "matches",
    "metrics",
    "owner_of",
    "run",
    "read_label_filters",
]

PAGE = 100
KEEP_ALIVE_S = 30.0
"""Source: huggingface_hub, HfApi.fetch_job_logs."""

_POLL_S = 0.05
_SSE = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
_STAGES = (*TERMINAL, "RUNNING", "SCHEDULING")
_LABEL_FILTER = re.compile(r"[a-zA-Z0-9._-]+=[a-zA-Z0-9._-]*")
_JOBS = r"/api/jobs/(?P<namespace>[^/]+)"
_JOB = _JOBS + r"/(?P<job_id>[^/]+)"


@before
def _down(hub: Hub, request: Request, kind: Kind) -> Response | None:
    if kind == "jobs" and hub.faults.strike("jobs-down", kind) is not None:
        raise HubError(503, "Service Unavailable")
    return None


def owner_of(hub: Hub, name: str) -> dict[str, Any]:
    """A namespace, as answers about jobs name it."""
    kind = "user" if name in hub.users.names() else "org"
    return {"id": object_id(kind, name), "name": name, "type": kind, "avatarUrl": ""}


def _seconds(start: str | None, end: str | None) -> int | None:
    if start is None:
        return None
    until = datetime.fromisoformat(end) if end else datetime.now(UTC)
    return max(0, round((until - datetime.fromisoformat(start)).total_seconds()))


def answer(hub: Hub, job: Job) -> dict[str, Any]:
    """A job as the API shows it: of its secrets, the names."""
    result: dict[str, Any] = {
        "id": job.id,
        "type": "job",
        "createdAt": job.created,
        "createdBy": {"id": object_id("user", job.creator), "name": job.creator},
        "owner": owner_of(hub, job.namespace),
        "initiator": job.initiator,
        "status": {"stage": job.stage, "message": job.message, "failureCount": job.failures},
        **answer_spec(job.spec),
    }
    if job.cancel_reason:
        result["status"]["cancelReason"] = job.cancel_reason
    durations = {
        "schedulingSecs": _seconds(job.created, job.started) if job.started else None,
        "runningSecs": _seconds(job.started, job.finished),
        "totalSecs": _seconds(job.created, job.finished),
    }
    result["durations"] = {name: value for name, value in durations.items() if value is not None}
    for name, moment in (("startedAt", job.started), ("finishedAt", job.finished)):
        if moment:
            result[name] = moment
    return result


def find(hub: Hub, request: Request, namespace: str, job_id: str, need: str = "read") -> Job:
    """A job of a namespace that the user may see, or change if ``need`` is ``write``.

    Raises:
        HubError: 401, 403, or 404 if there is none.
    """
    hub.require(request, need, owner=namespace, scope=f"job.{need}")
    job = fleet_of(hub).get(job_id)
    if job is None or job.namespace != namespace:
        raise HubError(404, "Job not found")
    return job


def read_label_filters(request: Request) -> list[str]:
    """The labels that a list is filtered by.

    Raises:
        HubError: 400, one is not of the form ``key=value``.
    """
    filters = request.queries.get("label", [])
    if not all(_LABEL_FILTER.fullmatch(each) for each in filters):
        raise HubError(400, "Invalid input: a label filter is key=value")
    return filters


def matches(labels: dict[str, str], filters: list[str]) -> bool:
    """Whether the labels have all of the ``key=value`` filters."""
    return all(labels.get(name) == value for name, _, value in (each.partition("=") for each in filters))


@route("GET", "/api/jobs/hardware", kind="jobs")
def hardware(hub: Hub, request: Request) -> Response:
    """What there is, and what it costs a minute; no token is needed."""
    return Response.json([flavor.answer() for flavor in FLAVORS.values()])


@route("POST", _JOBS, kind="jobs")
def run(hub: Hub, request: Request, namespace: str) -> Response:
    """Run a job."""
    user = hub.require(request, "write", owner=namespace, scope="job.write")
    spec, secrets = read_spec(request.json())
    initiator = owner_of(hub, user.name)
    job = fleet_of(hub).start(namespace, spec, secrets, creator=user.name, initiator=initiator)
    if hub.faults.strike("job-lost", "jobs") is not None:
        raise Gone
    return Response.json(answer(hub, job))


@route("GET", _JOBS, kind="jobs")
def listed(hub: Hub, request: Request, namespace: str) -> Response:
    """A namespace's jobs, the newest first, by label and stage, in pages."""
    hub.require(request, "read", owner=namespace, scope="job.read")
    labels, stages = read_label_filters(request), request.queries.get("stage", [])
    if not set(stages) <= set(_STAGES):
        raise HubError(400, f"Invalid input: a stage is one of {'|'.join(_STAGES)}")
    jobs = [
        job
        for job in fleet_of(hub).jobs(namespace)
        if matches(job.spec["labels"], labels) and (not stages or job.stage in stages)
    ]
    page, headers = page_of(request, jobs, PAGE)
    return Response.json([answer(hub, job) for job in page], headers=headers)


@route("GET", _JOB, kind="jobs")
def inspect(hub: Hub, request: Request, namespace: str, job_id: str) -> Response:
    """One job."""
    return Response.json(answer(hub, find(hub, request, namespace, job_id)))


@route("POST", _JOB + "/cancel", kind="jobs")
def cancel(hub: Hub, request: Request, namespace: str, job_id: str) -> Response:
    """Kill a job; one that is over stays as it is. Answers when its processes are gone."""
    find(hub, request, namespace, job_id, "write")
    fleet_of(hub).end([job_id])
    return Response.json(answer(hub, find(hub, request, namespace, job_id)))


@route("POST", _JOB + "/duplicate", kind="jobs")
def duplicate(hub: Hub, request: Request, namespace: str, job_id: str) -> Response:
    """Run a job's spec again, unless it had secrets: these are not kept."""
    job = find(hub, request, namespace, job_id, "write")
    if job.spec["secrets"]:
        raise HubError(501, "The Hub emulator keeps no job's secrets; run the job anew, with them")
    user = hub.require(request)
    initiator = {"type": "duplicated-job", "id": job.id}
    again = fleet_of(hub).start(namespace, job.spec, {}, creator=user.name, initiator=initiator)
    return Response.json(answer(hub, again))


@route("PUT", _JOB + "/labels", kind="jobs")
def label(hub: Hub, request: Request, namespace: str, job_id: str) -> Response:
    """Replace a job's labels."""
    find(hub, request, namespace, job_id, "write")
    fleet_of(hub).relabel(job_id, labels=read_labels(read_body(request).get("labels")))
    return Response.json(answer(hub, find(hub, request, namespace, job_id)))


@route("PUT", _JOB + "/expose", kind="jobs")
def expose(hub: Hub, request: Request, namespace: str, job_id: str) -> Response:
    """Replace the ports that a running job exposes: they are recorded, and nothing is exposed."""
    if find(hub, request, namespace, job_id, "write").is_over:
        raise HubError(400, "Job is not running")
    fleet_of(hub).relabel(job_id, expose=read_ports(read_body(request)))
    return Response.json(answer(hub, find(hub, request, namespace, job_id)))


@route("GET", _JOB + "/logs", kind="jobs")
def logs(hub: Hub, request: Request, namespace: str, job_id: str) -> Response:
    """The log from its beginning, or its last lines, then what follows until the job is over."""
    job = find(hub, request, namespace, job_id)
    tail = request.query.get("tail", "")
    if tail and not tail.isdecimal():
        raise HubError(400, "Invalid input: tail is a number")
    return Response(200, _log_events(hub, job.id, int(tail) if tail else None), dict(_SSE))


def _log_events(hub: Hub, job_id: str, tail: int | None) -> Iterator[bytes]:
    fleet = fleet_of(hub)
    folder = fleet.folder(job_id)
    offset, spoke = 0, time.monotonic()
    while True:
        is_over = _is_over(fleet, job_id)  # before the log is read: what follows this is the whole of it
        lines = list(runner.log_lines(folder, offset))
        offset = lines[-1][1] if lines else offset
        for line, _ in lines if tail is None else lines[max(0, len(lines) - tail) :]:
            yield b"data: " + line + b"\n\n"
            spoke = time.monotonic()
        tail = None
        if is_over:
            return
        if hub.stopping.wait(_POLL_S):
            raise Gone  # an end in order would say that the job is over
        if time.monotonic() - spoke > KEEP_ALIVE_S:
            yield b": keep-alive\n\n"
            spoke = time.monotonic()


def _is_over(fleet: Fleet, job_id: str) -> bool:
    job = fleet.get(job_id)
    return job is None or job.is_over


@route("GET", _JOB + "/metrics", kind="jobs")
def metrics(hub: Hub, request: Request, namespace: str, job_id: str) -> Response:
    """A sample each second of what the job's processes use; 406 once it is over."""
    job = find(hub, request, namespace, job_id)
    if job.is_over:
        raise HubError(406, "Job is not running")
    return Response(200, _samples(hub, job), dict(_SSE))


def _samples(hub: Hub, job: Job) -> Iterator[bytes]:
    flavor = FLAVORS[job.spec["flavor"]]
    fleet = fleet_of(hub)
    used, then = 0.0, time.monotonic()
    while not _is_over(fleet, job.id):
        cpu_s, memory = _usage(job.id)
        now = time.monotonic()
        share = max(0.0, cpu_s - used) / (now - then) if used and now > then else 0.0
        used, then = cpu_s, now
        sample = {
            "cpu_usage_pct": round(100 * share / flavor.cores),
            "cpu_millicores": flavor.cores * 1000,
            "memory_used_bytes": memory,
            "memory_total_bytes": flavor.memory << 30,
            "rx_bps": 0,
            "tx_bps": 0,
            "gpus": {},
            "replica": job.id[-5:],
        }
        yield f"event: metric\ndata: {json.dumps(sample)}\n\n".encode()
        if hub.stopping.wait(1.0):
            raise Gone


def _usage(job_id: str) -> tuple[float, int]:
    """Processor seconds and resident bytes of the processes that have the job's id; nothing where there is no /proc."""
    variable = f"JOB_ID={job_id}".encode()
    cpu_s, memory = 0.0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable in (folder / "environ").read_bytes().split(b"\0"):
                fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            continue
    return cpu_s, memory
