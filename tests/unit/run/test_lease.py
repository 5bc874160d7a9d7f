"""The lease: who may publish, what a lost reply means, who may take over and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from qcity_nb import codec
from qcity_nb.errors import Conflict, HeadCorrupt, LeaseLost, RunHeld, RunStopped, StoreUnavailable, UnknownRun
from qcity_nb.ports import Store
from qcity_nb.records import CheckpointRef, DesiredState, Head, Heartbeat, Holder, PendingLaunch
from qcity_nb.run import lease
from qcity_nb.run.lease import Snapshot
from qcity_nb.run.observer import Observer
from qcity_nb.stores.memory import MemoryStore
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.faults import Fault, FaultyStore

HEAD = Head(run="r", key="k", project="p", notebook="n.ipynb")
TTL_S = 10.0


def holder(attempt: str) -> Holder:
    return Holder(attempt=attempt, host="local", node=f"node-{attempt}", ttl_s=TTL_S)


def mark(seq: int) -> Callable[[Head], Head]:
    def change(head: Head) -> Head:
        ref = CheckpointRef(name=f"c{seq}", digest="d", seq=seq, term=head.term)
        return replace(head, checkpoints=(ref, *head.checkpoints))

    return change


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(clock: ManualClock) -> FaultyStore:
    store = FaultyStore(MemoryStore(clock=clock))
    lease.create(store, HEAD)
    return store


def take(store: Store, attempt: str, clock: ManualClock, declared_dead: Heartbeat | None = None) -> lease.Lease:
    return lease.acquire(store, "r", holder(attempt), declared_dead=declared_dead, clock=clock)


def now(store: FaultyStore) -> Head:
    return lease.read(store.store, "r").head


# --- making and reading


def test_a_run_that_exists_is_not_made_again(store: FaultyStore) -> None:
    with pytest.raises(Conflict, match="exists"):
        lease.create(store, HEAD)


@pytest.mark.parametrize("fault", ["lost", "refused", "delayed"])
def test_a_run_is_made_whatever_becomes_of_the_reply(clock: ManualClock, fault: Fault) -> None:
    store = FaultyStore(MemoryStore(clock=clock), schedule=[fault])
    made = lease.create(store, HEAD)
    store.settle()
    assert now(store) == made


def test_an_unknown_run_and_a_corrupt_head_differ(store: FaultyStore) -> None:
    with pytest.raises(UnknownRun, match="nobody"):
        lease.read(store, "nobody")
    version = lease.read(store, "r").version
    store.publish("r", b'{"format": 2, "run"', expect=version)
    with pytest.raises(HeadCorrupt, match="'r'"):
        take(store, "a", ManualClock())


# --- taking the lease


def test_each_holder_has_a_higher_term(store: FaultyStore, clock: ManualClock) -> None:
    first = take(store, "a", clock)
    assert (first.term, first.head.holder) == (1, replace(holder("a"), since=first.me.since))
    first.release()
    assert take(store, "b", clock).term == 2


def test_a_held_run_is_not_taken(store: FaultyStore, clock: ManualClock) -> None:
    take(store, "a", clock)
    with pytest.raises(RunHeld, match=r"held by attempt 1: a \(local on node-a since "):
        take(store, "b", clock)
    assert now(store).term == 1


def test_exactly_the_holder_declared_dead_is_superseded(store: FaultyStore, clock: ManualClock) -> None:
    first = take(store, "a", clock)
    declared_dead = first.renew().seen
    with pytest.raises(RunHeld):
        take(store, "b", clock, replace(declared_dead, heartbeat=declared_dead.heartbeat - 1))
    assert take(store, "b", clock, declared_dead).term == 2


def test_a_heartbeat_after_the_declaration_saves_the_holder(store: FaultyStore, clock: ManualClock) -> None:
    first = take(store, "a", clock)
    declared_dead = first.head.seen
    store.before_publish = _calls(first.renew)
    with pytest.raises(RunHeld):  # its read saw the heartbeat declared dead; its publish found another
        take(store, "b", clock, declared_dead)
    first.update(mark(1))
    assert now(store).holder == first.me


def _calls(action: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        action()

    return call


def test_one_of_two_rivals_takes_over(store: FaultyStore, clock: ManualClock) -> None:
    declared_dead = take(store, "a", clock).head.seen
    won: list[lease.Lease] = []
    store.before_publish = lambda: won.append(take(store, "b", clock, declared_dead))
    with pytest.raises(RunHeld, match="attempt 2: b "):
        take(store, "c", clock, declared_dead)
    assert won[0].renew().term == 2


def test_taking_over_ends_the_own_pending_launch_and_keeps_a_foreign_one(
    store: FaultyStore, clock: ManualClock
) -> None:
    def launches(attempt: str) -> None:
        pending_launch = PendingLaunch(
            attempt=attempt, host="local", keeper="k", declared_dead=Heartbeat(term=0, heartbeat=0)
        )
        lease.amend(store, "r", lambda head: replace(head, pending_launch=pending_launch), clock=clock)

    launches("other")
    kept = take(store, "a", clock).head.pending_launch
    assert kept is not None
    assert kept.attempt == "other"
    launches("b")
    assert take(store, "b", clock, now(store).seen).head.pending_launch is None


@pytest.mark.parametrize("fault", ["lost", "refused", "delayed"])
def test_taking_the_lease_whatever_becomes_of_the_reply(store: FaultyStore, clock: ManualClock, fault: Fault) -> None:
    store.inject(fault)
    mine = take(store, "a", clock)
    store.settle()
    assert (mine.term, now(store).term) == (1, 1)
    assert mine.renew().heartbeat == 1


def test_a_lease_taken_and_superseded_before_the_reply_is_lost(store: FaultyStore, clock: ManualClock) -> None:
    """Even by a process with the same attempt's name: one term must not have two owners."""

    class Between(FaultyStore):
        def read(self, run: str):  # type: ignore[no-untyped-def]  # the signature is the parent's
            if self.log and self.log[-1].endswith("took effect late"):
                self.log.append("a second process of the same attempt")
                other.append(take(self.store, "a", clock))
            return super().read(run)

    other: list[lease.Lease] = []
    between = Between(store.store, schedule=["lost"])
    with pytest.raises(LeaseLost):
        take(between, "a", clock)
    assert (other[0].term, now(store).term) == (2, 2)


