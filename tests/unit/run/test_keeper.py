"""Keepers against one another: whoever dies, pauses or loses a reply, never two attempts at once.

The schedules are seeded: threads run one at a time, and a random generator chooses which one continues at every store
call. A failing seed replays exactly.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from qcity_nb import settings
from qcity_nb.errors import RunHeld, StoreUnavailable, UnknownHost, UnknownRun, UsageError
from qcity_nb.ports import Launcher, Observation, Source, Stamped, Version
from qcity_nb.records import AttemptSpec, CheckpointRef, DesiredState, Event, Head, Holder, Relaunch, Tracked
from qcity_nb.run import journal, lease, policy
from qcity_nb.run.keeper import Keeper, is_tracking_finished
from qcity_nb.stores.memory import MemoryStore

RUN = "r-1"
NEW = Head(run=RUN, key="k", project="project", notebook="n.ipynb", relaunch=Relaunch(backoff_s=0.5))
SETTINGS = settings.load(Path("/"), environ={})


class Clock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.on_sleep: Callable[[float], None] = self.advance

    def now_s(self) -> float:
        return self.now

    def wall_ms(self) -> int:
        return int(self.now * 1000)

    def advance(self, wait_s: float) -> None:
        self.now += wait_s

    def sleep(self, wait_s: float) -> None:
        self.on_sleep(wait_s)


@dataclass
class Attempt:
    spec: AttemptSpec
    state: str = "pending"
    code: int | None = None
    held: lease.Lease | None = None

    @property
    def is_alive(self) -> bool:
        return self.state != "gone"

    def end(self, code: int) -> None:
        self.state, self.code = "gone", code


class Host:
    """A launcher over attempts that exist only as records."""

    name = "local"

    def __init__(self) -> None:
        self.attempts: dict[str, Attempt] = {}
        self.is_reachable = True
        self.refuses = ""
        self.costs = ""

    def quote(self) -> str:
        return self.costs

    def launch(self, spec: AttemptSpec) -> None:
        assert spec.attempt not in self.attempts
        if self.refuses:
            raise UsageError(self.refuses)
        self.attempts[spec.attempt] = Attempt(spec)

    def find(self, attempt: str) -> Observation | None:
        if not self.is_reachable:
            raise StoreUnavailable("the host does not answer")
        process = self.attempts.get(attempt)
        if process is None:
            return None
        if process.state == "gone":
            return Observation(state="gone", reason=f"exit {process.code}", exit_code=process.code)
        return Observation(state="pending" if process.state == "pending" else "running")

    def stop(self, attempt: str, *, grace_s: float) -> None:
        self.attempts[attempt].end(-15)

    def follow(self, attempt: str, *, until: Callable[[], bool] | None = None) -> Iterator[str] | None:
        return None

    def alive(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts.values() if attempt.is_alive]


class World:
    """One run, one host, one clock."""

    def __init__(self, head: Head = NEW) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.host = Host()
        lease.create(self.store, head)
        self.keeper = self.new_keeper(1)

    def new_keeper(
        self, seed: int, store: MemoryStore | None = None, finish_tracking: Callable[[str], None] | None = None
    ) -> Keeper:
        return Keeper(
            store or self.store,
            SETTINGS,
            launchers=self.launcher,
            clock=self.clock,
            rng=random.Random(seed),
            finish_tracking=finish_tracking,
        )

    def launcher(self, name: str) -> Launcher:
        if name != "local":
            raise UnknownHost(name)
        return self.host

    @property
    def head(self) -> Head:
        return lease.read(self.store, RUN).head

    @property
    def pending(self) -> str:
        """The attempt of the pending launch."""
        return self.head.pending_launch.attempt if self.head.pending_launch else ""

    def step(self) -> policy.Action:
        return self.keeper.reconcile(RUN).action

    def take(self) -> Attempt:
        """The newest attempt boots and takes the lease."""
        attempt = list(self.host.attempts.values())[-1]
        me = Holder(attempt=attempt.spec.attempt, host="local", ttl_s=10)
        attempt.held = lease.acquire(self.store, RUN, me, declared_dead=attempt.spec.declared_dead, clock=self.clock)
        attempt.state = "running"
        return attempt

    def events(self) -> list[Event]:
        return journal.decode_events(self.head.journal, lambda name: self.store.get(RUN, name))

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events()]


def test_a_new_run_gets_one_attempt() -> None:
    world = World()
    assert isinstance(world.step(), policy.Launch)
    assert isinstance(world.step(), policy.Nothing)
    (attempt,) = world.host.attempts.values()
    assert attempt.spec.run == RUN
    assert attempt.spec.store == world.store.address
    assert world.pending == attempt.spec.attempt
    world.take()
    assert world.pending == ""
    assert isinstance(world.step(), policy.Nothing)
    assert world.kinds() == ["launched"]


def test_a_known_death_is_answered_at_once() -> None:
    world = World()
    world.step()
    world.take().end(-9)
    assert isinstance(world.step(), policy.Launch)
    assert len(world.host.alive()) == 1
    assert world.take().held is not None
    assert world.head.term == 2
    assert world.kinds() == ["launched", "died", "launched"]
    assert world.events()[1].data["reason"] == "exit -9"


def test_a_host_that_does_not_answer_is_no_death_until_the_ttl_is_over() -> None:
    world = World()
    world.step()
    attempt = world.take()
    world.host.is_reachable = False
    assert isinstance(world.step(), policy.Nothing)
    world.clock.advance(9)
    assert isinstance(world.step(), policy.Nothing)
    assert attempt.held is not None
    attempt.held.renew()
    world.clock.advance(9)
    assert isinstance(world.step(), policy.Nothing)
    world.clock.advance(2)
    assert isinstance(world.step(), policy.Launch)


def test_a_slow_holder_with_heartbeats_is_never_replaced() -> None:
    world = World()
    world.step()
    attempt = world.take()
    assert attempt.held is not None
    for _ in range(50):
        world.clock.advance(9)
        attempt.held.renew()
        assert isinstance(world.step(), policy.Nothing)


def test_a_keeper_that_dies_after_its_pending_launch_is_replaced_after_the_grace() -> None:
    world = World()

    def die(spec: AttemptSpec) -> None:
        raise SystemExit

    launch = world.host.launch
    world.host.launch = die  # type: ignore[method-assign]  # the crash point
    with pytest.raises(SystemExit):
        world.step()
    world.host.launch = launch  # type: ignore[method-assign]  # and back
    world.keeper = world.new_keeper(2)
    waiting = world.step()
    assert isinstance(waiting, policy.Nothing)
    assert waiting.wait_s == pytest.approx(30)
    world.clock.advance(30)
    assert isinstance(world.step(), policy.ClearPendingLaunch)
    assert isinstance(world.step(), policy.Launch)
    assert len(world.host.attempts) == 1
    assert world.kinds() == ["launched", "withdrawn", "launched"]


def test_a_keeper_that_slept_through_its_own_pending_launch_launches_nothing() -> None:
    world = World()

    class Slow(MemoryStore):
        def publish(
            self,
            run: str,
            head: bytes,
            *,
            expect: Version | None,
            files: Mapping[str, Source] | None = None,
            **more: Any,
        ) -> Version:
            version = world.store.publish(run, head, expect=expect, files=files, **more)
            world.clock.advance(16)
            return version

        def read(self, run: str) -> Stamped | None:
            return world.store.read(run)

    world.new_keeper(2, Slow()).reconcile(RUN)
    assert world.head.pending_launch is not None
    assert world.host.attempts == {}


def test_an_attempt_that_never_takes_the_lease_uses_up_the_budget() -> None:
    world = World()
    for _ in range(200):
        if world.head.state != "running":
            break
        for attempt in world.host.alive():
            attempt.end(1)
        world.step()
        world.clock.advance(1)
    assert world.head.state == "failed"
    assert len(world.host.attempts) == 5
    assert world.head.failure is not None
    assert "ended before it held the run: exit 1" in world.head.failure.message
    assert world.kinds()[-1] == "gave up"


def test_a_host_that_refuses_here_may_work_elsewhere() -> None:
    world = World()
    world.host.refuses = "no disk"
    outcome = world.keeper.reconcile(RUN)
    assert isinstance(outcome.error, UsageError)
    assert world.head.pending_launch is None
    assert world.head.launches.failed == 0
    assert isinstance(world.step(), policy.Nothing)
    world.host.refuses = ""
    world.keeper = world.new_keeper(2)
    assert isinstance(world.step(), policy.Launch)


def test_a_stop_without_a_holder_is_written_down() -> None:
    world = World(replace(NEW, desired=DesiredState(state="stopped")))
    world.step()
    assert world.head.state == "stopped"
    assert world.host.attempts == {}


def test_a_stalled_attempt_is_stopped_and_replaced() -> None:
    world = World(replace(NEW, relaunch=Relaunch(stall_timeout_s=60)))
    world.step()
    attempt = world.take()
    assert attempt.held is not None
    for _ in range(5):
        assert isinstance(world.step(), policy.Nothing)
        world.clock.advance(9)
        attempt.held.renew()
    checkpoint = CheckpointRef(name="c", digest="d", seq=1, term=1)
    attempt.held.update(lambda head: replace(head, checkpoints=(checkpoint,)))
    for _ in range(6):
        assert isinstance(world.step(), policy.Nothing)
        world.clock.advance(9)
        attempt.held.renew()
    world.clock.advance(9)
    assert isinstance(world.step(), policy.Stop)
    assert not attempt.is_alive
    assert isinstance(world.step(), policy.Launch)


def test_the_tracker_is_settled_until_it_says_so() -> None:
    head = replace(NEW, state="succeeded", tracked=Tracked(uri="u", run_id="1"))
    world = World(head)
    asked: list[str] = []
    keeper = world.new_keeper(2, finish_tracking=asked.append)
    for _ in range(3):
        keeper.reconcile(RUN)
    assert asked == [RUN], "not at every turn"
    world.clock.advance(10)
    keeper.reconcile(RUN)
    assert asked == [RUN, RUN]
    lease.amend(world.store, RUN, lambda now: replace(now, tracked=replace(now.tracked, status="FINISHED")))
    world.clock.advance(10)
    keeper.reconcile(RUN)
    assert asked == [RUN, RUN]
    assert is_tracking_finished(world.head, tracking="")


def test_without_a_tracker_there_is_nothing_to_wait_for() -> None:
    ended = replace(NEW, state="succeeded", outbox="outbox/t1-a.jsonl")
    assert is_tracking_finished(ended, tracking="")
    assert not is_tracking_finished(ended, tracking="http://tracker")
    assert not is_tracking_finished(replace(ended, tracked=Tracked(uri="http://tracker")), tracking="")


def test_an_unknown_run_is_said_and_one_bad_run_does_not_keep_others_waiting() -> None:
    world = World()
    with pytest.raises(UnknownRun):
        world.keeper.reconcile("r-404")
    world.store.publish("a-bad", b"no head", expect=None)
    last = world.keeper.keep(once=True)
    assert last["a-bad"].error is not None
    assert isinstance(last[RUN].action, policy.Launch)


# --- seeded schedules


class _Killed(BaseException):
    """A keeper's sudden end."""


