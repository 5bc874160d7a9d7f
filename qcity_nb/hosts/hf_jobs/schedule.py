"""A keeper without a machine of its own: a scheduled job that runs ``qcity keep --once``.

There is one for each store, found again by its label. It launches only on ``hf-jobs``: its container is not the user's
machine. It costs nothing between two rounds; each round is a job of a minute or two on the cheapest hardware.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qcity_nb.errors import StoreUnavailable, UsageError
from qcity_nb.hosts.hf_jobs.client import JobsClient
from qcity_nb.hosts.hf_jobs.launcher import DEFAULT_FLAVOR, as_variables, command, environment, label
from qcity_nb.hosts.hf_jobs.records import Order, Schedule
from qcity_nb.settings import Settings

__all__ = ["WATCH", "Watch", "cron", "forget", "list_schedules", "watch"]

WATCH = "qcity-watch"
"""The label's key; its value stands for the store."""
_STORE = "QCITY_STORE"
_TIMEOUT_S = 1200.0
"""For one round: it includes pip's work, and finishing the tracking of runs that have ended."""
_JOB_SETTINGS = ("job_image", "job_timeout_s", "job_namespace", "job_secrets")
_MINUTES = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
_HOURS = (1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A schedule that keeps one store's runs."""

    id: str
    store: str
    cron: str
    next_at: str
    is_suspended: bool


def cron(every_s: float) -> str:
    """The cron expression for once in ``every_s`` seconds.

    Raises:
        UsageError: cron cannot express it; the message lists what it can.
    """
    for unit_s, parts, text in ((60, _MINUTES, "*/{} * * * *"), (3600, _HOURS, "0 */{} * * *")):
        if every_s % unit_s == 0 and every_s / unit_s in parts:
            return text.format(round(every_s / unit_s))
    if every_s == 86_400:
        return "0 0 * * *"
    raise UsageError(
        f"--every {every_s:g} s: choose {', '.join(map(str, _MINUTES))} minutes, "
        f"{', '.join(map(str, _HOURS))} hours or 1d"
    )


def _watch_of(schedule: Schedule) -> Watch:
    return Watch(
        id=schedule.id,
        store=schedule.env.get(_STORE, schedule.labels[WATCH]),
        cron=schedule.cron,
        next_at=schedule.next_at,
        is_suspended=schedule.is_suspended,
    )


def _order(settings: Settings, client: JobsClient, flavor: str) -> Order:
    around = environment(settings, client, settings.store)
    words = ["python", "-m", "qcity_nb.cli", "keep", "--once", "--on", "hf-jobs", "--store", settings.store]
    return Order(
        image=settings.job_image,
        command=command(settings, words),
        flavor=flavor or DEFAULT_FLAVOR,
        timeout_s=_TIMEOUT_S,
        labels={WATCH: label(settings.store), "name": "qcity-watch"},
        # The keeper there launches jobs with this machine's settings.
        env={
            **around.env,
            **as_variables(settings, _JOB_SETTINGS),
            "QCITY_JOB_INSTALL": settings.job_install or "none",
        },
        secrets=around.secrets,
    )


def _is_same(schedule: Schedule, order: Order, expression: str) -> bool:
    return (
        not schedule.is_suspended
        and (schedule.cron, schedule.image, schedule.flavor) == (expression, order.image, order.flavor)
        and list(schedule.command) == list(order.command)
        and dict(schedule.env) == dict(order.env)
    )


def list_schedules(client: JobsClient) -> list[Watch]:
    """The schedules of all stores in this namespace."""
    return [_watch_of(schedule) for schedule in client.schedules(WATCH)]


def _schedules_of(client: JobsClient, store: str) -> list[Schedule]:
    return [schedule for schedule in client.schedules(WATCH) if schedule.labels[WATCH] == label(store)]


def watch(settings: Settings, client: JobsClient, every_s: float, *, flavor: str = "") -> tuple[Watch, bool]:
    """Keep the runs of the settings' store on a schedule. Other schedules for this store are deleted.

    Returns: the schedule, and whether it is new.
    Raises:
        UsageError: it is not possible (no permission, no credit, a store that only this machine can reach).
        StoreUnavailable: the service did not answer; calling again makes nothing twice.
    """
    expression, order = cron(every_s), _order(settings, client, flavor)
    schedules = _schedules_of(client, settings.store)
    same = next((each for each in schedules if _is_same(each, order, expression)), None)
    kept = same
    if kept is None:
        try:
            kept = client.schedule(order, expression)
        except StoreUnavailable:
            again = _schedules_of(client, settings.store)
            kept = next((each for each in again if _is_same(each, order, expression)), None)
            if kept is None:
                raise
    for schedule in schedules:
        if schedule.id != kept.id:
            client.unschedule(schedule.id)
    return _watch_of(kept), same is None


def forget(client: JobsClient, store: str) -> Sequence[Watch]:
    """Delete the store's schedules; returns what they were."""
    schedules = _schedules_of(client, store)
    for schedule in schedules:
        client.unschedule(schedule.id)
    return [_watch_of(schedule) for schedule in schedules]
