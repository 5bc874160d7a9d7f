"""States as named parts: names, ties, what is left out, and live states filled in place."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import numpy as np
import pytest

from qcity_nb.checkpoint.formats.flat import Flat, build, fill, flatten
from qcity_nb.checkpoint.state.capture import capture, load
from qcity_nb.errors import CheckpointError

Pair = namedtuple("Pair", "first second")


class Thing:
    def __init__(self, **named: Any) -> None:
        self.__dict__.update(named)


class Counter:
    def __init__(self) -> None:
        self.n = np.zeros(2)

    def state_dict(self) -> dict[Any, Any]:
        return {"n": self.n, 7: "seven"}

    def load_state_dict(self, state: dict[Any, Any]) -> None:
        if state[7] != "seven":
            raise ValueError("no seven")
        self.n = state["n"]


def test_names_are_paths_joined_with_dots() -> None:
    array = np.arange(3)
    flat = flatten({"a": {"b": array}, 5: [np.ones(2)], "t": Thing(x=0.5), "c": Counter()})
    assert list(flat.tensors) == ["a.b", "5.0", "c.n"]
    assert flat.values == {"t.x": 0.5, "c.7": "seven"}
    assert flat.tensors["a.b"] is array
    assert not flat.left_out
    assert flat.are_paths


def test_a_state_that_is_one_array_has_a_name() -> None:
    assert list(flatten(np.ones(2)).tensors) == ["state"]


def test_two_paths_with_one_name_are_distinguished() -> None:
    flat = flatten({"a.b": np.zeros(1), "a": {"b": np.ones(1)}})
    assert list(flat.tensors) == ["a.b", "a.b~2"]
    assert not flat.are_paths
    assert build(flat) == {"a.b": 0.0, "a": {"b": 1.0}}


def test_one_array_with_two_names_is_there_once() -> None:
    array = np.arange(6)
    flat = flatten({"a": array, "b": array, "same memory": array[:], "other": array[1:], "copy": array.copy()})
    assert list(flat.tensors) == ["a", "other", "copy"]
    assert flat.tied == {"b": "a", "same memory": "a"}
    built = build(flat)
    assert built["b"] is built["a"]


def test_what_json_cannot_hold_is_named_with_the_reason() -> None:
    rng = np.random.default_rng(1)
    inner = {"x": np.ones(1)}
    flat = flatten({"rng": rng, "bytes": b"1", "set": {1}, "again": inner, "alias": inner, ("k",): 1, "z": 1j})
    assert flat.left_out == {
        "rng": "a numpy.random._generator.Generator",
        "bytes": "a bytes",
        "set": "a set",
        "alias": "another name of again",
        "('k',)": "its key is a tuple",
        "z": "a complex",
    }
    assert "rng" not in build(flat)


def test_a_state_that_holds_itself_ends() -> None:
    state: dict[str, Any] = {"x": 1}
    state["self"] = state
    assert flatten(state).left_out == {"self": "another name of the state itself"}


def test_refused_arrays_are_left_out() -> None:
    flat = flatten({"a": np.ones(1), "b": np.ones(1, dtype="c16")}, refuse=lambda each: "no" * (each.dtype.kind == "c"))
    assert flat.left_out == {"b": "no"}


@pytest.mark.parametrize("how", ["live", "loaded"])
def test_build_gives_the_state_with_its_kinds(how: str) -> None:
    state = {
        "d": OrderedDict(a=1),
        3: {None: [1, [2, 3]], True: "t"},
        "pair": (0.5, "x"),
        "deep": [(np.ones(2), 1), {}],
        "np": np.float32(0.5),
        "inf": float("inf"),
        "empty": [],
        "counter": Counter(),
    }
    built: Any = build(flatten(state if how == "live" else load(capture(state))))
    deep = built.pop("deep")
    assert deep[0][0].tolist() == [1, 1]
    assert deep[0][1] == 1
    assert isinstance(deep[0], tuple)
    assert deep[1] == {}
    assert built.pop("counter")["n"].tolist() == [0, 0]
    assert built == {
        "d": {"a": 1},
        3: {None: [1, [2, 3]], True: "t"},
        "pair": (0.5, "x"),
        "np": 0.5,
        "inf": float("inf"),
        "empty": [],
    }


def test_fill_keeps_the_objects_and_what_was_left_out() -> None:
    source: dict[str, Any] = {
        "a": np.arange(3.0),
        "t": Thing(x=2),
        "c": Counter(),
        "l": [np.ones(2), 5],
        "p": Pair(np.ones(1), 2),
    }
    source["rng"] = np.random.default_rng(1)
    source["c"].n = np.array([3.0, 4.0])
    live: dict[str, Any] = {
        "a": np.zeros(3),
        "t": Thing(x=1),
        "c": Counter(),
        "l": [np.zeros(2)],
        "p": Pair(np.zeros(1), 0),
    }
    live["rng"] = rng = np.random.default_rng(2)
    before = dict(live)
    fill(live, flatten(source))
    assert all(live[name] is before[name] for name in ("a", "t", "c", "l", "rng"))
    assert live["rng"] is rng
    assert live["a"].tolist() == [0, 1, 2]
    assert live["t"].x == 2
    assert live["c"].n.tolist() == [3, 4]
    assert live["l"][0].tolist() == [1, 1]
    assert live["l"][1] == 5
    assert isinstance(live["p"], Pair)
    assert live["p"].first.tolist() == [1]


def test_fill_replaces_an_array_of_another_shape_and_a_read_only_one() -> None:
    frozen = np.zeros(2)
    frozen.flags.writeable = False
    live = {"a": np.zeros(3), "frozen": frozen}
    fill(live, flatten({"a": np.ones(4), "frozen": np.ones(2)}))
    assert live["a"].shape == (4,)
    assert live["frozen"].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("live", "saved", "message"),
    [
        ({"c": 1}, {"c": Counter()}, "c was saved through its state_dict"),
        ({}, {"t": Thing(x=1)}, "t is an object in the file"),
        ((1,), {"a": 1}, "a tuple cannot be filled in place"),
    ],
)
def test_what_does_not_fit_is_named(live: Any, saved: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        fill(live, flatten(saved))


def test_a_state_dict_that_is_refused_is_named() -> None:
    flat = flatten({"c": Counter()})
    wrong = Flat(tree=flat.tree, tensors=flat.tensors, values={"c.7": "eight"})
    with pytest.raises(CheckpointError, match="c does not fit the content of the file: no seven"):
        fill({"c": Counter()}, wrong)
