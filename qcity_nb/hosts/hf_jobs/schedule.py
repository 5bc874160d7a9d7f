"""A keeper that nobody has to keep running: a scheduled job that runs ``qcity keep --once``.

One for each store, found again by its label. It launches on ``hf-jobs`` alone: its container is not the user's machine.
Between two looks it costs nothing; each look is a job of a minute or two on the cheapest hardware.
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
"""For one look: pip's part of it, and the tracker's for runs that have ended."""
_JOB_SETTINGS = ("job_image", "job_timeout_s", "job_namespace", "job_secrets")
_MINUTES = (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)
_HOURS = (1, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """One store that is watched."""

    id: str
    store: str
    cron: str
    next_at: str
    is_suspended: bool


def cron(every_s: float) -> str:
    """The schedule that means each so many seconds.

    Raises:
        UsageError: a clock has no such hands; the message lists what there is.
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


def _watch(found: Schedule) -> Watch:
    return Watch(
        id=found.id,
        store=found.env.get(_STORE, found.labels[WATCH]),
        cron=found.cron,
        next_at=found.next_at,
        is_suspended=found.is_suspended,
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
        # The keeper there launches jobs as this one would.
        env={
            **around.env,
            **as_variables(settings, _JOB_SETTINGS),
            "QCITY_JOB_INSTALL": settings.job_install or "none",
        },
        secrets=around.secrets,
    )


def _is_as(found: Schedule, order: Order, schedule: str) -> bool:
    return (
        not found.is_suspended
        and (found.cron, found.image, found.flavor) == (schedule, order.image, order.flavor)
        and list(found.command) == list(order.command)
        and dict(found.env) == dict(order.env)
    )


def list_schedules(client: JobsClient) -> list[Watch]:
    """All stores that are watched in this namespace."""
    return [_watch(found) for found in client.schedules(WATCH)]


def _of(client: JobsClient, store: str) -> list[Schedule]:
    return [found for found in client.schedules(WATCH) if found.labels[WATCH] == label(store)]


def watch(settings: Settings, client: JobsClient, every_s: float, *, flavor: str = "") -> tuple[Watch, bool]:
    """Have the settings' store watched; what watches it otherwise now is taken away.

    Returns: the watch, and whether it is new.
    Raises:
        UsageError: it cannot be (no right, no credit, a store that only this machine has).
        StoreUnavailable: the service did not answer; asked again, nothing is made twice.
    """
    schedule, order = cron(every_s), _order(settings, client, flavor)
    there = _of(client, settings.store)
    same = next((found for found in there if _is_as(found, order, schedule)), None)
    kept = same
    if kept is None:
        try:
            kept = client.schedule(order, schedule)
        except StoreUnavailable:
            kept = next((found for found in _of(client, settings.store) if _is_as(found, order, schedule)), None)
            if kept is None:
                raise
    for found in there:
        if found.id != kept.id:
            client.unschedule(found.id)
    return _watch(kept), same is None


def forget(client: JobsClient, store: str) -> Sequence[Watch]:
    """Stop watching the store; what watched it."""
    there = _of(client, store)
    for found in there:
        client.unschedule(found.id)
    return [_watch(found) for found in there]
