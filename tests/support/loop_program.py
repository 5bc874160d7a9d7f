"""Random notebooks full of loops, and an interpreter that runs them against a world."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st
from loop_world import World
from optional import torch


@dataclass(frozen=True)
class Log:
    """Metrics that depend on the state."""

    key: str
    times: int
    step: int | None


@dataclass(frozen=True)
class Work:
    """The state changes by draws of all global generators."""

    by: str


@dataclass(frozen=True)
class Fold:
    """A plain ``for``."""

    count: int
    body: tuple[Any, ...]


@dataclass(frozen=True)
class Sometimes:
    """Only in every second iteration of what is around it."""

    body: tuple[Any, ...]


@dataclass(frozen=True)
class Loop:
    """A ``city.loop``."""

    count: int
    items: str
    every: int | str | None
    name: str | None
    leave_at: int | None
    leave_by: str
    body: tuple[Any, ...]


@dataclass
class Seen:
    """What ran, over all attempts."""

    ran: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """How often each iteration of an innermost loop was begun; those that are left early are not counted."""
    kills: int = 0


class Left(Exception):
    """The notebook's own exception, which it catches itself."""


class Shuffled:
    """A loader: draws its order from a global generator whenever it begins; has a length and no index."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Any:
        order = torch.randperm(self.count).tolist()
        return iter(order)


ITEMS: dict[str, Callable[[int], Iterable[Any]]] = {
    "range": range,
    "list": lambda n: list(range(n)),
    "generator": lambda n: (i for i in range(n)),
    "drawing": lambda n: (random.random() for _ in range(n)),
    "dict": lambda n: dict.fromkeys(range(n)),
    "loader": Shuffled,
}

_LOGS = st.builds(
    Log, key=st.sampled_from(["a", "b"]), times=st.integers(1, 3), step=st.sampled_from([None, None, None, 0, 7])
)
_WORK = st.builds(Work, by=st.sampled_from(["random", "numpy", "torch"]))


def _loop(body: st.SearchStrategy[Any], every: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        Loop,
        count=st.integers(0, 4),
        items=st.sampled_from(sorted(ITEMS)),
        every=every,
        name=st.sampled_from([None, None, "train", "a/b"]),
        leave_at=st.sampled_from([None, None, None, 0, 1, 2]),
        leave_by=st.sampled_from(["break", "raise", "return"]),
        body=st.lists(body, min_size=1, max_size=3).map(tuple),
    )


def programs(every: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Notebooks of one to three cells, loops nested up to three deep."""
    plain = _LOGS | _WORK
    inner = _loop(plain, every)
    deep: st.SearchStrategy[Any] = plain | inner
    for _ in range(2):
        some = st.lists(deep, min_size=1, max_size=2).map(tuple)
        folds: st.SearchStrategy[Any] = st.builds(Fold, count=st.integers(1, 3), body=some)
        deep = plain | _loop(deep, every) | folds | st.builds(Sometimes, body=some)
    return st.lists(st.lists(deep, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3)


def size(body: Iterable[Any]) -> int:
    """Upper bound of the iterations, to keep a test short."""
    total = 0
    for each in body:
        if isinstance(each, Loop | Fold):
            total += each.count * (1 + size(each.body))
        elif isinstance(each, Sometimes):
            total += size(each.body)
    return total


def fresh_state() -> dict[str, Any]:
    return {"w": np.zeros(3), "t": torch.zeros(2), "n": 0, "seen": []}


class Notebook:
    """One attempt's execution of a program."""

    def __init__(self, world: World, program: list[tuple[Any, ...]], seen: Seen, tick: Callable[[], None]) -> None:
        self.world = world
        self.program = program
        self.seen = seen
        self.tick = tick
        self.state = fresh_state()

    def run(self) -> dict[str, Any]:
        random.seed(3)
        np.random.seed(4)
        torch.manual_seed(5)
        for number, cell in enumerate(self.program):
            self.world.cell(f"c{number}", repr(cell))
            self._body(cell, (number,), 0)
            self.world.end()
        return self.state

    def _body(self, body: Iterable[Any], path: tuple[Any, ...], turn: int) -> None:
        for number, each in enumerate(body):
            self.tick()
            here = (*path, number)
            if isinstance(each, Log):
                value = float(self.state["w"].sum()) + float(self.state["t"].sum()) + self.state["n"]
                for _ in range(each.times):
                    self.world.log(step=each.step, **{each.key: value})
            elif isinstance(each, Work):
                self._work(each.by)
            elif isinstance(each, Fold):
                for n in range(each.count):
                    self._body(each.body, (*here, n), n)
            elif isinstance(each, Sometimes):
                if turn % 2 == 1:
                    self._body(each.body, here, turn)
            elif each.leave_by == "raise":
                # After a death after the loop's last save, it yields nothing and raises nothing: what such a handler
                # does to the state is done once more or never, as with any code that a restart does not reach.
                with contextlib.suppress(Left):
                    self._loop(each, here)
            else:
                self._loop(each, here)

    def _loop(self, loop: Loop, here: tuple[Any, ...]) -> None:
        is_inner = not any(isinstance(child, Loop | Fold | Sometimes) for child in loop.body)
        items = ITEMS[loop.items](loop.count)
        for item in self.world.loop(items, self.state, loop.every, loop.name and f"{loop.name} {here[0]}"):
            # How many iterations there were is the state's to know, so that it is right after a resume.
            turn = self.state["turns"][here] if here in self.state.setdefault("turns", {}) else 0
            if is_inner and turn != loop.leave_at:
                self.seen.ran[*here, turn] = self.seen.ran.get((*here, turn), 0) + 1
            self.state["seen"].append(float(item))
            self._body(loop.body, (*here, turn), turn)
            if turn == loop.leave_at:
                self.state["n"] += 1
                if loop.leave_by == "raise":
                    self.state["n"] += 100
                    raise Left
                if loop.leave_by == "return":
                    return
                break
            self.state["turns"][here] = turn + 1

    def _work(self, by: str) -> None:
        self.state["n"] += 1
        if by == "random":
            self.state["w"][0] += random.random()
        elif by == "numpy":
            self.state["w"] *= 0.5
            self.state["w"] += np.random.rand(3)
        else:
            self.state["t"] = self.state["t"] * 0.5 + torch.rand(2)
