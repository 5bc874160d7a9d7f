"""The digest that the kill tests trust tells apart what behaves differently, and nothing else."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from book_digest import digests
from optional import part


def digests_of(**namespace: Any) -> dict[str, tuple[str, str]]:
    return digests(namespace)


def made(code: str) -> dict[str, Any]:
    """A namespace as a notebook's kernel makes it."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(code, namespace)
    return namespace


def test_the_same_content_is_the_same() -> None:
    def state() -> dict[str, Any]:
        array = np.arange(12.0).reshape(3, 4)
        items = [1, "two", {3.0}]
        return {"array": array, "row": array[1], "items": items, "same": items, "rng": np.random.default_rng(1)}

    assert digests_of(**state()) == digests_of(**state())
    plain = {"array": np.arange(3), "items": [1, {"a": (2, None)}]}
    assert digests_of(**plain) == digests_of(**pickle.loads(pickle.dumps(plain)))


LIST: list[int] = [1, 2]
ARRAY = np.arange(6.0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": LIST, "b": LIST}, {"a": LIST, "b": [1, 2]}),
        ({"a": ARRAY, "b": ARRAY[1:3]}, {"a": ARRAY, "b": ARRAY[1:3].copy()}),
        ({"a": ARRAY, "b": ARRAY[1:3]}, {"a": ARRAY, "b": ARRAY[2:4] - 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": np.float32(1)}, {"a": np.float64(1)}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}),
        ({"a": iter([1, 2])}, {"a": iter([2])}),
        ({"a": (n for n in (1, 2))}, {"a": (n for n in (2,))}),
        ({"Out": {1: "x"}, "In": []}, {"Out": {2: "x"}, "In": []}),
    ],
)
def test_what_behaves_differently_differs(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert digests_of(**one) != digests_of(**other)


COUNTER = """
def make():
    n = 0
    def up():
        nonlocal n
        n += 1
        return n
    def look():
        return n
    return up, look
up, look = make()
class Thing:
    pass
thing = Thing()
"""


def test_closures_share_their_cells_and_objects_have_the_live_class() -> None:
    whole = digests(made(COUNTER))
    assert whole == digests(made(COUNTER))
    for change in ("up()", "look = make()[1]", "class Thing: pass"):
        assert whole != digests(made(f"{COUNTER}\n{change}")), change
    parts = made(COUNTER)
    foreign = made(COUNTER)
    assert whole["look"] != digests({**parts, "up": foreign["up"], "look": foreign["look"]})["look"], "foreign globals"


def test_tied_weights_and_an_optimizer_s_parameters_are_seen() -> None:
    torch = part("torch")

    def state(*, is_tied: bool, is_own: bool) -> dict[str, Any]:
        torch.manual_seed(1)
        layers = torch.nn.ModuleList([torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False)])
        layers[1].weight = layers[0].weight if is_tied else torch.nn.Parameter(layers[0].weight.detach().clone())
        parameters = layers[0].parameters() if is_own else [torch.nn.Parameter(layers[0].weight.detach().clone())]
        return {"layers": layers, "optimizer": torch.optim.SGD(parameters, lr=0.1)}

    found = [
        digests_of(**state(is_tied=a, is_own=b)) for a, b in ((True, True), (True, True), (False, True), (True, False))
    ]
    assert found[0] == found[1]
    assert found[0]["layers"] != found[2]["layers"]
    assert found[0]["optimizer"] != found[3]["optimizer"]
