"""Variables are grouped by what they share, written once, and come back with the sharing that they had."""

from __future__ import annotations

import collections
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optional import HAS_TORCH, nn, torch
from snapshot import Keep, cell, in_new_process, kept, names, restored

from qcity_nb.checkpoint.state.capture import Captured
from qcity_nb.checkpoint.state.freezer import Freezer
from qcity_nb.errors import CheckpointCorrupt, VariableLost
from qcity_nb.namespace.snapshot import NamespaceSnapshotter, hidden_by
from qcity_nb.namespace.tombstone import not_saved_of

BIG = 200_000


def groups_of(live: dict[str, Any]) -> set[tuple[str, ...]]:
    return names(NamespaceSnapshotter(live).capture().groups)


# ------------------------------------------------------------------ groups


def test_what_is_shared_is_kept_together() -> None:
    rows = [1]
    base = np.arange(5000.0)
    live: dict[str, Any] = {
        "a": rows, "b": {"rows": rows}, "c": [1],
        "base": base, "view": base[3:9], "apart": base[:2].copy(),
        "even": (pair := np.arange(9000))[::2], "odd": pair[1::2],
        "text": "x" * 50, "same": ("x" * 50, 3), "key": (frozenset({1}), 1), "key2": (frozenset({1}), 1),
        "f": len, "g": np.dtype("f4"), "h": np.dtype("f4"), "kind": [np.float32], "kind2": [np.float32],
    }  # fmt: skip
    live["text2"] = live["text"]
    live["key3"] = live["key"]
    shared = {("a", "b"), ("base", "view"), ("even", "odd")}
    if HAS_TORCH:
        weights = torch.zeros(5000)
        live |= {"t": weights, "v": weights.view(50, 100)[1], "u": torch.zeros(3)}
        shared.add(("t", "v"))
    groups = groups_of(live)
    assert {each for each in groups if len(each) > 1} == shared
    assert {name for each in groups for name in each} == set(live)


def test_numpy_and_torch_over_one_memory_still_are() -> None:
    array = np.arange(5000.0)
    small = torch.arange(6)
    live = {"array": array, "tensor": torch.from_numpy(array)[10:], "small": small, "seen": small.numpy()[1:3]}
    keep = kept(live)
    assert set(keep.groups) == {("array", "tensor"), ("seen", "small")}
    assert len(b"".join(keep.objects.values())) < 1.2 * array.nbytes
    back = restored(keep)
    back["array"][12] = -1
    assert back["tensor"][2] == -1
    back["small"][1] = -7
    assert back["seen"].tolist() == [-7, 2]
    assert back["array"][11] == 11
    assert type(back["array"]) is np.ndarray
    assert back["array"].flags.writeable


def test_a_group_that_has_nothing_in_common_any_more_is_split() -> None:
    live: dict[str, Any] = {"a": [1], "n": 3}
    live["b"] = live["a"]
    snapshotter = NamespaceSnapshotter(live)
    assert names(snapshotter.capture().groups) == {("a", "b"), ("n",)}
    live["b"] = [1]
    assert names(snapshotter.capture().groups) == {("a",), ("b",), ("n",)}
    live["b"].append(live["a"])
    assert names(snapshotter.capture().groups) == {("a", "b"), ("n",)}
    live["b"].pop()
    assert names(snapshotter.capture().groups) == {("a",), ("b",), ("n",)}


def test_models_come_back_whole_with_their_optimizer() -> None:
    torch.manual_seed(0)
    net: Any = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    net.eval()
    live: dict[str, Any] = {"net": net, "opt": torch.optim.Adam(net.parameters(), lr=0.1)}
    live["sched"] = torch.optim.lr_scheduler.StepLR(live["opt"], 1)
    live["first"] = net[0].weight

    def train(space: dict[str, Any]) -> list[float]:
        out = []
        for _ in range(3):
            loss = space["net"](torch.ones(2, 4)).square().sum()
            loss.backward()
            space["opt"].step()
            space["sched"].step()
            out.append(loss.item())
        return out

    train(live)
    keep = kept(live)
    assert set(keep.groups) == {("first", "net", "opt", "sched")}
    back = restored(keep)
    assert back["first"] is back["net"][0].weight is back["opt"].param_groups[0]["params"][0]
    assert not back["net"].training
    assert torch.equal(back["first"].grad, net[0].weight.grad)
    assert train(back) == train(live)


