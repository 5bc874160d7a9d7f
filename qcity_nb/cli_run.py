"""Commands that act: run, keep, stop, resume, init, demo."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType

from qcity_nb import cli_bundle, errors, hosts, settings
from qcity_nb.cli_progress import Progress, place_of, state_of
from qcity_nb.errors import GaveUp, NotebookInvalid, QcityError, StoreError, StoreRefused, UsageError
from qcity_nb.hosts.local import wait_for_end
from qcity_nb.hosts.process import LABEL
from qcity_nb.keeper import Keeper, Outcome, is_settled
from qcity_nb.notebook import parameters
from qcity_nb.ports import Store
from qcity_nb.records import Head, Relaunch, Wanted
from qcity_nb.run import identity, lease
from qcity_nb.settings import Settings
from qcity_nb.stores import open_store

__all__ = [
    "address_of",
    "ask_stop",
    "demo",
    "follow",
    "init",
    "keep",
    "resume",
    "run",
    "settings_for",
    "settler",
    "short",
    "stop",
]

_SETTLE_S = 15.0
"""How long the foreground waits for the tracker's part of a run that has ended."""


def short(path: Path) -> str:
    """As short as it stays true from the working directory."""
    with contextlib.suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def settings_for(notebook: Path, state: str | None) -> Settings:
    """The working directory's project where the notebook lies in it, else the notebook's own."""
    given = settings.load(overrides={"store": address_of(state)})
    if notebook.is_relative_to(given.project.root):
        return given
    return settings.load(notebook.parent, {"store": address_of(state)})


def address_of(state: str | None) -> str | None:
    """What was typed as a path means the working directory's, not the project's."""
    return str(Path(state).expanduser().absolute()) if state and "://" not in state else state


def _check_hosts(names: tuple[str, ...], given: Settings) -> None:
    """Can they be launched on at all? Asked before anything is begun."""
    for name in names:
        hosts.launcher(name, given).price()


def _check_kernel(name: str, notebook: Path) -> None:
    from jupyter_client.kernelspec import KernelSpecManager

    there = KernelSpecManager().find_kernel_specs()
    if name not in there:
        hint = f"there are: {', '.join(sorted(there))}" if there else 'pip install "qcity-nb[local]" brings one'
        raise NotebookInvalid(f"{short(notebook)} asks for the kernel {name!r}, which is not installed; {hint}")


