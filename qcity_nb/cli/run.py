"""Commands that act: run, keep, stop, resume, init."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from qcity_nb import hosts
from qcity_nb.cli.arguments import load_settings, settings_for
from qcity_nb.cli.bundle import pack_for_hosts
from qcity_nb.cli.control import ask_stop, check_hosts, check_kernel, detach, tracking_finisher
from qcity_nb.cli.foreground import TRACKING_WAIT_S, follow, sigterm_as_ctrl_c
from qcity_nb.cli.progress import Progress
from qcity_nb.engine import parameters
from qcity_nb.errors import UsageError
from qcity_nb.hosts.local.launcher import wait_for_end
from qcity_nb.ports import Store
from qcity_nb.records import DesiredState, Relaunch
from qcity_nb.run import identity, lease
from qcity_nb.run.keeper import Keeper, Outcome, is_tracking_finished
from qcity_nb.run.same_notebook import cells_of, check_same_notebook
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store
from qcity_nb.views.words import place_of, short, state_of

__all__ = ["init", "keep", "resume", "run", "stop"]


def run(args: argparse.Namespace) -> int:
    """``qcity run``."""
    path = Path(args.notebook).expanduser().absolute()
    settings = settings_for(path, args.store)
    source = parameters.read(path)
    values = parameters.type_parameters(source, [(name, text) for name, text in args.parameter], notebook=path.name)
    names = args.on or settings.hosts
    check_hosts(names, settings)
    if names == ("local",):
        check_kernel(source.kernel, path)
    root = settings.project.root
    inside = path.is_relative_to(root)
    output = ".qcity/executed/{run}.ipynb"
    if args.output:
        out = Path(args.output).expanduser().absolute()
        if not out.parent.is_dir():
            raise UsageError(f"-o {args.output}: there is no directory {short(out.parent)}")
        output = out.relative_to(root).as_posix() if out.is_relative_to(root) else str(out)
    store = open_store(settings.store)
    note = Progress(sys.stderr)
    bundle = pack_for_hosts(settings, names, note.say)
    head, is_new = identity.find_or_create(
        store,
        project=settings.project.name,
        notebook=path.relative_to(root).as_posix() if inside else path.name,
        parameters=values,
        name=args.name,
        fresh=args.fresh,
        source=source.content,
        bundle=bundle,
        output=output,
        desired=DesiredState(hosts=names),
        relaunch=Relaunch(
            max_attempts=settings.max_attempts,
            max_attempts_without_progress=settings.max_attempts_without_progress,
            stall_timeout_s=settings.stall_timeout_s,
        ),
    )
    if is_new:
        note.say(f"{head.run}: new run of {short(path)}")
    else:
        cells = cells_of(source.content)
        check_same_notebook(store, head, settings.project, cells, name="--name NAME", fresh="--fresh")
        step = f" after {place_of(head.checkpoint)}" if head.checkpoint else ""
        note.say(f"{head.run}: unfinished, resumes{step} (--fresh starts a new run)")
        head = identity.reopen(store, head.run, hosts=args.on or (), output=output if args.output else "")
        if head.source != identity.source_name(source.content):
            note.say(f"{head.run}: the notebook has changed since the run began; the run resumes with the new version")
            from qcity_nb.kernel.changes.notebook_edits import stored_edits

            for line in stored_edits(store, head, source.content):
                note.say(f"{head.run}: {line}")
            head = identity.renew_source(store, head, source.content)
        if head.bundle != bundle[0]:
            head = identity.renew_bundle(store, head, bundle)
    return _follow_run(store, settings, head.run, args, note)


def resume(args: argparse.Namespace) -> int:
    """``qcity resume``."""
    settings = load_settings(args.store)
    store = open_store(settings.store)
    name = identity.match(store, args.run)
    if args.on:
        check_hosts(args.on, settings)
    head = identity.reopen(store, name, hosts=args.on or (), once=args.once or "")
    note = Progress(sys.stderr)
    if args.on and head.project == settings.project.name:
        head = identity.renew_bundle(store, head, pack_for_hosts(settings, args.on, note.say))
    step = f" after {place_of(head.checkpoint)}" if head.checkpoint else ""
    note.say(f"{name}: resumes{step}")
    return _follow_run(store, settings, name, args, note)


def _follow_run(store: Store, settings: Settings, run: str, args: argparse.Namespace, note: Progress) -> int:
    if not args.detach:
        return follow(store, settings, run, note, as_json=args.json)
    log = detach(store, settings, run)
    note.say(f"{run}: a keeper runs in the background; its log is {short(log)}")
    print(json.dumps({"run": run, "keeper_log": str(log)}) if args.json else run)
    return 0


def keep(args: argparse.Namespace) -> int:
    """``qcity keep``."""
    if args.schedule is not None:
        from qcity_nb.cli.hosts import schedule_keeper  # imports the Hub's client

        return schedule_keeper(args)
    for option in ("every", "list", "off"):
        if getattr(args, option):
            raise UsageError(f"--{option} goes with --schedule HOST")
    settings = load_settings(args.store)
    store = open_store(settings.store)
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
            if (
                not is_tracking_finished(head, tracking=settings.tracking)
                and time.monotonic() - since_s < TRACKING_WAIT_S
            ):
                return False
        return runs is not None

    with sigterm_as_ctrl_c():
        Keeper(
            store,
            settings,
            launchers=hosts.finder(settings, args.on or ()),
            finish_tracking=tracking_finisher(store, settings),
            pause=wait_for_end,
        ).keep(runs, once=args.once, until=is_done, see=note.see)
    return 0


def stop(args: argparse.Namespace) -> int:
    """``qcity stop``."""
    settings = load_settings(args.store)
    store = open_store(settings.store)
    run = identity.match(store, args.run)
    before = lease.read(store, run).head
    if before.state != "running":
        print(f"{run}: already {state_of(before)}")
        return 0
    head = ask_stop(store, run)
    if head.state == "stopped":
        print(f"{run}: stopped; `qcity resume {run}` resumes it")
    else:
        print(f"{run}: stopping at the next loop boundary, its work saved")
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
