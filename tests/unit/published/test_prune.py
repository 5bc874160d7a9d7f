"""Pruning a run that is not active: fenced by the run record, never under a living holder, and what stays is whole."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_run import RUN, CheckpointRun, restored

from qcity_nb.errors import CheckpointCorrupt, RunHeld, StoreUnavailable
from qcity_nb.ports import Store
from qcity_nb.published.catalog import Catalog
from qcity_nb.published.prune import plan, prune
from qcity_nb.records import Head, Holder
from qcity_nb.run import lease
from qcity_nb.stores.memory import MemoryStore
from qcity_nb.testing.clock import ManualClock
from qcity_nb.testing.faults import FaultyStore


def state(value: float) -> dict[str, Any]:
    return {"a": np.full(2000, value), "fixed": np.arange(2000)}


def make(store: Store, folder: Path, count: int = 5) -> CheckpointRun:
    run = CheckpointRun(store, folder)
    for seq in range(1, count + 1):
        run.save({"epochs": state(seq)})
    return run


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> CheckpointRun:
    return make(MemoryStore(f"prune-{request.node.name}"), tmp_path)


def is_whole(run: CheckpointRun, tmp_path: Path, count: int) -> None:
    """What stays can be read, and nothing else is stored."""
    head = run.head()
    assert len(head.checkpoints) == count
    verdicts = list(
        Catalog(run.store, RUN, tmp_path / "none").verify(Catalog(run.store, RUN, tmp_path / "none").checkpoints())
    )
    assert len(verdicts) == count
    assert not any(verdict.damage for verdict in verdicts)
    state = restored(run.store, head, tmp_path / "fresh")
    assert state.manifest is not None
    assert not state.trouble
    assert sum(name.startswith("checkpoints/") for name in run.store.names(RUN)) == count


@pytest.mark.parametrize("state", ["running", "succeeded", "stopped"])
def test_the_newest_stay_and_are_whole(state: Any, run: CheckpointRun, tmp_path: Path) -> None:
    before = run.release(lambda head: replace(head, state=state))
    planned = plan(run.store, RUN, keep=1)
    done = prune(run.store, RUN, keep=1)
    assert done == planned
    assert [ref.seq for ref in done.dropped] == [4, 3]
    assert done.freed_bytes > 2 * 2000 * 8
    is_whole(run, tmp_path, 1)
    after = run.head()
    assert (after.term, after.state, after.journal, after.outbox) == (
        before.term,
        before.state,
        before.journal,
        before.outbox,
    )
    assert after.checkpoint == before.checkpoint


def test_a_dry_run_changes_nothing(run: CheckpointRun) -> None:
    run.release()
    before, names = run.store.read(RUN), run.store.names(RUN)
    plan(run.store, RUN, keep=1)
    after = run.store.read(RUN)
    assert before is not None
    assert after is not None
    assert (after.version, run.store.names(RUN)) == (before.version, names)


def test_a_living_holder_is_left_alone(run: CheckpointRun) -> None:
    names = run.store.names(RUN)
    for call in (plan, prune):
        with pytest.raises(RunHeld, match=f"held by attempt 1: a .* `qcity stop {RUN}` first"):
            call(run.store, RUN, keep=1)
    assert run.store.names(RUN) == names
    assert len(run.head().checkpoints) == 3


def test_an_attempt_that_takes_the_run_meanwhile_wins(
    run: CheckpointRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.release()
    names = run.store.names(RUN)
    publish = run.store.publish
    leases: list[lease.Lease] = []

    def late(*args: Any, **named: Any) -> str:
        if not leases:
            monkeypatch.setattr(run.store, "publish", publish)
            leases.append(lease.acquire(run.store, RUN, Holder(attempt="b", host="local")))
        return publish(*args, **named)

    monkeypatch.setattr(run.store, "publish", late)
    with pytest.raises(RunHeld, match="attempt 2: b "):
        prune(run.store, RUN, keep=1)
    assert run.store.names(RUN) == names
    assert len(leases[0].head.checkpoints) == 3


def test_a_dead_holder_is_superseded_first(run: CheckpointRun, monkeypatch: pytest.MonkeyPatch) -> None:
    read = lease.read

    def later(store: Store, name: str) -> lease.Snapshot:
        snapshot = read(store, name)
        return replace(snapshot, now_s=snapshot.written_s + 11) if snapshot.head.term == 1 else snapshot

    monkeypatch.setattr(lease, "read", later)
    done = prune(run.store, RUN, keep=1)
    monkeypatch.undo()
    assert [ref.seq for ref in done.kept] == [5]
    head = run.head()
    assert (head.term, head.holder) == (2, None)
    # The one that was thought dead wakes up, and can no longer name what is gone.
    with pytest.raises(Exception, match="no longer this attempt's"):
        run.save({"epochs": state(6)})
    assert run.head().checkpoints == head.checkpoints


def test_a_successor_resumes_from_what_stays(run: CheckpointRun, tmp_path: Path) -> None:
    run.release()
    prune(run.store, RUN, keep=1)
    lease.acquire(run.store, RUN, Holder(attempt="b", host="local"))
    state = restored(run.store, run.head(), tmp_path / "fresh")
    assert state.manifest is not None
    assert (state.manifest.seq, state.trouble) == (5, ())


def test_what_stays_and_cannot_be_read_stops_it(run: CheckpointRun) -> None:
    head = run.release()
    run.store.delete(RUN, [head.checkpoints[0].name])
    names = run.store.names(RUN)
    for call in (plan, prune):
        with pytest.raises(CheckpointCorrupt, match="checkpoint 5 should stay but cannot be read"):
            call(run.store, RUN, keep=1)
    assert run.store.names(RUN) == names


def test_what_goes_and_cannot_be_read_goes(run: CheckpointRun, tmp_path: Path) -> None:
    head = run.release()
    run.store.delete(RUN, [head.checkpoints[2].name])
    prune(run.store, RUN, keep=2)
    is_whole(run, tmp_path, 2)


def test_a_second_prune_has_nothing_to_do(run: CheckpointRun) -> None:
    run.release()
    prune(run.store, RUN, keep=2)
    planned = plan(run.store, RUN, keep=2)
    assert planned.dropped == ()
    assert planned.garbage == ()


def test_other_objects_of_the_run_stay(run: CheckpointRun) -> None:
    head = run.release()
    prune(run.store, RUN, keep=1)
    assert {head.journal, head.outbox} - {""} <= set(run.store.names(RUN))


@pytest.mark.parametrize("turn", range(5))
def test_with_lost_replies_what_stays_is_whole(turn: int, tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    rng = random.Random(seed)
    plain = MemoryStore(f"prune-faults-{turn}")
    run = make(plain, tmp_path)
    run.release()
    store = FaultyStore(plain, rate=0)
    for _ in range(rng.randrange(1, 4)):
        store.inject(rng.choice(["lost", "unread"]))
    keep = rng.choice([1, 2])
    for _ in range(5):
        try:
            prune(store, RUN, keep=keep, clock=ManualClock())
            break
        except StoreUnavailable:
            continue
    else:
        pytest.fail(f"seed {seed}: it never came through")
    is_whole(run, tmp_path, keep)


def test_keeping_none_is_refused(run: CheckpointRun) -> None:
    run.release()
    with pytest.raises(ValueError, match="stays"):
        prune(run.store, RUN, keep=0)


def test_objects_of_a_later_term_are_not_ours(run: CheckpointRun) -> None:
    run.release()
    stamped = run.store.read(RUN)
    assert stamped is not None
    head: Head = run.head()
    run.store.publish(RUN, stamped.data, expect=stamped.version, files={"packs/t2-6-abc.pack": b"on its way"})
    prune(run.store, RUN, keep=1)
    assert head.term == 1
    assert "packs/t2-6-abc.pack" in run.store.names(RUN)
