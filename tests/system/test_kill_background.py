"""Kills while a checkpoint is written in the background: the result is the same, and the work lost is bounded."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import killing
import pytest
from tiers import nightly_but

from qcity_nb.testing import chaos

pytestmark = [pytest.mark.kill, pytest.mark.timeout(110)]

POINTS = {"capture.after": 4, "local.before": 4, "outbox.after": 3, "local.pack": 4, "local.after": 3}
"""Each with its own hit to strike at: in the loop, the writer's thread at work."""
EVERY = 2
MLFLOW = "outbox.after"
"""Its tracker is MLflow; the others' is of JSON lines."""
QUICK = [
    (False, "local.before"),
    (False, "local.pack"),
    (False, "outbox.after"),
    (True, "capture.after"),
    (True, "local.after"),
]
"""The first says whether the state is torch's; the rest comes at night."""


def world_in(folder: Path, template: Path | None = None, *, is_torch: bool) -> killing.World:
    world = killing.world_in(folder, template, is_torch=is_torch)
    world.every = EVERY
    return world


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], killing.Result]:
    """With torch the state is copied while the next iteration has begun."""

    @cache
    def result(is_torch: bool) -> killing.Result:
        return killing.uninterrupted(world_in(tmp_path_factory.mktemp("quiet"), is_torch=is_torch))

    return result


@pytest.mark.parametrize(
    ("is_torch", "name"),
    nightly_but(QUICK, [(is_torch, name) for is_torch in (False, True) for name in POINTS]),
)
def test_dead_process(
    is_torch: bool,
    name: str,
    tmp_path: Path,
    quiet: Callable[[bool], killing.Result],
    request: pytest.FixtureRequest,
) -> None:
    template = request.getfixturevalue("mlflow_template") if name == MLFLOW else None
    world = world_in(tmp_path, template, is_torch=is_torch)
    plan = chaos.Plan(log=str(world.hits), at={name: [POINTS[name]]}, action="host")
    world.supervise(plan, is_machine_dead=False)
    assert world.struck == [name]
    assert world.codes == [-9, 0]
    killing.check(world, quiet(is_torch), is_machine_dead=False)