# --- publishing


def test_a_renewal_is_a_heartbeat(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    assert [mine.renew().heartbeat for _ in range(3)] == [1, 2, 3]
    assert mine.head == now(store)


@pytest.mark.parametrize("fault", ["lost", "refused", "delayed"])
def test_an_update_lands_once_whatever_becomes_of_the_reply(
    store: FaultyStore, clock: ManualClock, fault: Fault
) -> None:
    mine = take(store, "a", clock)
    store.inject(fault)
    mine.update(mark(1), files={"c1": b"x"})
    store.settle()
    assert [ref.seq for ref in now(store).checkpoints] == [1]
    assert now(store).heartbeat == 1
    mine.update(mark(2))
    assert [ref.seq for ref in now(store).checkpoints] == [2, 1]


def test_faults_in_a_row_are_survived(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    faults: list[Fault] = ["delayed", "unread", "stale", "refused", "unread", "lost", "unread", "stale"]
    for fault in faults:
        store.inject(fault)
    mine.update(mark(1))
    store.settle()
    assert [ref.seq for ref in now(store).checkpoints] == [1], store


def test_a_store_that_stays_away_ends_the_call_in_bounded_time(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    for _ in range(100):
        store.inject("refused")
    with pytest.raises(StoreUnavailable):
        mine.renew()
    store.clear()
    mine.renew()
    assert now(store).heartbeat == 1


def test_a_lost_reply_confirms_from_the_first_sending(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    clock.advance(3)
    sent_s = clock.now_s()
    for fault in ("lost", "unread", "unread"):
        store.inject(fault)
    mine.renew()
    assert clock.now_s() > sent_s
    assert mine.until_s == pytest.approx(sent_s + TTL_S * (1 - lease.MARGIN))


def test_a_foreign_write_costs_no_lease_and_is_kept(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    stop = DesiredState(state="stopped", hosts=("hf-jobs",))
    store.before_publish = _calls(lambda: lease.amend(store, "r", lambda head: replace(head, desired=stop)))
    head = mine.update(mark(1))
    assert head == now(store)
    assert (head.desired, head.heartbeat, [ref.seq for ref in head.checkpoints]) == (stop, 1, [1])
    assert mine.is_confirmed


def test_a_foreign_write_keeps_what_the_holder_wrote_meanwhile(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    store.before_publish = _calls(lambda: mine.update(mark(1)))
    head = lease.amend(store, "r", lambda head: replace(head, desired=DesiredState(manual=True)), clock=clock)
    assert ([ref.seq for ref in head.checkpoints], head.heartbeat, head.desired.manual) == ([1], 1, True)


def test_a_foreign_writer_may_not_touch_the_lease(store: FaultyStore, clock: ManualClock) -> None:
    before = now(store)
    with pytest.raises(AssertionError):
        lease.amend(store, "r", lambda head: replace(head, heartbeat=5), clock=clock)
    assert now(store) == before


def test_a_superseded_holder_publishes_nothing_and_names_the_new_one(store: FaultyStore, clock: ManualClock) -> None:
    old = take(store, "a", clock)
    new = take(store, "b", clock, old.head.seen)
    before = now(store)
    calls: list[Callable[[], object]] = [old.renew, lambda: old.update(mark(9), files={"c9": b""}), old.release]
    for call in calls:
        with pytest.raises(LeaseLost, match=r"attempt 2: b \(local on node-b"):
            call()
    assert now(store) == before
    assert not old.is_confirmed
    assert "attempt 2: b " in (old.lost or "")
    assert new.is_confirmed


def test_a_takeover_in_the_middle_of_an_update(store: FaultyStore, clock: ManualClock) -> None:
    old = take(store, "a", clock)
    declared_dead = old.head.seen
    store.before_publish = _calls(lambda: take(store, "b", clock, declared_dead))
    with pytest.raises(LeaseLost, match="attempt 2: b "):
        old.update(mark(1))
    assert now(store).checkpoints == ()


def test_a_delayed_write_of_a_superseded_holder_never_lands(store: FaultyStore, clock: ManualClock) -> None:
    old = take(store, "a", clock)
    store.delay = 100
    faults: list[Fault] = ["delayed", *["unread"] * 9]  # type: ignore[list-item]  # mypy widens the literal
    for fault in faults:
        store.inject(fault)
    with pytest.raises(StoreUnavailable):
        old.update(mark(1))
    take(store.store, "b", clock, now(store).seen)
    before = now(store)
    store.settle()
    assert store.log[-1] == "publish on 2: too late"
    assert now(store) == before


def test_a_stale_read_is_no_lost_lease(store: FaultyStore, clock: ManualClock) -> None:
    """The run record from before the takeover shows another holder: terms only grow, so it is old."""
    dead = take(store, "a", clock)
    mine = take(store, "b", clock, dead.head.seen)
    store.inject("stale")
    mine.update(mark(1))
    assert mine.lost is None
    assert now(store).checkpoints[0].term == 2
    assert "read: stale" in store.log


def test_a_store_that_went_back_in_time_is_unavailable(clock: ManualClock) -> None:
    store = MemoryStore(clock=clock)
    lease.create(store, HEAD)
    mine = take(store, "a", clock)
    store.forget("r")
    lease.create(store, HEAD)
    with pytest.raises(StoreUnavailable, match="old run record, of attempt 0; this is attempt 1"):
        mine.renew()
    assert lease.read(store, "r").head.term == 0


def test_letting_go(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    store.inject("lost")
    head = mine.release(lambda head: replace(head, state="succeeded"))
    assert (head.holder, head.state, head.is_over) == (None, "succeeded", True)
    assert not mine.is_confirmed
    with pytest.raises(LeaseLost):
        mine.renew()
    with pytest.raises(RunStopped, match="already succeeded"):
        take(store, "b", clock)
    assert now(store).term == 1, "a run that is over is nobody's"


def test_a_run_that_was_let_go_unfinished_is_taken_at_once(store: FaultyStore, clock: ManualClock) -> None:
    take(store, "a", clock).release()
    assert take(store, "b", clock).term == 2


def test_a_second_process_of_the_holder_puts_its_own_name_down(store: FaultyStore, clock: ManualClock) -> None:
    first = take(store, "a", clock)
    before = now(store)
    again = lease.rejoin(store, "r", replace(holder("a"), pid=4321), clock=clock)
    after = now(store)
    assert (after.term, again.term) == (1, 1)
    assert after.holder is not None
    assert after.holder.pid == 4321
    assert before.holder is not None
    assert after.holder.since == before.holder.since
    assert after.heartbeat > first.head.heartbeat


def test_only_the_last_write_ids_are_kept(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    for _ in range(40):
        mine.renew()
    assert len(now(store).writes) == lease.KEEP_WRITES
    assert len(set(now(store).writes)) == lease.KEEP_WRITES
    assert len(codec.dumps(now(store))) < 4000


# --- time


def test_a_holder_that_cannot_renew_suspends_before_others_may_take_over(
    store: FaultyStore, clock: ManualClock
) -> None:
    mine = take(store, "a", clock)
    observer = Observer(clock)
    assert observer.declare_dead(lease.read(store, "r")) is None
    confirmed = []
    while (declared_dead := observer.declare_dead(lease.read(store, "r"))) is None:
        confirmed.append(mine.is_confirmed)
        clock.advance(0.5)
    assert not mine.is_confirmed
    assert confirmed.index(False) * 0.5 == pytest.approx(TTL_S * (1 - lease.MARGIN), abs=0.5)
    assert declared_dead == mine.head.seen


def test_a_slow_holder_with_heartbeats_is_never_declared_dead(store: FaultyStore, clock: ManualClock) -> None:
    mine = take(store, "a", clock)
    observer = Observer(clock)
    for _ in range(100):  # an iteration of many ttl
        mine.renew()
        clock.advance(TTL_S * 0.9)
        assert observer.declare_dead(lease.read(store, "r")) is None
        assert Observer(clock).declare_dead(lease.read(store, "r")) is None


def test_a_stopped_holder_is_declared_dead_though_others_write(store: FaultyStore, clock: ManualClock) -> None:
    """As under SIGSTOP: no heartbeats, but a panel and a keeper keep writing, which makes new versions."""
    mine = take(store, "a", clock)
    observer = Observer(clock)
    declared_dead = None
    for _ in range(12):
        lease.amend(store, "r", lambda head: replace(head, desired=DesiredState(hosts=("x",))), clock=clock)
        declared_dead = observer.declare_dead(lease.read(store, "r"))
        if declared_dead is not None:
            break
        clock.advance(1)
    assert declared_dead == mine.head.seen
    assert take(store, "b", clock, declared_dead).term == 2
    with pytest.raises(LeaseLost, match="attempt 2: b "):
        mine.renew()  # SIGCONT


def snapshot(head: Head, written_s: float, now_s: float) -> Snapshot:
    return Snapshot(head=head, version="v", written_s=written_s, now_s=now_s)


def test_one_look_is_enough_by_the_stores_own_clock() -> None:
    held = replace(HEAD, term=3, heartbeat=7, holder=holder("a"))
    # Two of the store's times, decades away from the observer's own.
    assert Observer(ManualClock(5)).declare_dead(snapshot(held, 9e8, 9e8 + TTL_S)) == Heartbeat(term=3, heartbeat=7)
    assert Observer(ManualClock(5)).declare_dead(snapshot(held, 9e8, 9e8 + TTL_S - 0.1)) is None


def test_an_observer_waits_by_its_own_clock_where_the_stores_says_nothing() -> None:
    clock = ManualClock()
    observer = Observer(clock)
    held = replace(HEAD, term=3, heartbeat=7, holder=holder("a"))
    assert observer.declare_dead(snapshot(held, 50, 50)) is None
    clock.advance(TTL_S - 0.1)
    assert observer.declare_dead(snapshot(held, 60, 60)) is None
    clock.advance(0.2)
    assert observer.declare_dead(snapshot(held, 70, 70)) == held.seen
    assert observer.declare_dead(snapshot(replace(held, heartbeat=8), 70, 70)) is None
    assert observer.declare_dead(snapshot(replace(held, holder=None), 0, 1e9)) is None


def test_an_observer_that_slept_declares_nobody_dead_who_sent_a_heartbeat_meanwhile() -> None:
    clock = ManualClock()
    observer = Observer(clock)
    held = replace(HEAD, term=1, heartbeat=1, holder=holder("a"))
    observer.declare_dead(snapshot(held, 0, 0))
    clock.advance(1000)
    assert observer.declare_dead(snapshot(replace(held, heartbeat=400), 0, 0)) is None
