"""The keeper: compares what should run with what does, and launches.

    Keeper(store, settings, launchers=hosts.finder(settings)).keep(["train-1a2b3c-1"], until=…)

One step reads the run record, asks the launchers, lets ``run.policy.decide`` choose one action, and does it. Every
write is a compare-and-set, and is cancelled if the run is no longer as it was when the action was chosen. So any number
of keepers may watch one run, and any of them may die at any moment.

    declare (term, heartbeat) dead → pending launch, by compare-and-set: one keeper wins → launch → the attempt acquires

A keeper has no state of its own except how long it has seen a run record unchanged. That only shortens a wait.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from qcity_nb.clock import Clock, SystemClock, iso_now
from qcity_nb.errors import Missing, QcityError, StoreUnavailable, UnknownHost, UnknownRun, UsageError
from qcity_nb.ports import Launcher, Observation, Store
from qcity_nb.records import AttemptSpec, Event, Failure, Head, PendingLaunch
from qcity_nb.run import journal, lease, policy
from qcity_nb.run.observer import Observer
from qcity_nb.settings import Settings

__all__ = ["Keeper", "Outcome", "is_tracking_finished"]

_STEPS = 8
"""Tries of one step while rivals keep changing the run; the next round of ``keep`` continues."""
_FINISH_TRACKING_EVERY_S = 10.0
_ENDED_EVERY_S = 5.0


class _RunChanged(Exception):
    """The run is no longer as it was when the action was chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one step saw and did."""

    run: str
    head: Head | None
    """``None`` if the store could not be read; ``error`` says why."""
    action: policy.Action
    events: tuple[Event, ...] = ()
    """What this keeper wrote into the journal."""
    wait_s: float | None = None
    error: QcityError | None = None


@dataclass(slots=True)
class _Watch:
    """What one keeper remembers of one run: only times of its own clock."""

    head: Head
    since_s: float
    progress: tuple[int, int]
    progress_s: float


def is_tracking_finished(head: Head, *, tracking: str) -> bool:
    """Is nothing left to do for this run: has it ended, and does the tracker have everything?

    Args:
        tracking: this project's tracker; with none, here or in the run record, metrics stay in the outbox.
    """
    if head.state == "running":
        return False
    tracked = head.tracked
    if not (tracking or tracked.uri):
        return True
    if tracked.status == "WAITING" or not (tracked.run_id or tracked.uri or head.outbox):
        return True
    newest = head.checkpoint.seq if head.checkpoint else 0
    return tracked.status != "RUNNING" and (not head.outbox or tracked.drained_seq >= newest)


class Keeper:
    """Keeps runs running.

    Args:
        store: where the runs live.
        settings: of the project in which attempts on this machine run.
        launchers: a host's launcher by name; raises ``UnknownHost``.
        clock, rng: time and attempt ids; tests inject their own.
        finish_tracking: sends the remaining rows and the final status of a run that has ended; called again until it
            succeeds.
        pause: waits between two rounds, at most as many seconds as it is called with; may return early.
        name: who this keeper is, for people who read a pending launch.
        grace_s: how long a launch may take before other keepers consider the pending launch abandoned.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        launchers: Callable[[str], Launcher],
        clock: Clock | None = None,
        rng: random.Random | None = None,
        finish_tracking: Callable[[str], None] | None = None,
        pause: Callable[[float], None] | None = None,
        name: str = "",
        grace_s: float = 30.0,
    ) -> None:
        self._store = store
        self._settings = settings
        self._find_launcher = launchers
        self._launchers: dict[str, Launcher] = {}
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._finish_tracking = finish_tracking
        self._pause = pause or self._clock.sleep
        self._name = name or f"keeper-{self._rng.getrandbits(32):08x}"
        self._grace_s = grace_s
        self._observer = Observer(self._clock)
        self._watched: dict[str, _Watch] = {}
        self._tracking_tried_s: dict[str, float] = {}
        self._unable: set[tuple[str, str]] = set()

    # --- observing

    def _launcher(self, host: str) -> Launcher | None:
        if host not in self._launchers:
            try:
                self._launchers[host] = self._find_launcher(host)
            except UnknownHost:
                return None
        return self._launchers[host]

    def _ask(self, host: str, attempt: str) -> Observation | None:
        launcher = self._launcher(host)
        if launcher is None:
            return None
        try:
            return launcher.find(attempt)
        except QcityError as error:
            return Observation(state="unknown", reason=str(error))

    def _look(self, snapshot: lease.Snapshot) -> policy.Evidence:
        head, now_s = snapshot.head, self._clock.now_s()
        progress = (head.term, head.checkpoint.seq if head.checkpoint else 0)
        watch = self._watched.get(head.run)
        if watch is None:
            watch = self._watched[head.run] = _Watch(head, now_s, progress, now_s)
        if watch.head != head:
            watch.head, watch.since_s = head, now_s
        if watch.progress != progress:
            watch.progress, watch.progress_s = progress, now_s
        over = head.state != "running"
        return policy.Evidence(
            holder=self._ask(head.holder.host, head.holder.attempt) if head.holder and not over else None,
            pending=self._ask(head.pending_launch.host, head.pending_launch.attempt)
            if head.pending_launch and not over
            else None,
            silent=self._observer.declare_dead(snapshot),
            unchanged_s=max(now_s - watch.since_s, snapshot.now_s - snapshot.written_s),
            stalled_s=now_s - watch.progress_s,
        )

    # --- acting

    def _amend(self, expected: Head, change: Callable[[Head], Head], events: Iterable[Event]) -> Head:
        """Write, if the run is still as it was when the action was chosen."""
        lines = b"".join(journal.encode_event(each) for each in events)

        def change_if_same(head: Head) -> lease.Edit:
            if (head.seen, head.holder, head.pending_launch, head.state, head.desired) != (
                expected.seen,
                expected.holder,
                expected.pending_launch,
                expected.state,
                expected.desired,
            ):
                raise _RunChanged
            read = partial(self._store.get, head.run)
            try:
                segment = journal.append(head.journal, lines, folder="journal", term=head.term, read=read)
            except Missing:  # lost; or replaced meanwhile, then this write is refused and the next one reads it
                segment = journal.append("", lines, folder="journal", term=head.term, read=read)
            return lease.Edit(
                head=replace(change(head), journal=segment.name),
                files={segment.name: segment.data},
                drop=[segment.replaced] if segment.replaced else [],
            )

        return lease.amend(self._store, expected.run, change_if_same, clock=self._clock)

    def _event(self, head: Head, kind: str, attempt: str, **data: object) -> Event:
        return journal.event(kind, term=head.term, attempt=attempt, keeper=self._name, **data)

    def _death_events(self, head: Head, reason: str) -> list[Event]:
        if head.holder is None or not reason:
            return []
        return [self._event(head, "died", head.holder.attempt, host=head.holder.host, reason=reason)]

    def _launch(self, head: Head, action: policy.Launch) -> tuple[Head, list[Event]]:
        launcher = self._launcher(action.host)
        assert launcher is not None, "decide() was given only hosts with a launcher"
        price = ""
        try:
            price = launcher.quote()
        except StoreUnavailable:
            pass  # the launch itself shows whether the host accepts the attempt
        except UsageError:
            self._unable.add((head.run, action.host))
            raise
        attempt = f"{head.run}-{self._rng.getrandbits(40):010x}"
        pending_launch = PendingLaunch(
            attempt=attempt,
            host=action.host,
            keeper=self._name,
            declared_dead=action.declared_dead,
            grace_s=self._grace_s,
            since=iso_now(),
        )
        events = self._death_events(head, action.death)
        costs = {"price": price} if price else {}
        events.append(self._event(head, "launched", attempt, host=action.host, reason=action.reason, **costs))
        begun_s = self._clock.now_s()
        head = self._amend(head, lambda now: replace(now, pending_launch=pending_launch), events)
        if head.pending_launch != pending_launch or self._clock.now_s() - begun_s > self._grace_s / 2:
            # The write was so slow that another keeper may consider it abandoned soon: leave the launch to that one.
            return head, events
        root = self._settings.project.root if head.project == self._settings.project.name else None
        spec = AttemptSpec(
            run=head.run,
            attempt=attempt,
            host=action.host,
            store=self._store.address,
            declared_dead=action.declared_dead,
            project=str(root) if root else "",
            output=str(root / head.output) if root and head.output else "",
            needs=head.needs,
        )
        try:
            launcher.launch(spec)
        except UsageError as error:
            # This keeper's machine cannot run it; another keeper's may. The run is left as it was.
            self._unable.add((head.run, action.host))
            self._clear(head, str(error), is_failure=False)
            raise
        except StoreUnavailable:
            # Whether the host accepted it is unknown: the next step looks for the label.
            return head, events
        return head, events

    def _clear(self, head: Head, reason: str, *, is_failure: bool) -> tuple[Head, list[Event]]:
        assert head.pending_launch is not None
        attempt = head.pending_launch.attempt

        def clear(now: Head) -> Head:
            launches = now.launches
            if is_failure:
                failed = policy.failed_launches(now) + 1
                launches = replace(launches, failed=failed, term=now.term, reason=reason)
            return replace(now, pending_launch=None, launches=launches)

        events = [self._event(head, "withdrawn", attempt, reason=reason, failed=is_failure)]
        return self._amend(head, clear, events), events

    def _fail(self, head: Head, reason: str, death: str) -> tuple[Head, list[Event]]:
        def give_up(now: Head) -> Head:
            failure = now.failure
            if failure is None or failure.cause != "notebook" or failure.term != now.term:
                failure = Failure(
                    cause="host",
                    signature="gave up",
                    message=reason,
                    term=now.term,
                    seq=now.checkpoint.seq if now.checkpoint else 0,
                )
            return replace(now, state="failed", pending_launch=None, failure=failure)

        attempt = head.holder.attempt if head.holder else ""
        events = [*self._death_events(head, death), self._event(head, "gave up", attempt, reason=reason)]
        return self._amend(head, give_up, events), events

    def _act(self, head: Head, action: policy.Action, evidence: policy.Evidence) -> tuple[Head, list[Event]]:
        dead = policy.declare_dead(head, evidence)
        death = dead[1] if dead else ""
        match action:
            case policy.Launch(delay_s=0.0):
                return self._launch(head, action)
            case policy.ClearPendingLaunch(reason=reason, is_failure=is_failure):
                return self._clear(head, reason, is_failure=is_failure)
            case policy.MarkFailed(reason=reason):
                return self._fail(head, reason, death)
            case policy.MarkStopped(reason=reason):
                attempt = head.holder.attempt if head.holder else ""
                events = [*self._death_events(head, death), self._event(head, "stopped", attempt, reason=reason)]
                return self._amend(head, lambda now: replace(now, state="stopped", pending_launch=None), events), events
            case policy.Stop(attempt=attempt, host=host, reason=reason):
                kind = "stalled" if head.holder is not None else "called off"
                events = [self._event(head, kind, attempt, host=host, reason=reason)]
                head = self._amend(head, lambda now: now, events)
                launcher = self._launcher(host)
                if launcher is not None:
                    launcher.stop(attempt, grace_s=self._settings.stop_grace_s)
                self._watched.pop(head.run, None)
                return head, events
        return head, []

    def _finish(self, head: Head) -> None:
        """Finish the tracking of a run that has ended; tried now and then until it succeeds."""
        is_waiting = head.tracked.status == "WAITING"
        if (
            self._finish_tracking is None
            or head.state == "running"
            or (is_tracking_finished(head, tracking=self._settings.tracking) and not is_waiting)
        ):
            return
        if self._clock.now_s() < self._tracking_tried_s.get(head.run, float("-inf")) + _FINISH_TRACKING_EVERY_S:
            return
        self._tracking_tried_s[head.run] = self._clock.now_s()
        self._finish_tracking(head.run)

    def reconcile(self, run: str) -> Outcome:
        """One step: observe, decide, do one thing.

        Raises:
            UnknownRun: the store has no such run.
            HeadCorrupt: its run record cannot be read.
            Other errors of store, host and tracker are not raised: they are in the outcome's ``error``.
        """
        nothing = policy.Nothing(reason="others are changing the run")
        head: Head | None = None
        for _ in range(_STEPS):
            try:
                snapshot = lease.read(self._store, run)
                head = snapshot.head
                evidence = self._look(snapshot)
                able = [
                    host
                    for host in head.desired.hosts
                    if (run, host) not in self._unable and self._launcher(host) is not None
                ]
                action = policy.decide(head, evidence, hosts=able)
                head, events = self._act(head, action, evidence)
                self._finish(head)
            except _RunChanged:
                continue
            except QcityError as error:
                if head is None and not isinstance(error, StoreUnavailable):
                    raise
                return Outcome(run=run, head=head, action=nothing, error=error)
            wait_s = None
            if isinstance(action, policy.Launch):
                wait_s = action.delay_s or None
            elif isinstance(action, policy.Nothing):
                wait_s = action.wait_s
            return Outcome(run=run, head=head, action=action, events=tuple(events), wait_s=wait_s)
        return Outcome(run=run, head=head, action=nothing)

    @property
    def pace_s(self) -> float:
        """Seconds between two rounds: several in each heartbeat, so that a known death costs little time.

        The end of an attempt that this process started ends the pause early (``hosts.local.wait_for_end``).
        """
        return min(5.0, max(0.1, self._settings.heartbeat_s / 4))

    def keep(
        self,
        runs: Iterable[str] | None = None,
        *,
        once: bool = False,
        until: Callable[[Mapping[str, Outcome]], bool] | None = None,
        see: Callable[[Outcome], None] | None = None,
    ) -> dict[str, Outcome]:
        """Reconcile runs, round after round.

        Args:
            runs: which ones; by default all runs of the store, now and later.
            once: only one round.
            until: called after each round; ends the loop when it returns true. By default it never ends.
            see: called with every outcome.
        Returns: the last outcome of each run.
        """
        chosen = list(runs) if runs is not None else None
        last: dict[str, Outcome] = {}
        due_s: dict[str, float] = {}
        while True:
            try:
                names = chosen if chosen is not None else self._store.runs()
            except StoreUnavailable:
                if once:
                    raise
                names = list(last)
            for run in names:
                if self._clock.now_s() < due_s.get(run, float("-inf")):
                    continue
                try:
                    last[run] = self.reconcile(run)
                    head = last[run].head
                    if (
                        chosen is None
                        and head is not None
                        and is_tracking_finished(head, tracking=self._settings.tracking)
                    ):
                        # It may be resumed, so it is read again, but not in every round.
                        due_s[run] = self._clock.now_s() + _ENDED_EVERY_S
                except Exception as error:
                    if chosen is not None and len(chosen) == 1:
                        raise
                    gone = isinstance(error, UnknownRun)
                    last[run] = Outcome(
                        run=run,
                        head=None,
                        action=policy.Nothing(reason="deleted" if gone else "unreadable"),
                        error=None if gone else error if isinstance(error, QcityError) else QcityError(repr(error)),
                    )
                if see is not None:
                    see(last[run])
            if once or (until is not None and until(last)):
                return last
            self._pause(self.pace_s)