def test_estimators_frames_and_generators_come_back() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is in the extra `all`")
    linear = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is in the extra `all`")
    x = np.random.default_rng(0).normal(size=(60, 4))
    rng = np.random.default_rng(5)
    rng.random()
    live = {
        "frame": pandas.DataFrame({"a": [1, 2], "b": ["x", None], "t": pandas.to_datetime(["2020", "2021"])}),
        "model": linear.SGDClassifier(random_state=0).fit(x, np.arange(60) % 3),
        "rng": rng,
    }
    back = restored(kept(live))
    pandas.testing.assert_frame_equal(back["frame"], live["frame"])
    assert np.array_equal(back["model"].predict(x), live["model"].predict(x))
    assert back["rng"].random() == rng.random()


# ------------------------------------------------------------------ what is looked at


def test_what_ipython_puts_there_is_left_out() -> None:
    own = ["In", "Out", "_", "__", "___", "_i", "_ii", "_iii", "_i12", "_7", "_dh", "_oh", "_ih", "get_ipython", "exit"]
    live: dict[str, Any] = {name: [name] for name in [*own, "quit", "__file__", "_mine", "i7", "_x1"]}
    live["open"] = open
    assert groups_of(live) == {("_mine",), ("i7",), ("_x1",)}
    shown = {"display": print, "_mine": live["_mine"]}
    snapshotter = NamespaceSnapshotter({**live, **shown, "own": 1}, hidden=hidden_by(shown))
    assert names(snapshotter.capture().groups) == {("own",), ("i7",), ("_x1",)}
    snapshotter.live["display"] = "mine now"
    assert ("display",) in names(snapshotter.capture().groups)


def test_modules_are_imported_again(tmp_path: Path) -> None:
    live = cell("import json as j\nimport xml.dom.minidom, os.path\nfrom os import path\nbox = [j]")
    live["In"] = ["", "import json as j\nimport xml.dom.minidom, os.path", "%magic import nothing.here"]
    snapshot = NamespaceSnapshotter(live).capture()
    assert snapshot.modules == {
        "j": "json", "xml": "xml", "os": "os", "path": path_name(), "xml.dom.minidom": "xml.dom.minidom",
        "os.path": "os.path",
    }  # fmt: skip
    keep = kept(live)
    check = "assert j.loads('1') == 1 and box == [j] and path is os.path\nxml.dom.minidom.parseString('<a/>')"
    in_new_process(keep, check + "\nassert not not_saved and 'xml.dom.minidom' not in globals()", tmp_path)
    again: dict[str, Any] = {}
    snapshotter = NamespaceSnapshotter(again)
    snapshotter.restore(keep.read(), keep.modules, [])
    assert snapshotter.capture().modules == snapshot.modules, "a later capture knows them too"


def path_name() -> str:
    import os

    return os.path.__name__


def test_the_namespace_itself_is_a_value() -> None:
    live: dict[str, Any] = {"n": 1}
    live |= {"me": live, "box": {"me": [live]}}
    live["me"] = live
    live["box"]["me"][0] = live
    back = restored(kept(live))
    assert back["me"] is back["box"]["me"][0] is back


def test_skipped_groups_are_kept() -> None:
    live: dict[str, Any] = {"a": [1], "b": 2, "big": np.zeros(BIG)}
    live["alias"] = live["a"]
    live["view"] = live["big"][:10]
    snapshotter = NamespaceSnapshotter(live)
    keep = Keep()
    keep.take(snapshotter.capture())
    snapshot = snapshotter.capture(skip={"a", "b", "big", "view"})
    assert set(snapshot.kept) == {("b",), ("big", "view")}
    assert names(snapshot.groups) == {("a", "alias")}, "alias may have changed, and with it a"
    live["big"] = live["big"].copy()
    snapshot = snapshotter.capture(skip=set(live))
    assert set(snapshot.kept) == {("b",), ("a", "alias")}, "big is another object"
    live["c"] = {"inside": live["a"]}
    live["window"] = live["big"][5:]
    snapshot = snapshotter.capture(skip={"a", "alias", "b", "big", "view"})
    assert names(snapshot.groups) == {("a", "alias", "c"), ("big", "window")}
    assert set(snapshot.kept) == {("b",), ("view",)}
    del live["view"]
    assert set(snapshotter.capture(skip=set(live) | {"view"}).kept) == {("b",), ("a", "alias", "c"), ("big", "window")}
    keep.take(snapshotter.capture(skip={"b"}))
    assert restored(keep)["b"] == 2


class Costly:
    """Notices that it was pickled."""

    count = 0

    def __reduce__(self) -> Any:
        Costly.count += 1
        return Costly, ()


def test_what_is_kept_is_not_pickled() -> None:
    live: dict[str, Any] = {"a": Costly()}
    snapshotter = NamespaceSnapshotter(live)
    snapshotter.capture()
    count = Costly.count
    assert snapshotter.capture(skip={"a"}).kept == [("a",)]
    assert Costly.count == count


# ------------------------------------------------------------------ the same bytes


