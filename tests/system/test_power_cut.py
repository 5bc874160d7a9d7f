"""A power cut at any operation of the local tier leaves the newest acknowledged checkpoint or the one in flight."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import tier_world as world

from qcity_nb.checkpoint.local import LocalTier
from qcity_nb.testing.disk import Call, Recorder
from qcity_nb.testing.power_cut import CrashState, Names, crash_states
from qcity_nb.testing.trace import Trace

SEED = 20
TIER = "runs/1"
"""Below the recorder's root; neither directory is there at the start."""


class Killed(BaseException):
    """The process is dead: nothing more reaches the disk, whatever it tries."""


def until(number: int) -> Callable[[Call], None]:
    def before(call: Call) -> None:
        if call.number >= number:
            raise Killed

    return before


def saves(disk: Recorder, first: int, last: int, make: Callable[..., LocalTier] = LocalTier) -> None:
    tier = make(disk.root / TIER, epoch=world.EPOCH)
    for seq in range(first, last + 1):
        disk.mark(f"began {seq}")
        world.save(tier, seq)
        disk.mark(f"saved {seq}")
        if seq == 3:
            disk.mark("dropped 1")
            tier.drop_rows(1)


def record(root: Path, workload: Callable[[Recorder], None], plant: str = "") -> Trace:
    root.mkdir()
    with Recorder(root, is_syncing=False) as disk, world.PLANTS[plant]() if plant else contextlib.nullcontext():
        workload(disk)
    return disk.trace


def straight(disk: Recorder) -> None:
    saves(disk, 1, 4)


def adopted(disk: Recorder) -> None:
    """A tier that begins with a checkpoint of the epoch before."""
    tier = LocalTier(disk.root / TIER, epoch=world.EPOCH)
    disk.mark("dropped 5")
    disk.mark("began 7")
    world.adopt(tier, 7)
    disk.mark("saved 7")
    disk.mark("began 8")
    world.save(tier, 8)
    disk.mark("saved 8")


def numbers(state: CrashState, word: str) -> int:
    """The highest number that was marked so."""
    return max((int(mark.split()[1]) for mark in state.marks if mark.startswith(word)), default=0)


def replay(
    trace: Trace, where: Path, names: Names, *, limit: int = 1 << 10, samples: int = 64, is_checked: bool = True
) -> tuple[int, list[str]]:
    """How many states there were, and what was wrong with them."""
    wrong: list[str] = []
    count = 0
    nothing = mock.patch.multiple(os, fsync=lambda fd: None, fdatasync=lambda fd: None)  # the disk is not the matter
    with nothing:
        for state in crash_states(trace, names=names, seed=SEED, limit=limit, samples=samples):
            count += 1
            root = state.build(where / f"{count}")
            try:
                world.check_left(
                    root / TIER,
                    numbers(state, "saved"),
                    numbers(state, "began"),
                    rows_from=numbers(state, "dropped") + 1,
                )
            except Exception as error:  # noqa: BLE001 - any is a finding
                wrong.append(f"cut at {state.cut} after {state.marks}, lost {state.lost}: {error!r}")
            shutil.rmtree(root)
    return count, wrong


@pytest.mark.parametrize("names", ["ordered", "strict"])
@pytest.mark.parametrize("workload", [straight, adopted])
def test_x(tmp_path: Path, names: Names, workload: Callable[[Recorder], None]) -> None:
    import time

    trace = record(tmp_path / "disk", workload)
    t = time.monotonic()
    count, wrong = replay(trace, tmp_path, names)
    print(len(trace.operations), count, len(wrong), time.monotonic() - t)
    for w in wrong[:: max(1, len(wrong) // 12)]:
        print(w[:600])
