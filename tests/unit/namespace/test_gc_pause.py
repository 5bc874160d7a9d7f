"""The garbage collector is paused, and then runs as before."""

from __future__ import annotations

import gc

import pytest

from qcity_nb.namespace import gc_pause


def test_it_runs_again_afterwards() -> None:
    assert gc.isenabled()
    with gc_pause.still():
        assert not gc.isenabled()
        with gc_pause.still():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="x"), gc_pause.still():
        raise ValueError("x")
    assert gc.isenabled()


def test_who_had_none_gets_none() -> None:
    gc.disable()
    try:
        with gc_pause.still():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_new_is_looked_through_once() -> None:
    with gc_pause.still():
        kept: list[list[object]] = [[] for _ in range(gc_pause._MANY * 2)]
        gc_pause.tidy()
        assert gc.get_count()[0] < len(kept) / 2
        ring: list[object] = []
        ring.append(ring)
        del ring
        before = gc.get_stats()[1]["collections"]
        gc_pause.tidy()  # few: not worth it
        assert gc.get_stats()[1]["collections"] == before