def test_what_did_not_change_gives_the_same_bytes() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is in the extra `all`")
    live = cell("class C: pass\nc = C()\nc.x = [1]\ndef f(x=[1]): return x")
    live |= {
        "words": {f"word {n}" for n in range(100)},
        "dict": {f"k{n}": [n] for n in range(100)},
        "frame": pandas.DataFrame({"a": range(3000), "b": [f"x{n}" for n in range(3000)]}),
        "array": np.zeros(BIG),
        "strided": np.arange(BIG)[::3],
        "objects": np.array(["a", None, 3.0], dtype=object),
    }
    live |= {"tensor": torch.zeros(BIG), "net": nn.Linear(100, 100)} if HAS_TORCH else {}
    live["alias"] = live["dict"]
    freezer = Freezer()
    try:
        snapshotter, keep = NamespaceSnapshotter(live, freezer), Keep()
        keep.take(snapshotter.capture())
        before = dict(keep.objects)
        for turn in range(3):
            live[f"more{turn}"] = [turn]
            snapshot = snapshotter.capture(stored=set(keep.objects))
            keep.take(snapshot)
            new = {each: size for each, size in keep.new.items() if size}
            assert set(new) == {(f"more{turn}",)}
        live["array"].view(np.uint8)[7] = 1  # through another array over the same memory
        keep.take(snapshotter.capture(stored=set(keep.objects)))
        assert {each for each, size in keep.new.items() if size} == {("array",)}
        assert keep.new[("array",)] <= 1 << 20
        assert set(before) < set(keep.objects)
        back = restored(keep)
        assert back["array"].view(np.uint8)[7] == 1
        assert back["alias"] is back["dict"]
    finally:
        freezer.close()


def test_one_arena_serves_a_snapshot() -> None:
    live: dict[str, Any] = {f"a{n}": np.full(BIG, float(n)) for n in range(4)}
    freezer = Freezer()
    try:
        snapshotter = NamespaceSnapshotter(live, freezer)
        for _ in range(3):
            snapshot = snapshotter.capture()
            for group in snapshot.groups:
                group.captured.release()  # one group's word frees nothing
            size = freezer.arena_bytes
            assert size < 5 * live["a0"].nbytes
            for array in live.values():
                array += 1
            keep = Keep()
            keep.take(snapshot)
            assert restored(keep)["a2"][0] == live["a2"][0] - 1
        assert freezer.arena_bytes == size
    finally:
        freezer.close()


# ------------------------------------------------------------------ what fails, fails alone


class Angry:
    """Fails in a way of its own, and changes the namespace meanwhile."""

    def __init__(self, error: BaseException, live: dict[str, Any]) -> None:
        self.error, self.live = error, live

    def __reduce__(self) -> Any:
        self.live["sneaked"] = 1
        self.live.pop("fine", None)
        raise self.error


class Panic(BaseException):
    """As Rust's panics do, it is no Exception."""


@pytest.mark.parametrize(
    "error", [ValueError("no\nway"), Panic("rust"), RecursionError(), MemoryError(), SystemExit(3)]
)
def test_one_bad_variable_hinders_no_other(error: BaseException) -> None:
    live: dict[str, Any] = {"fine": [1]}
    live["bad"] = Angry(error, live)
    live["holder"] = {"deep": [0, (live["bad"],)]}
    live["last"] = 2
    snapshot = NamespaceSnapshotter(live).capture()
    assert names(snapshot.groups) == {("fine",), ("last",)}
    bad, holder = snapshot.not_saved
    assert bad.name == "bad"
    assert bad.kind.endswith("Angry")
    assert holder.why.startswith("holder['deep'][1][0]: ")
    assert "\n" not in holder.why


def test_interrupts_are_not_swallowed() -> None:
    live: dict[str, Any] = {}
    live["bad"] = Angry(KeyboardInterrupt(), live)
    with pytest.raises(KeyboardInterrupt):
        NamespaceSnapshotter(live).capture()


def test_what_is_too_deep_is_not_saved() -> None:
    deep: Any = []
    for _ in range(sys.getrecursionlimit() * 20):
        deep = [deep]
    deep = {"nothing": None, "deep": deep}
    snapshot = NamespaceSnapshotter({"deep": deep, "n": 1}).capture()
    assert [(each.name, each.why) for each in snapshot.not_saved] == [("deep", "it is nested too deeply")]
    deep = deep["deep"]
    assert names(snapshot.groups) == {("n",)}
    while deep:
        deep = deep.pop()


