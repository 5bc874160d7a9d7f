"""The kernel's connection to its sidecar: reads its status, sends it requests."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qcity_nb import errors
from qcity_nb.clock import SystemClock
from qcity_nb.errors import Changed, CheckpointError, LeaseLost, RunStopped, UsageError
from qcity_nb.printable import printable
from qcity_nb.run import journal
from qcity_nb.run.mailbox import Mailbox, Status
from qcity_nb.run.processes import is_alive
from qcity_nb.run.respawns import Respawns
from qcity_nb.tracking.mlflow_names import mlflow_name

__all__ = ["SidecarClient"]

LOOK_S = 0.05
"""How often the mailbox is read inside a hot loop."""
WAIT_S = 1.0
STOP_S = 5.0
"""How long a refusal waits until the sidecar knows that the attempt is to stop."""
_ENDED = "this attempt at run {run!r} has ended ({reason}): write `city = qcity.up()` before this line"


class SidecarClient:
    """Reads and writes one mailbox. ``revive`` starts another sidecar after this one has died."""

    def __init__(self, mailbox: Mailbox, status: Status, *, revive: Callable[[], None] | None = None) -> None:
        self.mailbox = mailbox
        self.term = status.term
        self.is_unattended = False
        """The engine executes the notebook: nobody is there to answer."""
        self._revive = revive
        self._respawns = Respawns()
        self._status = status
        self._looked_s = float("-inf")
        self._alive_s = 0.0
        self._clock = SystemClock()
        self._waited_s = 0.0
        self._earlier: Mapping[str, Sequence[tuple[int, float]]] | None = None
        self.closed = ""
        """Why this attempt may no longer be used in this kernel, and what to write; empty: it may."""

    def look(self, *, now: bool = False) -> Status:
        """The sidecar's status, read at most every 50 ms unless ``now``."""
        at = time.monotonic()
        if now or at - self._looked_s >= LOOK_S:
            self._looked_s = at
            self._status = self.mailbox.status()
            if at - self._alive_s >= 1.0:
                self._alive_s = at
                status = self._status
                is_dead = status.state == "held" and not is_alive(status.pid)
                # Under the engine its watchdog ends what is hopeless; a kernel that a person opened goes on trying.
                if is_dead and self._revive is not None and self._respawns.is_due():
                    self._revive()
            self._wait_once()
        return self._status

    def _wait_once(self) -> None:
        """If the lease time has run out (this host slept, or the store is silent), wait for the sidecar's next status.

        It waits once for each lease time that ran out, and at most a second. So a loop that was stopped learns at its
        first boundary that it has a successor, and one whose store is away continues to compute.
        """
        ran_out_s = self._status.until_s
        if self._status.state != "held" or ran_out_s in (0.0, self._waited_s) or self._clock.now_s() < ran_out_s:
            return
        self._waited_s = ran_out_s
        until = time.monotonic() + WAIT_S
        while time.monotonic() < until and is_alive(self._status.pid):
            time.sleep(0.01)
            self._status = self.mailbox.status()
            if self._status.state != "held" or self._status.until_s != ran_out_s:
                return

    @property
    def is_held(self) -> bool:
        """Does this attempt hold the run, as far as the sidecar knows now?"""
        return not self.closed and self.look(now=True).state == "held"

    def earlier(self) -> Mapping[str, Sequence[tuple[int, float]]]:
        """The metrics before this attempt, thinned out: (step, value) by name; empty until the sidecar sent them."""
        if self._earlier is None and self._status.restored_seq:
            self._earlier = self.mailbox.earlier()
        return self._earlier or {}

    def check(self) -> None:
        """Raise if this attempt may not continue.

        Raises:
            LeaseLost: another attempt holds the run; the message names it.
            UsageError: this attempt has ended; the message says what to write.
        """
        if self.closed:
            raise UsageError(self.closed)
        status = self.look()
        if status.state == "ended":
            raise UsageError(_ENDED.format(run=status.run, reason=status.reason))
        if status.state in ("lost", "refused"):
            kind = getattr(errors, status.error, LeaseLost)
            raise kind(status.reason)

    def stop_if_asked(self) -> None:
        """At a saved boundary: end here if a stop was asked for.

        Raises:
            RunStopped: with the reason.
        """
        if reason := self.look().stop:
            raise RunStopped(reason)

    def name_metrics(self, names: list[str]) -> None:
        """Say which of these metrics have another name in the tracker, and empty the list."""
        if not names:
            return
        address = self._status.tracking
        changed = {name: mlflow_name(name) for name in names if address and not address.startswith("jsonl:")}
        names.clear()
        for name, stored in changed.items():
            if stored != name:
                self.show(f"metric {name!r} is {stored!r} in MLflow, which does not accept every character or length")
                self.note("metric-name", metric=name, stored=stored)

    def show(self, text: str) -> None:
        """Print a line below the cell, whatever its filters for warnings."""
        sys.stderr.write(f"qcity: {printable(text)}\n")
        sys.stderr.flush()

    def announce(self, kind: str, text: str, *, step: int) -> None:
        """Say what changed below the cell, whatever its filters for warnings, and in the journal."""
        self.show(text)
        self.note("changed", what=kind, message=text, step=step)

    def refuse(self, kind: str, text: str) -> Changed:
        """The error to raise where the run must not continue as it is. Nothing of it changes, and it can be resumed.

        By hand the cell ends with the error and can be run again. Under the engine the run is stopped with this reason,
        as if a person had stopped it, so that no keeper relaunches it before somebody has read it.
        """
        self.note("refused", what=kind, message=text)
        if self.is_unattended:
            self.mailbox.ask("stop", reason=text, refused=True)
            until = time.monotonic() + STOP_S
            while not self.look(now=True).stop and time.monotonic() < until:
                time.sleep(0.02)
        return Changed(text)

    def ask(self, op: Any, *, wait_s: float, **data: object) -> Mapping[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            StoreUnavailable: no answer in time; the sidecar keeps trying.
            UsageError: this attempt has ended.
            QcityError: the error that the sidecar answered.
        """
        self.check()
        request = self.mailbox.ask(op, **data)
        until = time.monotonic() + wait_s
        while True:
            answer = self.mailbox.answer_to(request)
            if answer is not None:
                break
            status = self.look(now=True)
            if status.state == "ended" and self.mailbox.answer_to(request) is not None:
                continue  # it was answered just before the attempt ended
            self.check()
            if time.monotonic() > until:
                raise errors.StoreUnavailable(
                    status.message or f"no answer from qcity's background process in {wait_s:g} s; it keeps trying"
                )
            time.sleep(0.02)
        if not answer.ok:
            raise getattr(errors, answer.error, CheckpointError)(answer.reason)
        return answer.data

    def note(self, kind: str, **data: object) -> None:
        """A line for the journal."""
        self.mailbox.note(journal.event(kind, term=self.term, attempt=self.mailbox.path.name, **data))
