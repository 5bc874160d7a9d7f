"""Kills while a checkpoint is written in the background: the result is the same, and the work lost is bounded."""

from __future__ import annotations

from pathlib import Path

import killing
import pytest

from qcity_nb.testing import chaos

pytestmark = [pytest.mark.kill, pytest.mark.timeout(110)]

POINTS = {"capture.after": 4, "local.before": 4, "outbox.after": 3, "local.pack": 4, "local.after": 3}
"""Each with its own hit to strike at: in the loop, the writer's thread at work."""
EVERY = 2


def world_in(folder: Path, template: Path, *, is_torch: bool) -> killing.World:
    world = killing.world_in(folder, template, is_torch=is_torch)
    world.every = EVERY
    return world


@pytest.fixture(scope="module", params=[False, True], ids=["numpy", "torch"])
def quiet(
    request: pytest.FixtureRequest, mlflow_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[bool, killing.Result]:
    """With torch the state is copied while the next iteration has begun."""
    world = world_in(tmp_path_factory.mktemp("quiet"), mlflow_template, is_torch=request.param)
    return request.param, killing.uninterrupted(world)


@pytest.mark.parametrize("name", POINTS)
def test_dead_process(name: str, tmp_path: Path, mlflow_template: Path, quiet: tuple[bool, killing.Result]) -> None:
    world = world_in(tmp_path, mlflow_template, is_torch=quiet[0])
    plan = chaos.Plan(log=str(world.hits), at={name: [POINTS[name]]}, action="host")
    world.supervise(plan, is_machine_dead=False)
    assert world.struck == [name]
    assert world.codes == [-9, 0]
    killing.check(world, quiet[1], is_machine_dead=False)