def test_a_group_that_does_not_load_is_not_saved_and_the_others_come_back() -> None:
    live: dict[str, Any] = {"n": 1, "point": collections.Counter("a"), "rows": [1]}
    keep = kept(live)
    groups = [
        (each, Captured(skeleton=captured.skeleton.replace(b"Counter", b"Count3r"), buffers=captured.buffers))
        for each, captured in keep.read()
    ]
    back: dict[str, Any] = {}
    result = NamespaceSnapshotter(back).restore(groups, {}, [])
    assert [each.name for each in result] == ["point"]
    assert "Count3r" in result[0].why
    assert (back["n"], back["rows"]) == (1, [1])
    with pytest.raises(VariableLost, match="point"):
        len(back["point"])


def test_damage_is_not_taken_for_absence() -> None:
    keep = kept({"a": np.arange(BIG)})
    (group,) = keep.groups.values()
    large = max(group.buffers[0], key=lambda name: len(keep.objects[name]))
    keep.objects[large] = keep.objects[large][:-1]
    with pytest.raises(CheckpointCorrupt):
        restored(keep)


def test_what_is_not_saved_is_reported_again() -> None:
    live: dict[str, Any] = {"g": (n for n in range(3))}
    back = restored(kept(live))
    assert not_saved_of(back["g"]) == NamespaceSnapshotter(back).capture().not_saved[0]


# ------------------------------------------------------------------ any graph

KINDS = ["list", "dict", "array", "view", "object"]


class Plain:
    item: Any


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Any]:
    """Variables over a pool of objects that refer to each other in any way, cycles included."""
    pool: list[Any] = []
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8)):
        arrays = [each for each in pool if isinstance(each, np.ndarray)]
        if kind == "list":
            pool.append([])
        elif kind == "dict":
            pool.append({})
        elif kind == "object":
            pool.append(Plain())
        elif kind == "view" and arrays:
            array = draw(st.sampled_from(arrays))
            low = draw(st.integers(0, len(array)))
            pool.append(array[low : draw(st.integers(low, len(array))) : draw(st.integers(1, 3))])
        else:
            pool.append(np.arange(draw(st.sampled_from([1, 5, 700]))))
    for each in pool:
        if isinstance(each, np.ndarray):
            continue
        for target in draw(st.lists(st.sampled_from(pool), max_size=3)):
            if isinstance(each, list):
                each.append((target, 1))
            elif isinstance(each, dict):
                each[f"k{len(each)}"] = target
            else:
                each.item = target
    count = draw(st.integers(1, 5))
    return {f"v{n}": draw(st.sampled_from(pool)) for n in range(count)}


def paths(live: dict[str, Any]) -> dict[str, Any]:
    """Every object that can be reached, by one path to each use of it, cycles cut."""
    result: dict[str, Any] = {}

    def walk(path: str, value: Any, above: tuple[int, ...]) -> None:
        result[path] = value
        if id(value) in above or len(above) > 6:
            return
        above = (*above, id(value))
        if isinstance(value, list | tuple):
            for index, item in enumerate(value):
                walk(f"{path}[{index}]", item, above)
        elif isinstance(value, dict):
            for key, item in value.items():
                walk(f"{path}[{key}]", item, above)
        elif isinstance(value, Plain):
            for name, item in vars(value).items():
                walk(f"{path}.{name}", item, above)

    for name, value in live.items():
        walk(name, value, ())
    return result


def pattern(live: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Which paths are one object, which arrays share memory, and what they hold."""
    result = {
        path: value
        for path, value in itertools.islice(sorted(paths(live).items(), key=lambda item: item[0]), 150)
        if type(value) is not int
    }
    first: dict[int, str] = {}
    same = {path: first.setdefault(id(value), path) for path, value in result.items() if type(value) is not tuple}
    arrays = {path: value for path, value in result.items() if isinstance(value, np.ndarray)}
    share = {
        (each, other)
        for each, other in itertools.combinations(arrays, 2)
        if np.shares_memory(arrays[each], arrays[other])
    }
    kinds = {path: type(value).__name__ for path, value in result.items()}
    return same, share, (kinds, {path: array.tolist() for path, array in arrays.items()})


@settings(max_examples=150, deadline=None)
@given(graphs(), st.data())
def test_the_sharing_is_the_same_after_a_restore(live: dict[str, Any], data: st.DataObject) -> None:
    snapshotter, keep = NamespaceSnapshotter(live), Keep()
    for _ in range(3):
        skip = data.draw(st.sets(st.sampled_from(sorted(live))))
        keep.take(snapshotter.capture(skip=skip))
        assert not keep.not_saved
        assert pattern(restored(keep)) == pattern(live)
        # Only what was not said to be unchanged may change: new names for what is there, and names that go.
        live[data.draw(st.sampled_from(["v0", "w0", "w1"]))] = data.draw(st.sampled_from(list(live.values())))
