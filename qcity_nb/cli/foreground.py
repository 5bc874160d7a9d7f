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
from qcity_nb.views.attempts import describe_failed_launches
from qcity_nb.views.words import short, state_of

__all__ = ["TRACKING_WAIT_S", "follow", "sigterm_as_ctrl_c"]


TRACKING_WAIT_S = 15.0
"""How long the foreground waits until the tracker has all rows of a run that has ended."""


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM stops the run as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def follow(
    store: Store, settings: Settings, run: str, note: Progress, *, as_json: bool = False, quiet: bool = False
) -> int:
    """Keep one run in the foreground until it has ended. Ctrl-C stops it at a boundary, a second Ctrl-C at once.

    Args:
        quiet: print no report if the run succeeded.
    Returns: the exit code for the outcome.
    """
    keeper = Keeper(
        store,
        settings,
        launchers=hosts.finder(settings),
        finish_tracking=tracking_finisher(store, settings),
        pause=wait_for_end,
    )
    ended_s: float | None = None
    interrupts = handled = 0
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
        return is_tracking_finished(head, tracking=settings.tracking) or time.monotonic() - ended_s > TRACKING_WAIT_S

    with sigterm_as_ctrl_c():
        while True:
            try:
                while handled < interrupts:
                    handled += 1
                    _interrupt(store, settings, newest, note, is_first=handled == 1)
                keeper.keep([run], until=is_done, see=note.see)
                break
            except KeyboardInterrupt:
                interrupts += 1
    note.close()
    head = lease.read(store, run).head
    bring_home(store, settings, head, note.say)
    code = 0 if quiet and head.state == "succeeded" else _report(head, settings, as_json=as_json)
    return 130 if interrupts and head.state == "stopped" else code


def _interrupt(store: Store, settings: Settings, newest: Head, note: Progress, *, is_first: bool) -> None:
    """Ctrl-C: the first one asks for a stop, the second one ends the attempt.

    Args:
        newest: the run record as last read. It names the attempt to end if the store does not answer.
    Raises:
        StoreError: on the second Ctrl-C, if the store still does not take the request. The attempt has been ended then.
    """
    run = newest.run
    if is_first:
        note.say(f"{run}: stopping at the next loop boundary, its work saved; Ctrl-C again ends it at once")
    try:
        head = ask_stop(store, run)
    except StoreError as error:
        head = newest
        if is_first:
            note.say(f"{run}: {error}")
            return
        _end(head, settings, note)
        raise
    if not is_first:
        _end(head, settings, note)


def _end(head: Head, settings: Settings, note: Progress) -> None:
    target = head.holder or head.pending_launch
    if target is not None:
        note.say(f"{head.run}: ending attempt {target.attempt}")
        hosts.launcher(target.host, settings).stop(target.attempt, grace_s=0)


def _outcome(head: Head) -> str:
    """The end of a run in words: succeeded in attempt 3; 2 launches failed before it began."""
    state, failed = state_of(head), describe_failed_launches(head)
    where = f"{'after' if state == 'gave up' else 'in'} attempt {head.term}" if head.term else "before attempt 1"
    return f"{state} {where}" + (f"; {failed}" if failed else "")


def _report(head: Head, settings: Settings, *, as_json: bool) -> int:
    """Print how the run ended; returns the exit code."""
    executed = settings.project.root / head.output if head.output else None
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
        print(f"{head.run}: {_outcome(head)}")
        if executed and executed.exists():
            print(f"executed notebook: {short(executed)}")
    if head.state == "failed" and failure is not None:
        # One of our own errors is one line; the executed notebook shows where it was raised.
        print(("" if failure.error else failure.traceback.rstrip()) or failure.message, file=sys.stderr)
    if head.state == "stopped" and head.extra.get("refused"):
        print(f"qcity: {head.extra['refused']}", file=sys.stderr)
    if (head.state == "stopped" or code == GaveUp.exit_code) and not as_json:
        print(f"`qcity resume {head.run}` resumes it")
    return code
