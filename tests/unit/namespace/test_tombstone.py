"""Whatever is done with a tombstone says which variable is lost, and what to do."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from snapshot import kept, restored

from qcity_nb.codec import dumps, loads
from qcity_nb.errors import VariableLost
from qcity_nb.namespace.records import NotSaved
from qcity_nb.namespace.snapshot import NamespaceSnapshotter
from qcity_nb.namespace.tombstone import Tombstone, not_saved_of, put_tombstone

NOT_SAVED = NotSaved(name="reader", kind="generator", why="its frame is gone", advice="make it anew", where="cell 3")

USES: list[Callable[[Any], Any]] = [
    lambda it: it.attribute,
    lambda it: setattr(it, "attribute", 1),
    lambda it: it(),
    iter,
    next,
    repr,
    str,
    bool,
    len,
    hash,
    int,
    float,
    dir,
    list,
    reversed,
    copy.copy,
    copy.deepcopy,
    pickle.dumps,
    lambda it: f"{it}",
    lambda it: it[0],
    lambda it: operator.setitem(it, 0, 1),
    lambda it: 1 in it,
    lambda it: it + 1,
    lambda it: 1 + it,
    lambda it: it @ it,
    lambda it: -it,
    lambda it: it == 1,
    lambda it: it != 1,
    lambda it: it < 1,
    lambda it: {it: 1},
    lambda it: isinstance(it, int),
    lambda it: it.__class__,
    lambda it: it.__dict__,
    lambda it: it.__enter__(),
    lambda it: operator.index(it),
    lambda it: vars(it),
    lambda it: [][it],
]


@pytest.mark.parametrize("use", USES)
def test_every_use_raises(use: Callable[[Any], Any]) -> None:
    with pytest.raises(VariableLost, match=r"^reader \(a generator\), made in cell 3, .*frame is gone; make it anew$"):
        use(put_tombstone(NOT_SAVED))


def test_with_and_augmented_assignment_raise() -> None:
    with pytest.raises(VariableLost), put_tombstone(NOT_SAVED):  # type: ignore[attr-defined]  # that it is none is the point
        pass
    value: Any = put_tombstone(NOT_SAVED)
    with pytest.raises(VariableLost):
        value += 1


def test_a_name_is_freed_by_del_and_by_assignment() -> None:
    live: dict[str, Any] = {"reader": put_tombstone(NOT_SAVED)}
    exec("other = reader\nreader = 1\ndel other", live)
    assert live["reader"] == 1


def test_it_is_pickled_as_its_record() -> None:
    live: dict[str, Any] = {
        "reader": put_tombstone(NOT_SAVED),
        "alias": put_tombstone(NOT_SAVED),
        "box": [put_tombstone(NOT_SAVED)],
    }
    keep = kept(live)
    assert keep.not_saved == [NOT_SAVED, replace(NOT_SAVED, name="alias")]
    back = restored(keep)
    assert type(back["reader"]) is Tombstone
    assert not_saved_of(back["box"][0]) == NOT_SAVED
    assert not_saved_of(3) is None


def test_not_saved_is_a_record() -> None:
    assert loads(NotSaved, dumps(NOT_SAVED)) == NOT_SAVED


def test_restore_reports_all_that_is_not_saved() -> None:
    live: dict[str, Any] = {}
    result = NamespaceSnapshotter(live).restore([], {"np": "no_such_module_here", "os": "os"}, [NOT_SAVED])
    assert [each.name for each in result] == ["reader", "np"]
    assert "pip install no_such_module_here" in result[1].advice
    with pytest.raises(VariableLost, match="no_such_module_here is not installed"):
        _ = live["np"].array
