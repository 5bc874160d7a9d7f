"""Names as MLflow has them: accepted by it, and never two for one."""

from __future__ import annotations

import itertools
import posixpath
import random
import re

import pytest

from qcity_nb.tracking.mlflow_names import mlflow_name

KEPT = ("loss", "acc_1", "val/acc.top-1", "a b", "loss_x2", "_xx", "é", ".hidden", "a/.b", "a/...", "a..b")


@pytest.mark.parametrize("name", [*KEPT, "x" * 250])
def test_what_mlflow_accepts_stays(name: str) -> None:
    assert mlflow_name(name) == name


FAMILIES = (
    ("acc@1", "acc:1", "acc_1", "acc#1", "acc_x40_1", "acc_x5f_x40_1", "acc_x3a_1"),
    ("_x4@", "_x4_x40_", "\x04x40_", "_x40_x41_", "@A", "@x41_"),
    ("a", "a/", "/a", "//a", "a//", "a/.", "./a", "../a", "a/..", "_x2f_a"),
    (".", "..", "...", "./.", "../..", "_", "__", ""),
    ("x" * 250 + "a", "x" * 250 + "b", "x" * 250, "x" * 231 + "_xx" + "0" * 16),
    ("é", "e\u0301", "e", "e_x301_", "\udc80", "\n", "\r", " "),
    ("loss (train)", "loss [train]", "loss_train_", "loss  train "),
)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: repr(family[0][:8]))
def test_what_was_folded_together_stays_apart(family: tuple[str, ...]) -> None:
    assert len({mlflow_name(name) for name in family}) == len(family)


def accepted(name: str) -> bool:
    """MLflow's rule, as its oldest servers have it."""
    norm = posixpath.normpath(name)
    unique = norm == name and norm != "." and not norm.startswith(("..", "/"))
    return re.fullmatch(r"[/\w.\- ]+", name) is not None and unique and len(name) <= 250


def test_all_short_names_are_accepted_and_apart() -> None:
    alphabet = "_x4@/.a"
    names = ["".join(chars) for size in range(6) for chars in itertools.product(alphabet, repeat=size)]
    changed = {mlflow_name(name): name for name in names}
    assert len(changed) == len(names)
    assert not [name for name in changed if not accepted(name)]


def test_random_long_names_are_accepted_and_apart() -> None:
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    names = {"".join(chance.choices("_xab0123@:/. é\n", k=chance.randrange(400))) for _ in range(3_000)}
    changed = {mlflow_name(name) for name in names}
    assert len(changed) == len(names), seed
    assert not [name for name in changed if not accepted(name)], seed
