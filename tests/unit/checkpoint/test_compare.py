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


def found(before: object, after: object) -> dict[str, Difference]:
    return {one.path: one for one in compare(load(capture(before)), load(capture(after)))}


def test_numbers_of_one_array() -> None:
    one = found({"a": np.array([3.0, 4.0, 0.0])}, {"a": np.array([3.0, 4.5, -2.0])})["a"]
    assert (one.what, one.kind, one.count, one.size) == ("changed", "float64 [3]", 2, 3)
    assert one.max_change == 2
    assert one.relative == pytest.approx(math.sqrt(0.25 + 4) / 5)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float16", "int8"])
def test_types_of_torch(name: str) -> None:
    dtype = getattr(torch, name)
    before = torch.tensor([1.0, 2.0, 4.0]).to(dtype)
    after = torch.tensor([1.0, 2.0, 8.0]).to(dtype)
    one = found({"a": before}, {"a": after})["a"]
    assert (one.count, one.size, one.max_change) == (1, 3, 4)
    assert found({"a": before}, {"a": before.clone()})["a"].what == "equal"


def test_nan_is_equal_to_nan_and_counts_where_it_comes() -> None:
    nan = float("nan")
    before = np.array([nan, 1.0, 2.0])
    assert found({"a": before}, {"a": before.copy()})["a"].what == "equal"
    one = found({"a": before}, {"a": np.array([nan, 1.0, 3.0])})["a"]
    assert (one.count, one.max_change) == (1, 1)
    assert one.relative == pytest.approx(1 / math.sqrt(5))
    came = found({"a": before}, {"a": np.array([nan, nan, 2.0])})["a"]
    assert came.count == 1
    assert came.max_change is not None
    assert math.isnan(came.max_change)


def test_unsigned_and_bool_do_not_wrap() -> None:
    assert found({"a": np.array([1], "u1")}, {"a": np.array([0], "u1")})["a"].max_change == 1
    assert found({"a": np.array([True])}, {"a": np.array([False])})["a"].count == 1


def test_from_zero_the_relative_change_is_infinite() -> None:
    assert found({"a": np.zeros(2)}, {"a": np.ones(2)})["a"].relative == math.inf


def test_pieces_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(1 << 30)
    rng = np.random.default_rng(seed)
    before = rng.normal(size=1000)
    after = before + (rng.random(1000) < 0.1) * rng.normal(size=1000)
    monkeypatch.setattr(module, "_PIECE", 7)
    one = found({"a": before}, {"a": after})["a"]
    assert one.count == np.count_nonzero(before != after), f"seed {seed}"
    assert one.max_change == np.abs(after - before).max(), f"seed {seed}"
    assert one.relative == pytest.approx(np.linalg.norm(after - before) / np.linalg.norm(before)), f"seed {seed}"


def test_another_shape_or_type_is_said() -> None:
    one = found({"a": np.ones(2), "b": np.ones(1)}, {"a": np.ones(3), "b": 0.5})
    assert (one["a"].what, one["a"].kind, one["a"].size) == ("changed", "float64 [2] -> float64 [3]", 0)
    assert one["b"].kind == "float64 [1] -> float"


def test_added_and_removed() -> None:
    one = found({"old": 1, "a": np.ones(1)}, {"new": {"x": 2}, "a": np.ones(1)})
    assert (one["old"].what, one["old"].before) == ("removed", "1")
    assert (one["new['x']"].what, one["new['x']"].after) == ("added", "2")
    assert one["a"].what == "equal"


def test_paths_name_modules_optimizers_and_objects() -> None:
    def state(value: float) -> dict[str, Any]:
        model = torch.nn.Linear(2, 1)
        torch.nn.init.constant_(model.weight, value)
        torch.nn.init.constant_(model.bias, 0)
        optimizer = torch.optim.SGD(model.parameters(), lr=value)
        return {"model": model, "optimizer": optimizer, "not a name": value, "deep": [{"x": value}]}

    changed = {path for path, one in found(state(1), state(2)).items() if one.what != "equal"}
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

    assert {one.what for one in found(state(1), state(1)).values()} == {"equal"}
    changed = found(state(1), state(2))
    assert {one.what for one in changed.values()} == {"changed"}
    assert changed["np"].before == ""  # an address says nothing
    assert changed["set"].after == "{2}"


def test_a_long_list_says_how_many_it_has() -> None:
    one = found({"h": list(range(100))}, {"h": list(range(101))})["h"]
    assert one.before.endswith("(100 items)")
    assert one.after.endswith("(101 items)")


def test_shared_objects_are_told_from_copies() -> None:
    shared = {"x": np.ones(1)}
    one = found({"a": shared, "b": shared}, {"a": shared, "b": {"x": np.ones(1)}})
    assert (one["b"].what, one["b"].before) == ("removed", "the same object as a")
    assert one["b['x']"].what == "added"
    again = found({"a": shared, "b": shared}, {"a": shared, "b": shared})
    assert {each.what for each in again.values()} == {"equal"}
