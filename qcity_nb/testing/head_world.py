"""Rivals over one run record (``Head``), and an oracle that checks what they write.

``HeadWorld`` holds a run, several attempts, observers and a faulty store; what each may do is a method. The
``Oracle`` sits between the faults and the real store. Both the Hypothesis machine (``rules``) and seeded
schedules (``play``) drive it.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qcity_nb.errors import Conflict, LeaseLost, RunHeld, StoreUnavailable
from qcity_nb.ports import Store
from qcity_nb.records import CheckpointRef, Head, Heartbeat, Holder, PendingLaunch
from qcity_nb.run import lease
from qcity_nb.run.observer import Observer
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.faults import Fault, FaultyStore
from qcity_nb.testing.oracle import Oracle, Signed

__all__ = ["ATTEMPTS", "TTL_S", "HeadWorld", "play"]

RUN = "r"
TTL_S = 10.0
ATTEMPTS = ("a", "b", "c")
_CAN_BE_LATE = 4
"""A delayed write takes effect after at most so many calls: well under the 16 write ids that a run record keeps."""


class HeadWorld:
    """Everything that may happen to one run record, one method each.

    Args:
        make_store: makes an empty store; the clock is for stores that take one.
        seed: faults at random; ``None``: only those that ``spoil`` asks for.
        quiet: ends the faults of the store's own network; called before the state is checked.
    """

    def __init__(
        self,
        make_store: Callable[[ManualClock], Store],
        *,
        seed: int | None = None,
        quiet: Callable[[], None] = lambda: None,
    ) -> None:
        self.clock = ManualClock()
        self._quiet = quiet
        self.oracle = Oracle(make_store(self.clock), self.clock, quiet=quiet)
        self.store = FaultyStore(self.oracle, delay=_CAN_BE_LATE)
        self.leases: dict[str, lease.Lease] = {}
        self.observer = Observer(self.clock)
        self.declared_dead: Heartbeat | None = None
        self.count = 0
        self.confirmed_notes: list[str] = []
        self.sent_notes: list[str] = []
        self.seen: Counter[str] = Counter()
        """How often each rare case happened: a schedule without any proves nothing."""
        extra: dict[str, Any] = {"by": "foreigner", "declared_dead": None, "notes": []}
        lease.create(self.store, Head(run=RUN, key="k", project="p", notebook="n", extra=extra))
        self.seed = seed
        if seed is not None:
            self.store = FaultyStore(self.oracle, seed=seed, delay=_CAN_BE_LATE)

    def __repr__(self) -> str:
        return f"HeadWorld(seed={self.seed}, head={self.oracle.head}, {self.store!r})"

    def spoil(self, fault: Fault) -> None:
        """Let the fault happen to the next call that it can happen to."""
        self.store.inject(fault)

    def between(self, action: Callable[[], None]) -> None:
        """Do ``action`` between the next writer's read and its publish."""
        self.store.before_publish = action

    def pass_time(self, by_s: float) -> None:
        """Nobody does anything."""
        self.clock.advance(by_s)

    def be_silent(self) -> None:
        """A stopped holder: an observer looks, a ttl passes, it looks again."""
        self.look()
        self.clock.advance(TTL_S + 0.5)
        self.look()

    def look(self) -> None:
        """An observer reads the run record, and may declare the holder dead."""
        try:
            snapshot = lease.read(self.store, RUN)
        except StoreUnavailable:
            return
        # The second observer is new, as in `qcity keep --once`: it has only the store's clock.
        for observer in (self.observer, Observer(self.clock)):
            declared_dead = observer.declare_dead(snapshot)
            if declared_dead is not None:
                self.declared_dead = declared_dead
            if declared_dead == self.oracle.seen:
                silent_s = self.clock.now_s() - self.oracle.moved_s
                self.seen["declared dead"] += 1
                assert silent_s > TTL_S - 1e-6, f"declared dead after {silent_s} s: {self!r}"
                mine = self.leases.get(self.oracle.holder or "")
                assert mine is None or not mine.is_confirmed, f"a confirmed holder was declared dead: {self!r}"

    def acquire(self, attempt: str, *, forged: bool = False) -> None:
        """``attempt`` tries to become the holder, with the heartbeat last declared dead (``forged``: a wrong one)."""
        declared_dead = (
            Heartbeat(term=self.oracle.seen.term, heartbeat=self.oracle.seen.heartbeat + 1)
            if forged
            else self.declared_dead
        )
        self.leases.pop(attempt, None)  # one process per attempt: the old one is gone
        signed = Signed(self.store, attempt, declared_dead)
        me = Holder(attempt=attempt, host="local", ttl_s=TTL_S)
        try:
            acquired = lease.acquire(signed, RUN, me, declared_dead=declared_dead, clock=self.clock)
        except (RunHeld, StoreUnavailable, LeaseLost) as error:
            self.seen[f"acquire: {type(error).__name__}"] += 1
            return
        # After a lost reply a rival may have been even faster; but the term must have been this attempt's.
        owners = [h["holder"]["attempt"] for h in self.oracle.heads if h["term"] == acquired.term and h["holder"]]
        assert owners[0] == attempt, f"{attempt} holds term {acquired.term} of {owners[0]}: {self!r}"
        self.leases[attempt] = acquired
        self.seen["acquired"] += 1
        self.seen["superseded"] += any(
            h["term"] == acquired.term - 1 and h["holder"] and h["holder"]["attempt"] != attempt
            for h in self.oracle.heads[-2:]
        )

    def publish(self, attempt: str) -> None:
        """``attempt`` publishes a checkpoint, if it believes to be the holder."""
        mine = self.leases.get(attempt)
        if mine is None or mine.lost:
            return
        self.count += 1
        seq = self.count

        def change(head: Head) -> Head:
            ref = CheckpointRef(name=f"c{seq}", digest="d", seq=seq, term=mine.term)
            return replace(head, checkpoints=(ref, *head.checkpoints))

        self._hold(attempt, lambda: mine.update(change, files={f"c{seq}": b"content"}), seq)

    def renew(self, attempt: str) -> None:
        """``attempt`` renews its lease, if it believes to be the holder."""
        mine = self.leases.get(attempt)
        if mine is not None and not mine.lost:
            self._hold(attempt, mine.renew, None)

    def release(self, attempt: str) -> None:
        """``attempt`` releases its lease."""
        mine = self.leases.get(attempt)
        if mine is not None and not mine.lost:
            self._hold(attempt, mine.release, None)

    def _hold(self, attempt: str, call: Callable[[], Head], seq: int | None) -> None:
        mine = self.leases[attempt]
        mine.store = Signed(self.store, attempt)
        try:
            call()
        except LeaseLost:
            head = self.oracle.head
            self.seen["lease lost"] += 1
            assert head["term"] > mine.term or self.oracle.holder is None, f"a healthy holder lost: {self!r}"
            return
        except StoreUnavailable:
            self.seen["outcome unknown"] += 1
            return
        if seq is not None:
            assert seq in self._published(), f"checkpoint {seq} was confirmed, and is not there: {self!r}"

    def _published(self) -> list[int]:
        return [ref["seq"] for ref in self.oracle.head["checkpoints"]]

    def wish(self, state: str, *, launches: bool) -> None:
        """Somebody else writes the desired state and a pending launch, and leaves a note."""
        self.count += 1
        note = f"n{self.count}"
        self.sent_notes.append(note)

        def change(head: Head) -> Head:
            pending_launch = (
                PendingLaunch(attempt=note, host="local", keeper="k", declared_dead=head.seen)
                if launches
                else head.pending_launch
            )
            desired = replace(head.desired, state="stopped" if state == "stopped" else "running", hosts=(note,))
            extra = {**head.extra, "notes": [*head.extra["notes"], note]}
            return replace(head, desired=desired, pending_launch=pending_launch, extra=extra)

        with contextlib.suppress(StoreUnavailable):
            lease.amend(Signed(self.store, "foreigner"), RUN, change, clock=self.clock)
            self.confirmed_notes.append(note)

    def check(self) -> None:
        """What holds at every moment."""
        self._quiet()
        notes = self.oracle.head["notes"]
        assert len(notes) == len(set(notes)), f"a note was written twice: {self!r}"
        assert set(self.confirmed_notes) <= set(notes), f"a confirmed note was lost: {self!r}"
        assert set(notes) <= set(self.sent_notes), f"a note nobody wrote: {self!r}"
        published = self._published()
        assert len(published) == len(set(published)), f"a checkpoint was written twice: {self!r}"
        confirmed = [name for name, mine in self.leases.items() if mine.is_confirmed]
        assert len(confirmed) <= 1, f"{confirmed} all believe to hold the run: {self!r}"
        stored = self.oracle.read(RUN)
        assert stored is not None
        assert json.loads(stored.data) == self.oracle.head, f"the store does not have the newest write: {self!r}"
        names = set(self.oracle.names(RUN))
        assert {f"c{seq}" for seq in published} <= names, f"the run record names a missing file: {self!r}"

    def finish(self) -> None:
        """The faults end: delayed writes take effect, and a new attempt gets the run after one ttl."""
        self.store.before_publish = None
        self.store.clear()
        self.store.settle()
        self.check()
        self.be_silent()
        self.acquire("last")
        assert self.oracle.holder == "last", f"nobody can take over: {self!r}"
        self.publish("last")
        self.check()


