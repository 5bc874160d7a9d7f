"""Commands that show: ps, show, logs. They read the store and this machine's logs, and change nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from qcity_nb import codec, hosts
from qcity_nb.cli.arguments import load_settings
from qcity_nb.errors import QcityError, StoreUnavailable, UnknownHost, UsageError
from qcity_nb.ports import Store
from qcity_nb.published.read import events
from qcity_nb.records import Head
from qcity_nb.run import identity, lease
from qcity_nb.stores import open_store
from qcity_nb.views.attempts import describe_failed_launches
from qcity_nb.views.words import ago, event_row, place_of, short, size, state_of, table, when

__all__ = ["logs", "ps", "show"]

_CHECK_EVERY_S = 0.5


def ps(args: argparse.Namespace) -> int:
    """``qcity ps``."""
    settings = load_settings(args.store)
    store = open_store(settings.store)
    rows: list[dict[str, Any]] = []
    for run in store.runs():
        try:
            head = lease.read(store, run).head
        except StoreUnavailable:
            raise
        except QcityError as error:
            # One damaged run record must not hide the other runs.
            rows.append({"run": run, "state": "unreadable", "error": str(error)})
            continue
        newest = head.checkpoint
        rows.append(
            {
                "run": run,
                "state": state_of(head),
                "host": head.holder.host if head.holder else None,
                "step": newest.step if newest else None,
                "checkpoint_at": newest.at if newest else None,
                "attempts": head.term,
                "notebook": head.notebook,
            }
        )
    if args.json:
        print(json.dumps(rows))
        return 0
    if not rows:
        print(f"no runs in {store.address}; `qcity run NOTEBOOK` starts one")
        return 0
    lines = [("RUN", "STATE", "HOST", "STEP", "SAVED", "ATTEMPT")]
    lines += [
        (
            row["run"],
            row["state"],
            row.get("host") or "-",
            "-" if row.get("step") is None else str(row["step"]),
            ago(row["checkpoint_at"]) if row.get("checkpoint_at") else "-",
            str(row.get("attempts") or "-"),
        )
        for row in rows
    ]
    print(table(lines))
    return 0


def show(args: argparse.Namespace) -> int:
    """``qcity show``."""
    settings = load_settings(args.store)
    store = open_store(settings.store)
    run = identity.match(store, args.run)
    head = lease.read(store, run).head
    history = events(store, run, head)
    used = store.usage(run)
    if args.json:
        print(
            json.dumps(
                {
                    **codec.encode(head),
                    "events": codec.encode(history),
                    "objects": used.objects,
                    "stored_bytes": used.size_bytes,
                    "held_bytes": used.held_bytes,
                }
            )
        )
        return 0
    rows = [
        ("run", run),
        ("state", state_of(head)),
        ("notebook", f"{head.notebook} in project {head.project}"),
        ("parameters", ", ".join(f"{key}={value!r}" for key, value in head.parameters.items()) or "-"),
        ("created", f"{when(head.created)} ({ago(head.created)})"),
        ("hosts", ", ".join(head.desired.hosts)),
        ("holder", lease.describe(head)),
        ("attempt", _attempt_of(head)),
    ]
    if head.pending_launch is not None:
        rows.append(
            (
                "launching",
                f"{head.pending_launch.attempt} on {head.pending_launch.host}, by {head.pending_launch.keeper}",
            )
        )
    newest = head.checkpoint
    if newest is not None:
        rows.append(("checkpoint", f"{place_of(newest)}, {ago(newest.at)}, {newest.name}"))
    named = [f"{ref.label} (step {ref.step})" for ref in head.checkpoints if ref.label]
    if named:
        rows.append(("named", ", ".join(named)))
    held = f", and {size(used.held_bytes)} deleted but not freed yet" if used.held_bytes else ""
    rows.append(("stored", f"{size(used.size_bytes)} in {used.objects} objects in {store.address}{held}"))
    if head.tracked.uri:
        rows.append(("tracker", f"{head.tracked.uri} run {head.tracked.run_id}: {head.tracked.status}"))
    if head.output:
        rows.append(("executed", short(settings.project.root / head.output)))
    print(table(rows))
    if head.failure is not None:
        times = f", {head.failure.times} times" if head.failure.times > 1 else ""
        print(f"\nfailure of the {head.failure.cause}{times}: {head.failure.message}")
        if head.failure.traceback:
            print(head.failure.traceback.rstrip())
    if history:
        print()
        print(table([event_row(event) for event in history]))
    return 0


def _attempt_of(head: Head) -> str:
    """3 of at most 50; 2 launches failed before it began."""
    limit = head.launches.since_term + head.relaunch.max_attempts
    failed = describe_failed_launches(head)
    return f"{head.term or 'none yet'} of at most {limit}" + (f"; {failed}" if failed else "")


def _attempts(store: Store, run: str, head: Head) -> dict[str, str]:
    """The run's attempts, oldest first, each with its host."""
    attempts: dict[str, str] = {}
    for event in events(store, run, head):
        if event.attempt:
            attempts.setdefault(event.attempt, str(event.data.get("host", "")))
    for each in (head.pending_launch, head.holder):
        if each is not None:
            attempts[each.attempt] = each.host
    return attempts


def _ask_ended(store: Store, run: str, attempt: str, every_s: float) -> Callable[[], bool]:
    """A function that tells whether the run has ended or continued without this attempt; it asks the store rarely."""
    answer, asked_s = False, float("-inf")

    def ask() -> bool:
        nonlocal answer, asked_s
        if not answer and time.monotonic() - asked_s >= every_s:
            head = lease.read(store, run).head
            holding = {each.attempt for each in (head.holder, head.pending_launch) if each is not None}
            answer, asked_s = head.state != "running" or attempt not in holding, time.monotonic()
        return answer

    return ask


def logs(args: argparse.Namespace) -> int:
    """``qcity logs``."""
    settings = load_settings(args.store)
    store = open_store(settings.store)
    run = identity.match(store, args.run)
    every_s = max(_CHECK_EVERY_S, min(5.0, settings.heartbeat_s / 4))
    shown: set[str] = set()
    while True:
        head = lease.read(store, run).head
        for attempt, host in _attempts(store, run, head).items():
            if attempt in shown:
                continue
            until = _ask_ended(store, run, attempt, every_s) if args.follow else None
            try:
                pieces = hosts.launcher(host or "local", settings).follow(attempt, until=until)
                if pieces is None:
                    continue  # not yet, or on another machine
                shown.add(attempt)
                print(f"==> {attempt}{f' on {host}' if host else ''}", file=sys.stderr)
                for piece in pieces:
                    sys.stdout.write(piece)
                    sys.stdout.flush()
            except UnknownHost:
                continue
            except QcityError as error:
                # A host that does not answer must not hide the logs of the others.
                shown.add(attempt)
                print(f"==> {attempt} on {host}: {error}", file=sys.stderr)
        if head.state != "running" or not args.follow:
            break
        time.sleep(every_s)
    if not shown and not args.follow:
        raise UsageError(f"no attempt of {run} has a log on this machine; `qcity show {run}` says where they ran")
    return 0
