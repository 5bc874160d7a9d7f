"""Behind which cell what is absent was not: a model that looks at every cell."""

from __future__ import annotations

import random

import pytest

from qcity_nb.engine.rerun import last_with_names, last_with_snapshot


def test_the_last_snapshot() -> None:
    not_saved: list[set[str] | None] = [None, {"g"}, None, None]
    assert [last_with_snapshot(not_saved, count) for count in range(5)] == [0, 0, 2, 2, 2]


@pytest.mark.parametrize("seed", range(20))
def test_before_is_the_last_snapshot_that_lacks_none_of_them(seed: int) -> None:
    dice = random.Random(seed)
    not_saved = [None if dice.random() < 0.3 else {name for name in "abc" if dice.random() < 0.4} for _ in range(12)]
    names = {name for name in "abc" if dice.random() < 0.6}
    count = last_with_snapshot(not_saved, len(not_saved))
    good = [n for n, missing in enumerate(not_saved[:count], 1) if missing is not None and not missing & names]
    assert last_with_names(not_saved, count, names) == max(good, default=0)


def test_what_nobody_needs_is_no_hindrance() -> None:
    assert last_with_names([set(), {"g"}], 2, ()) == 2
