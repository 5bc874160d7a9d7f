"""How far apart publishes are where a store gives room back late."""

from __future__ import annotations

import random

import pytest

from qcity_nb.sidecar.publish_rate import HOUR_MS, count_publish, interval_s, unreleased_bytes

GB = 10**9
DAY_AND_A_HALF_S = 36 * 3600.0


def interval(
    sent: dict[str, int], *, size: int = GB, budget: int = 50 * GB, at_ms: int = 0, late_s: float = 0
) -> float:
    return interval_s(
        60.0,
        sent=sent,
        live_bytes=size,
        next_bytes=size,
        budget_bytes=50 * GB,
        wall_ms=at_ms,
        release_s=DAY_AND_A_HALF_S,
    )


def test_a_store_that_frees_at_once_knows_no_budget() -> None:
    assert (
        interval_s(2.0, sent={"0": 99 * GB}, live_bytes=GB, next_bytes=GB, budget_bytes=GB, wall_ms=0, release_s=0.0)
        == 2.0
    )


def test_small_runs_are_never_slowed_down() -> None:
    assert interval({}, size=10**6) == 60.0
    assert interval({"0": 20 * GB}) == 60.0


def test_a_full_budget_waits_for_room() -> None:
    assert interval({"0": 50 * GB}) == DAY_AND_A_HALF_S
    assert interval({"0": 50 * GB}, at_ms=40 * HOUR_MS) == 60.0


@pytest.mark.parametrize("seed", range(4))
def test_the_budget_is_approached_and_never_passed(seed: int) -> None:
    dice = random.Random(seed)
    budget, sent, now_ms, highest, count = 50 * GB, dict[str, int](), 0, 0, 0
    while now_ms < 120 * HOUR_MS:
        size = int(dice.uniform(0.2, 2.0) * GB)
        now_ms += int(interval(sent, size=size, at_ms=now_ms) * 1000)
        sent = count_publish(sent, size, wall_ms=now_ms, release_s=DAY_AND_A_HALF_S)
        used = unreleased_bytes(sent, wall_ms=now_ms, release_s=DAY_AND_A_HALF_S)
        highest = max(highest, used)
        count += 1
        assert len(sent) <= 39
    assert highest <= budget, f"seed {seed}"
    assert highest > 0.7 * budget, f"seed {seed}: slower than it need be"
    assert count > 60, f"seed {seed}"
