"""`city.log`: each row once, identified, in time order where MLflow needs it."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_world import World
from optional import HAS_TORCH, torch

from qcity_nb.errors import UsageError
from qcity_nb.kernel.metric_log import SHOWN_KEYS, SHOWN_POINTS, MetricLog
from qcity_nb.records import Row


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.start()
    return made


def test_outside_loops_the_cell_is_the_unit_and_the_step_is_0(world: World) -> None:
    world.cell()
    world.log(a=1, b=2)
    world.log(a=3)
    assert world.rows() == []
    world.end()
    assert [(row.key, row.value, row.step, row.ordinal) for row in world.rows()] == [
        ("a", 1.0, 0, 0),
        ("b", 2.0, 0, 1),
        ("a", 3.0, 0, 2),
    ]
    assert len({row.loop for row in world.rows()}) == 1


def test_a_finished_cell_logs_again_in_the_same_kernel_or_when_edited_but_not_after_a_restart(world: World) -> None:
    def cell(value: float, source: str = "…") -> None:
        world.cell(source=source)
        world.log(a=value)
        world.end()

    cell(1)
    cell(2)
    world.start()
    cell(3)
    cell(4)
    world.start()
    cell(5, source="edited")
    assert [row.value for row in world.rows()] == [1, 2, 4, 5]


def test_a_failed_cell_logs_nothing_and_its_next_try_logs_once(world: World) -> None:
    world.cell()
    world.log(a=1)
    world.end(ok=False)
    world.cell()
    world.log(a=2)
    list(world.loop(range(1), {}))
    world.log(a=3)
    world.end(ok=False)
    world.cell()
    world.log(a=2)
    assert list(world.loop(range(1), {})) == []
    world.log(a=3)
    world.end()
    assert [row.value for row in world.rows()] == [2, 3]


def test_a_second_pass_that_dies_keeps_the_rows_after_its_loop(world: World) -> None:
    def cell(*, die: bool) -> None:
        world.cell()
        world.log(head=1)
        for n in world.loop(range(2), {}):
            if die and n == 1:
                return
        world.log(tail=1)
        world.end()

    cell(die=False)
    cell(die=True)
    world.start()
    cell(die=False)
    assert [row.key for row in world.rows()] == ["head", "tail", "head", "tail"]


def test_rows_after_a_break_belong_to_the_outer_iteration(world: World) -> None:
    world.cell()
    for outer in world.loop(range(2), {}):
        for inner in world.loop(range(5), {}):
            world.log(loss=inner)
            if inner == 1:
                break
        world.log(score=outer)
    world.end()
    assert [(row.key, row.step) for row in world.rows()] == [
        ("loss", 0),
        ("loss", 1),
        ("score", 0),
        ("loss", 2),
        ("loss", 3),
        ("score", 1),
    ]


def test_equal_values_at_one_step_differ_in_time(world: World) -> None:
    world.cell()
    for _ in range(50):
        world.log(a=1.0, step=3)
    world.log(a=1.0, step=9)
    world.log(a=1.0, step=3)
    world.end()
    world.start()
    world.cell("later")
    world.log(a=1.0, step=3)
    world.log(a=1.0, step=9)
    world.end()
    rows = world.rows()
    assert len(rows) == 54
    assert len({(row.step, row.timestamp_ms, row.value) for row in rows}) == 54


def test_what_a_value_and_a_step_may_be(world: World) -> None:
    four: Any = np.array(4)[()]  # numpy's own integer
    scalar: Any = torch.tensor(2.0, requires_grad=True) if HAS_TORCH else np.array(2.0)
    world.cell()
    world.log(a=np.float32(0.5), b=scalar, c=True, d=math.nan, e=-math.inf, step=four)
    world.log(f=1, step=5.0)  # type: ignore[arg-type]  # people do
    wrong: list[Any] = ["1.0", None, [1], np.zeros(2), *([torch.zeros(2)] if HAS_TORCH else []), 1j]
    for value in wrong:
        with pytest.raises(UsageError, match=r"log\(x=…\)"):
            world.log(y=1, x=value)
    with pytest.raises(UsageError, match="whole"):
        world.log(x=1, step=1.5)  # type: ignore[arg-type]  # that is the mistake
    world.end()
    rows = world.rows()
    assert [row.key for row in rows] == list("abcdef")
    assert [row.value for row in rows][:3] == [0.5, 2.0, 1.0]
    assert math.isnan(rows[3].value)
    assert [row.step for row in rows] == [4] * 5 + [5]


def test_rows_of_other_threads_do_not_shift_those_of_the_cell(world: World) -> None:
    def aside(count: int) -> None:
        def work() -> None:
            for n in range(count):
                world.log(gpu=n)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    def cell(*, die: bool, times: int) -> None:
        world.cell()
        aside(times)
        world.log(head=1)
        for n in world.loop(range(2), {}):
            aside(2)
            if die and n == 1:
                return
            world.log(loss=n)
        world.log(tail=1)
        world.end()

    cell(die=True, times=3)
    world.start()
    cell(die=False, times=1)  # it came later this time
    rows = world.rows()
    assert [row.key for row in rows if row.key != "gpu"] == ["head", "loss", "loss", "tail"]
    assert [row.value for row in rows if row.key == "gpu"] == [0, 1, 2, 0, 1, 0, 1]
    assert len({(row.loop, row.iteration, row.ordinal) for row in rows}) == len(rows)


def test_a_thread_that_logs_while_checkpoints_are_made_loses_nothing(world: World) -> None:
    turns = [threading.Event() for _ in range(30)]

    def work() -> None:
        for n, turn in enumerate(turns):
            assert turn.wait(10)
            for i in range(100):
                world.log(gpu=100 * n + i)

    thread = threading.Thread(target=work)
    world.cell()
    thread.start()
    for n in world.loop(range(30), {}):
        turns[n].set()  # it logs while this iteration is saved, or later
        world.log(loss=n)
    thread.join()
    world.end()
    assert [row.value for row in world.rows() if row.key == "gpu"] == list(range(3000))


def test_rows_of_a_damaged_checkpoint_that_were_published_are_not_logged_again() -> None:
    published = Row(key="a", value=1.0, timestamp_ms=5, step=0, loop="cell:c", iteration=0, ordinal=1)
    metric_log = MetricLog(lambda: 9, [published])
    metric_log.start_cell("cell:c")
    for value in (0.0, 1.0, 2.0):
        metric_log.log({"a": value}, None)
    assert [row.value for row in metric_log.batch().rows] == [0.0, 2.0]


def test_what_the_panel_shows_is_bounded_and_rewound() -> None:
    metric_log = MetricLog(lambda: 9)
    for n in range(3 * SHOWN_POINTS):
        metric_log.log({"a": n}, n)
    metric_log.cover(metric_log.batch())
    metric_log.log({"a": 1}, 10**6)
    points = metric_log.series()["a"]
    assert points[-1] == (10**6, 1.0)
    assert points[0][0] < 10
    assert SHOWN_POINTS / 2 <= len(points) <= SHOWN_POINTS
    for n in range(3 * SHOWN_KEYS):
        metric_log.log({f"key {n}": n}, n)
    assert len(metric_log.series()) == SHOWN_KEYS
    metric_log.rewind(None)
    assert list(metric_log.series()) == ["a"]
    assert metric_log.series()["a"][-1][0] < 10**6
