"""A script is killed at random moments, some of them while it recovers: the n-th crash point that is hit, by seed.

One seed again: ``pytest 'tests/system/test_kill_moments.py::test_moment[7]'``. Each night has twelve seeds of its own,
from ``SOAK_SEED`` or the date: ``SOAK_SEED=20261201 pytest tests/system/test_kill_moments.py::test_moment_of_tonight``.
"""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime
from pathlib import Path

import killing
import pytest
from tiers import nightly_but

from qcity_nb.testing import chaos

pytestmark = [pytest.mark.kill, pytest.mark.timeout(110)]

SEEDS = range(24)
"""Seeds 24 to 29 are whole notebooks: test_kill_notebook.py."""
TORCH = (5, 16)
MLFLOW = (2, 21)
TONIGHT = 12
"""The others' tracker is of JSON lines: mlflow's import costs more than all else that they do."""
QUICK = range(8)
"""Of each action two or more, one of them with torch and one with MLflow; the other seeds come at night."""


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> killing.Result:
    return killing.uninterrupted(killing.world_in(tmp_path_factory.mktemp("quiet")))


@pytest.fixture(scope="module")
def quiet_torch(tmp_path_factory: pytest.TempPathFactory) -> killing.Result:
    return killing.uninterrupted(killing.world_in(tmp_path_factory.mktemp("torch"), is_torch=True))


@pytest.mark.parametrize("seed", nightly_but(QUICK, SEEDS))
def test_moment(seed: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    play(seed, tmp_path, request)


@pytest.mark.nightly
@pytest.mark.parametrize("number", range(TONIGHT))
def test_moment_of_tonight(number: int, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Moments that nobody has tried before."""
    night = int(os.environ.get("SOAK_SEED") or f"{datetime.now(UTC):%Y%m%d}")
    print(f"SOAK_SEED={night}")  # noqa: T201  # how a failure is replayed
    play(night * TONIGHT + number, tmp_path, request)


def play(seed: int, folder: Path, request: pytest.FixtureRequest) -> None:
    """Even seeds lose the machine; odd ones the attempt's processes, or one of them."""
    is_torch = seed in TORCH
    quiet: killing.Result = request.getfixturevalue("quiet_torch" if is_torch else "quiet")
    template = request.getfixturevalue("mlflow_template") if seed in MLFLOW else None
    world = killing.world_in(folder, template, is_torch=is_torch)
    is_machine_dead = seed % 2 == 0
    action: chaos.Action = "machine" if is_machine_dead else ("host" if seed % 4 == 1 else "kill")
    plan = killing.moments(random.Random(seed), quiet, world, action)
    print(f"seed {seed}: {plan.dumps()}")  # noqa: T201  # how a failure is replayed
    world.supervise(plan, is_machine_dead=is_machine_dead)
    assert len(world.struck) == len(plan.kills), world.tail()
    killing.check(world, quiet, is_machine_dead=is_machine_dead)
