"""Which tests run when: nightly ones where they are asked for alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tiers import nightly_but

ROOT = Path(__file__).parents[1]
FILE = "tests/system/test_kill_moments.py"


def collected(*arguments: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    return {line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line}


def moments(*seeds: int) -> set[str]:
    return {f"test_moment[{seed}]" for seed in seeds}


TONIGHT = {f"test_moment_of_tonight[{number}]" for number in range(12)}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([FILE], moments(*range(8))),
        pytest.param([FILE, "-m", "kill"], moments(*range(8)), marks=pytest.mark.nightly),
        ([FILE, "-m", "nightly"], moments(*range(8, 24)) | TONIGHT),
        ([FILE, "-m", "nightly or not nightly"], moments(*range(24)) | TONIGHT),
        pytest.param(
            [f"{FILE}::test_moment[17]", f"{FILE}::test_moment[1]"], moments(1, 17), marks=pytest.mark.nightly
        ),
        pytest.param([f"{FILE}::test_moment_of_tonight"], TONIGHT, marks=pytest.mark.nightly),
    ],
)
def test_nightly_tests_are_left_out_unless_they_are_asked_for(arguments: list[str], expected: set[str]) -> None:
    assert collected(*arguments) == expected


def test_a_quick_case_that_is_no_case_is_an_error() -> None:
    assert [bool(case.marks) for case in nightly_but(["b"], "abc")] == [True, False, True]
    with pytest.raises(AssertionError, match="not among"):
        nightly_but(["d"], "abc")
