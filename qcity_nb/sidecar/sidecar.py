"""One attempt's sidecar, from acquiring the lease to releasing it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

from qcity_nb import codec, crashpoints
from qcity_nb.checkpoint.retention import names_left
from qcity_nb.checkpoint.storage.local_tier import LocalTier
from qcity_nb.clock import SystemClock
from qcity_nb.errors import CheckpointError, LeaseLost, Missing, QcityError, StoreError, StoreUnavailable
from qcity_nb.published.read import manifest_of
from qcity_nb.published.send_rows import FINAL
from qcity_nb.records import Failure, Head, Holder, RunState
from qcity_nb.run import journal
from qcity_nb.run.lease import Lease
from qcity_nb.run.local_dir import prepare
from qcity_nb.run.mailbox import Answer, Mailbox, Request, Status
from qcity_nb.run.policy import count_repeats
from qcity_nb.run.processes import is_alive, process_state
from qcity_nb.run.wakeup import POLL_S, Wakeup
from qcity_nb.sidecar import metric_history
from qcity_nb.sidecar.acquire import AlreadyReleased, LeaseAcquirer
from qcity_nb.sidecar.cleanup import cleanup_runs, cleanup_terms
from qcity_nb.sidecar.drain import Drain
from qcity_nb.sidecar.publish import Publisher
from qcity_nb.sidecar.publish_rate import interval_s
from qcity_nb.sidecar.restore import make_tier, restore
from qcity_nb.sidecar.start import Config
from qcity_nb.stores import open_store

__all__ = ["Sidecar"]


T = TypeVar("T")


TICK_S = 0.5
"""How long it sleeps at most; requests, checkpoints and its owner's end wake it earlier."""


NOTEBOOK_S = 20.0
"""The executed notebook is sent with a checkpoint at most this often, and at the end."""


TRACKER_S = 10.0
"""How long an attempt that lost its lease waits for a call to the tracker that is in progress."""


DRAIN_S = 60.0
"""How long the end of an attempt waits for the tracker; a keeper drains the rest."""


DRAIN_TRIES = 3
"""After this many failures of the tracker in a row the end no longer waits."""


