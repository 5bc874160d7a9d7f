"""The lease: one compare-and-set head says who may publish, and what is newest.

    acquire(store, run, me, judged=…)  ->  Lease        epoch + 1, or RunHeld
    lease.update(change, files=…)      ->  Head         one winner, or LeaseLost
    amend(store, run, change)          ->  Head         anybody: wanted and intent only
    observe(store, run, …)             ->  Beat | None  the holder that has been silent for its ttl

Rules (docs/design.md, "The central idea"):

* A write is retried only after the head was read again. A reply that was lost means *unknown*: the head
  carries the last 16 write ids, and ours is among them or it is not.
* A conflict costs nothing while epoch and holder are still ours: the foreign change is kept, ours is put on
  top. Only a higher epoch means ``LeaseLost``.
* Lease time runs from just before the confirmed renewal was sent, on a clock that counts sleep.
* Epochs only grow, and a lease is taken only from nobody or from exactly the ``(epoch, beat)`` judged dead.

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
    "Observer",
    "Snapshot",
    "acquire",
    "amend",
    "create",
    "describe",
    "read",
    "rejoin",
]

KEEP_WRITES = 16
MARGIN = 0.2
"""Share of the ttl that a holder gives up before others may take over: outside effects stop there."""
_TRIES = 60
"""Bound on read-change-publish rounds; with every rival making progress a writer needs far fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A changed head together with the files that it names for the first time."""

    head: Head
    files: Mapping[str, Source]
    drop: Sequence[str] = ()
    """Objects that nobody needs once this head is there."""
    page: Mapping[str, bytes] | None = None
    """Files for people who look at the store."""


Change = Callable[[Head], Head | Edit]
"""From the head as just read to the head as it should be; called again after every conflict."""


class _Stale(StoreUnavailable):
    """The store answered with a head that is older than one it confirmed to this writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A head as read, with the store's version and times."""

    head: Head
    version: Version
    written_s: float
    now_s: float


@functools.lru_cache(maxsize=8)
def _decode(data: bytes) -> Head:
    """A head from its bytes. A keeper finds the same ones most of the time; decoding is most of the cost of a look."""
    return codec.loads(Head, data)


def read(store: Store, run: str) -> Snapshot:
    """The run's head.

    Raises:
        UnknownRun: the store has no such run.
        HeadCorrupt: the head's bytes are no head; the store keeps older versions (see ``qcity doctor``).
        StoreUnavailable: the store did not answer.
    """
    stamped = store.read(run)
    if stamped is None:
        raise UnknownRun(f"no run {run!r} in {store.address}: `qcity ps` lists what is there")
    try:
        head = _decode(stamped.data)
    except codec.DecodeError as error:
        raise HeadCorrupt(f"the head of run {run!r} in {store.address} cannot be read: {error}") from None
    return Snapshot(head=head, version=stamped.version, written_s=stamped.written_s, now_s=stamped.now_s)


