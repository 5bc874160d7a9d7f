"""The collector is still for a while, and goes on as before."""

from __future__ import annotations

import gc

import pytest

from qcity_nb.namespace import collector


def test_it_goes_on_afterwards() -> None:
    assert gc.isenabled()
    with collector.still():
        assert not gc.isenabled()
        with collector.still():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ValueError, match="x"), collector.still():
        raise ValueError("x")
    assert gc.isenabled()


def test_who_had_none_gets_none() -> None:
    gc.disable()
    try:
        with collector.still():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_new_is_looked_through_once() -> None:
    with collector.still():
        kept: list[list[object]] = [[] for _ in range(collector._MANY * 2)]
        collector.tidy()
        assert gc.get_count()[0] < len(kept) / 2
        ring: list[object] = []
        ring.append(ring)
        del ring
        before = gc.get_stats()[1]["collections"]
        collector.tidy()  # few: not worth it
        assert gc.get_stats()[1]["collections"] == before
