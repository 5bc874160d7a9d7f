"""``qcity hosts``, and the scheduled job of ``qcity keep --schedule``."""

from __future__ import annotations

import argparse
import json

from qcity_nb import hosts
from qcity_nb.cli.arguments import load_settings
from qcity_nb.errors import QcityError, UsageError
from qcity_nb.hosts.hf_jobs import schedule
from qcity_nb.hosts.hf_jobs.client import JobsClient
from qcity_nb.hosts.hf_jobs.records import Flavor
from qcity_nb.settings import seconds
from qcity_nb.views.words import table

__all__ = ["list_hosts", "schedule_keeper"]

_JOBS = "hf-jobs"


def list_hosts(args: argparse.Namespace) -> int:
    """``qcity hosts``."""
    settings = load_settings(None)
    flavors: list[Flavor] = []
    trouble = ""
    try:
        flavors = JobsClient(settings.job_namespace).hardware()
    except QcityError as error:
        # No account or no network: the other hosts are listed all the same.
        trouble = str(error)
    if args.json:
        report = {
            "hosts": hosts.names(),
            "flavors": [
                {"host": f"{_JOBS}:{each.name}", "usd_per_hour": each.usd_per_hour, "detail": each.detail}
                for each in flavors
            ],
            "trouble": trouble,
        }
        print(json.dumps(report))
        return 0
    rows = [("HOST", "PRICE", "HARDWARE")]
    for name in hosts.names():
        if name == _JOBS and flavors:
            rows += [(f"{_JOBS}:{each.name}", each.price, each.detail) for each in flavors]
        elif name == _JOBS:
            rows.append((name, "not known now", trouble))
        else:
            rows.append((name, "-", "this machine" if name == "local" else ""))
    print(table(rows))
    return 0


def schedule_keeper(args: argparse.Namespace) -> int:
    """``qcity keep --schedule HOST``."""
    for option in ("once", "run", "on"):
        if getattr(args, option):
            raise UsageError(f"--{option} does not go with --schedule")
    settings = load_settings(args.store)
    if hosts.kind(args.schedule) != _JOBS:
        raise UsageError(f"--schedule {args.schedule}: only {_JOBS} can run a keeper on a schedule")
    client = JobsClient(settings.job_namespace)
    if args.list:
        watches = schedule.list_schedules(client)
        if not watches:
            print(f"{client.namespace} has no scheduled keeper")
            return 0
        rows = [("STORE", "SCHEDULE", "NEXT", "JOB")]
        rows += [
            (each.store, each.cron, "suspended" if each.is_suspended else each.next_at[:19] or "-", each.id)
            for each in watches
        ]
        print(table(rows))
        return 0
    if args.off:
        removed = schedule.forget(client, settings.store)
        print(f"{settings.store}: {'the scheduled keeper is removed' if removed else 'there was no scheduled keeper'}")
        return 0
    every_s = seconds(args.every or "10m", name="--every")
    watch, is_new = schedule.watch(settings, client, every_s, flavor=args.schedule.partition(":")[2])
    state = "scheduled" if is_new else "already scheduled"
    print(f"{watch.store}: a keeper is {state}, {watch.cron}, as job {watch.id}")
    return 0
