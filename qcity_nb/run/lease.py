"""The lease: one run record, changed by compare-and-set, says who may publish and which checkpoint is newest.

    acquire(store, run, me, declared_dead=…)  ->  Lease             the next term, or RunHeld
    rejoin(store, run, me)                    ->  Lease             the same term: another sidecar of the same attempt
    lease.update(change, files=…)             ->  Head              publish: one winner, or LeaseLost
    lease.renew()                             ->  Head              a heartbeat alone
    lease.release(change)                     ->  Head              a successor need not wait
    amend(store, run, change)                 ->  Head              anybody: desired state, pending launch

Who may be declared dead: ``run/observer.py``.

The run record (``records.Head``) holds the term, the holder *and* the newest checkpoints. So an attempt that was
superseded cannot publish: its compare-and-set fails, by construction. The term is the fencing token: it grows by one
with each lease, and people read it as the attempt's number.

Rules (docs/design.md, "The central idea"):

* A lost reply means *unknown*. A write is retried only after the run record was read again: the record carries the
  last 16 write ids, and the write was made if its id is among them.
* A conflict costs nothing while term and holder are still ours: the other writer's change is kept, and ours is applied
  on top. Only a higher term means ``LeaseLost``.
* Lease time runs from just before the newest confirmed write was sent, on a clock that also counts while the machine
  sleeps. No two machines' clocks are ever compared.
* Terms only grow. A lease is acquired only if nobody holds the run, or from exactly the ``(term, heartbeat)`` that was
  declared dead.

Does not: stop a superseded holder from computing, or undo its effects outside the store.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from qcity_nb import codec, crashpoints
from qcity_nb.clock import Clock, SystemClock, iso_now
from qcity_nb.errors import Conflict, HeadCorrupt, LeaseLost, Missing, RunHeld, RunStopped, StoreUnavailable, UnknownRun
from qcity_nb.ports import Source, Store, Version
from qcity_nb.records import Head, Heartbeat, Holder

__all__ = [
    "MARGIN",
    "Change",
    "Edit",
    "Lease",
    "Snapshot",
    "acquire",
    "amend",
    "create",
    "describe",
    "read",
    "rejoin",
]

KEEP_WRITES = 16
"""Write ids that a run record carries."""
MARGIN = 0.2
"""Share of the ttl: a holder stops its outside effects that long before others may take over."""
_TRIES = 60
"""Bound on read-change-publish rounds. Each lost round is a rival's success, so a writer needs far fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A changed run record, together with the files that it names for the first time."""

    head: Head
    files: Mapping[str, Source]
    drop: Sequence[str] = ()
    """Objects that nobody needs once this run record is stored."""
    page: Mapping[str, bytes] | None = None
    """Files for people who look at the store."""


Change = Callable[[Head], Head | Edit]
"""From the run record as just read to the one that should replace it. It is called again after every conflict."""


class _Stale(StoreUnavailable):
    """The store answered with a run record that is older than one it confirmed to this writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run record as read, with the store's version of it and two times of the store's own clock."""

    head: Head
    version: Version
    written_s: float
    now_s: float


@functools.lru_cache(maxsize=8)
def _decode(data: bytes) -> Head:
    """A run record from its bytes. Cached: a keeper mostly reads unchanged ones, and decoding is most of that cost."""
    return codec.loads(Head, data)


def read(store: Store, run: str) -> Snapshot:
    """Read the run record.

    Raises:
        UnknownRun: the store has no such run.
        HeadCorrupt: its bytes are no run record; the store keeps older versions (see ``qcity doctor``).
        StoreUnavailable: the store did not answer.
    """
    stamped = store.read(run)
    if stamped is None:
        raise UnknownRun(f"no run {run!r} in {store.address}: `qcity ps` lists the runs")
    try:
        head = _decode(stamped.data)
    except codec.DecodeError as error:
        raise HeadCorrupt(f"the run record of run {run!r} in {store.address} cannot be read: {error}") from None
    return Snapshot(head=head, version=stamped.version, written_s=stamped.written_s, now_s=stamped.now_s)


