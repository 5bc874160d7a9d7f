"""Commands about hosts: hosts, watch-on."""

from __future__ import annotations

import argparse
import json

from qcity_nb import hosts, settings
from qcity_nb.cli.arguments import address_of
from qcity_nb.errors import QcityError, UsageError
from qcity_nb.hosts.hf_jobs import schedule
from qcity_nb.hosts.hf_jobs.client import JobsClient
from qcity_nb.hosts.hf_jobs.records import Flavor
from qcity_nb.views.words import table

__all__ = ["list_hosts", "watch_on"]

_JOBS = "hf-jobs"


def list_hosts(args: argparse.Namespace) -> int:
    """``qcity hosts``."""
    given = settings.load()
    flavors: list[Flavor] = []
    trouble = ""
    try:
        flavors = JobsClient(given.job_namespace).hardware()
    except QcityError as error:
        # No account, no network: the other hosts are no less there.
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


def watch_on(args: argparse.Namespace) -> int:
    """``qcity watch-on``."""
    given = settings.load(overrides={"store": address_of(args.store)})
    if hosts.kind(args.host) != _JOBS:
        raise UsageError(f"watch-on {args.host}: only {_JOBS} can run a keeper on a schedule")
    client = JobsClient(given.job_namespace)
    if args.list:
        found = schedule.list_schedules(client)
        if not found:
            print(f"no store is watched by jobs of {client.namespace}")
            return 0
        rows = [("STORE", "SCHEDULE", "NEXT", "JOB")]
        rows += [
            (each.store, each.cron, "suspended" if each.is_suspended else each.next_at[:19] or "-", each.id)
            for each in found
        ]
        print(table(rows))
        return 0
    if args.off:
        gone = schedule.forget(client, given.store)
        print(f"{given.store}: {'no longer watched' if gone else 'was not watched'}")
        return 0
    every_s = settings.seconds(args.every, name="--every")
    watch, is_new = schedule.watch(given, client, every_s, flavor=args.host.partition(":")[2])
    print(f"{watch.store}: {'watched' if is_new else 'watched already'}, {watch.cron}, by scheduled job {watch.id}")
    return 0
