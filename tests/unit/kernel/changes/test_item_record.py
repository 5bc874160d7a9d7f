"""A resumed loop notices items that are not the ones it has done, and says nothing where nothing differs."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_world import World

from qcity_nb.errors import Changed
from qcity_nb.kernel.changes.item_record import ItemRecord


@dataclass
class Config:
    """A small record."""

    lr: float
    name: str = "a"


class Letters:
    """Indexed, but not a list: a data set, which nobody may read twice."""

    def __init__(self, letters: str) -> None:
        self.letters = letters
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.letters)

    def __getitem__(self, index: int) -> str:
        self.read.append(index)
        return self.letters[index]


def begin(world: World, items: Any, *, stop_after: int, **options: Any) -> list[Any]:
    world.start()
    world.cell()
    done: list[Any] = []
    for item in world.loop(items, {}, 1, name="x", **options):
        if len(done) == stop_after:
            return done  # the process dies here: nothing ends the cell
        done.append(item)
    world.end()
    return done


CHANGED: dict[str, tuple[Any, Any]] = {
    "file": (["a.csv", "b.csv", "c.csv"], ["a.csv", "x.csv", "c.csv"]),
    "order": ([1, 2, 3, 4], [2, 1, 3, 4]),
    "one more in front": (["b", "c", "d"], ["a", "b", "c", "d"]),
    "path": ([Path("a"), Path("b"), Path("c")], [Path("a"), Path("z"), Path("c")]),
    "record": ([Config(0.1), Config(0.2), Config(0.3)], [Config(0.1), Config(0.25), Config(0.3)]),
    "dict": ([{"lr": 0.1}, {"lr": 0.2}, {}], [{"lr": 0.5}, {"lr": 0.2}, {}]),
    "float for int": ([1, 2, 3], [1.0, 2.0, 3.0]),
    "range's step": (range(0, 10, 1), range(0, 20, 2)),
    "range's start": (range(5), range(1, 6)),
    "shorter than done": (range(9), range(1)),
    "shorter list": (["a", "b", "c"], ["a"]),
    "array": (np.arange(5), np.arange(5)[::-1].copy()),
    "long text": (["x" * 9_000, "y", "z"], ["x" * 8_999 + "y", "y", "z"]),
}


@pytest.mark.parametrize("items", CHANGED.values(), ids=CHANGED.keys())
def test_other_items_stop_the_run_until_somebody_has_decided(items: tuple[Any, Any], tmp_path: Path) -> None:
    world = World(tmp_path)
    assert len(begin(world, items[0], stop_after=2)) == 2
    with pytest.raises(Changed, match=r"city.loop 'x'.*changed=\"resume\".*changed=\"restart\""):
        begin(world, items[1], stop_after=9)
    # It is as it was: the same items resume, without a word.
    assert begin(world, items[0], stop_after=9) == list(items[0])[2:]


def test_resume_continues_and_restart_begins_anew_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = ["a", "b", "c", "d"], ["x", "b", "c", "d"]
    world = World(tmp_path / "resume")
    begin(world, old, stop_after=2)
    assert begin(world, new, stop_after=9, changed="resume") == ["c", "d"]
    assert "it continues after 2 items" in capsys.readouterr().err
    world = World(tmp_path / "restart")
    begin(world, old, stop_after=2)
    assert begin(world, new, stop_after=1, changed="restart") == ["x"]
    assert "begins anew" in capsys.readouterr().err
    assert begin(world, new, stop_after=9, changed="restart") == ["b", "c", "d"], "it does not begin anew twice"
    assert capsys.readouterr().err == ""


UNCHANGED: dict[str, Callable[[], Any]] = {
    "range": lambda: range(2, 9),
    "list of texts": lambda: ["a", "b", "c"],
    "records": lambda: [Config(0.1), Config(0.2), Config(0.3, name="c")],
    "arrays": lambda: [np.arange(3), np.arange(4), np.arange(5)],
    "array": lambda: np.linspace(0, 1, 7),
    "generator": lambda: (n * n for n in range(5)),
    "dict": lambda: {"a": 1, "b": 2, "c": 3},
    "objects": lambda: [object(), object(), object()],
    "not a number": lambda: [float("nan"), 1.0, 2.0],
    "data set": lambda: Letters("abcdef"),
    "enumerate": lambda: enumerate("abcde"),
    "zip": lambda: zip("abc", range(3), strict=True),
}


@pytest.mark.parametrize("make", UNCHANGED.values(), ids=UNCHANGED.keys())
def test_the_same_items_in_a_new_process_are_no_change(
    make: Callable[[], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    begin(world, make(), stop_after=2)
    begin(world, make(), stop_after=3)
    begin(world, make(), stop_after=99)
    assert capsys.readouterr().err == ""


def test_items_that_the_body_changes_are_those_that_were_handed_out(tmp_path: Path) -> None:
    def attempt(*, dies: bool) -> None:
        world.start()
        world.cell()
        for n, item in enumerate(world.loop([[1], [2], [3]], {}, 1, name="x")):
            if dies and n == 2:
                return
            item.append(0)
        world.end()

    world = World(tmp_path)
    attempt(dies=True)
    attempt(dies=False)


def test_a_generator_of_other_items_is_noticed_while_it_is_consumed(tmp_path: Path) -> None:
    world = World(tmp_path)
    begin(world, (n for n in (1, 2, 3, 4)), stop_after=2)
    with pytest.raises(Changed, match=r"item 1 of city.loop 'x' is done, and is another one now"):
        begin(world, (n for n in (1, 5, 3, 4)), stop_after=9)
    with pytest.raises(Changed, match=r"2 items .* are done, and there are only 1 now"):
        begin(world, (n for n in (1,)), stop_after=9)
    assert begin(world, (n for n in (1, 5, 3, 4)), stop_after=9, changed="resume") == [3, 4]


GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], float]]] = {
    "the global one": (lambda: random, lambda generator: generator.random()),
    "numpy's global one": (lambda: np.random, lambda generator: float(generator.random())),
    "one in the state": (lambda: random.Random(3), lambda generator: generator.random()),
    "numpy's in the state": (lambda: np.random.default_rng(3), lambda generator: float(generator.random())),
}


@pytest.mark.parametrize("name", GENERATORS)
def test_items_drawn_in_turn_with_the_body_are_no_change(name: str, tmp_path: Path) -> None:
    make, draw = GENERATORS[name]

    def attempt(world: World, *, stop_after: int) -> list[float]:
        generator = make()
        if "global" in name:
            generator.seed(3)
        world.start()
        world.cell()
        state = {"drawn": [], "rng": [generator] if "global" not in name else []}
        for number, item in enumerate(world.loop((draw(generator) for _ in range(6)), state, 1)):
            if number == stop_after:
                return []
            state["drawn"] += [item, draw(generator)]
        world.end()
        return state["drawn"]

    world = World(tmp_path / "killed")
    attempt(world, stop_after=3)
    assert attempt(world, stop_after=9) == attempt(World(tmp_path / "calm"), stop_after=9)


def test_arrays_of_another_shape_are_announced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    begin(world, (np.zeros(n) for n in (3, 3, 3)), stop_after=2)
    assert len(begin(world, (np.ones(n) for n in (3, 4, 3)), stop_after=9)) == 1
    assert "item 1 of city.loop 'x' is done, and is another one now; it continues" in capsys.readouterr().err


def test_a_longer_range_continues_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(tmp_path)
    begin(world, range(5), stop_after=2)
    assert begin(world, range(7), stop_after=99) == [2, 3, 4, 5, 6]
    assert "had 5 items and has 7 now; it continues after 2" in capsys.readouterr().err


def test_a_finished_loop_with_more_items_waits_for_a_decision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(tmp_path)
    begin(world, range(3), stop_after=99)
    assert begin(world, range(5), stop_after=99) == []
    assert 'it is finished and is not re-run: changed="resume" does the others' in capsys.readouterr().err
    assert begin(world, range(5), stop_after=99, changed="resume") == [3, 4]
    assert begin(world, range(5), stop_after=99, changed="resume") == []


def test_a_data_set_is_never_read_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    begin(world, Letters("abcdef"), stop_after=3)
    again = Letters("abcdef")
    begin(world, again, stop_after=99)
    assert again.read == [3, 4, 5]


def test_the_record_stays_small() -> None:
    record = ItemRecord()
    for n in range(5_000):
        record.add({"n": n, "text": "x" * random.randrange(20_000), "nested": [list(range(100))] * 9})
    assert len(json.dumps(record.values())) < 4_000