class Turns:
    """Threads that run one at a time, in an order that a seed decides."""

    def __init__(self) -> None:
        self.control = threading.Semaphore(0)
        self.local = threading.local()

    def start(self, work: Callable[[], object]) -> Actor:
        actor = Actor(self, work)
        actor.thread.start()
        return actor

    def give(self) -> None:
        """Let another thread continue; returns when it is this thread's turn again."""
        actor: Actor | None = getattr(self.local, "actor", None)
        if actor is None:
            return
        self.control.release()
        actor.turn.acquire()
        if actor.is_killed:
            raise _Killed


class Actor:
    def __init__(self, turns: Turns, work: Callable[[], object]) -> None:
        self.turns, self.work = turns, work
        self.turn = threading.Semaphore(0)
        self.is_killed = self.is_done = False
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        self.turns.local.actor = self
        self.turn.acquire()
        try:
            if not self.is_killed:
                self.work()
        except _Killed:
            pass
        except BaseException as error:  # noqa: BLE001  # handed to the test, which raises it
            self.error = error
        self.is_done = True
        self.turns.control.release()

    def go_on(self) -> None:
        self.turn.release()
        assert self.turns.control.acquire(timeout=30), "a keeper hangs"
        if self.error is not None:
            raise self.error

    def kill(self) -> None:
        self.is_killed = True
        while not self.is_done:
            self.go_on()


