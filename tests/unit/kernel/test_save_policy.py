"""`every`: paces alone and joined, the default interval, the session's end, and what is refused."""

from __future__ import annotations

import math
import subprocess
import sys
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qcity_nb
from qcity_nb.checkpoint.metric_goal import Goal, goal
from qcity_nb.errors import UsageError
from qcity_nb.kernel.save_policy import Moment, Pace, every_steps, every_time, interval_s, is_closing, on_best, pace

NOW = Moment(iterations=5, elapsed_s=50.0, cost_s=1.0)
ACC = Goal("acc", "max")


def due(every: Any, **changes: Any) -> bool:
    return pace(every).is_due(NOW._replace(**changes))


def test_whole_numbers_count_iterations_and_only_one_is_strict() -> None:
    forms: list[Any] = [5, np.int64(5), every_steps(5)]
    for every in forms:
        assert due(every)
        assert due(every, iterations=6)
        assert not due(every, iterations=4, elapsed_s=1e9)
        assert not pace(every).is_strict
    assert pace(1).is_strict
    assert every_steps(1).is_strict
    assert not pace(None).is_strict
    assert not pace("0s").is_strict


def test_times_count_from_the_last_save() -> None:
    for every in ("50s", "50", timedelta(seconds=50), every_time("50s"), every_time(50), every_time(timedelta(0, 50))):
        assert due(every)
        assert not due(every, elapsed_s=49.9, iterations=10**9)


def test_paces_are_joined_with_either_kind_of_value_on_either_side() -> None:
    steps, best = every_steps(5), on_best("acc")
    minute = timedelta(minutes=1)
    for joined in ("60s" | steps, steps | "60s", minute | steps, steps | minute, None | steps, steps | None):
        assert due(joined)
        assert due(joined, iterations=1, elapsed_s=100.0)
        assert not due(joined, iterations=1, elapsed_s=50.0)
    for joined in ("60s" & steps, steps & "60s", minute & steps, steps & minute):
        assert not due(joined)
        assert not due(joined, iterations=1, elapsed_s=60.0)
        assert due(joined, elapsed_s=60.0)
    for joined in (3 | best, best | 3):
        assert due(joined)
        assert due(joined, iterations=1, value={ACC: 0.5})
        assert not due(joined, iterations=1)
    for joined in (3 & best, best & 3):
        assert not due(joined)
        assert due(joined, value={ACC: 0.5})
    assert repr(("60s" | steps) & best) == "(every_time('60s') | every_steps(5)) & on_best('acc', 'max')"


def test_what_is_strict_and_what_is_looked_at_in_a_joined_pace() -> None:
    steps, acc, loss = every_steps(1), on_best("acc"), on_best("loss")
    assert (steps | acc).is_strict
    assert (acc | 1).is_strict
    assert ("60s" | acc | 1).is_strict
    assert not (steps & acc).is_strict
    assert not (acc & 1).is_strict
    assert (steps & 1).is_strict
    assert ((steps & acc) | 1).is_strict
    assert not (every_steps(2) | acc).is_strict
    assert (("60s" | acc) & loss).goals == {ACC, Goal("loss", "min")}


@given(
    st.recursive(
        st.integers(1, 9) | st.sampled_from(["a", "b"]),
        lambda deeper: st.tuples(st.sampled_from("|&"), deeper, deeper),
        max_leaves=8,
    ),
    st.integers(1, 9),
    st.sets(st.sampled_from(["a", "b"])),
)
def test_joined_paces_are_logic(tree: Any, iterations: int, heard: set[str]) -> None:
    def build(node: Any) -> Pace:
        if isinstance(node, int):
            return every_steps(node)
        if isinstance(node, str):
            return on_best(node)
        first, second = build(node[1]), build(node[2])
        return first | second if node[0] == "|" else first & second

    def holds(node: Any) -> bool:
        if isinstance(node, int):
            return iterations >= node
        if isinstance(node, str):
            return node in heard
        return any(map(holds, node[1:])) if node[0] == "|" else all(map(holds, node[1:]))

    moment = NOW._replace(iterations=iterations, value={goal(name): 1.0 for name in heard})
    assert build(tree).is_due(moment) == holds(tree)


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        (name, "min")
        for name in ("loss", "val_loss", "Error", "err", "test_err", "perplexity", "rmse", "val/MAE", "mse_2")
    ]
    + [(name, "max") for name in ("acc", "auc", "referral_rate", "terrain_iou", "maestro", "f1")],
)
def test_the_mode_goes_by_the_name(metric: str, mode: str) -> None:
    assert goal(metric) == Goal(metric, mode)  # type: ignore[arg-type]  # one of the two
    assert goal(metric, "max").mode == "max"
    assert goal(metric, "min").mode == "min"


