"""What a pickler met is the same, whoever is asked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcity_nb.namespace import pickler
from qcity_nb.namespace.pickler import PickleContext, write
from qcity_nb.namespace.sharing import Families, MutableObjects, Owners


def made(x: int) -> Any:
    """A function with a cell."""
    return lambda: [x]


@pytest.mark.parametrize("is_seen", [True, False])
def test_mutables_are_what_is_mutable_and_held(monkeypatch: pytest.MonkeyPatch, *, is_seen: bool) -> None:
    assert pickler._is_memo_visible()
    monkeypatch.setattr(pickler, "_is_memo_visible", lambda: is_seen)
    rows: list[Any] = [1, "text", (2, 3)]
    inner: dict[str, Any] = {"rows": rows, "n": 1.5}
    array = np.arange(9000.0)
    live: dict[str, Any] = {"deep": {"inner": inner, "array": array}, "f": made(3)}
    live["f"].__module__ = "__main__"
    written = write(live, PickleContext.of({}))
    result = [id(each) for each in MutableObjects(()).of(written)]
    assert len(result) == len(set(result))
    assert {id(rows), id(inner), id(array), id(live["deep"])} <= set(result)
    assert not {id(written.skeleton), id("text"), id(rows[2])} & set(result)
    ignored = MutableObjects([id(rows)]).of(written)
    assert all(each is not rows for each in ignored)
    assert any(each is inner for each in ignored)


def test_two_picklers_of_a_capture_have_nothing_in_common() -> None:
    context = PickleContext.of({})
    first, second = write({"a": [1]}, context), write({"b": [2]}, context)
    mutables = MutableObjects(context.own)
    assert not {id(each) for each in mutables.of(first)} & {id(each) for each in mutables.of(second)}


@given(st.lists(st.lists(st.integers(0, 12), max_size=9), max_size=6))
def test_owners_are_those_that_a_plain_search_finds(numbers: list[list[int]]) -> None:
    objects = [[number] for number in range(13)]
    lists = [[objects[number] for number in dict.fromkeys(listed)] for listed in numbers]
    families = Families(len(lists))
    owners = Owners(lists, families)
    tops = [families.top(index) for index in range(len(lists))]
    for value in objects:
        holders = [index for index, each in enumerate(lists) if any(other is value for other in each)]
        assert (owners.of(value) in holders) if holders else (owners.of(value) == -1)
        assert len({tops[index] for index in holders}) <= 1
    linked = {frozenset(each) for each in numbers if each}
    while pair := next(((a, b) for a in linked for b in linked if a & b and a != b), None):
        linked = (linked - set(pair)) | {pair[0] | pair[1]}
    assert len({tops[index] for index, listed in enumerate(numbers) if listed}) == len(linked)