def create(store: Store, head: Head, *, files: Mapping[str, Source] | None = None) -> Head:
    """Make a new run.

    Raises:
        Conflict: the run exists; read it.
        StoreUnavailable: the store did not answer within the tries.
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
                found = read(store, new.run).head
                if write in found.writes:
                    return new
                raise Conflict(f"run {new.run!r} exists already in {store.address}") from error
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

    Returns the head, and the lease clock's time just before it was sent.
    The write id stays the same over the tries, so a late arrival of an earlier try is recognised as ours.
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
            # A write is in flight and nobody can say what became of it: keep asking, within bounds.
            last = error
            if turn >= 8:
                raise
            clock.sleep(_pause_s(turn))
            continue
        head = snapshot.head
        if write in head.writes:
            # It landed, whatever the reply said; which of the tries is unknown, and the first is safe.
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
            # The version that was just refused as old: a read that lags (NFS caches listings). Let it catch up.
            clock.sleep(_pause_s(turn))
        try:
            edit = change(head)
        except Missing:
            continue  # the change reads what the head names, and that was replaced meanwhile
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
    """Change what anybody may change: ``wanted``, ``intent``, and what belongs to no holder.

    ``change`` may raise to call the whole thing off (nothing is written then). It must leave epoch, beat and
    holder alone; this is checked.
    """

    def checked(head: Head) -> Head | Edit:
        edit = change(head)
        new = edit if isinstance(edit, Head) else edit.head
        if (new.term, new.heartbeat, new.holder) != (head.term, head.heartbeat, head.holder):
            raise AssertionError("only the holder changes epoch, beat and holder")
        return edit

    head, _ = _write(store, run, checked, files=files, guard=lambda _: None, clock=clock or SystemClock())
    return head


def describe(holder: Holder) -> str:
    """The holder in a few words, for messages."""
    where = f" on {holder.node}" if holder.node else ""
    since = f" since {holder.since}" if holder.since else ""
    return f"attempt {holder.attempt} ({holder.host}{where}{since})"


def acquire(
    store: Store,
    run: str,
    me: Holder,
    *,
    declared_dead: Heartbeat | None = None,
    clock: Clock | None = None,
) -> Lease:
    """Become the holder, at the next epoch.

    Args:
        judged: the ``(epoch, beat)`` that an observer found silent for its ttl, or whose death a launcher
            knows. The lease is taken only if nothing has moved since.
    Raises:
        RunHeld: somebody holds the run, and it is not the one judged dead.
        RunStopped: the run has succeeded or failed; nobody takes it any more.
        StoreUnavailable: the store did not answer.
    """
    clock = clock or SystemClock()
    me = replace(me, since=me.since or iso_now())
    taken = 0

    def guard(head: Head) -> None:
        if head.is_over:
            raise RunStopped(f"run {run!r} has {head.state} already")
        if head.holder is not None and head.holder.attempt != me.attempt and head.seen != declared_dead:
            raise RunHeld(f"run {run!r} is held by {describe(head.holder)}, epoch {head.term}")

    def take(head: Head) -> Head:
        nonlocal taken
        taken = head.term + 1
        pending_launch = (
            head.pending_launch if head.pending_launch and head.pending_launch.attempt != me.attempt else None
        )
        return replace(head, term=taken, heartbeat=0, holder=me, pending_launch=pending_launch)

    head, sent_s = _write(store, run, take, files=None, guard=guard, clock=clock)
    # The reply may have been lost, and the head be a later one. A later epoch is another process's, even where
    # it has this attempt's name: two processes with one epoch would both believe that they may publish.
    if head.holder is None or head.holder.attempt != me.attempt or head.term != taken:
        raise LeaseLost(_lost(run, head))
    return Lease(store, head, me, confirmed_s=sent_s, clock=clock)


def rejoin(store: Store, run: str, me: Holder, *, clock: Clock | None = None) -> Lease:
    """Go on as the holder that ``me`` already is: a second agent of the same attempt.

    Raises:
        LeaseLost: ``me`` no longer holds the run.
        StoreUnavailable: the store did not answer.
    """
    head = read(store, run).head
    if head.holder is None or head.holder.attempt != me.attempt:
        raise LeaseLost(_lost(run, head))
    lease = Lease(store, head, me, confirmed_s=float("-inf"), clock=clock or SystemClock())
    # The head names this process from now on, or a rival on this machine finds the holder's process gone.
    me = replace(me, since=head.holder.since)
    lease.update(lambda head: replace(head, holder=me))
    return lease


def _lost(run: str, head: Head) -> str:
    now = f"{describe(head.holder)} holds it" if head.holder else "it was taken over and let go"
    return f"run {run!r} is no longer this attempt's: {now}, epoch {head.term}"


class Lease:
    """The right to publish, while it lasts. One process owns it; its methods may be called from any thread."""

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
        """The head as this holder last confirmed it."""
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
        """May this holder still affect the outside? False too when it merely cannot know."""
        return self._lost is None and self._clock.now_s() < self.until_s

    @property
    def lost(self) -> str | None:
        """Who took the run over, once that is known."""
        return self._lost

    def _guard(self, head: Head) -> None:
        if head.term < self.term:
            # Epochs only grow: a read that lags says nothing about who holds the run now.
            raise _Stale(f"run {self.run!r}: the store answers with epoch {head.term}, before {self.term}")
        if head.term == self.term and head.holder is not None and head.holder.attempt == self.me.attempt:
            return
        self._lost = _lost(self.run, head)
        raise LeaseLost(self._lost)

    def update(self, change: Change, *, files: Mapping[str, Source] | None = None) -> Head:
        """Publish ``files`` and the changed head, with the next beat.

        Raises:
            LeaseLost: a higher epoch. Nothing of this call is visible, unless its reply was lost: it may then
                have landed before the successor took over, which has it.
            StoreUnavailable: outcome unknown; the next call re-reads first.
        """

        def heartbeat(head: Head) -> Edit:
            edit = change(head)
            if isinstance(edit, Head):
                edit = Edit(head=edit, files={})
            return replace(edit, head=replace(edit.head, heartbeat=head.heartbeat + 1))

        head, sent_s = _write(self.store, self.run, heartbeat, files=files, guard=self._guard, clock=self._clock)
        if head.term != self.term:
            # Our write landed, and a successor wrote on top before we looked: theirs is the newest word.
            self._guard(head)
        with self._lock:
            self._confirmed_s = max(self._confirmed_s, sent_s)
            if head.heartbeat >= self._head.heartbeat:
                self._head = head
        return head

    def renew(self) -> Head:
        """A sign of life: a head-only write."""
        return self.update(lambda head: head)

    def release(self, change: Change = lambda head: head) -> Head:
        """Let go: the last write of this holder; a successor need not wait."""

        def let_go(head: Head) -> Edit:
            edit = change(head)
            if isinstance(edit, Head):
                edit = Edit(head=edit, files={})
            return replace(edit, head=replace(edit.head, holder=None, heartbeat=head.heartbeat + 1))

        head, _ = _write(self.store, self.run, let_go, files=None, guard=self._guard, clock=self._clock)
        self._lost = f"run {self.run!r} was let go by this attempt"
        self._head = head
        return head


class Observer:
    """Judges silence: hand it every head you read, and it says when the holder's ttl has passed unchanged.

    It waits that long itself, on its own clock, or subtracts two times of the store's own clock; it never
    compares two machines' clocks.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._since: dict[str, tuple[Heartbeat, float]] = {}

    def declare_dead(self, snapshot: Snapshot) -> Heartbeat | None:
        """The ``(epoch, beat)`` that may be superseded; ``None``: alive, unheld, or not silent long enough."""
        head = snapshot.head
        if head.holder is None:
            self._since.pop(head.run, None)
            return None
        now = self._clock.now_s()
        seen, since = self._since.get(head.run, (None, now))
        if seen != head.seen:
            self._since[head.run] = (head.seen, now)
            since = now
        silent_s = max(now - since, snapshot.now_s - snapshot.written_s)
        return head.seen if silent_s >= head.holder.ttl_s else None