class Faulty(MemoryStore):
    """The keepers' way to the store: others get their turn at every call, and replies get lost."""

    def __init__(self, inner: MemoryStore, turns: Turns, rng: random.Random) -> None:
        super().__init__()
        self.inner, self.turns, self.rng = inner, turns, rng

    def _lose(self, what: str) -> None:
        self.turns.give()
        if self.rng.random() < 0.03:
            raise StoreUnavailable(f"{what} lost")

    def read(self, run: str) -> Stamped | None:
        self._lose("question")
        return self.inner.read(run)

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        self._lose("request")
        version = self.inner.publish(run, head, expect=expect, files=files, **more)
        self._lose("reply")
        return version

    def get(self, run: str, name: str) -> bytes:
        self.turns.give()
        return self.inner.get(run, name)

    def delete(self, run: str, names: Sequence[str]) -> None:
        self.turns.give()
        self.inner.delete(run, names)


class Schedule:
    """Keepers, attempts and a user, in an order that the seed decides."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.turns = Turns()
        self.world = World(replace(NEW, relaunch=Relaunch(backoff_s=0.2, max_attempts=12)))
        self.world.clock.on_sleep = self._sleep
        self.serial = 0
        self.overlaps: list[str] = []
        self.keepers = [self._keeper(), self._keeper()]
        self.seq = 0

    def _sleep(self, wait_s: float) -> None:
        until = self.world.clock.now + wait_s
        while self.world.clock.now < until:
            self.turns.give()

    def _keeper(self) -> Actor:
        self.serial += 1
        store = Faulty(self.world.store, self.turns, self.rng)
        keeper = self.world.new_keeper(self.rng.getrandbits(32), store)

        def over() -> bool:
            return self.world.head.state != "running"

        return self.turns.start(lambda: keeper.keep([RUN], until=lambda _: over()))

    def _attempts_go_on(self) -> None:
        world, rng = self.world, self.rng
        for attempt in world.host.alive():
            if attempt.held is None:
                if rng.random() < 0.1:
                    attempt.end(1)
                elif rng.random() < 0.5:
                    me = Holder(attempt=attempt.spec.attempt, host="local", ttl_s=10)
                    try:
                        attempt.held = lease.acquire(
                            world.store, RUN, me, declared_dead=attempt.spec.declared_dead, clock=world.clock
                        )
                        attempt.state = "running"
                    except RunHeld:
                        attempt.end(5)
                continue
            head = attempt.held.renew()
            if head.desired.state == "stopped":
                attempt.held.release(lambda now: replace(now, state="stopped"))
                attempt.end(4)
            elif (fate := rng.random()) < 0.08:
                attempt.end(-9)
            elif fate < 0.12:
                attempt.held.release()
                attempt.end(3)
            elif fate < 0.14:
                attempt.held.release(lambda now: replace(now, state="succeeded"))
                attempt.end(0)
            elif fate < 0.4:
                self.seq += 1
                checkpoint = CheckpointRef(name="c", digest="d", seq=self.seq, term=head.term)
                attempt.held.update(lambda now, new=checkpoint: replace(now, checkpoints=(new,)))  # type: ignore[misc]  # the new value is bound now

    def run(self, *, turns: int = 6000) -> None:
        rng, world = self.rng, self.world
        stop_at = rng.randrange(turns) if rng.random() < 0.2 else -1
        try:
            for turn in range(turns):
                if all(keeper.is_done for keeper in self.keepers):
                    break
                if rng.random() < 0.15:
                    world.clock.advance(rng.choice([0.1, 0.3, 1.0]))
                    self._attempts_go_on()
                if turn == stop_at:
                    lease.amend(world.store, RUN, lambda now: replace(now, desired=DesiredState(state="stopped")))
                if rng.random() < 0.004:
                    # Everybody waits long enough for an abandoned pending launch to be void.
                    for _ in range(40):
                        world.clock.advance(1)
                        self._attempts_go_on()
                n = rng.randrange(2)
                if rng.random() < 0.01:
                    self.keepers[n].kill()
                    self.keepers[n] = self._keeper()
                if not self.keepers[n].is_done:
                    self.keepers[n].go_on()
                alive = [attempt.spec.attempt for attempt in world.host.alive()]
                assert len(alive) <= 1, f"two attempts at once: {alive}"
        finally:
            for keeper in self.keepers:
                keeper.kill()


@pytest.mark.parametrize("block", range(8))
def test_two_keepers_never_launch_two_attempts(block: int) -> None:
    ended = launched = 0
    for seed in range(block * 12, block * 12 + 12):
        schedule = Schedule(seed)
        try:
            schedule.run()
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        head, world = schedule.world.head, schedule.world
        ended += head.state != "running"
        launched += len(world.host.attempts)
        assert policy.attempts_made(head) <= 12, f"seed {seed}"
        # Whoever was launched had been announced, and everyone's line is still in the journal.
        announced = {event.attempt for event in world.events() if event.kind == "launched"}
        assert set(world.host.attempts) <= announced, f"seed {seed}"
    assert ended >= 10, "schedules must come to an end, or they test little"
    assert launched >= 24, "schedules must have deaths, or they test little"


def test_an_attempt_that_waits_for_its_host_is_called_off_when_the_run_is_stopped() -> None:
    world = World()
    world.keeper.reconcile(RUN)
    [attempt] = world.host.alive()
    assert attempt.state == "pending"
    lease.amend(world.store, RUN, lambda head: replace(head, desired=replace(head.desired, state="stopped")))
    kinds = []
    for _ in range(4):
        kinds += [event.kind for event in world.keeper.reconcile(RUN).events]
    assert kinds == ["called off", "withdrawn", "stopped"]
    assert (world.head.state, world.head.pending_launch) == ("stopped", None)
    assert not world.host.alive()


def test_what_an_attempt_costs_is_in_the_journal() -> None:
    world = World()
    world.host.costs = "$0.40/h"
    [event] = world.keeper.reconcile(RUN).events
    assert (event.kind, event.data["price"]) == ("launched", "$0.40/h")
    world = World()
    [event] = world.keeper.reconcile(RUN).events
    assert "price" not in event.data, "nobody pays for this machine"


def test_a_host_that_cannot_tell_its_price_is_launched_on_all_the_same() -> None:
    world = World()

    def quote() -> str:
        raise StoreUnavailable("the host does not answer")

    world.host.quote = quote  # type: ignore[method-assign]
    [event] = world.keeper.reconcile(RUN).events
    assert event.kind == "launched"
    assert world.host.alive()


def test_a_host_that_says_never_is_not_asked_again() -> None:
    world = World()
    asked = 0

    def quote() -> str:
        nonlocal asked
        asked += 1
        raise UsageError("no such flavor")

    world.host.quote = quote  # type: ignore[method-assign]
    first = world.keeper.reconcile(RUN)
    assert str(first.error) == "no such flavor"
    second = world.keeper.reconcile(RUN)
    assert (second.error, asked, world.head.pending_launch) == (None, 1, None)
    assert isinstance(second.action, policy.Nothing)
