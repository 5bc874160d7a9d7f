"""Calls with a time limit."""

from __future__ import annotations

import threading

import pytest

from qcity_nb.clock import within


def test_what_a_call_returns_or_raises_comes_back() -> None:
    assert within(20, lambda: None, name="a call") is None
    assert within(20, lambda: 3, name="a call") == 3
    with pytest.raises(ZeroDivisionError):
        within(20, lambda: 1 // 0, name="a call")


def test_a_call_that_does_not_end_is_left_alone() -> None:
    end = threading.Event()
    names: list[str] = []

    def call() -> bool:
        names.append(threading.current_thread().name)
        return end.wait(20)

    with pytest.raises(TimeoutError, match="no answer in 0 s"):
        within(0.05, call, name="a long call")
    assert names == ["a long call"]
    assert "a long call" in {thread.name for thread in threading.enumerate()}
    end.set()