def create(store: Store, head: Head, *, files: Mapping[str, Source] | None = None) -> Head:
    """Make a new run.

    Args:
        head: its first run record; ``created`` is filled in if empty.
        files: what the record names, by name.
    Returns: the record as stored.
    Raises:
        Conflict: the run exists; read it.
        StoreUnavailable: the store did not answer in three tries.
    """
    write = uuid.uuid4().hex[:12]
    new = replace(head, created=head.created or iso_now(), writes=(write,))
    last: Exception | None = None
    for _ in range(3):
        try:
            store.publish(new.run, codec.dumps(new), expect=None, files=files)
            return new
        except (Conflict, StoreUnavailable) as error:
            last = error
            with contextlib.suppress(UnknownRun, StoreUnavailable):
                stored = read(store, new.run).head
                if write in stored.writes:
                    return new
                raise Conflict(f"run {new.run!r} already exists in {store.address}") from error
    assert last is not None
    raise last


def _write(
    store: Store,
    run: str,
    change: Change,
    *,
    files: Mapping[str, Source] | None,
    guard: Callable[[Head], None],
    clock: Clock,
) -> tuple[Head, float]:
    """Read, check, change, publish; again after a conflict or a lost reply.

    The write id is the same in all tries, so an earlier try that arrives late is recognised as ours.

    Args:
        guard: raises if this writer may not write on the record as read.
    Returns: the run record, and the lease clock's time just before it was sent.
    """
    write = uuid.uuid4().hex[:12]
    sent: list[tuple[Head, float]] = []
    last: StoreUnavailable | None = None
    refused: Version | None = None
    files = files or {}
    for turn in range(_TRIES):
        try:
            snapshot = read(store, run)
        except StoreUnavailable as error:
            if not sent:
                raise
            # A write was sent and its outcome is unknown: keep asking, within bounds.
            last = error
            if turn >= 8:
                raise
            clock.sleep(_pause_s(turn))
            continue
        head = snapshot.head
        if write in head.writes:
            # The write was made, whatever the reply said. Which try made it is unknown: the first one's time is safe.
            return head, sent[0][1]
        try:
            guard(head)
        except _Stale as error:
            last = error
            if turn >= 8:
                raise
            clock.sleep(_pause_s(turn))
            continue
        if snapshot.version == refused:
            # The same version was just refused as outdated: this read lags (NFS caches listings). Let it catch up.
            clock.sleep(_pause_s(turn))
        try:
            edit = change(head)
        except Missing:
            continue  # the change reads objects that the record names, and one was replaced meanwhile
        if isinstance(edit, Head):
            edit = Edit(head=edit, files={})
        new = replace(edit.head, writes=(*head.writes, write)[-KEEP_WRITES:])
        now = clock.now_s()
        sent.append((new, now))
        try:
            crashpoints.hit("publish.head.before")
            store.publish(
                run,
                codec.dumps(new),
                expect=snapshot.version,
                files={**files, **edit.files},
                drop=edit.drop,
                page=edit.page,
            )
            crashpoints.hit("publish.head.after")
        except Conflict:
            refused = snapshot.version
            continue
        except StoreUnavailable as error:
            last = error
            if turn >= 8:
                raise
            continue
        return new, now
    raise last or StoreUnavailable(f"run {run!r}: {_TRIES} writers in a row were faster")


def _pause_s(turn: int) -> float:
    return min(0.05 * 2.0**turn, 1.0)


