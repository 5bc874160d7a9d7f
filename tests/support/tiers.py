"""Which cases of a test run with every change, and which at night."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TypeVar

import pytest
from _pytest.mark import ParameterSet

__all__ = ["nightly_but"]

T = TypeVar("T")


def nightly_but(quick: Collection[T], cases: Iterable[T]) -> list[ParameterSet]:
    """Parameters of a test: all ``cases``, of which those that are not in ``quick`` run at night alone.

    Raises:
        AssertionError: a quick case is not among them, after a change of names.
    """
    every = list(cases)
    assert all(case in every for case in quick), f"{quick} are not among {every}"
    night = pytest.mark.nightly
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=[] if case in quick else night)
        for case in every
    ]
