"""Random notebooks, killed at random moments: what they leave is what an uninterrupted run leaves."""

from __future__ import annotations

import collections
import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from loop_program import Log, Loop, Notebook, Seen, Work, programs, size
from loop_world import Killed, Reaper, World
from optional import torch

from qcity_nb import crashpoints

EVERY = st.sampled_from([1, 1, 2, 3, "0.001s", "60s", None])
AT_NIGHT = pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.nightly)])
SETTINGS = settings(
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


@contextmanager
def world() -> Iterator[World]:
    shm = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(dir=shm if shm.is_dir() else None, prefix="loops-"))
    try:
        yield World(path)
    finally:
        crashpoints.arm(None)
        shutil.rmtree(path)


def finish(world: World, program: Any, kills: list[int]) -> tuple[dict[str, Any], Any, Seen]:
    """Attempts until one gets through; the n-th is killed at its ``kills[n]``-th moment."""
    seen = Seen()
    for moment in [*kills, 0]:
        world.start()
        reaper = Reaper(world, [moment])
        reaper.arm()
        try:
            state = Notebook(world, program, seen, reaper.tick).run()
        except Killed:
            seen.kills += 1
            continue
        crashpoints.arm(None)
        generators = (random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state().tolist())
        return state, repr(generators), seen
    raise AssertionError("the last attempt is not killed")


def _rows(world: World) -> collections.Counter[tuple[Any, ...]]:
    return collections.Counter(
        (row.loop, row.iteration, row.ordinal, row.key, row.step, row.value) for row in world.rows()
    )


def compare(program: Any, kills: list[int]) -> Seen:
    with world() as calm, world() as stormy:
        state, generators, once = finish(calm, program, [])
        other, others, seen = finish(stormy, program, kills)
        assert other.keys() == state.keys()
        for key in state:
            assert repr(other[key]) == repr(state[key]), key
            if key in ("w", "t"):
                assert bytes(np.asarray(other[key])) == bytes(np.asarray(state[key]))
        assert others == generators
        expected, actual = _rows(calm), _rows(stormy)
        assert actual == expected
        assert not expected or max(expected.values()) == 1
        stored = collections.Counter((row.key, row.step, row.timestamp_ms, row.value) for row in stormy.rows())
        assert not stored or max(stored.values()) == 1, "MLflow would take two rows for one"
        assert seen.ran.keys() == once.ran.keys()
        assert all(times == 1 for times in once.ran.values())
    return seen


KILLS = st.lists(st.integers(1, 120), min_size=1, max_size=4)


@AT_NIGHT
@pytest.mark.timeout(600)
def test_a_killed_notebook_ends_as_if_nothing_had_happened(count: int) -> None:
    @given(program=programs(EVERY), kills=KILLS)
    @settings(SETTINGS, max_examples=count)
    def check(program: Any, kills: list[int]) -> None:
        assume(0 < sum(size(cell) for cell in program) <= 80)
        compare(program, kills)

    check()


def test_rows_that_are_covered_move_no_steps_again() -> None:
    """An outer and an inner loop that log the same metric, killed between the inner one's end and the outer one's."""
    inner = Loop(
        count=1,
        items="list",
        every=1,
        name=None,
        leave_at=None,
        leave_by="break",
        body=(Log(key="a", times=1, step=None),),
    )
    outer = Loop(
        count=3,
        items="list",
        every=1,
        name=None,
        leave_at=None,
        leave_by="break",
        body=(Log(key="a", times=2, step=None), inner, Log(key="b", times=1, step=None), Work(by="random")),
    )
    deaths = sum(compare([(outer,)], [moment]).kills for moment in range(1, 90))
    assert deaths > 50


@AT_NIGHT
@pytest.mark.timeout(600)
def test_saved_at_each_iteration_only_the_one_in_flight_runs_again(count: int) -> None:
    @given(program=programs(st.just(1)), kills=KILLS)
    @settings(SETTINGS, max_examples=count)
    def check(program: Any, kills: list[int]) -> None:
        assume(0 < sum(size(cell) for cell in program) <= 80)
        seen = compare(program, kills)
        again = sum(times - 1 for times in seen.ran.values())
        assert again <= seen.kills

    check()


def test_the_programs_do_what_they_should() -> None:
    """The generator reaches what it is for: deep nesting, kills in the middle, loops that are left."""
    sizes, deaths = [], []

    @given(program=programs(EVERY), kills=KILLS)
    @settings(max_examples=30, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def look(program: Any, kills: list[int]) -> None:
        total = sum(size(cell) for cell in program)
        assume(0 < total <= 80)
        with world() as started:
            deaths.append(finish(started, program, kills)[2].kills)
        sizes.append(total)

    look()
    if max(sizes) < 10 or sum(deaths) < 10:
        pytest.fail(f"sizes {sizes}, kills {deaths}")