def play(
    world: HeadWorld, seed: int, *, steps: int = 60, spoil: Callable[[random.Random], None] = lambda dice: None
) -> None:
    """A random schedule of rivals; any broken rule is an AssertionError that shows the seed.

    Args:
        spoil: called before each step: what may go wrong in the store's own network.
    """
    dice = random.Random(seed)

    def act() -> None:
        who = dice.choice(ATTEMPTS)
        holder = world.oracle.holder or who
        choice = dice.randrange(11)
        if choice <= 2:
            world.publish(holder if dice.random() < 0.7 else who)
        elif choice == 3:
            world.renew(holder if dice.random() < 0.7 else who)
        elif choice == 4:
            world.wish(dice.choice(["running", "stopped"]), launches=dice.random() < 0.5)
        elif choice == 5:
            world.look()
        elif choice == 6:
            world.pass_time(dice.choice([0.5, 4.0, TTL_S]))
        elif choice == 7:
            world.acquire(who, forged=dice.random() < 0.2)
        elif choice == 8:
            world.between(act)
        elif choice == 9:
            world.be_silent()
            world.acquire(who)
        elif dice.random() < 0.3:
            world.release(holder)
        world.check()

    try:
        for _ in range(steps):
            spoil(dice)
            act()
        world.finish()
    except (AssertionError, Conflict) as error:
        raise AssertionError(f"schedule of seed {seed}: {error}") from error
