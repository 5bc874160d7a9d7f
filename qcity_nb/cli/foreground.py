"""A keeper in the foreground: it follows one run to its end, and Ctrl-C stops the run."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from types import FrameType

from qcity_nb import errors, hosts
from qcity_nb.cli.bundle import bring_home
from qcity_nb.cli.control import ask_stop, tracking_finisher
from qcity_nb.cli.progress import Progress
from qcity_nb.errors import GaveUp, QcityError, StoreError, UsageError
from qcity_nb.hosts.local.launcher import wait_for_end
from qcity_nb.ports import Store
from qcity_nb.records import Head
from qcity_nb.run import lease
from qcity_nb.run.keeper import Keeper, Outcome, is_tracking_finished
from qcity_nb.settings import Settings
from qcity_nb.views.words import short, state_of

__all__ = ["SETTLE_S", "follow", "sigterm_as_ctrl_c"]


SETTLE_S = 15.0
"""How long the foreground waits for the tracker's part of a run that has ended."""


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
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
    keeper = Keeper(
        store, given, launchers=hosts.finder(given), finish_tracking=tracking_finisher(store, given), pause=wait_for_end
    )
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
        return is_tracking_finished(head, tracking=given.tracking) or time.monotonic() - ended_s > SETTLE_S

    with sigterm_as_ctrl_c():
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
    bring_home(store, given, head, note.say)
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
    target = head.holder or head.pending_launch
    if target is not None:
        note.say(f"{head.run}: ends attempt {target.attempt}")
        hosts.launcher(target.host, given).stop(target.attempt, grace_s=0)


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
            "attempts": head.term,
            "step": head.checkpoint.step if head.checkpoint else None,
            "executed": str(executed) if executed and executed.exists() else None,
            "failure": failure.message if failure and head.state == "failed" else None,
            "exit_code": code,
        }
        print(json.dumps(report))
    else:
        print(f"{head.run}: {state_of(head)} after {head.term} attempt{'s' if head.term != 1 else ''}")
        if executed and executed.exists():
            print(f"executed notebook: {short(executed)}")
    if head.state == "failed" and failure is not None:
        # An error of ours is one clear line; the executed notebook has where it was raised.
        print(("" if failure.error else failure.traceback.rstrip()) or failure.message, file=sys.stderr)
    if (head.state == "stopped" or code == GaveUp.exit_code) and not as_json:
        print(f"`qcity resume {head.run}` goes on")
    return code
