"""A script is killed at every named crash point, its machine with it or not: the result is that of a quiet run."""

from __future__ import annotations

from pathlib import Path

import killing
import pytest
from tiers import nightly_but

from qcity_nb import crashpoints
from qcity_nb.testing import chaos

pytestmark = [pytest.mark.kill, pytest.mark.timeout(110)]

WHICH = {
    "capture": 5,
    "local": 6,
    "outbox": 4,
    "publish": 3,
    "publish.files": 3,
    "publish.head": 4,
    "drain": 1,
    "end": 1,
}
"""The point's own hit to strike at: somewhere in the middle, where there is one."""
CELLS = {"cell.before", "cell.after"}
"""A script has no cells: test_kill_notebook.py strikes there."""
SCRIPT = [name for name in crashpoints.NAMES if name not in CELLS]
QUICK = {
    "machine": {name for name in SCRIPT if name.endswith((".after", ".pack"))},
    "process": {name for name in SCRIPT if name.endswith(".before")} | {"local.pack", "drain.after", "end.after"},
}
"""Each point is struck once, with its machine or alone, and some in both ways; the rest comes at night."""
MLFLOW = "drain.after"
"""Rows are sent and nobody knows: here the tracker is MLflow, whose import costs more than the rest of a case."""


def number(name: str) -> int:
    return WHICH[name.rpartition(".")[0]]


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> killing.Result:
    return killing.uninterrupted(killing.world_in(tmp_path_factory.mktemp("quiet")))


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> killing.World:
    is_mlflow = request.node.callspec.params.get("name") == MLFLOW
    return killing.world_in(tmp_path, request.getfixturevalue("mlflow_template") if is_mlflow else None)


def test_a_quiet_script_hits_every_point(quiet: killing.Result) -> None:
    assert {name for name, _ in quiet.hits} == set(SCRIPT)
    assert sum(quiet.tracked.rows.values()) == 3 * 12 + 2


@pytest.mark.parametrize("name", nightly_but(QUICK["machine"], SCRIPT))
def test_dead_machine(name: str, world: killing.World, quiet: killing.Result) -> None:
    """All processes at once, and all that the machine had on its disk."""
    plan = chaos.Plan(log=str(world.hits), at={name: [number(name)]}, action="host")
    world.supervise(plan, is_machine_dead=True)
    assert world.struck == [name]
    assert world.codes[0] == -9
    killing.check(world, quiet, is_machine_dead=True)


@pytest.mark.parametrize("name", nightly_but(QUICK["process"], SCRIPT))
def test_dead_process(name: str, world: killing.World, quiet: killing.Result) -> None:
    """The one process alone: a sidecar is replaced, and after a script its sidecar publishes and releases the run."""
    plan = chaos.Plan(log=str(world.hits), at={name: [number(name)]}, action="kill")
    world.supervise(plan, is_machine_dead=False)
    assert world.struck == [name]
    if name.startswith(("publish", "drain", "end")):
        assert world.codes == [0], f"the script did not outlive its sidecar\n{world.tail()}"
    else:
        assert world.codes == [-9, 0]
    killing.check(world, quiet, is_machine_dead=False)


@pytest.mark.parametrize(("fault", "words"), [("generators", "weights or draws differ"), ("rows", "too many")])
def test_these_checks_can_fail(fault: str, words: str, world: killing.World, quiet: killing.Result) -> None:
    """With a planted fault, the same kill is found out."""
    plan = chaos.Plan(log=str(world.hits), at={"local.after": [6]}, action="kill", plant=fault)
    world.supervise(plan, is_machine_dead=False)
    with pytest.raises(AssertionError, match=words):
        killing.check(world, quiet, is_machine_dead=False)