def test_on_best_is_due_for_a_strictly_better_number() -> None:
    assert not due(on_best("acc"))
    assert due(on_best("acc"), value={ACC: -1.0})
    for value, better in ((0.4, False), (0.5, False), (0.6, True), (math.nan, False), (math.inf, True)):
        assert due(on_best("acc"), value={ACC: value}, best={ACC: 0.5}) is better
        assert due(on_best("acc", "min"), value={Goal("acc", "min"): -value}, best={Goal("acc", "min"): -0.5}) is better
    assert not due(on_best("acc"), value={ACC: math.nan})
    assert Goal("acc", "max").best([None, math.nan, 1.0, 3.0, 2.0]) == 3.0
    assert Goal("acc", "min").best([math.nan, None]) is None


def test_the_default_is_one_percent_until_the_run_died_once_and_young_daly_from_then_on() -> None:
    assert due(None, cost_s=0.5)
    assert not due(None, cost_s=0.51)
    assert interval_s(1.0, None) == 100.0
    assert interval_s(0.02, 3600.0) == pytest.approx(12.0)  # sqrt(2 · 0.02 · 3600)
    assert not due(None, cost_s=0.02, failure_every_s=3600.0, elapsed_s=11.9)
    assert due(None, cost_s=0.02, failure_every_s=3600.0, elapsed_s=12.1)


def test_the_default_stays_inside_its_bounds() -> None:
    assert interval_s(1.0, 60.0) == 100.0  # sqrt says 11 s: that were 9% of the time
    assert interval_s(1.0, 1e9) == 600.0  # sqrt says 12 h
    assert interval_s(30.0, 3600.0) == 3000.0  # 1% comes first where both cannot be
    assert interval_s(0.0, 100.0) == 0.0
    assert interval_s(0.0, None) == 0.0


@given(st.floats(0, 1e4), st.none() | st.floats(1e-3, 1e9))
def test_the_default_never_costs_more_than_its_share(cost_s: float, failure_every_s: float | None) -> None:
    wait_s = interval_s(cost_s, failure_every_s)
    assert wait_s >= cost_s * 100 * (1 - 1e-9)
    assert wait_s <= max(600.0, cost_s * 100 * (1 + 1e-9))


def test_before_the_session_ends_every_pace_is_due() -> None:
    last_call = {"longest_s": 30.0, "cost_s": 5.0, "iterations": 1, "elapsed_s": 0.0}  # 30 + 2 · 5 + 60 = 100
    for every in (1000, "1000s", None, on_best("acc"), on_best("acc") & 1000):
        assert not due(every, **last_call, left_s=100.0)
        assert due(every, **last_call, left_s=99.9)
        assert due(every, **last_call, left_s=-300.0)
        assert not due(every, **last_call, left_s=-300.1), "a session that outlives its limit has another one"
        assert not due(every, **last_call, left_s=None)
    assert is_closing(NOW._replace(left_s=0.0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: pace(0),
        lambda: pace(-1),
        lambda: pace(True),
        lambda: pace(False),
        lambda: pace(1.5),
        lambda: pace("soon"),
        lambda: pace("-3s"),
        lambda: pace(timedelta(seconds=-1)),
        lambda: pace([]),  # type: ignore[arg-type]  # that is the mistake
        lambda: pace(on_best),  # type: ignore[arg-type]  # that is the mistake
        lambda: every_steps(0),
        lambda: every_steps(True),
        lambda: every_steps(2.0),  # type: ignore[arg-type]  # that is the mistake
        lambda: every_steps("5"),  # type: ignore[arg-type]  # that is the mistake
        lambda: every_time("often"),
        lambda: every_time(-1),
        lambda: on_best(""),
        lambda: on_best(3),  # type: ignore[arg-type]  # that is the mistake
        lambda: on_best("acc", "best"),  # type: ignore[arg-type]  # that is the mistake
        lambda: on_best("acc") | 0,
        lambda: on_best("acc") & "never",
        lambda: True | on_best("acc"),
        lambda: 1.5 & on_best("acc"),  # type: ignore[operator]  # that is the mistake
    ],
)
def test_what_means_nothing_is_refused_in_one_line(make: Any) -> None:
    with pytest.raises(UsageError) as caught:
        make()
    assert str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_function_given_as_a_pace_is_named() -> None:
    with pytest.raises(UsageError, match="the function on_best"):
        pace(qcity_nb.on_best)  # type: ignore[arg-type]  # that is the mistake


def test_the_constructors_load_nothing_heavy() -> None:
    code = (
        "import qcity_nb, sys; 5 | qcity_nb.on_best('acc'); print([m for m in ('numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