def amend(
    store: Store,
    run: str,
    change: Change,
    *,
    files: Mapping[str, Source] | None = None,
    clock: Clock | None = None,
) -> Head:
    """Change what anybody may change: the desired state, the pending launch, and whatever belongs to no holder.

    Args:
        change: must leave term, heartbeat and holder alone; this is checked. It may raise to cancel: then nothing is
            written.
        files: what the changed record names for the first time, by name.
    Returns: the run record as stored.
    Raises:
        UnknownRun, HeadCorrupt: see ``read``.
        StoreUnavailable: outcome unknown; the next call reads first.
    """

    def change_and_check(head: Head) -> Head | Edit:
        edit = change(head)
        new = edit if isinstance(edit, Head) else edit.head
        if (new.term, new.heartbeat, new.holder) != (head.term, head.heartbeat, head.holder):
            raise AssertionError("only the holder changes term, heartbeat and holder")
        return edit

    head, _ = _write(store, run, change_and_check, files=files, guard=lambda _: None, clock=clock or SystemClock())
    return head


def describe(head: Head) -> str:
    """Who holds the run, for messages: ``attempt 3: train-1a2b3c-1-4f5e96 (jupyter on box since …)``, or ``nobody``."""
    holder = head.holder
    if holder is None:
        return "nobody"
    where = f" on {holder.node}" if holder.node else ""
    since = f" since {holder.since}" if holder.since else ""
    return f"attempt {head.term}: {holder.attempt} ({holder.host}{where}{since})"


def acquire(
    store: Store,
    run: str,
    me: Holder,
    *,
    declared_dead: Heartbeat | None = None,
    clock: Clock | None = None,
) -> Lease:
    """Become the holder, at the next term.

    Args:
        me: the attempt that wants the run, and the process that holds the lease for it.
        declared_dead: the ``(term, heartbeat)`` that an observer saw unchanged for its ttl, or whose death a
            launcher knows. The lease is acquired only if the record still has exactly that pair.
    Raises:
        RunHeld: another attempt holds the run, and it is not the one declared dead.
        RunStopped: the run has succeeded or failed: that is final.
        LeaseLost: this attempt acquired the lease, and was superseded before it knew.
        StoreUnavailable: the store did not answer.
    """
    clock = clock or SystemClock()
    me = replace(me, since=me.since or iso_now())
    term = 0

    def guard(head: Head) -> None:
        if head.is_over:
            raise RunStopped(f"run {run!r} has already {head.state}")
        if head.holder is not None and head.holder.attempt != me.attempt and head.seen != declared_dead:
            raise RunHeld(f"run {run!r} is held by {describe(head)}")

    def become_holder(head: Head) -> Head:
        nonlocal term
        term = head.term + 1
        pending_launch = (
            head.pending_launch if head.pending_launch and head.pending_launch.attempt != me.attempt else None
        )
        return replace(head, term=term, heartbeat=0, holder=me, pending_launch=pending_launch)

    head, sent_s = _write(store, run, become_holder, files=None, guard=guard, clock=clock)
    # The reply may have been lost, and this may be a later record. A later term belongs to another process, even if
    # that has this attempt's name: two processes with one term would both believe that they may publish.
    if head.holder is None or head.holder.attempt != me.attempt or head.term != term:
        raise LeaseLost(_explain_loss(run, head))
    return Lease(store, head, me, confirmed_s=sent_s, clock=clock)


def rejoin(store: Store, run: str, me: Holder, *, clock: Clock | None = None) -> Lease:
    """Continue as the holder that ``me`` already is: another sidecar of the same attempt, at the same term.

    Raises:
        LeaseLost: ``me`` no longer holds the run.
        StoreUnavailable: the store did not answer.
    """
    head = read(store, run).head
    if head.holder is None or head.holder.attempt != me.attempt:
        raise LeaseLost(_explain_loss(run, head))
    lease = Lease(store, head, me, confirmed_s=float("-inf"), clock=clock or SystemClock())
    # The record must name this process: a rival on this machine would see that the old one is gone.
    me = replace(me, since=head.holder.since, extra=head.holder.extra)
    lease.update(lambda head: replace(head, holder=me))
    return lease


