"""The scripts of `tests/loops` are what they are for: killed in the middle, the right ones end as if nothing had been.

So a warning about a right one is a false alarm, and silence about a faulty one lets a wrong result through.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from loop_cases import LoopCase, cases, run_killed, run_undisturbed
from optional import REASONS

MOST_BOUNDARIES = 8
"""A script is killed after so many different boundaries at most."""


def parameters(kind: str) -> list[object]:
    """The scripts of a kind, as parameters of a test."""
    return [pytest.param(case, id=case.path.stem) for case in cases(kind)]


def skip_if_missing(case: LoopCase) -> None:
    """A script that needs what is not installed cannot run."""
    for name in case.needs:
        if importlib.util.find_spec(name) is None:
            pytest.skip(REASONS[name])


def folders(path: Path, count: int) -> list[Path]:
    """Directories, each for one run."""
    made = [path / str(number) for number in range(count)]
    for folder in made:
        folder.mkdir()
    return made


@pytest.mark.parametrize("case", parameters("right"))
def test_a_right_loop_is_right(case: LoopCase, tmp_path: Path) -> None:
    skip_if_missing(case)
    first, second = folders(tmp_path, 2)
    undisturbed = run_undisturbed(case, first)
    killed = run_killed(case, second, undisturbed.boundaries // 2)
    assert undisturbed.boundaries >= 3
    assert killed.text == undisturbed.text
    assert killed.digest == undisturbed.digest


@pytest.mark.parametrize("case", parameters("faulty"))
def test_a_faulty_loop_is_faulty(case: LoopCase, tmp_path: Path) -> None:
    skip_if_missing(case)
    first, second, third = folders(tmp_path, 3)
    undisturbed = run_undisturbed(case, first)
    assert run_killed(case, second, undisturbed.boundaries // 2).digest != undisturbed.digest
    assert run_undisturbed(case, third).digest == undisturbed.digest, "its result depends on chance alone"


@pytest.mark.nightly
@pytest.mark.parametrize("case", parameters("right"))
def test_a_right_loop_is_right_wherever_it_is_killed(case: LoopCase, tmp_path: Path) -> None:
    skip_if_missing(case)
    first, twice, *others = folders(tmp_path, MOST_BOUNDARIES + 2)
    undisturbed = run_undisturbed(case, first)
    total = undisturbed.boundaries
    step = max(1, -(-total // MOST_BOUNDARIES))
    for folder, boundary in zip(others, range(0, total, step), strict=False):
        assert run_killed(case, folder, boundary).digest == undisturbed.digest, f"killed after boundary {boundary}"
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
