"""Commands that act: run, keep, stop, resume, init, demo."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from qcity_nb import hosts, settings
from qcity_nb.cli.arguments import address_of, settings_for
from qcity_nb.cli.bundle import pack_for_hosts
from qcity_nb.cli.control import ask_stop, check_hosts, check_kernel, detach, tracking_finisher
from qcity_nb.cli.foreground import SETTLE_S, follow, sigterm_as_ctrl_c
from qcity_nb.cli.progress import Progress
from qcity_nb.engine import parameters
from qcity_nb.errors import UsageError
from qcity_nb.hosts.local.launcher import wait_for_end
from qcity_nb.ports import Store
from qcity_nb.records import DesiredState, Relaunch
from qcity_nb.run import identity, lease
from qcity_nb.run.keeper import Keeper, Outcome, is_tracking_finished
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store
from qcity_nb.views.words import place_of, short, state_of

__all__ = ["init", "keep", "resume", "run", "stop"]


def run(args: argparse.Namespace) -> int:
    """``qcity run``."""
    path = Path(args.notebook).expanduser().absolute()
    given = settings_for(path, args.store)
    asked = parameters.read(path)
    values = parameters.type_parameters(asked, [(name, text) for name, text in args.parameter], notebook=path.name)
    names = args.on or given.hosts
    check_hosts(names, given)
    if names == ("local",):
        check_kernel(asked.kernel, path)
    root = given.project.root
    inside = path.is_relative_to(root)
    output = ".qcity/executed/{run}.ipynb"
    if args.output:
        out = Path(args.output).expanduser().absolute()
        if not out.parent.is_dir():
            raise UsageError(f"-o {args.output}: there is no directory {short(out.parent)}")
        output = out.relative_to(root).as_posix() if out.is_relative_to(root) else str(out)
    store = open_store(given.store)
    note = Progress(sys.stderr)
    bundle = pack_for_hosts(given, names, note.say)
    head, is_new = identity.find_or_create(
        store,
        project=given.project.name,
        notebook=path.relative_to(root).as_posix() if inside else path.name,
        parameters=values,
        name=args.name,
        fresh=args.fresh,
        source=asked.content,
        bundle=bundle,
        output=output,
        desired=DesiredState(hosts=names),
        relaunch=Relaunch(
            max_attempts=given.max_attempts,
            max_attempts_without_progress=given.max_attempts_without_progress,
            stall_timeout_s=given.stall_timeout_s,
        ),
    )
    if is_new:
        note.say(f"{head.run}: new run of {short(path)}")
    else:
        step = f" after {place_of(head.checkpoint)}" if head.checkpoint else ""
        note.say(f"{head.run}: unfinished, goes on{step} (--fresh begins a new one)")
        head = identity.reopen(store, head.run, hosts=args.on or (), output=output if args.output else "")
        if head.source != identity.source_name(asked.content):
            note.say(f"{head.run}: the notebook has changed since the run began; it goes on with the new one")
            head = identity.renew_source(store, head, asked.content)
        if head.bundle != bundle[0]:
            head = identity.renew_bundle(store, head, bundle)
    return _follow_run(store, given, head.run, args, note)


def resume(args: argparse.Namespace) -> int:
    """``qcity resume``."""
    given = settings.load(overrides={"store": address_of(args.store)})
    store = open_store(given.store)
    name = identity.match(store, args.run)
    if args.on:
        check_hosts(args.on, given)
    head = identity.reopen(store, name, hosts=args.on or (), once=args.once or "")
    note = Progress(sys.stderr)
    if args.on and head.project == given.project.name:
        head = identity.renew_bundle(store, head, pack_for_hosts(given, args.on, note.say))
    step = f" after {place_of(head.checkpoint)}" if head.checkpoint else ""
    note.say(f"{name}: goes on{step}")
    return _follow_run(store, given, name, args, note)


def _follow_run(store: Store, given: Settings, run: str, args: argparse.Namespace, note: Progress) -> int:
    if not args.detach:
        return follow(store, given, run, note, as_json=args.json)
    log = detach(store, given, run)
    note.say(f"{run}: a keeper works in the background; its log is {short(log)}")
    print(json.dumps({"run": run, "keeper_log": str(log)}) if args.json else run)
    return 0


def keep(args: argparse.Namespace) -> int:
    """``qcity keep``."""
    given = settings.load(overrides={"store": address_of(args.store)})
    store = open_store(given.store)
    runs = [identity.match(store, name) for name in args.run] if args.run else None
    note = Progress(sys.stdout, live=False)
    ended_s: dict[str, float] = {}

    def is_done(last: Mapping[str, Outcome]) -> bool:
        for run in runs or ():
            head = last[run].head
            if head is None or head.state == "running":
                ended_s.pop(run, None)
                return False
            since_s = ended_s.setdefault(run, time.monotonic())
            if not is_tracking_finished(head, tracking=given.tracking) and time.monotonic() - since_s < SETTLE_S:
                return False
        return runs is not None

    with sigterm_as_ctrl_c():
        Keeper(
            store,
            given,
            launchers=hosts.finder(given, args.on or ()),
            finish_tracking=tracking_finisher(store, given),
            pause=wait_for_end,
        ).keep(runs, once=args.once, until=is_done, see=note.see)
    return 0


def stop(args: argparse.Namespace) -> int:
    """``qcity stop``."""
    given = settings.load(overrides={"store": address_of(args.store)})
    store = open_store(given.store)
    run = identity.match(store, args.run)
    before = lease.read(store, run).head
    if before.state != "running":
        print(f"{run}: {state_of(before)} already")
        return 0
    head = ask_stop(store, run)
    if head.state == "stopped":
        print(f"{run}: stopped; `qcity resume {run}` goes on")
    else:
        print(f"{run}: stops at the next loop boundary, its work saved")
    return 0


def init(args: argparse.Namespace) -> int:
    """``qcity init``."""
    from qcity_nb.cli import templates

    folder = Path(args.directory)
    written = templates.extract(args.template or templates.names()[0], folder)
    for file in written:
        print(file)
    notebook = next((file.relative_to(folder) for file in written if file.suffix == ".ipynb"), None)
    step = f"{'' if folder == Path() else f'cd {folder} && '}qcity run {notebook}" if notebook else folder / "README.md"
    print(f"next: {step}")
    return 0
