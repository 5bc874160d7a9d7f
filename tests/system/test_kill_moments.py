"""A script is killed at random moments, some of them while it recovers: the n-th crash point that is hit, by seed.

One seed again: ``pytest 'tests/system/test_kill_moments.py::test_moment[7]'``.
"""

from __future__ import annotations

import random
from pathlib import Path

import killing
import pytest

from qcity_nb.testing import chaos

pytestmark = [pytest.mark.kill, pytest.mark.timeout(110)]

SEEDS = range(24)
"""Seeds 24 to 29 are whole notebooks: test_kill_notebook.py."""
TORCH = (5, 16)


@pytest.fixture(scope="module")
def quiet(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> killing.Result:
    return killing.uninterrupted(killing.world_in(tmp_path_factory.mktemp("quiet"), mlflow_template))


@pytest.fixture(scope="module")
def quiet_torch(mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory) -> killing.Result:
    return killing.uninterrupted(killing.world_in(tmp_path_factory.mktemp("torch"), mlflow_template, is_torch=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_moment(seed: int, mlflow_template: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Even seeds lose the machine; odd ones the attempt's processes, or one of them."""
    is_torch = seed in TORCH
    quiet: killing.Result = request.getfixturevalue("quiet_torch" if is_torch else "quiet")
    world = killing.world_in(tmp_path, mlflow_template, is_torch=is_torch)
    is_machine_dead = seed % 2 == 0
    action: chaos.Action = "machine" if is_machine_dead else ("host" if seed % 4 == 1 else "kill")
    plan = killing.moments(random.Random(seed), quiet, world, action)
    print(f"seed {seed}: {plan.dumps()}")  # noqa: T201  # how a failure is replayed
    world.supervise(plan, is_machine_dead=is_machine_dead)
    assert len(world.struck) == len(plan.kills), world.tail()
    killing.check(world, quiet, is_machine_dead=is_machine_dead)