def run(args: argparse.Namespace) -> int:
    """``qcity run``."""
    path = Path(args.notebook).expanduser().absolute()
    given = settings_for(path, args.state)
    asked = parameters.read(path)
    values = parameters.typed(asked, [(name, text) for name, text in args.parameter], notebook=path.name)
    names = args.on or given.hosts
    _check_hosts(names, given)
    if names == ("local",):
        _check_kernel(asked.kernel, path)
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
    bundle = cli_bundle.packed(given, names, note.say)
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
        wanted=Wanted(hosts=names),
        relaunch=Relaunch(
            attempts=given.attempts,
            without_progress=given.without_progress,
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
    return _go_on(store, given, head.run, args, note)


def resume(args: argparse.Namespace) -> int:
    """``qcity resume``."""
    given = settings.load(overrides={"store": address_of(args.state)})
    store = open_store(given.store)
    name = identity.match(store, args.run)
    if args.on:
        _check_hosts(args.on, given)
    head = identity.reopen(store, name, hosts=args.on or (), once=args.once or "")
    note = Progress(sys.stderr)
    if args.on and head.project == given.project.name:
        head = identity.renew_bundle(store, head, cli_bundle.packed(given, args.on, note.say))
    step = f" after {place_of(head.checkpoint)}" if head.checkpoint else ""
    note.say(f"{name}: goes on{step}")
    return _go_on(store, given, name, args, note)


def _go_on(store: Store, given: Settings, run: str, args: argparse.Namespace, note: Progress) -> int:
    if not args.detach:
        return follow(store, given, run, note, as_json=args.json)
    log = _detach(store, given, run)
    note.say(f"{run}: a keeper works in the background; its log is {short(log)}")
    print(json.dumps({"run": run, "keeper_log": str(log)}) if args.json else run)
    return 0


def settler(store: Store, given: Settings) -> Callable[[str], None]:
    """Brings the tracker's part of a run that ended to its end."""

    def settle(run: str) -> None:
        from qcity_nb.agent import settle as tracker_part  # brings in the tracker: only when there is one to settle

        tracker_part.settle(store, run, tracking=given.tracking, experiment=given.project.name)

    return settle


def _detach(store: Store, given: Settings, run: str) -> Path:
    """Start ``qcity keep --run`` in a session of its own."""
    if store.address.startswith("memory:"):
        raise UsageError(f"a keeper in the background cannot see {store.address}: use a directory")
    log = given.local / "keepers" / f"{run}.log"
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        file = log.open("ab")
    except OSError as error:
        raise StoreRefused(f"{log} cannot be written: {error.strerror}") from None
    # A keeper that an attempt started is none of that attempt's own processes: it must outlive it.
    environment = {name: value for name, value in os.environ.items() if name != LABEL}
    with file:
        child = subprocess.Popen(
            [sys.executable, "-m", "qcity_nb.cli", "keep", "--run", run, "--state", store.address],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            cwd=given.project.root,
            env=environment,
            start_new_session=True,
        )
    child.returncode = 0  # it is not waited for: this process ends, and init takes it
    return log


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """A polite end from outside drains as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def follow(
    store: Store, given: Settings, run: str, note: Progress, *, as_json: bool = False, quiet: bool = False
) -> int:
    """Keep one run in the foreground until it has ended; Ctrl-C stops it, twice at once.

    Args:
        quiet: no report of a success.
    Returns: the exit code that the outcome means.
    """
    keeper = Keeper(store, given, settle=settler(store, given), pause=wait_for_end)
    ended_s: float | None = None
    interrupts = asked = 0
    newest = lease.read(store, run).head

    def is_done(last: Mapping[str, Outcome]) -> bool:
        nonlocal ended_s, newest
        outcome = last[run]
        if isinstance(outcome.error, UsageError):
            raise outcome.error
        head = outcome.head
        newest = head or newest
        if head is None or head.state == "running":
            ended_s = None
            return False
        ended_s = ended_s if ended_s is not None else time.monotonic()
        return is_settled(head, tracking=given.tracking) or time.monotonic() - ended_s > _SETTLE_S

    with _sigterm_as_ctrl_c():
        while True:
            try:
                while asked < interrupts:
                    asked += 1
                    _interrupt(store, given, newest, note, is_first=asked == 1)
                keeper.keep([run], until=is_done, see=note.see)
                break
            except KeyboardInterrupt:
                interrupts += 1
    note.close()
    head = lease.read(store, run).head
    cli_bundle.bring_home(store, given, head, note.say)
    code = 0 if quiet and head.state == "succeeded" else _report(head, given, as_json=as_json)
    return 130 if interrupts and head.state == "stopped" else code


def _interrupt(store: Store, given: Settings, newest: Head, note: Progress, *, is_first: bool) -> None:
    """Ctrl-C: the first one asks for a stop, the second one ends the attempt.

    Args:
        newest: the head as last seen: where the store does not answer, it says whom to end.
    Raises:
        StoreError: the second time, if the store still does not take the wish to stop. The attempt is gone then.
    """
    run = newest.run
    if is_first:
        note.say(f"{run}: stops at the next loop boundary, its work saved; Ctrl-C again ends it at once")
    try:
        head = ask_stop(store, run)
    except StoreError as error:
        head = newest
        if is_first:
            note.say(f"{run}: {error}")
            return
        _end(head, given, note)
        raise
    if not is_first:
        _end(head, given, note)


def _end(head: Head, given: Settings, note: Progress) -> None:
    target = head.holder or head.intent
    if target is not None:
        note.say(f"{head.run}: ends attempt {target.attempt}")
        hosts.launcher(target.host, given).stop(target.attempt, grace_s=0)


def ask_stop(store: Store, run: str) -> Head:
    """Want the run stopped; with nobody holding or launching it, it is so at once."""

    def change(head: Head) -> Head:
        if head.state != "running":
            return head
        is_idle = head.holder is None and head.intent is None
        return replace(
            head,
            wanted=replace(head.wanted, state="stopped"),
            state="stopped" if is_idle else head.state,
        )

    return lease.amend(store, run, change)


def _report(head: Head, given: Settings, *, as_json: bool) -> int:
    """Say how the run ended; its exit code."""
    executed = given.project.root / head.output if head.output else None
    failure = head.failure
    code = {"succeeded": 0, "stopped": 4, "failed": 3, "running": 1}[head.state]
    if head.state == "failed" and (failure is None or failure.cause == "host"):
        code = GaveUp.exit_code
    elif head.state == "failed" and failure is not None and failure.error:
        kind = getattr(errors, failure.error, None)
        code = kind.exit_code if isinstance(kind, type) and issubclass(kind, QcityError) else code
    if as_json:
        report = {
            "run": head.run,
            "state": head.state,
            "attempts": head.epoch,
            "step": head.checkpoint.step if head.checkpoint else None,
            "executed": str(executed) if executed and executed.exists() else None,
            "failure": failure.message if failure and head.state == "failed" else None,
            "exit_code": code,
        }
        print(json.dumps(report))
    else:
        print(f"{head.run}: {state_of(head)} after {head.epoch} attempt{'s' if head.epoch != 1 else ''}")
        if executed and executed.exists():
            print(f"executed notebook: {short(executed)}")
    if head.state == "failed" and failure is not None:
        # An error of ours is one clear line; the executed notebook has where it was raised.
        print(("" if failure.error else failure.traceback.rstrip()) or failure.message, file=sys.stderr)
    if (head.state == "stopped" or code == GaveUp.exit_code) and not as_json:
        print(f"`qcity resume {head.run}` goes on")
    return code


def keep(args: argparse.Namespace) -> int:
    """``qcity keep``."""
    given = settings.load(overrides={"store": address_of(args.state)})
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
            if not is_settled(head, tracking=given.tracking) and time.monotonic() - since_s < _SETTLE_S:
                return False
        return runs is not None

    with _sigterm_as_ctrl_c():
        Keeper(
            store,
            given,
            launchers=hosts.only(args.on, given) if args.on else None,
            settle=settler(store, given),
            pause=wait_for_end,
        ).keep(runs, once=args.once, until=is_done, see=note.see)
    return 0


def stop(args: argparse.Namespace) -> int:
    """``qcity stop``."""
    given = settings.load(overrides={"store": address_of(args.state)})
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
    from qcity_nb import template

    folder = Path(args.directory)
    written = template.lay(args.template or template.names()[0], folder)
    for file in written:
        print(file)
    notebook = next((file.relative_to(folder) for file in written if file.suffix == ".ipynb"), None)
    step = f"{'' if folder == Path() else f'cd {folder} && '}qcity run {notebook}" if notebook else folder / "README.md"
    print(f"next: {step}")
    return 0


def demo(args: argparse.Namespace) -> int:
    """``qcity demo``."""
    from qcity_nb import demo as shown

    return shown.main(address_of(args.state), on=args.on or ("local",), plant=args.plant)
