"""How much of the cells' time snapshots take, whatever they cost."""

from __future__ import annotations

import math
import random

import pytest

from qcity_nb.kernel.snapshot_budget import LEAST_S, START_S, WORTH, SnapshotBudget


@pytest.mark.parametrize("seed", range(20))
def test_snapshots_take_their_share_and_one_snapshot_at_most(seed: int) -> None:
    rng = random.Random(seed)
    budget, cells_s, spent_s, largest_s, taken = SnapshotBudget(0.1), 0.0, 0.0, 0.0, 0
    for _ in range(500):
        wall_s, cost_s = rng.expovariate(1.0), rng.expovariate(1 / 0.3)
        cells_s += wall_s
        budget.add_run(wall_s)
        limit_s = budget.limit_s
        if limit_s <= 0:
            continue
        if rng.random() < 0.5 and cost_s > limit_s:
            budget.note_postponed(2 * limit_s, limit_s)
            spent_s += limit_s
        else:
            budget.subtract_cost(cost_s)
            spent_s, largest_s, taken = spent_s + cost_s, max(largest_s, cost_s), taken + 1
    assert spent_s <= START_S + 0.1 * cells_s + largest_s
    assert taken > 20, f"seed {seed}"


def test_what_is_too_dear_waits_until_there_is_enough() -> None:
    budget = SnapshotBudget(0.1)
    budget.note_postponed(1.0)
    assert budget.is_waiting
    for _ in range(9):
        budget.add_run((1.0 - START_S) / 0.1 / 10)
        assert budget.limit_s == 0.0
    budget.add_run((1.0 - START_S) / 0.1 / 10 + 0.001)
    assert budget.limit_s >= 1.0
    budget.subtract_cost(1.0)
    assert not budget.is_waiting


def test_a_share_of_nothing_means_no_snapshots() -> None:
    budget = SnapshotBudget(0.0)
    budget.add_run(1e6)
    assert budget.limit_s == 0.0


@pytest.mark.parametrize(("share", "times"), [(0.1, WORTH), (0.5, 0.5), (3.0, 3.0)])
def test_little_is_spent_beside_what_it_saves(share: float, times: float) -> None:
    budget = SnapshotBudget(share)
    budget.add_run(100.0)
    budget.subtract_cost(0.2)
    budget.add_run(0.001)
    assert budget.limit_s == LEAST_S, "after the quickest cell that much is worth it"
    budget.add_run(1.0)
    assert budget.limit_s == pytest.approx(times * 1.001)
    budget.note_postponed(times * 2.0)
    assert budget.limit_s == 0.0
    budget.add_run(1.0)
    assert budget.limit_s == pytest.approx(times * 2.001), "what several quick cells took counts together"
    budget.add_run(1e4)
    most_s = START_S + share * (1e4 + 102.001) - 0.2
    assert budget.limit_s == pytest.approx(min(most_s, times * (1e4 + 2.001)))


def test_an_endless_share_is_no_limit() -> None:
    budget = SnapshotBudget(math.inf)
    budget.add_run(1e-9)
    assert budget.limit_s == math.inf