class Sidecar:
    """One attempt's sidecar, from acquiring the lease to releasing it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.mailbox = Mailbox(Path(config.mailbox)).open()
        self.clock = SystemClock()
        self.store = open_store(config.store)
        self.me = Holder(
            attempt=config.attempt,
            host=config.host,
            node=config.node,
            pid=os.getpid(),
            ttl_s=config.ttl_s,
            extra={"owner": config.owner.pid},
        )
        self._refusal: dict[str, str] = {}  # why a person must look at the run before it is launched again
        self.status = replace(
            self.mailbox.status(), run=config.run, pid=os.getpid(), store=config.store, tracking=config.tracking
        )
        self._shown: Status | None = None
        self.drain: Drain | None = None
        self._next_try_s = 0.0
        self._published_s = float("-inf")
        self._notebook_s = self.clock.now_s()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="publish")
        self._tier_ns = 0
        self._tier_seq = 0
        self._is_clean = False
        self._watched: list[int] = []
        self._watch_mtime = 0.0

    # -- starting -----------------------------------------------------------------------------------------

    def show(self, **changes: Any) -> None:
        """Change the status in the mailbox."""
        new = replace(self.status, **changes)
        self.status = new
        if new != self._shown:
            # On a full disk the lease matters more, and the next turn tries again.
            with contextlib.suppress(OSError):
                self.mailbox.write_status(new)
                self._shown = new

    def restore(self, lease: Lease) -> tuple[LocalTier, Publisher]:
        """Put the newest checkpoint on this host's own disk."""
        head, local_dir = lease.head, Path(self.config.local_dir)
        if self.status.state == "held":  # a second sidecar of the attempt
            tier = LocalTier(Path(self.status.tier), term=lease.term, run_id=head.id)
        else:
            tier = make_tier(local_dir, head, self.config.attempt, lambda text: self.note("trouble", message=text))
            restored = restore(self.store, head, local_dir, term=lease.term, tier=tier)
            if restored.covered:
                (tier.path / "covered.jsonl").write_bytes(restored.covered)
            for line in restored.trouble:
                self.note("trouble", message=line)
            self.note(
                "lease",
                id=head.id,
                host=self.config.host,
                node=self.config.node,
                seq=restored.manifest.seq if restored.manifest else 0,
                step=restored.manifest.step if restored.manifest else 0,
                source=restored.source,
            )
            self.show(
                restored_seq=restored.manifest.seq if restored.manifest else 0,
                restored_from=restored.source,
                message=restored.trouble[-1] if restored.trouble else "",
            )
            (tier.path / "seq").write_text(str(restored.seq), encoding="ascii")
        base = None
        if lease.head.checkpoint is not None and not self.status.message.startswith("checkpoint"):
            # Objects of the newest published checkpoint are not sent again, unless some are damaged.
            with contextlib.suppress(CheckpointError, Missing):
                base = manifest_of(self.store, lease.run, lease.head.checkpoint)
        return tier, Publisher(lease, self.mailbox, tier, published=base, keep=self.config.keep)

    def note(self, kind: str, **data: object) -> None:
        """Add an event to the journal."""
        term = self.lease.term if hasattr(self, "lease") else 0
        self.mailbox.note(journal.event(kind, term=term, attempt=self.config.attempt, **data))

    # -- running ------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run until the attempt ends. Returns the exit code."""
        self.mailbox.write_status(self.status)
        try:
            prepare(Path(self.config.local_dir))
            acquirer = LeaseAcquirer(
                self.store, self.config, self.me, self.clock, say=lambda text: self.show(message=text)
            )
            is_again = self.status.state == "held"
            self.lease = acquirer.rejoin(term=self.status.term) if is_again else acquirer.acquire()
            # To fetch a large checkpoint may take longer than the lease lasts.
            self.tier, self.publisher = self.with_heartbeats(lambda: self.restore(self.lease))
        except AlreadyReleased as gone:
            return self.finish(gone.head)
        except QcityError as error:
            state = "lost" if self.status.state == "held" and isinstance(error, LeaseLost) else "refused"
            self.show(state=state, reason=str(error), error=type(error).__name__)
            return error.exit_code
        except OSError as error:
            reason = f"cannot write to {self.config.local_dir}: {error.strerror or error}; set another `local_dir`"
            self.show(state="refused", reason=reason, error="CheckpointError")
            return CheckpointError.exit_code
        head = self.lease.head
        self.drain = Drain(
            self.lease,
            uri=self.config.tracking,
            experiment=head.project or self.config.experiment,
            tags={"qcity.host": self.config.host, "qcity.notebook": head.notebook},
            say=lambda text: self.show(message=text),
            progress=lambda: self.wakeup.ring(),
        )
        checkpoints = self.tier.path / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        self.wakeup = Wakeup(self.config.owner.pid, [self.mailbox.path / "requests", checkpoints])
        # The drain begins after the first confirmed write: mlflow's import would delay the kernel that starts now.
        self.show_held()
        if self.status.restored_seq:
            metric_history.begin(self.lease, self.tier, self.mailbox)
        try:
            while (code := self.tick()) is None:
                self.wakeup.wait(self.idle_s())
            return code
        except LeaseLost as error:
            self.show(state="lost", reason=str(error), error="LeaseLost")
            self.drain.leave(TRACKER_S)
            return error.exit_code

    def show_held(self) -> None:
        """Write what the confirmed run record says to the mailbox."""
        head, drain = self.lease.head, self.drain
        stop = self.status.stop
        if not stop and head.desired.state == "stopped":
            stop = "stopped by request"
        self.show(
            state="held",
            run_id=head.id,
            term=self.lease.term,
            until_s=self.lease.until_s,
            tier=str(self.tier.path),
            stop=stop,
            names_left=names_left(sum(1 for ref in head.checkpoints if ref.label), self.config.keep),
            published_seq=head.checkpoint.seq if head.checkpoint else 0,
            published_step=head.checkpoint.step if head.checkpoint else 0,
            published_at_s=self._published_s if self._published_s > 0 else 0.0,
            drained_seq=drain.tracked.drained_seq if drain else 0,
            drained_rows=drain.sent_rows if drain else 0,
            tracking_run=drain.tracked.run_id if drain else "",
        )

    def may_send_heartbeat(self) -> bool:
        """May this attempt send a heartbeat? Only while its processes exist and none of them is stopped."""
        file = self.mailbox.path / "watch"
        with contextlib.suppress(FileNotFoundError):
            mtime = file.stat().st_mtime
            if mtime != self._watch_mtime:
                self._watch_mtime = mtime
                self._watched = [int(word) for word in file.read_text(encoding="ascii").split()]
        states = [process_state(pid) for pid in (self.config.owner.pid, *self._watched)]
        return all(state not in ("", "Z", "X", "T", "t") for state in states)

    def is_heartbeat_due(self) -> bool:
        """Is a heartbeat due, measured from when the last confirmed one was sent?"""
        return self.clock.now_s() - self.lease.confirmed_s >= self.config.heartbeat_s

    def idle_s(self) -> float:
        """How long until something is due that no wakeup announces."""
        published = self.lease.head.checkpoint.seq if self.lease.head.checkpoint else 0
        next_s = self.lease.confirmed_s + self.config.heartbeat_s
        if self._tier_seq > published:
            next_s = min(next_s, self._published_s + self.interval_s())
        left_s = max(next_s, self._next_try_s) - self.clock.now_s()
        # Overdue: its processes are stopped, so it sends no heartbeats.
        return min(left_s, TICK_S) if left_s > 0 else POLL_S

    def interval_s(self) -> float:
        """Seconds between two publishes of this run."""
        head = self.lease.head
        newest = head.checkpoint
        return interval_s(
            self.config.publish_s,
            sent=head.sent,
            live_bytes=self.publisher.live_bytes,
            next_bytes=self.publisher.newest_bytes or (newest.size_bytes if newest else 0),
            budget_bytes=self.config.storage_budget,
            wall_ms=self.clock.wall_ms(),
            release_s=self.store.release_s,
        )

    def newest_seq(self) -> int:
        """The newest local checkpoint, looked up only if the directory has changed."""
        with contextlib.suppress(FileNotFoundError):
            changed_ns = (self.tier.path / "checkpoints").stat().st_mtime_ns
            if changed_ns != self._tier_ns:
                self._tier_ns = changed_ns
                self._tier_seq = (self.tier.seqs() or [0])[-1]
        return self._tier_seq

    def tick(self) -> int | None:
        """One turn: requests, checkpoint, heartbeat. Returns an exit code when the attempt is over."""
        for file, request in self.mailbox.requests():
            if (code := self.serve(file, request)) is not None:
                return code
        if not is_alive(self.config.owner.pid, self.config.owner.started):
            return self.release_orphan()
        now = self.clock.now_s()
        newest = self.newest_seq()
        published = self.lease.head.checkpoint.seq if self.lease.head.checkpoint else 0
        due = newest > published and now - self._published_s >= self.interval_s()
        if now >= self._next_try_s and (due or self.is_heartbeat_due()) and self.may_send_heartbeat():
            try:
                if due:
                    self.publish()
                else:
                    self.publish_head()
            except StoreError as error:
                wait_s = error.retry_after_s if isinstance(error, StoreUnavailable) else 0.0
                self._next_try_s = now + max(wait_s, min(self.config.heartbeat_s, 5.0))
                self.show(message=f"store: {error}")
            except (CheckpointError, OSError) as error:
                # A problem of this host's own disk is no reason to release the lease.
                self._published_s = now
                self.show(message=f"local: {error}")
        if self.drain is not None and self.status.drained_seq != self.drain.tracked.drained_seq:
            self.show_held()
        return None

    def change(self, head: Head) -> Head:
        """The change that goes with every write of this holder."""
        return self.drain.change(head) if self.drain and self.config.tracking else head

    def with_heartbeats(self, call: Callable[[], T]) -> T:
        """Run ``call`` and return its result. Heartbeats continue meanwhile: a long transfer must not cost the lease.

        Raises:
            LeaseLost: another attempt has the run; ``call`` may still be running.
        """
        job = self._worker.submit(call)
        while not job.done():
            wait([job], timeout=POLL_S)
            if not job.done() and self.is_heartbeat_due() and self.may_send_heartbeat():
                # The transfer itself reports the store's errors.
                with contextlib.suppress(StoreError):
                    self.lease.renew()
        return job.result()

    def publish(self, *, executed: bool | None = None) -> Head:
        """Publish the newest local checkpoint, the events and, now and then, the notebook."""
        now = self.clock.now_s()
        send = now - self._notebook_s >= NOTEBOOK_S if executed is None else executed
        head = self.with_heartbeats(
            lambda: self.publisher.publish(self.tier.newest(), change=self.change, executed=send)
        )
        self._published_s = now
        if not self._is_clean and head.checkpoint is not None and head.checkpoint.term == self.lease.term:
            # No attempt resumes from older tiers now. The last term's stays: its attempt may only be stopped.
            self._is_clean = True
            cleanup_terms(Path(self.config.local_dir), head, below=self.lease.term - 1)
            with contextlib.suppress(OSError):
                cleanup_runs(self.store, Path(self.config.local_dir), but=head)
        if send:
            self._notebook_s = now
        self.on_confirmed()
        return head

    def publish_head(self) -> None:
        """Send a heartbeat, with any new events."""
        self.publisher.publish(None, change=self.change)
        self.on_confirmed()

    def on_confirmed(self) -> None:
        """Called after a run record of this holder was confirmed."""
        head = self.lease.head
        if head.state != "running":
            # A keeper declared this holder dead and has ended the run, and so this attempt.
            raise LeaseLost(f"run {head.run!r} was ended meanwhile: {head.state}")
        if self.status.message.startswith("store:"):
            self.show(message="")
        self.show_held()
        if self.drain is not None:
            self.drain.poke(self.publisher.changes)

    def release_orphan(self) -> int:
        """The owner (the engine, or the kernel by hand) is gone: publish what it left, and release the lease."""
        self.note("orphaned", message="the notebook's process is gone")
        try:
            try:
                self.publish(executed=True)
            except (CheckpointError, OSError) as error:
                self.show(message=f"local: {error}")
            self.lease.release(self.change)  # the successor drains the rest
        except StoreError as error:
            self.show(message=f"store: {error}")
        self.show(state="ended", reason="the notebook's process is gone")
        return 0

    # -- requests -----------------------------------------------------------------------------------------

    def serve(self, file: Path, request: Request) -> int | None:
        """Answer one request."""
        try:
            if request.op == "stop":
                self.show(stop=str(request.data.get("reason") or "asked to stop"))
                self._refusal = {"refused": self.status.stop} if request.data.get("refused") else self._refusal
                self.mailbox.answer(file, Answer(id=request.id, ok=True))
                return None
            if request.op == "flush":
                head = self.publish(executed=True)
                seq = head.checkpoint.seq if head.checkpoint else 0
                self.mailbox.answer(file, Answer(id=request.id, ok=True, data={"seq": seq}))
                return None
            return self.finish(self.end(request))
        except LeaseLost as error:
            self.mailbox.answer(file, Answer(id=request.id, ok=False, reason=str(error), error="LeaseLost"))
            raise
        except StoreError as error:
            self.show(message=f"store: {error}")
            self.clock.sleep(min(self.config.heartbeat_s, 5.0))
            return None  # it stays in the mailbox: the store may come back, and a full one may get more storage
        except (CheckpointError, OSError) as error:
            kind = type(error).__name__ if isinstance(error, QcityError) else "CheckpointError"
            self.mailbox.answer(file, Answer(id=request.id, ok=False, reason=str(error), error=kind))
            return None

    def finish(self, head: Head) -> int:
        """After the release of the run: answer the request for it, then set the status.

        In this order, so that whoever reads that the attempt has ended finds the answer too.
        """
        for file, request in self.mailbox.requests():
            self.mailbox.answer(file, Answer(id=request.id, ok=True, data={"state": head.state}))
        self.show(
            state="ended",
            reason=head.state,
            drained_seq=head.tracked.drained_seq,
            drained_rows=self.drain.sent_rows if self.drain else 0,
            published_seq=head.checkpoint.seq if head.checkpoint else 0,
        )
        return 0

    def end(self, request: Request) -> Head:
        """The last publish: final checkpoint, rows drained, the run's state, the lease released."""
        data = request.data
        state = cast(RunState, data.get("state") or "running")
        failure = codec.decode(Failure, data["failure"]) if data.get("failure") else None
        crashpoints.hit("end.before")
        head = self.publish(executed=True)
        if failure is not None and failure.cause == "notebook":
            failure = count_repeats(failure, head.failure, term=self.lease.term)
            if failure.times > 1 and not head.desired.manual:
                state = "failed"
        if state == "running" and (head.desired.state == "stopped" or self._refusal):
            state = "stopped"
        status = FINAL.get(state)
        if self.drain is not None:
            # A keeper's next attempt drains the rest; if none follows, the tracker gets some time.
            follows = status is None and request.op == "end" and not head.desired.manual
            deadline = self.clock.now_s() + (DRAIN_S if status else 0.0 if follows else 2.0)
            failed = self.drain.failures
            while not self.drain.finish(status, wait_s=0.0 if follows else min(0.5, self.config.heartbeat_s)):
                is_down = self.drain.failures - failed >= DRAIN_TRIES
                if self.clock.now_s() > deadline or is_down or not self.may_send_heartbeat():
                    break
                if self.is_heartbeat_due():
                    self.publish_head()
        self.note("end", state=state, failure=failure.message if failure else "")

        def finish(head: Head) -> Head:
            head = self.change(head)
            desired = replace(head.desired, state="stopped") if state == "stopped" else head.desired
            if request.op == "release" and data.get("hand_over"):
                desired = replace(desired, manual=False)
            return replace(
                head,
                state=state,
                desired=desired,
                failure=failure if failure is not None else (None if state == "succeeded" else head.failure),
                extra={name: value for name, value in head.extra.items() if name != "refused"} | self._refusal,
            )

        head = self.publisher.publish(None, change=finish, release=True)
        crashpoints.hit("end.after")
        return head
