"""Commands that look: ps, show, logs. They read the store and this machine's logs, and change nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from qcity_nb import codec, hosts, settings
from qcity_nb.cli.arguments import address_of
from qcity_nb.errors import QcityError, StoreUnavailable, UnknownHost, UsageError
from qcity_nb.ports import Store
from qcity_nb.published.read import events
from qcity_nb.records import Head
from qcity_nb.run import identity, lease
from qcity_nb.stores import open_store
from qcity_nb.views.words import ago, event_row, place_of, short, size, state_of, table, when

__all__ = ["logs", "ps", "show"]

_LOOK_EVERY_S = 0.5


def ps(args: argparse.Namespace) -> int:
    """``qcity ps``."""
    given = settings.load(overrides={"store": address_of(args.store)})
    store = open_store(given.store)
    facts: list[dict[str, Any]] = []
    for run in store.runs():
        try:
            head = lease.read(store, run).head
        except StoreUnavailable:
            raise
        except QcityError as error:
            # One bad head must not hide the others.
            facts.append({"run": run, "state": "unreadable", "error": str(error)})
            continue
        newest = head.checkpoint
        facts.append(
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
        print(json.dumps(facts))
        return 0
    if not facts:
        print(f"no runs in {store.address}; `qcity run NOTEBOOK` begins one")
        return 0
    rows = [("RUN", "STATE", "HOST", "STEP", "SAVED", "ATTEMPTS")]
    rows += [
        (
            fact["run"],
            fact["state"],
            fact.get("host") or "-",
            "-" if fact.get("step") is None else str(fact["step"]),
            ago(fact["checkpoint_at"]) if fact.get("checkpoint_at") else "-",
            str(fact.get("attempts", "-")),
        )
        for fact in facts
    ]
    print(table(rows))
    return 0


def show(args: argparse.Namespace) -> int:
    """``qcity show``."""
    given = settings.load(overrides={"store": address_of(args.store)})
    store = open_store(given.store)
    run = identity.match(store, args.run)
    head = lease.read(store, run).head
    story = events(store, run, head)
    used = store.usage(run)
    if args.json:
        print(
            json.dumps(
                {
                    **codec.encode(head),
                    "events": codec.encode(story),
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
        ("made", f"{when(head.created)} ({ago(head.created)})"),
        ("hosts", ", ".join(head.desired.hosts)),
        ("holder", lease.describe(head)),
        ("attempts", f"{head.term} of at most {head.launches.since_term + head.relaunch.max_attempts}"),
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
    held = f", and {size(used.held_bytes)} deleted but not given back yet" if used.held_bytes else ""
    rows.append(("stored", f"{size(used.size_bytes)} in {used.objects} objects in {store.address}{held}"))
    if head.tracked.uri:
        rows.append(("tracker", f"{head.tracked.uri} run {head.tracked.run_id}: {head.tracked.status}"))
    if head.output:
        rows.append(("executed", short(given.project.root / head.output)))
    print(table(rows))
    if head.failure is not None:
        times = f", {head.failure.times} times" if head.failure.times > 1 else ""
        print(f"\nfailure of the {head.failure.cause}{times}: {head.failure.message}")
        if head.failure.traceback:
            print(head.failure.traceback.rstrip())
    if story:
        print()
        print(table([event_row(event) for event in story]))
    return 0


def _attempts(store: Store, run: str, head: Head) -> dict[str, str]:
    """The run's attempts, oldest first, each with its host."""
    found: dict[str, str] = {}
    for event in events(store, run, head):
        if event.attempt:
            found.setdefault(event.attempt, str(event.data.get("host", "")))
    for each in (head.pending_launch, head.holder):
        if each is not None:
            found[each.attempt] = each.host
    return found


def _outlived(store: Store, run: str, attempt: str, every_s: float) -> Callable[[], bool]:
    """Tells whether the run has gone on without this attempt; asks the store now and then only."""
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
    given = settings.load(overrides={"store": address_of(args.store)})
    store = open_store(given.store)
    run = identity.match(store, args.run)
    every_s = max(_LOOK_EVERY_S, min(5.0, given.heartbeat_s / 4))
    shown: set[str] = set()
    while True:
        head = lease.read(store, run).head
        for attempt, host in _attempts(store, run, head).items():
            if attempt in shown:
                continue
            until = _outlived(store, run, attempt, every_s) if args.follow else None
            try:
                pieces = hosts.launcher(host or "local", given).follow(attempt, until=until)
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
                # One host that does not answer must not hide what the others have.
                shown.add(attempt)
                print(f"==> {attempt} on {host}: {error}", file=sys.stderr)
        if head.state != "running" or not args.follow:
            break
        time.sleep(every_s)
    if not shown and not args.follow:
        raise UsageError(f"no attempt of {run} has a log on this machine; `qcity show {run}` says where they ran")
    return 0
