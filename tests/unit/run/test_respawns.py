"""A background process that dies again and again is started with growing pauses, and not for ever."""

from __future__ import annotations

from itertools import pairwise

from qcity_nb.run.respawns import CALM_S, LIMIT, LONGEST_S, Respawns


def starts(respawns: Respawns, clock: list[float], *, until_s: float) -> list[float]:
    """It is dead at each look, ten times a second."""
    begun = []
    while clock[0] < until_s:
        if respawns.is_due():
            begun.append(round(clock[0], 1))
        clock[0] += 0.1
    return begun


def test_pauses_grow_and_it_is_hopeless_after_a_few_minutes() -> None:
    clock = [0.0]
    respawns = Respawns(lambda: clock[0])
    begun = starts(respawns, clock, until_s=200.0)
    pauses = [round(later - earlier) for earlier, later in pairwise(begun)]
    assert begun[0] == 0.0
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(begun) == LIMIT + 1
    assert respawns.is_hopeless
    assert max(pauses) == LONGEST_S


def test_one_that_lived_for_long_is_started_at_once() -> None:
    clock = [0.0]
    respawns = Respawns(lambda: clock[0])
    for _ in range(3 * LIMIT):
        assert respawns.is_due()
        assert not respawns.is_due()
        assert not respawns.is_hopeless
        clock[0] += CALM_S + 1
