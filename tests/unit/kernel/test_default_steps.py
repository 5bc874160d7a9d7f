"""The step of rows that name none: no metric's steps go back, and a killed run has those of one that was not killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loop_world import World


class Stop(BaseException):
    """The process dies here."""


class Notebook:
    """Logs through a world; dies at the n-th call."""

    def __init__(self, world: World, dies_at: int = 0) -> None:
        self.world = world
        self.left = dies_at

    def log(self, **metrics: float) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stop
        self.world.session.log(metrics)

    def loop(self, count: int, state: Any = None, **options: Any) -> Iterator[Any]:
        return self.world.loop(range(count), state, 1, **options)


def nested(nb: Notebook) -> None:
    nb.world.cell("a")
    for _ in nb.loop(3):
        for _ in nb.loop(2):
            nb.log(loss=1)
        nb.log(epoch=1)
    nb.world.end()


def function_in_a_plain_loop(nb: Notebook) -> None:
    def train() -> None:
        for _ in nb.loop(2):
            nb.log(loss=1)

    nb.world.cell("a")
    for _ in range(3):
        train()
    nb.world.end()


def function_in_three_cells(nb: Notebook) -> None:
    for cell in "abc":
        nb.world.cell(cell)
        for _ in nb.loop(2):
            nb.log(loss=1)
        nb.world.end()


def one_name_for_all_folds(nb: Notebook) -> None:
    nb.world.cell("a")
    for _ in range(3):
        for _ in nb.loop(2, name="fold"):
            nb.log(loss=1)
    nb.world.end()


def function_in_an_outer_loop(nb: Notebook) -> None:
    def validate() -> None:
        for _ in nb.loop(2):
            nb.log(loss=1)

    nb.world.cell("a")
    for _ in nb.loop(3):
        validate()
        validate()
    nb.world.end()


def left_by_break(nb: Notebook) -> None:
    nb.world.cell("a")
    for _ in nb.loop(3):
        for n in nb.loop(5):
            nb.log(loss=n)
            if n == 1:
                break
    nb.world.end()


def inner_and_outer_log_one_metric(nb: Notebook) -> None:
    nb.world.cell("a")
    for _ in nb.loop(3):
        for _ in nb.loop(2):
            nb.log(loss=1)
        nb.log(loss=2)
    nb.world.end()


def now_and_then(nb: Notebook) -> None:
    for cell in "abc":
        nb.world.cell(cell)
        for n in nb.loop(5):
            nb.log(loss=1)
            if n % 2 == 0:
                nb.log(score=1)
        nb.world.end()


SHAPES = (
    nested,
    function_in_a_plain_loop,
    function_in_three_cells,
    one_name_for_all_folds,
    function_in_an_outer_loop,
    left_by_break,
    inner_and_outer_log_one_metric,
    now_and_then,
)


def steps(world: World) -> list[tuple[str, int]]:
    return [(row.key, row.step) for row in world.rows()]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_no_metric_goes_back_and_kills_change_nothing(shape: Callable[[Notebook], None], tmp_path: Path) -> None:
    world = World(tmp_path / "undisturbed")
    world.start()
    shape(Notebook(world))
    expected = steps(world)
    for metric in {key for key, _ in expected}:
        its_steps = [step for key, step in expected if key == metric]
        assert its_steps == sorted(set(its_steps)), metric
    calls = len(expected)
    for dies_at in range(1, calls + 1):
        world = World(tmp_path / f"killed-{dies_at}")
        world.start()
        with pytest.raises(Stop):
            shape(Notebook(world, dies_at))
        world.start()
        shape(Notebook(world))
        assert steps(world) == expected, f"killed at call {dies_at}"


def test_other_metrics_begin_at_zero(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    for cell, metric in (("a", "first"), ("b", "second")):
        world.cell(cell)
        for _ in world.loop(range(2), None):
            world.log(**{metric: 1})
        world.end()
    assert steps(world) == [("first", 0), ("first", 1), ("second", 0), ("second", 1)]


def test_metrics_of_one_iteration_have_one_step(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    now_and_then(Notebook(world))
    at = {row.step for row in world.rows() if row.key == "score"}
    assert at == {0, 2, 4, 5, 7, 9, 10, 12, 14}


@pytest.mark.parametrize("tracking", ["sqlite:////x/mlflow.db", "https://host/mlflow", "jsonl:///x", ""])
def test_a_name_that_mlflow_changes_is_announced_once(
    tracking: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    world.start()
    world.show(tracking=tracking)
    for _ in range(2):
        world.cell("a")
        for _ in world.loop(range(2), None, 1):
            world.session.log({"acc@1": 0.5, "loss": 1})
        world.end()
        world.start()
        world.show(tracking=tracking)
    line = "qcity: metric 'acc@1' is 'acc_x40_1' in MLflow, which does not accept every character or length\n"
    assert capsys.readouterr().err == (line if "://" in tracking and "jsonl" not in tracking else "")
