"""The drain: sends covered rows to the tracker, in a thread of the sidecar, each exactly once.

A row is covered once the run record names its checkpoint. Rows are sent at least once, exactly as logged, so a tracker
that drops exact repeats has each once. Nothing is sent while the lease is not confirmed.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from qcity_nb.errors import Missing, QcityError, TrackerMissing, TrackerUnavailable
from qcity_nb.ports import Tracker
from qcity_nb.published.send_rows import FINAL, Part, identity_tags, send_covered
from qcity_nb.records import Head
from qcity_nb.run.lease import Lease, read
from qcity_nb.tracking import open_tracker

__all__ = ["CHANGES_TAG", "Drain"]

CHANGES_TAG = "qcity.changes"
"""The tag that lists what changed while the run was resumed, the newest first."""


class Drain:
    """Drains under one lease, in a thread of its own, so that a slow tracker never delays a heartbeat."""

    def __init__(
        self,
        lease: Lease,
        *,
        uri: str,
        experiment: str,
        tags: Mapping[str, str],
        say: Callable[[str], None],
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._lease = lease
        self._uri = uri
        self._experiment = experiment
        self._tags = dict(tags)
        self._say = say
        self._progress = progress
        self._wake = threading.Event()
        self._done = threading.Event()
        self._ending = threading.Event()
        self._leaving = threading.Event()
        tracked = lease.head.tracked
        self.tracked = replace(tracked, uri=uri, status="RUNNING")
        """For the next run record."""
        self.failures = 0
        """How many tries in a row the tracker did not answer."""
        self.sent_rows = 0
        self._changes: Sequence[Mapping[str, Any]] = ()
        self._tagged: Sequence[Mapping[str, Any]] = ()
        self._tracker: Tracker | None = None
        self._started = False
        self._part = Part()
        self._damaged: set[str] = set()
        """What cannot be decoded, and was reported."""
        self._thread = threading.Thread(target=self._loop, name="drain", daemon=True)
        if uri:
            self._thread.start()
        else:
            self._done.set()

    def poke(self, changes: Sequence[Mapping[str, Any]] = ()) -> None:
        """Wake the drain: a run record was confirmed, so there may be rows to send.

        Args:
            changes: what changed while the run was resumed; the tracker's run gets them as a tag.
        """
        self._changes = changes
        self._wake.set()

    def finish(self, status: Literal["FINISHED", "FAILED", "KILLED"] | None, *, wait_s: float) -> bool:
        """Send the remaining rows and set the final status. Returns false if that was not done in time."""
        if not self._uri:
            return True
        self._status = status
        self._ending.set()
        self._wake.set()
        return self._done.wait(wait_s)

    _status: Literal["FINISHED", "FAILED", "KILLED"] | None = None

    def _loop(self) -> None:
        pause_s, trouble = 1.0, ""
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._leaving.is_set():
                return
            head = self._lease.head
            ending = self._ending.is_set()
            try:
                self._step()
                if ending and self._started and self._tracker is not None and self._is_empty():
                    if self._status is not None and self._lease.is_confirmed:
                        self._tracker.end(self.tracked.run_id, self._status)
                        self.tracked = replace(self.tracked, status=self._status)
                    self._done.set()
                    return
                pause_s = 1.0
                self.failures = 0
                if trouble:
                    trouble = ""
                    self._say("")
            except Missing as error:
                if self._lease.head is not head:
                    # The publisher replaced a segment while it was read here: the newest run record names the new one.
                    self._wake.set()
                    continue
                trouble = f"drain: {error}"
                self._say(trouble)
            except TrackerMissing as error:
                # This cannot change while this process lives: the rows wait in the store for a keeper.
                self._say(f"tracker: {error}")
                self.tracked = replace(self.tracked, status="WAITING")
                self._done.set()
                return
            except TrackerUnavailable as error:
                self.failures += 1
                trouble = f"tracker: {error}"
                self._say(trouble)
            except QcityError as error:
                trouble = f"drain: {error}"
                self._say(trouble)
            except Exception as error:  # noqa: BLE001 - this thread must not end in silence, whatever it met
                trouble = f"drain: {error!r}"
                self._say(trouble)
            if not self._is_empty() or self._tracker is None:
                # The tracker, or the lease's confirmation, may come back: try again, with growing pauses.
                self._wake.wait(pause_s)
                self._wake.set()
                pause_s = min(pause_s * 2, 30.0)

    def change(self, head: Head) -> Head:
        """The run record with what was sent so far; whatever else it says of the tracker stays."""
        return replace(head, tracked=replace(self.tracked, extra=head.tracked.extra))

    def _is_empty(self) -> bool:
        newest = self._lease.head.checkpoint
        return newest is None or self.tracked.drained_seq >= newest.seq

    def _step(self) -> None:
        lease = self._lease
        if not lease.is_confirmed:
            return
        head = lease.head
        if self._tracker is None:
            self._tracker = open_tracker(self._uri)
        assert self._tracker is not None
        if not self._started:
            self._tracker.prepare()
            # mlflow's objects stay. Without this each full collection traverses all of them, a fifth of the cost of
            # sending. The sidecar is a process of its own, and ends with the attempt.
            if not gc.get_freeze_count():
                gc.freeze()
            if not self._may_send():
                return  # seconds may have passed
            run_id = self._tracker.start(
                head.run,
                experiment=self._experiment,
                params=head.parameters,
                tags={**self._tags, **identity_tags(head)},
            )
            self.tracked = replace(self.tracked, run_id=run_id)
            self._started = True
            self._reclose(run_id)
        self._tag_changes()
        sent = send_covered(
            lease.store,
            head,
            self._tracker,
            self.tracked.run_id,
            after=self.tracked.drained_seq,
            allowed=lambda: lease.is_confirmed,
            sent=self._note_sent,
            part=self._part,
            damaged=self._note_damaged,
        )
        self.tracked = replace(self.tracked, drained_seq=sent)

    def _note_damaged(self, what: str) -> None:
        if what not in self._damaged:
            self._damaged.add(what)
            self._say(f"drain: {what} cannot be decoded: those rows are not sent")

    def _tag_changes(self) -> None:
        changes = self._changes
        if self._tracker is not None and changes and changes != self._tagged and self._lease.is_confirmed:
            texts = [f"attempt {each['term']}, step {each['step']}: {each['text']}" for each in changes]
            self._tracker.tag(self.tracked.run_id, {CHANGES_TAG: "\n".join(reversed(texts))})
            self._tagged = changes

    def _may_send(self) -> bool:
        return self._lease.is_confirmed

    def _reclose(self, run_id: str) -> None:
        """If this process was stopped in the middle of starting: end the tracker's run again if it ended meanwhile."""
        if self._lease.is_confirmed:
            return
        head = read(self._lease.store, self._lease.run).head
        status = FINAL.get(head.state)
        if status is not None and self._tracker is not None:
            self._tracker.end(run_id, status)

    def leave(self, wait_s: float) -> None:
        """Stop after a lost lease; wait for a call to the tracker that is in progress."""
        if self._uri:
            self._leaving.set()
            self._wake.set()
            self._thread.join(wait_s)

    def _note_sent(self, seq: int, rows: int) -> None:
        self.sent_rows += rows
        self.tracked = replace(self.tracked, drained_seq=seq)
        self._progress()
