"""Commands that look: ps, show, logs. They read the store and this machine's logs, and change nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qcity_nb import codec, hosts, settings
from qcity_nb.cli_progress import age, state_of
from qcity_nb.cli_run import address_of, short
from qcity_nb.errors import Missing, QcityError, StoreUnavailable, UnknownHost, UsageError
from qcity_nb.ports import Store
from qcity_nb.records import Event, Head
from qcity_nb.run import identity, journal, lease
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store

__all__ = ["ago", "logs", "ps", "show", "size", "table"]

_LOOK_EVERY_S = 0.5


def _since(at: str) -> float | None:
    """Seconds from an ISO time until now; for people only, as it compares two machines' clocks."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError):
        return None


def _when(at: str) -> str:
    """An ISO time in UTC, to the second."""
    return at[:19].replace("T", " ")


def ago(at: str) -> str:
    """How long ago an ISO time was, for people."""
    seconds = _since(at)
    return f"{age(seconds)} ago" if seconds is not None else "-"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as columns of text."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def ps(args: argparse.Namespace) -> int:
    """``qcity ps``."""
    given = settings.load(overrides={"store": address_of(args.state)})
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
                "attempts": head.epoch,
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


def _events(store: Store, run: str, head: Head) -> list[Event]:
    for _ in range(3):
        try:
            found = list(journal.walk(head.journal, lambda name: store.get(run, name)))
        except Missing:
            # A holder replaced the segment while we read: its head names the new one.
            head = lease.read(store, run).head
            continue
        return [codec.loads(Event, line) for line in found]
    return []


def size(size_bytes: int) -> str:
    """A number of bytes for people: 12 B, 3.4 MB."""
    left = float(size_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if left < 1000:
            return f"{left:.0f} {unit}" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1000
    return f"{left:.1f} TB"


def show(args: argparse.Namespace) -> int:
    """``qcity show``."""
    given = settings.load(overrides={"store": address_of(args.state)})
    store = open_store(given.store)
    run = identity.match(store, args.run)
    head = lease.read(store, run).head
    events = _events(store, run, head)
    names = store.names(run)
    size_bytes = sum(checkpoint.size_bytes for checkpoint in head.checkpoints)
    if args.json:
        print(
            json.dumps(
                {
                    **codec.encode(head),
                    "events": codec.encode(events),
                    "objects": len(names),
                    "checkpoint_bytes": size_bytes,
                }
            )
        )
        return 0
    rows = [
        ("run", run),
        ("state", state_of(head)),
        ("notebook", f"{head.notebook} in project {head.project}"),
        ("parameters", ", ".join(f"{key}={value!r}" for key, value in head.parameters.items()) or "-"),
        ("made", f"{_when(head.created)} ({ago(head.created)})"),
        ("hosts", ", ".join(head.wanted.hosts)),
        ("holder", lease.describe(head.holder) if head.holder else "nobody"),
        ("attempts", f"{head.epoch} of at most {head.launches.since_epoch + head.relaunch.attempts}"),
    ]
    if head.intent is not None:
        rows.append(("launching", f"{head.intent.attempt} on {head.intent.host}, by {head.intent.keeper}"))
    newest = head.checkpoint
    if newest is not None:
        rows.append(("checkpoint", f"step {newest.step}, {ago(newest.at)}, {newest.name}"))
    named = [f"{ref.label} (step {ref.step})" for ref in head.checkpoints if ref.label]
    if named:
        rows.append(("named", ", ".join(named)))
    rows.append(("stored", f"{len(names)} objects in {store.address}; checkpoints {size(size_bytes)}"))
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
    if events:
        print()
        print(table([_event_row(event) for event in events]))
    return 0


def _event_row(event: Event) -> tuple[str, str, str, str]:
    shown = {key: value for key, value in event.data.items() if value not in ("", None)}
    data = ", ".join(f"{key}: {value}" for key, value in shown.items())
    return _when(event.at), f"e{event.epoch}", event.kind, data


def _log_files(store: Store, given: Settings, run: str) -> list[Path]:
    """The logs of the run's attempts on this machine, oldest first."""
    head = lease.read(store, run).head
    attempts: dict[str, str] = {}
    for event in _events(store, run, head):
        if event.attempt:
            attempts.setdefault(event.attempt, str(event.data.get("host", "")))
    for each in (head.intent, head.holder):
        if each is not None:
            attempts[each.attempt] = each.host
    found = []
    for attempt, host in attempts.items():
        try:
            log = hosts.launcher(host or "local", given).logs(attempt)
        except UnknownHost:
            continue
        if log is not None:
            found.append(log)
    return found


def logs(args: argparse.Namespace) -> int:
    """``qcity logs``."""
    given = settings.load(overrides={"store": address_of(args.state)})
    store = open_store(given.store)
    run = identity.match(store, args.run)
    if not args.follow and not _log_files(store, given, run):
        raise UsageError(f"no attempt of {run} has a log on this machine; `qcity show {run}` says where they ran")
    read_bytes: dict[Path, int] = {}
    while True:
        is_over = lease.read(store, run).head.state != "running"
        for log in _log_files(store, given, run):
            if log not in read_bytes:
                print(f"==> {short(log)}", file=sys.stderr)
            with log.open("rb") as file:
                file.seek(read_bytes.get(log, 0))
                data = file.read()
            read_bytes[log] = read_bytes.get(log, 0) + len(data)
            sys.stdout.write(data.decode(errors="replace"))
        sys.stdout.flush()
        # The state was read before the logs, so what was written until it ended has been shown.
        if is_over or not args.follow:
            return 0
        time.sleep(_LOOK_EVERY_S)
