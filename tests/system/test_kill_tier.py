"""A writer of the local tier that is killed at any write, sync or rename leaves what it acknowledged, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import kill_tier
import pytest
import tier_world as world

pytestmark = pytest.mark.kill

SEED = 31
MOST = 400
"""More operations than any workload has."""


@pytest.fixture(scope="module")
def writers() -> Iterator[kill_tier.Writers]:
    with kill_tier.writers() as pool:
        yield pool


@pytest.fixture
def folder() -> Iterator[Path]:
    with world.memory_directory() as directory:
        yield directory


def check(path: Path, lines: list[str], *, gap: int = 1) -> int:
    """What is left is what was acknowledged, or the one in flight too; a new process resumes from there."""
    with mock.patch.multiple(os, fsync=lambda fd: None, fdatasync=lambda fd: None):
        return world.check_left(
            path / "1",
            world.highest(lines, "saved"),
            world.highest(lines, "began"),
            rows_from=world.highest(lines, "dropped") + 1,
            gap=gap,
        )


@pytest.mark.parametrize("is_torn", [False, True])
@pytest.mark.parametrize("workload", world.WORKLOADS)
def test_a_kill_at_each_operation(folder: Path, writers: kill_tier.Writers, workload: str, is_torn: bool) -> None:
    for at in range(1, MOST):
        path = folder / f"{at}"
        lines, code = writers.run(path, workload, at, is_torn=is_torn)
        try:
            check(path, lines, gap=1 + at % 2)
        except Exception as error:
            raise AssertionError(f"killed at operation {at} after {lines}: {error}") from error
        if code != -signal.SIGKILL:
            break
    assert code == 0, lines
    assert at > 20, "fewer operations than a save has: the kills are not at the engine's"


def test_a_kill_in_large_files(tmp_path: Path, writers: kill_tier.Writers) -> None:
    """On the real disk, where they may be written past the page cache."""
    for at in range(1, MOST):
        path = tmp_path / f"{at}"
        lines, code = writers.run(path, "large", at, is_torn=bool(at % 2))
        check(path, lines, gap=0)
        shutil.rmtree(path)
        if code != -signal.SIGKILL:
            break
    assert code == 0, lines


def test_a_successor_that_is_killed_too(folder: Path, writers: kill_tier.Writers) -> None:
    rng = random.Random(SEED)
    for n in range(30):
        path, lines, kills = folder / f"{n}", list[str](), [rng.randint(1, 60) for _ in range(3)]
        for at in kills:
            more, code = writers.run(path, "resume", at, is_torn=rng.random() < 0.5)
            assert code in (0, -signal.SIGKILL)
            lines += more
            try:
                check(path, lines, gap=0)
            except Exception as error:
                raise AssertionError(f"killed at {kills} (seed {SEED}) after {lines}: {error}") from error
        check(path, lines)


def test_a_tier_that_drops_the_old_first_is_found(folder: Path, writers: kill_tier.Writers) -> None:
    failures = 0
    for at in range(1, MOST):
        path = folder / f"{at}"
        lines, code = writers.run(path, "hasty", at)
        if code == 0:
            break
        try:
            check(path, lines)
        except AssertionError:
            failures += 1
    assert failures
