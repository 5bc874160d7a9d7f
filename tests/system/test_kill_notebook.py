"""Whole notebooks under `qcity run` are killed at crash points and random moments, some with their machine."""

from __future__ import annotations

import random
from pathlib import Path

import killing
import pytest
from tiers import nightly_but

from qcity_nb import crashpoints
from qcity_nb.testing import chaos

pytestmark = [pytest.mark.kill, pytest.mark.kernel, pytest.mark.timeout(119)]

SEEDS = range(24, 30)
"""The other seeds are scripts: test_kill_moments.py."""
QUICK = (25, 27)
"""A machine, the attempt's processes, one process; the rest comes at night."""
MLFLOW = 24
"""Its tracker is MLflow; the others' is of JSON lines."""


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> killing.Result:
    world = killing.world_in(tmp_path_factory.mktemp("quiet"), is_notebook=True)
    return killing.uninterrupted(world)


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> killing.World:
    is_mlflow = request.node.callspec.params.get("seed") == MLFLOW
    template = request.getfixturevalue("mlflow_template") if is_mlflow else None
    return killing.world_in(tmp_path, template, is_notebook=True)


def test_a_quiet_notebook_hits_every_point(quiet: killing.Result) -> None:
    assert {name for name, _ in quiet.hits} == set(crashpoints.NAMES)
    assert "\n10: " in quiet.outputs[2][-3][1]
    assert [kind for kind, _ in quiet.outputs[2]].count("display_data") == 3


@pytest.mark.parametrize(
    ("name", "number", "action"),
    [
        ("cell.before", 3, "machine"),
        ("cell.before", 4, "kill"),
        pytest.param("cell.after", 3, "machine", marks=pytest.mark.nightly),
        ("cell.after", 3, "kill"),
        pytest.param("capture.after", 5, "kill", marks=pytest.mark.nightly),
        ("end.after", 1, "kill"),
    ],
)
def test_point(name: str, number: int, action: chaos.Action, world: killing.World, quiet: killing.Result) -> None:
    """Cells are the engine's own points; there, and once in the kernel and in the sidecar."""
    world.supervise(
        chaos.Plan(log=str(world.hits), at={name: [number]}, action=action), is_machine_dead=action == "machine"
    )
    assert world.struck == [name]
    assert world.codes == ([-9, 0] if action == "machine" else [0])
    killing.check(world, quiet, is_machine_dead=action == "machine")


@pytest.mark.parametrize("seed", nightly_but(QUICK, SEEDS))
def test_moment(seed: int, world: killing.World, quiet: killing.Result) -> None:
    actions: list[chaos.Action] = ["machine", "host", "machine", "kill", "machine", "kill"]
    action = actions[seed - SEEDS.start]
    plan = killing.moments(random.Random(seed), quiet, world, action)
    print(f"seed {seed}: {plan.dumps()}")  # noqa: T201  # how a failure is replayed
    world.supervise(plan, is_machine_dead=action == "machine")
    assert len(world.struck) == len(plan.kills), world.tail()
    killing.check(world, quiet, is_machine_dead=action == "machine")
