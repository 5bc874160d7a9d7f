"""Of the scripts in `tests/loops`, qcity says which state lacks what: of the faulty ones, and of no right one.

They are what they are for: killed in the middle, a right one ends as if nothing had been, and a faulty one otherwise.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from loop_cases import (
    LoopCase,
    cases,
    check_faulty,
    folders,
    parameters,
    run_killed,
    run_undisturbed,
    skip_if_missing,
)

from qcity_nb.kernel.changes.state_check import StateCheck, _Look
from qcity_nb.kernel.changes.state_problems import Problem

MOST_BOUNDARIES = 8
"""A script is killed after so many different boundaries at most."""


def check_right(case: LoopCase, messages: tuple[str, ...]) -> None:
    """Nothing was said."""
    assert not messages, f"a false alarm: {messages}"


@pytest.mark.parametrize("case", parameters("right"))
def test_nothing_is_said_of_a_right_loop(case: LoopCase, tmp_path: Path) -> None:
    skip_if_missing(case)
    outcome = run_undisturbed(case, tmp_path)
    assert outcome.boundaries >= 3
    check_right(case, outcome.messages[0])


@pytest.mark.parametrize("case", parameters("faulty"))
def test_what_a_faulty_loop_lacks_is_named(case: LoopCase, tmp_path: Path) -> None:
    skip_if_missing(case)
    check_faulty(case, run_undisturbed(case, tmp_path).messages[0])


@pytest.mark.parametrize("case", parameters("right")[::8])
def test_a_right_loop_is_right(case: LoopCase, tmp_path: Path) -> None:
    check_killed_right(case, tmp_path)


@pytest.mark.parametrize("case", parameters("faulty")[::8])
def test_a_faulty_loop_is_faulty_and_says_so_before_the_death(case: LoopCase, tmp_path: Path) -> None:
    check_killed_faulty(case, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("case", parameters("right"))
def test_each_right_loop_is_right(case: LoopCase, tmp_path: Path) -> None:
    check_killed_right(case, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("case", parameters("faulty"))
def test_each_faulty_loop_is_faulty_and_says_so_before_the_death(case: LoopCase, tmp_path: Path) -> None:
    check_killed_faulty(case, tmp_path)


def check_killed_right(case: LoopCase, path: Path) -> None:
    """Killed in the middle, it ends as undisturbed, and neither attempt says anything."""
    skip_if_missing(case)
    first, second = folders(path, 2)
    undisturbed = run_undisturbed(case, first)
    killed = run_killed(case, second, undisturbed.boundaries // 2)
    assert killed.text == undisturbed.text
    assert killed.digest == undisturbed.digest
    assert killed.messages == ((), ())


def check_killed_faulty(case: LoopCase, path: Path) -> None:
    """Killed in the middle, it ends otherwise; that is said before, and not again after."""
    skip_if_missing(case)
    first, second, third = folders(path, 3)
    undisturbed = run_undisturbed(case, first)
    killed = run_killed(case, second, undisturbed.boundaries // 2)
    assert killed.digest != undisturbed.digest
    assert run_undisturbed(case, third).digest == undisturbed.digest, "its result depends on chance alone"
    check_faulty(case, killed.messages[0])
    assert killed.messages[1:] == ((),)


def test_an_analysis_that_says_nothing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateCheck, "at_boundary", lambda self: None)
    (case,) = [each for each in cases("faulty") if each.path.stem == "missing_history"]
    with pytest.raises(AssertionError, match="missing"):
        test_what_a_faulty_loop_lacks_is_named(case, tmp_path)


def test_an_analysis_that_names_too_much_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = _Look.problems
    monkeypatch.setattr(_Look, "problems", lambda self: [*problems(self), Problem("value", "changed")])
    (right,) = [each for each in cases("right") if each.path.stem == "python_memo"]
    (faulty,) = [each for each in cases("faulty") if each.path.stem == "missing_results"]
    first, second = folders(tmp_path, 2)
    with pytest.raises(AssertionError, match="false alarm"):
        test_nothing_is_said_of_a_right_loop(right, first)
    with pytest.raises(AssertionError, match="one too many"):
        test_what_a_faulty_loop_lacks_is_named(faulty, second)


@pytest.mark.nightly
@pytest.mark.parametrize("case", parameters("right"))
def test_a_right_loop_is_right_wherever_it_is_killed(case: LoopCase, tmp_path: Path) -> None:
    skip_if_missing(case)
    first, twice, *others = folders(tmp_path, MOST_BOUNDARIES + 2)
    undisturbed = run_undisturbed(case, first)
    total = undisturbed.boundaries
    step = max(1, -(-total // MOST_BOUNDARIES))
    for folder, boundary in zip(others, range(0, total, step), strict=False):
        killed = run_killed(case, folder, boundary)
        assert killed.digest == undisturbed.digest, f"killed after boundary {boundary}"
        check_right(case, sum(killed.messages, ()))
    assert run_killed(case, twice, total // 3, total // 3).digest == undisturbed.digest


def test_there_are_enough() -> None:
    assert len(cases("right")) >= 50
    assert len(cases("faulty")) >= 30


@pytest.mark.parametrize("case", parameters("faulty"))
def test_a_faulty_loop_says_what_it_lacks(case: LoopCase) -> None:
    assert case.lacks
    code = re.sub(r"^#.*$", "", case.source, flags=re.MULTILINE)
    for names in case.lacks:
        assert all(re.search(rf"\b{name}\b", code) for name in names)


@pytest.mark.parametrize("case", parameters("right"))
def test_a_right_loop_lacks_nothing(case: LoopCase) -> None:
    assert not case.lacks
