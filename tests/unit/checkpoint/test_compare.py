"""Two states side by side, against numbers that are worked out by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from optional import HAS_TORCH, torch

from qcity_nb.checkpoint import compare as module
from qcity_nb.checkpoint.compare import Difference, compare
from qcity_nb.checkpoint.state.capture import capture, load


def differences(before: object, after: object) -> dict[str, Difference]:
    return {change.path: change for change in compare(load(capture(before)), load(capture(after)))}


def test_numbers_of_one_array() -> None:
    change = differences({"a": np.array([3.0, 4.0, 0.0])}, {"a": np.array([3.0, 4.5, -2.0])})["a"]
    assert (change.what, change.kind, change.count, change.size) == ("changed", "float64 [3]", 2, 3)
    assert change.max_change == 2
    assert change.relative == pytest.approx(math.sqrt(0.25 + 4) / 5)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "int8"])
def test_types_of_torch(name: str) -> None:
    dtype = getattr(torch, name)
    before = torch.tensor([1.0, 2.0, 4.0]).to(dtype)
    after = torch.tensor([1.0, 2.0, 8.0]).to(dtype)
    change = differences({"a": before}, {"a": after})["a"]
    assert (change.count, change.size, change.max_change) == (1, 3, 4)
    assert differences({"a": before}, {"a": before.clone()})["a"].what == "equal"


def test_nan_is_equal_to_nan_and_counts_where_it_comes() -> None:
    nan = float("nan")
    before = np.array([nan, 1.0, 2.0])
    assert differences({"a": before}, {"a": before.copy()})["a"].what == "equal"
    change = differences({"a": before}, {"a": np.array([nan, 1.0, 3.0])})["a"]
    assert (change.count, change.max_change) == (1, 1)
    assert change.relative == pytest.approx(1 / math.sqrt(5))
    came = differences({"a": before}, {"a": np.array([nan, nan, 2.0])})["a"]
    assert came.count == 1
    assert came.max_change is not None
    assert math.isnan(came.max_change)


def test_unsigned_and_bool_do_not_wrap() -> None:
    assert differences({"a": np.array([1], "u1")}, {"a": np.array([0], "u1")})["a"].max_change == 1
    assert differences({"a": np.array([True])}, {"a": np.array([False])})["a"].count == 1


def test_from_zero_the_relative_change_is_infinite() -> None:
    assert differences({"a": np.zeros(2)}, {"a": np.ones(2)})["a"].relative == math.inf


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(1 << 30)
    rng = np.random.default_rng(seed)
    before = rng.normal(size=1000)
    after = before + (rng.random(1000) < 0.1) * rng.normal(size=1000)
    monkeypatch.setattr(module, "_PIECE", 7)
    change = differences({"a": before}, {"a": after})["a"]
    assert change.count == np.count_nonzero(before != after), f"seed {seed}"
    assert change.max_change == np.abs(after - before).max(), f"seed {seed}"
    assert change.relative == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before)), f"seed {seed}"


def test_another_shape_or_type_is_reported() -> None:
    change = differences({"a": np.ones(2), "b": np.ones(1)}, {"a": np.ones(3), "b": 0.5})
    assert (change["a"].what, change["a"].kind, change["a"].size) == ("changed", "float64 [2] -> float64 [3]", 0)
    assert change["b"].kind == "float64 [1] -> float"


def test_added_and_removed() -> None:
    change = differences({"old": 1, "a": np.ones(1)}, {"new": {"x": 2}, "a": np.ones(1)})
    assert (change["old"].what, change["old"].before) == ("removed", "1")
    assert (change["new['x']"].what, change["new['x']"].after) == ("added", "2")
    assert change["a"].what == "equal"


def test_paths_name_modules_optimizers_and_objects() -> None:
    def state(value: float) -> dict[str, Any]:
        model = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(model.weight, value)
        torch.nn.init.constant_(model.bias, 0)
        optimizer = torch.optim.SGD(model.parameters(), lr=value)
        return {"model": model, "optimizer": optimizer, "not a name": value, "deep": [{"x": value}]}

    changed = {path for path, change in differences(state(1), state(2)).items() if change.what != "equal"}
    assert changed == {
        "model.state_dict()['weight']",
        "optimizer.state_dict()['param_groups'][0]['lr']",
        "state['not a name']",
        "deep[0]['x']",
    }


def test_other_objects_are_equal_or_not() -> None:
    def state(seed: int) -> dict[str, Any]:
        more = {"torch": torch.Generator().manual_seed(seed)} if HAS_TORCH else {}
        text = np.array(["a", str(seed)])
        return {"np": np.random.default_rng(seed), **more, "text": text, "set": {seed}, "py": random.Random(seed)}

    assert {change.what for change in differences(state(1), state(1)).values()} == {"equal"}
    changed = differences(state(1), state(2))
    assert {change.what for change in changed.values()} == {"changed"}
    assert changed["np"].before == ""  # an address says nothing
    assert changed["set"].after == "{2}"


def test_a_long_list_says_how_many_it_has() -> None:
    change = differences({"h": list(range(100))}, {"h": list(range(101))})["h"]
    assert change.before.endswith("(100 items)")
    assert change.after.endswith("(101 items)")


def test_shared_objects_are_distinguished_from_copies() -> None:
    shared = {"x": np.ones(1)}
    change = differences({"a": shared, "b": shared}, {"a": shared, "b": {"x": np.ones(1)}})
    assert (change["b"].what, change["b"].before) == ("removed", "the same object as a")
    assert change["b['x']"].what == "added"
    again = differences({"a": shared, "b": shared}, {"a": shared, "b": shared})
    assert {each.what for each in again.values()} == {"equal"}