def _explain_loss(run: str, head: Head) -> str:
    now = f"it is held by {describe(head)}" if head.holder else f"attempt {head.term} took it over and released it"
    return f"run {run!r} is no longer this attempt's: {now}"


class Lease:
    """The right to publish, while it lasts. One process owns it; its methods may be called from any thread.

    Made by ``acquire`` and ``rejoin``. Its states are drawn in docs/design.md, "States".
    """

    def __init__(self, store: Store, head: Head, me: Holder, *, confirmed_s: float, clock: Clock) -> None:
        self.store = store
        self.me = me
        self.term = head.term
        self._clock = clock
        self._confirmed_s = confirmed_s
        self._head = head
        self._lock = threading.Lock()
        self._lost: str | None = None

    @property
    def head(self) -> Head:
        """The run record as this holder last confirmed it."""
        return self._head

    @property
    def run(self) -> str:
        """The run's id."""
        return self._head.run

    @property
    def confirmed_s(self) -> float:
        """The lease clock's time just before the newest confirmed write was sent."""
        return self._confirmed_s

    @property
    def until_s(self) -> float:
        """The lease clock's time until which outside effects are allowed."""
        return self._confirmed_s + self.me.ttl_s * (1 - MARGIN)

    @property
    def is_confirmed(self) -> bool:
        """May this holder still have outside effects? ``False`` also while it cannot know."""
        return self._lost is None and self._clock.now_s() < self.until_s

    @property
    def lost(self) -> str | None:
        """Who took the run over, once that is known."""
        return self._lost

    def _guard(self, head: Head) -> None:
        if head.term < self.term:
            # Terms only grow: a read that lags says nothing about who holds the run now.
            raise _Stale(
                f"run {self.run!r}: the store answers with an old run record, of attempt {head.term}; "
                f"this is attempt {self.term}"
            )
        if head.term == self.term and head.holder is not None and head.holder.attempt == self.me.attempt:
            return
        self._lost = _explain_loss(self.run, head)
        raise LeaseLost(self._lost)

    def update(self, change: Change, *, files: Mapping[str, Source] | None = None) -> Head:
        """Publish ``files`` and the changed run record, with the next heartbeat.

        Args:
            change: called with the newest run record; again after every conflict.
            files: content by name, as in ``Store.publish``.
        Returns: the run record as stored.
        Raises:
            LeaseLost: the record has a higher term. Nothing of this call is visible, except if its reply was lost: the
                write may have been made before the successor took over, and then the successor builds on it.
            StoreUnavailable: outcome unknown; the next call reads first.
        """

        def change_and_count(head: Head) -> Edit:
            edit = change(head)
            if isinstance(edit, Head):
                edit = Edit(head=edit, files={})
            return replace(edit, head=replace(edit.head, heartbeat=head.heartbeat + 1))

        head, sent_s = _write(self.store, self.run, change_and_count, files=files, guard=self._guard, clock=self._clock)
        if head.term != self.term:
            # Our write was made, and a successor wrote on top before we read again: the lease is lost.
            self._guard(head)
        with self._lock:
            self._confirmed_s = max(self._confirmed_s, sent_s)
            if head.heartbeat >= self._head.heartbeat:
                self._head = head
        return head

    def renew(self) -> Head:
        """Send a heartbeat: a write of the run record alone."""
        return self.update(lambda head: head)

    def release(self, change: Change = lambda head: head) -> Head:
        """Give the lease back: the last write of this holder. A successor need not wait for its ttl."""

        def clear_holder(head: Head) -> Edit:
            edit = change(head)
            if isinstance(edit, Head):
                edit = Edit(head=edit, files={})
            return replace(edit, head=replace(edit.head, holder=None, heartbeat=head.heartbeat + 1))

        head, _ = _write(self.store, self.run, clear_holder, files=None, guard=self._guard, clock=self._clock)
        self._lost = f"run {self.run!r} was released by this attempt"
        self._head = head
        return head
