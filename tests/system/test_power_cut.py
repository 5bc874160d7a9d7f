"""A power cut at any operation of the local tier leaves the newest acknowledged checkpoint or the one in flight."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
import tier_world as world

from qcity_nb.testing.disk import Call, Recorder
from qcity_nb.testing.power_cut import CrashState, Names, crash_states
from qcity_nb.testing.trace import Milestone, Trace

SEED = 20
TIER = "runs/1"
"""Below the recorder's root; neither directory is there at the start."""

Workload = Callable[[Path, world.Say], None]


class Killed(BaseException):
    """The process is dead: nothing more reaches the disk, whatever it tries."""


def recorded(root: Path, workload: Workload, plant: str = "") -> Trace:
    """What a workload did, whatever is wrong with it."""
    root.mkdir()
    broken = world.PLANTS[plant]() if plant else contextlib.nullcontext()
    with Recorder(root, is_syncing=False) as disk, broken:
        workload(root / TIER, disk.note)
    return disk.trace


def killed_and_resumed(root: Path, at: int) -> tuple[Trace, int] | None:
    """Killed at an operation of the third save; a new process resumes, with what the page cache had.

    Returns: the trace, and how long it was when the kill came; none: the save had no such operation.
    """
    root.mkdir()

    def before(call: Call) -> None:
        if call.number >= limit:
            raise Killed

    with Recorder(root, is_syncing=False) as disk:
        world.resume(root / TIER, disk.note, count=2)
        limit = disk.count + at
        disk.before = before
        with contextlib.suppress(Killed):
            world.resume(root / TIER, disk.note, count=1)
            return None
        disk.before, length = None, len(disk.trace.operations)
        world.resume(root / TIER, disk.note, count=2)
    return disk.trace, length


@contextlib.contextmanager
def no_syncs() -> Iterator[None]:
    """Checks need not wait for the real disk."""
    with mock.patch.multiple(os, fsync=lambda fd: None, fdatasync=lambda fd: None):
        yield


def check(root: Path, state: CrashState, *, gap: int | None = None) -> None:
    """The promise."""
    world.check_left(
        root / TIER,
        world.highest(state.notes, "saved"),
        world.highest(state.notes, "began"),
        rows_from=world.highest(state.notes, "dropped") + 1,
        gap=1 + state.cut % 2 if gap is None else gap,
    )


def replay(
    trace: Trace,
    names: Names,
    *,
    first: int = 0,
    limit: int = 1 << 10,
    samples: int = 16,
    holds: Callable[[Path, CrashState], None] = check,
) -> tuple[int, str]:
    """How many states there were, up to the first that something was wrong with, and what."""
    count = 0
    with no_syncs(), world.memory_directory() as where:
        for state in crash_states(trace, names=names, first=first, seed=SEED, limit=limit, samples=samples):
            count += 1
            root = state.build(where / f"{count}")
            try:
                holds(root, state)
            except Exception as error:  # noqa: BLE001 - any is a finding
                return count, f"cut at {state.cut} after {state.notes}, lost {state.lost}, seed {SEED}: {error!r}"
            shutil.rmtree(root)
    return count, ""


@pytest.mark.parametrize("names", ["ordered", "strict"])
@pytest.mark.parametrize("workload", world.WORKLOADS)
def test_the_newest_acknowledged_checkpoint_survives(tmp_path: Path, names: Names, workload: str) -> None:
    trace = recorded(tmp_path / "disk", world.WORKLOADS[workload])
    count, wrong = replay(trace, names)
    assert not wrong, f"state {count}: {wrong}"
    assert count > len(trace.operations) / 2


@pytest.mark.parametrize("names", ["ordered", "strict"])
def test_so_it_does_after_a_kill_and_a_new_start(tmp_path: Path, names: Names) -> None:
    kills = 0
    for at in range(1, 100):
        outcome = killed_and_resumed(tmp_path / f"disk-{at}", at)
        if outcome is None:
            break
        trace, length = outcome
        kills += 1
        count, wrong = replay(trace, names, first=length, limit=8, samples=4)
        assert not wrong, f"killed at {at}, state {count}: {wrong}"
    assert 10 < kills < 99


def test_large_files_survive_too(tmp_path: Path) -> None:
    """On the real disk, where they may be written past the page cache."""
    trace = recorded(tmp_path / "disk", world.write_large)
    started = next(n for n, operation in enumerate(trace.operations) if operation == Milestone(f"saved {world.LARGE}"))
    count, wrong = replay(trace, "ordered", first=started, limit=1, samples=1, holds=partial(check, gap=0))
    assert not wrong, f"state {count}: {wrong}"
    assert count > 10


# -- the checks can fail


@pytest.mark.parametrize("plant", world.PLANTS)
def test_a_forgotten_sync_is_found(tmp_path: Path, plant: str) -> None:
    trace = recorded(tmp_path / "disk", partial(world.resume, count=2), plant)
    _, wrong = replay(trace, "ordered", limit=16)
    assert wrong, f"{plant}: nothing was found"


def test_dropping_the_old_before_the_new_is_there_is_found(tmp_path: Path) -> None:
    trace = recorded(tmp_path / "disk", partial(world.resume, count=3, make=world.Hasty))
    _, wrong = replay(trace, "ordered", limit=16)
    assert "was acknowledged" in wrong


def test_a_leak_is_found(tmp_path: Path) -> None:
    trace = recorded(tmp_path / "disk", partial(world.resume, count=2))

    def leaking(root: Path, state: CrashState) -> None:
        with world.nothing_removed():
            check(root, state)

    _, wrong = replay(trace, "ordered", limit=16, holds=leaking)
    assert "leaked" in wrong
