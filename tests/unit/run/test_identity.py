"""Which run is meant: keys, ids, one run for two who ask at once."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from qcity_nb.errors import HeadCorrupt, UnknownRun, UsageError
from qcity_nb.ports import Source, Version
from qcity_nb.records import DesiredState, Failure, Head, Launches, RunState
from qcity_nb.run import lease
from qcity_nb.run.identity import find_or_create, key, match, reopen, slug
from qcity_nb.stores.memory import MemoryStore

BASE: dict[str, Any] = {"project": "p", "notebook": "a/train.ipynb", "parameters": {"x": 1}, "name": ""}


def head(**changes: Any) -> Head:
    fields = {**BASE, **changes}
    return Head(run="", key=key(**fields), **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    head: Head
    is_new: bool


def ask(store: MemoryStore, *, fresh: bool = False, source: bytes = b"", **changes: Any) -> Answer:
    head, is_new = find_or_create(store, **{**BASE, **changes}, fresh=fresh, source=source, output="out/{run}.ipynb")
    return Answer(head=head, is_new=is_new)


def test_the_order_of_parameters_does_not_matter() -> None:
    rng = random.Random(7)
    items = [(f"k{n}", n) for n in range(9)]
    keys = set()
    for _ in range(20):
        rng.shuffle(items)
        keys.add(key(**{**BASE, "parameters": dict(items)}))
    assert len(keys) == 1


def test_everything_that_identifies_a_run_changes_its_key() -> None:
    variants: list[dict[str, Any]] = [
        {},
        {"project": "q"},
        {"notebook": "b/train.ipynb"},
        {"name": "n"},
        {"parameters": {}},
        *({"parameters": {"x": value}} for value in (2, 1.0, "1", True, None, [1], float("nan"))),
    ]
    assert len({key(**{**BASE, **variant}) for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("notebook", "name", "expected"),
    [
        ("a/Train it.ipynb", "", "train-it"),
        ("a/train.ipynb", "My Run!", "my-run"),
        ("übung.ipynb", "", "bung"),
        ("…ipynb", "", "ipynb"),
        ("日本.ipynb", "", "run"),
        (".hidden.ipynb", "", "hidden"),
        ("x" * 300 + ".ipynb", "", "x" * 40),
    ],
)
def test_slugs_are_fit_for_ids(notebook: str, name: str, expected: str) -> None:
    assert slug(notebook, name) == expected
    assert re.fullmatch(r"[a-z0-9_-]+", slug(notebook, name))


def test_an_unfinished_run_is_found_again_and_a_finished_one_is_not() -> None:
    store = MemoryStore()
    first = ask(store, source=b"x")
    assert first.is_new
    assert re.fullmatch(r"train-[0-9a-f]{6}-1", first.head.run)
    assert store.get(first.head.run, first.head.source) == b"x"
    assert first.head.output == f"out/{first.head.run}.ipynb"
    states: list[RunState] = ["running", "stopped"]
    for state in states:
        lease.amend(store, first.head.run, lambda now, state=state: replace(now, state=state))  # type: ignore[misc]  # bound now
        again = ask(store)
        assert (again.is_new, again.head.run) == (False, first.head.run)
    lease.amend(store, first.head.run, lambda now: replace(now, state="failed"))
    second = ask(store)
    assert second.is_new
    assert second.head.run.endswith("-2")


def test_fresh_makes_a_new_one_in_any_case() -> None:
    store = MemoryStore()
    runs = [ask(store, fresh=True).head.run for _ in range(3)]
    assert [run[-2:] for run in runs] == ["-1", "-2", "-3"]
    assert ask(store).head.run == runs[-1]


def test_other_parameters_are_another_run() -> None:
    store = MemoryStore()
    first = ask(store)
    two = ask(store, parameters={"x": 2})
    assert two.is_new
    assert first.head.run != two.head.run


def test_keys_that_share_six_digits_do_not_share_runs() -> None:
    store = MemoryStore()
    run_key = key(**BASE)
    lease.create(store, replace(head(), run=f"train-{run_key[:6]}-1", key=run_key[:6] + "0" * 58))
    result = ask(store)
    assert result.is_new
    assert result.head.run == f"train-{run_key[:6]}-2"


class Lagging(MemoryStore):
    """Lists nothing, and lets somebody else create the run just before."""

    def __init__(self) -> None:
        super().__init__()
        self.rival: Head | None = None

    def runs(self) -> list[str]:
        return []

    def publish(
        self, run: str, head: bytes, *, expect: Version | None, files: Mapping[str, Source] | None = None, **more: Any
    ) -> Version:
        rival, self.rival = self.rival, None
        if rival is not None:
            lease.create(self, replace(rival, run=run))
        return super().publish(run, head, expect=expect, files=files, **more)


def test_two_who_ask_at_once_get_the_same_run() -> None:
    store = Lagging()
    store.rival = replace(head(), name="")
    result = ask(store)
    assert not result.is_new


def test_fresh_goes_past_what_the_listing_did_not_show() -> None:
    store = Lagging()
    store.rival = head()
    result = ask(store, fresh=True)
    assert result.is_new
    assert result.head.run.endswith("-2")


def test_a_run_that_cannot_be_read_is_not_overlooked() -> None:
    store = MemoryStore()
    run = ask(store).head.run
    stamped = store.read(run)
    assert stamped is not None
    store.publish(run, b"rubbish", expect=stamped.version)
    with pytest.raises(HeadCorrupt, match="--fresh"):
        ask(store)
    assert ask(store, fresh=True).is_new


def test_a_run_may_be_named_by_its_beginning() -> None:
    store = MemoryStore()
    first = ask(store).head.run
    assert match(store, first) == match(store, first[:8]) == first
    two = ask(store, fresh=True).head.run
    with pytest.raises(UnknownRun, match="may be any of"):
        match(store, first[:8])
    assert match(store, two) == two
    for text in ("", "nothing"):
        with pytest.raises(UnknownRun):
            match(store, text)


def test_a_stopped_or_spent_run_can_be_reopened_with_a_new_budget() -> None:
    store = MemoryStore()
    spent = Failure(cause="host", signature="gave up", message="50 attempts")
    for n, changes in enumerate(
        [{"state": "stopped", "desired": DesiredState(state="stopped")}, {"state": "failed", "failure": spent}]
    ):
        run = f"r-{n}"
        lease.create(store, replace(head(), run=run, term=50, **changes))  # type: ignore[arg-type]  # a table
        now = reopen(store, run, hosts=("kaggle",))
        assert (now.state, now.desired, now.failure) == ("running", DesiredState(hosts=("kaggle",)), None)
        assert now.launches == Launches(term=50, since_term=50)


def test_what_is_final_is_not_reopened() -> None:
    store = MemoryStore()
    error = Failure(cause="notebook", signature="s", message="ValueError: no")
    lease.create(store, replace(head(), run="r-1", state="succeeded"))
    lease.create(store, replace(head(), run="r-2", state="failed", failure=error))
    with pytest.raises(UsageError, match="succeeded"):
        reopen(store, "r-1")
    with pytest.raises(UsageError, match="ValueError: no"):
        reopen(store, "r-2")
