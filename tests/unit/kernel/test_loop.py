"""`city.loop`: boundaries, leaving, resuming, in one kernel and over several."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loop_world import World
from optional import torch

from qcity_nb import crashpoints, errors
from qcity_nb.errors import LeaseLost, RunStopped, StateRefused, UsageError
from qcity_nb.kernel import items as items_module
from qcity_nb.kernel.save_policy import Every, every_steps, on_best
from qcity_nb.testing.clock import ManualClock


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.start()
    yield made
    crashpoints.arm(None)


def run(world: World, count: int, state: dict[str, Any], *, stop_after: int | None = None, **kwargs: Any) -> list[int]:
    """One cell with one loop that counts; leaves by an exception after some iterations."""
    world.cell()
    done: list[int] = []
    try:
        for n in world.loop(range(count), state, **kwargs):
            if len(done) == stop_after:
                raise KeyboardInterrupt
            state["n"] = state.get("n", 0) + 1
            world.log(n=state["n"])
            done.append(n)
    except KeyboardInterrupt:
        world.end(ok=False)
    else:
        world.end()
    return done


def test_a_new_kernel_goes_on_and_a_finished_loop_gives_nothing_but_its_state(world: World) -> None:
    assert run(world, 5, {}, stop_after=3) == [0, 1, 2]
    world.start()
    state: dict[str, Any] = {"n": 77, "alien": 1}
    assert run(world, 5, state) == [3, 4]
    assert state == {"n": 5}
    world.start()
    state = {}
    assert run(world, 5, state) == []
    assert state == {"n": 5}
    assert [(row.step, row.value) for row in world.rows()] == [(n, n + 1.0) for n in range(5)]


def test_in_one_kernel_an_interrupted_cell_resumes_and_a_finished_one_begins_a_new_pass(world: World) -> None:
    state: dict[str, Any] = {}
    assert run(world, 4, state, stop_after=2) == [0, 1]
    state["n"] = 1000
    assert run(world, 4, state) == [2, 3]
    assert run(world, 4, state) == [0, 1, 2, 3]
    assert state == {"n": 8}
    assert [row.step for row in world.rows()] == list(range(8))
    (loop,) = world.session.loops.values()
    assert (loop.passes, loop.done, loop.count) == (2, 4, 8)


def test_a_cell_that_fails_after_its_first_loop_keeps_that_one_finished(world: World) -> None:
    def cell(*, fail: bool) -> list[int]:
        world.cell()
        seen = [10 + n for n in world.loop(range(2), {})]
        for n in world.loop(range(3), {}):
            if fail and n == 1:
                world.end(ok=False)
                return seen
            seen.append(n)
        world.end()
        return seen

    assert cell(fail=True) == [10, 11, 0]
    assert cell(fail=False) == [1, 2]
    assert cell(fail=False) == [10, 11, 0, 1, 2]


def test_the_state_comes_back_in_place_before_the_first_item(world: World) -> None:
    def make() -> dict[str, Any]:
        return {"array": np.zeros(2), "model": torch.nn.Linear(1, 1), "list": [0]}

    state = make()
    world.cell()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what raises
        for n in world.loop(range(3), state):
            state["array"] += 1
            state["list"].append(n)
            torch.nn.init.constant_(state["model"].weight, 9.0)
            if n == 1:
                raise ZeroDivisionError
    world.end(ok=False)
    world.start()
    world.cell()
    state = make()
    array, model = state["array"], state["model"]
    assert next(iter(world.loop(range(3), state))) == 1
    assert state["array"] is array
    assert array.tolist() == [1.0, 1.0]
    assert state["model"] is model
    assert float(model.weight.detach()) == 9.0
    assert state["list"] == [0, 0]


def test_state_that_cannot_be_saved_is_refused_before_any_work(world: World) -> None:
    world.cell()
    worked = False
    with pytest.raises(StateRefused, match=r"state\['lines'\]"):  # noqa: PT012 - the loop is what raises
        for _ in world.loop(range(3), {"lines": (n for n in range(3))}):
            worked = True
    assert not worked
    with pytest.raises(StateRefused, match="in place"):
        world.loop(range(3), 5)
    with pytest.raises(StateRefused, match="in place"):
        world.loop(range(3), (1, 2))
    assert list(world.loop(range(2), None)) == [0, 1]
    assert world.session.open == []


def test_state_that_becomes_unsaveable_in_the_iteration_that_breaks_is_reported_when_it_counts(world: World) -> None:
    world.cell()
    state: dict[str, Any] = {}
    for _ in world.loop(range(3), state):
        state["x"] = (n for n in range(3))
        break
    with pytest.raises(StateRefused, match=r"state\['x'\]"):
        world.end()


@pytest.mark.parametrize("every", [0, -1, True, "soon", "-3s", 1.5])
def test_every_that_means_nothing_is_refused_at_the_call(world: World, every: Any) -> None:
    with pytest.raises(UsageError):
        world.loop(range(3), {}, every)


def test_what_has_no_items_is_refused_at_the_call(world: World) -> None:
    with pytest.raises(UsageError, match=r"range\(10\)"):
        world.loop(10, {})  # type: ignore[arg-type]  # that is the mistake


def test_break_finishes_the_loop_with_state_and_rows_as_they_stand(world: World) -> None:
    state: dict[str, Any] = {"n": 0}
    world.cell()
    for n in world.loop(range(9), state):
        state["n"] += 1
        world.log(loss=n)
        if n == 2:
            break
    world.log(after=1.0)
    before = world.session.seq
    assert [row.key for row in world.rows()] == ["loss"] * 2
    world.end()
    assert world.session.seq == before + 1
    assert [(row.key, row.step) for row in world.rows()] == [("loss", 0), ("loss", 1), ("loss", 2), ("after", 0)]
    world.start()
    world.cell()
    state = {}
    assert list(world.loop(range(9), state)) == []
    assert state == {"n": 3}


def test_break_in_a_cell_that_fails_is_not_committed(world: World) -> None:
    world.cell()
    for n in world.loop(range(9), {}):
        world.log(loss=n)
        if n == 2:
            break
    world.end(ok=False)
    world.cell()
    assert next(iter(world.loop(range(9), {}))) == 2
    assert len(world.rows()) == 2


def test_a_checkpoint_while_the_iterator_is_held_and_the_cell_ends(world: World) -> None:
    world.cell()
    state: dict[str, Any] = {"n": 0}
    held = iter(world.loop(range(9), state))
    for n in held:
        state["n"] = n
        if n == 2:
            break
    world.end()
    world.cell("other")
    with pytest.raises(UsageError, match="cannot continue"):
        next(held)
    world.start()
    world.cell()
    state = {}
    assert list(world.loop(range(9), state)) == []
    assert state == {"n": 2}


def test_mixed_loops_are_refused(world: World) -> None:
    world.cell()
    with pytest.raises(UsageError, match="nested, not mixed"):
        for _ in zip(world.loop(range(3), {}), world.loop(range(3), {}), strict=True):
            pass


def test_inner_loops_go_on_counting_and_resume_where_they_were(tmp_path: Path) -> None:
    world = World(tmp_path / "one")
    world.start()

    def cell(*, die: tuple[int, int, int] | None = None) -> list[tuple[int, int, int]]:
        state: dict[str, Any] = {"w": 0.0}
        seen: list[tuple[int, int, int]] = []
        world.cell()
        for outer in world.loop(range(2), state, 9):
            world.log(head=outer)
            for which in range(2):
                for inner in world.loop(range(3), state, 1):
                    if (outer, which, inner) == die:
                        return seen
                    state["w"] = state["w"] * 3 + random.random()
                    world.log(loss=state["w"])
                    seen.append((outer, which, inner))
            world.log(tail=state["w"])
        world.end()
        return seen

    random.seed(1)
    expected = cell()
    rows = [(row.loop, row.iteration, row.ordinal, row.key, row.step, row.value) for row in world.rows()]
    losses = [row.step for row in world.rows() if row.key == "loss"]
    assert losses == list(range(12))  # two inner loops with one metric: it never goes back
    assert [row.step for row in world.rows() if row.key == "tail"] == [0, 1]

    world = World(tmp_path / "other")
    world.start()
    random.seed(1)
    first = cell(die=(1, 1, 1))
    world.start()
    random.seed(1)
    assert first + cell() == expected
    assert [(row.loop, row.iteration, row.ordinal, row.key, row.step, row.value) for row in world.rows()] == rows


def test_an_inner_loop_that_comes_late_waits_for_a_boundary_that_is_known(world: World) -> None:
    """Its checkpoints need the outer state at the outer boundary: nobody captured it there the first time."""

    def cell(*, die: bool) -> list[tuple[int, int]]:
        state: dict[str, Any] = {"w": []}
        world.cell()
        for outer in world.loop(range(4), state, 100):
            state["w"].append(outer)
            if outer % 2 == 1:
                for inner in world.loop(range(3), None, 1):
                    if die and (outer, inner) == (1, 2):
                        return []
                    state["w"].append((outer, inner))
        world.end()
        return list(state["w"])

    cell(die=True)
    world.start()
    assert cell(die=False) == [0, 1, (1, 0), (1, 1), (1, 2), 2, 3, (3, 0), (3, 1), (3, 2)]


def test_a_name_that_comes_back_in_a_cell_is_another_loop_each_time(world: World) -> None:
    def cell(*, die: bool) -> list[tuple[int, int]]:
        seen: list[tuple[int, int]] = []
        world.cell()
        for fold in range(3):
            for n in world.loop(range(2), {}, name="fold/x"):
                if die and (fold, n) == (1, 1):
                    return seen
                seen.append((fold, n))
        world.end()
        return seen

    assert cell(die=True) == [(0, 0), (0, 1), (1, 0)]
    world.start()
    assert cell(die=False) == [(1, 1), (2, 0), (2, 1)]
    assert sorted(world.session.loops) == ["fold%2Fx", "fold%2Fx#1", "fold%2Fx#2"]


def test_a_name_of_another_cell_is_refused(world: World) -> None:
    world.cell("one", "a")
    list(world.loop(range(2), {}, name="train"))
    world.end()
    world.cell("one", "edited")
    assert list(world.loop(range(2), {}, name="train")) == [0, 1]
    world.end()
    world.cell("two", "b")
    with pytest.raises(UsageError, match="another cell"):
        list(world.loop(range(2), {}, name="train"))


@pytest.mark.parametrize(("before", "after"), [(None, "c"), ("c", None), ("c", "c"), (None, None)])
def test_a_run_begun_in_one_front_end_goes_on_in_another(world: World, before: str | None, after: str | None) -> None:
    world.cell(before, "the source")
    world.log(once=1.0)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the loop is what raises
        for n in world.loop(range(5), {}):
            if n == 3:
                raise ZeroDivisionError
    world.end(ok=False)
    world.start()
    world.cell(after, "the source")
    world.log(once=1.0)
    assert list(world.loop(range(5), {})) == [3, 4]
    world.end()
    assert [row.key for row in world.rows()] == ["once"]


def test_a_stop_is_raised_at_a_boundary_that_is_saved(world: World) -> None:
    world.cell()
    seen = []
    with pytest.raises(RunStopped, match="enough"):  # noqa: PT012 - the loop is what raises
        for outer in world.loop(range(3), {}, "1000s"):
            for inner in world.loop(range(3), {}, "1000s"):
                seen.append((outer, inner))
                if seen == [(0, 0), (0, 1), (0, 2), (1, 0)]:
                    world.show(stop="enough")
    world.end(ok=False)
    world.start()
    world.cell()
    for outer in world.loop(range(3), {}):
        seen += [(outer, inner) for inner in world.loop(range(3), {})]
    assert seen == [(outer, inner) for outer in range(3) for inner in range(3)]


def test_a_lost_lease_is_raised_at_loop_boundary_and_log(world: World) -> None:
    world.cell()
    lost: dict[str, Any] = {"state": "lost", "reason": "attempt x holds the run", "error": "LeaseLost"}
    before = 0
    with pytest.raises(LeaseLost, match="attempt x"):  # noqa: PT012 - the loop is what raises
        for _ in world.loop(range(3), {}):
            before = world.session.seq
            world.show(**lost)
    assert world.session.seq == before
    with pytest.raises(LeaseLost, match="attempt x"):
        world.log(a=1)
    with pytest.raises(LeaseLost, match="attempt x"):
        list(world.loop(range(3), {}))


def test_a_full_disk_is_reported_and_what_was_saved_stays(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state: dict[str, Any] = {}
    assert run(world, 4, state, stop_after=2) == [0, 1]

    def full(*_: object) -> None:
        raise errors.CheckpointError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(world.session.tier, "_write_manifest", full)
        world.cell()
        with pytest.raises(errors.CheckpointError):  # noqa: PT012 - the loop is what raises
            for n in world.loop(range(4), state):
                world.log(n=n)
        world.end(ok=False)
    assert run(world, 4, state) == [2, 3]
    assert [row.step for row in world.rows()] == [0, 1, 2, 3]


def test_an_interrupt_while_saving_waits_for_its_end(world: World) -> None:
    import signal

    def strike(name: str) -> None:
        if name == "outbox.after" and world.session.seq == 2:
            signal.raise_signal(signal.SIGINT)

    crashpoints.arm(strike)
    world.cell()
    seen = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the loop is what raises
        for n in world.loop(range(5), {}):
            seen.append(n)
    world.end(ok=False)
    assert seen == [0, 1]
    assert world.session.seq == 3
    world.cell()
    assert list(world.loop(range(5), {})) == [2, 3, 4]


class Indexed:
    """A data set: no iterator of its own."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> int:
        self.read.append(index)
        if index >= self.count:
            raise IndexError
        return index * 10


class Frame:
    """Indexed by label, iterated by column: as a pandas frame."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, label: str) -> str:
        return label.upper()

    def __iter__(self) -> Iterator[str]:
        return iter(["a", "b", "c", "d"])


class Stream:
    """A loader over a stream: a length that raises."""

    def __len__(self) -> int:
        raise TypeError("no length")

    def __iter__(self) -> Iterator[int]:
        return iter(range(4))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: {"a": 1, "b": 2, "c": 3, "d": 4}, ["a", "b", "c", "d"]),
        (lambda: "abcd", ["a", "b", "c", "d"]),
        (lambda: (n for n in range(4)), [0, 1, 2, 3]),
        (lambda: np.arange(4), [0, 1, 2, 3]),
        (lambda: torch.arange(4), [0, 1, 2, 3]),
        (lambda: Indexed(4), [0, 10, 20, 30]),
        (Frame, ["a", "b", "c", "d"]),
        (Stream, [0, 1, 2, 3]),
        (list, []),
    ],
)
def test_all_kinds_of_items_come_as_python_gives_them_and_resume(world: World, make: Any, expected: list[Any]) -> None:
    seen = []
    world.cell()
    for n, item in enumerate(world.loop(make(), {})):
        if n == 2:
            break
        seen.append(item)
    world.end(ok=False)
    world.start()
    world.cell()
    seen += list(world.loop(make(), {}))
    world.end()
    assert seen == expected


def test_a_sequence_is_indexed_at_the_place_where_it_goes_on(world: World) -> None:
    world.cell()
    data: Any = Indexed(5)
    for n in world.loop(data, {}):
        if n == 30:
            break
    world.end(ok=False)
    world.start()
    world.cell()
    data = Indexed(5)
    assert list(world.loop(data, {})) == [30, 40]
    assert data.read == [3, 4]


def test_a_shuffling_loader_resumes_in_its_order(world: World) -> None:
    def batches() -> Any:
        return torch.utils.data.DataLoader(range(10), batch_size=2, shuffle=True)  # type: ignore[arg-type]  # a range will do

    torch.manual_seed(1)
    world.cell()
    expected = [batch.tolist() for batch in world.loop(batches(), {}, name="whole")]
    world.end()
    torch.manual_seed(1)
    seen: list[Any] = []
    world.cell("d")
    for batch in world.loop(batches(), {}):
        if len(seen) == 3:
            break
        seen.append(batch.tolist())
    world.end(ok=False)
    world.start()
    torch.manual_seed(99)
    world.cell("d")
    assert seen + [batch.tolist() for batch in world.loop(batches(), {})] == expected


def test_going_through_finished_items_slowly_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.cell()
    for n in world.loop(iter(range(5)), {}):
        if n == 3:
            break
    world.end(ok=False)
    world.start()
    monkeypatch.setattr(items_module, "SLOW_SKIP_S", -1.0)
    world.cell()
    with pytest.warns(UserWarning, match="3 finished items"):
        assert list(world.loop(iter(range(5)), {})) == [3, 4]


def test_time_and_cost_decide_when_to_save(world: World) -> None:
    world.cell()
    list(world.loop(range(50), {}, "1000s"))
    assert world.session.seq == 2  # the beginning and the end
    world.cell("d")
    list(world.loop(range(50), {}, 10))
    assert world.session.seq == 2 + 6
    world.cell("e")
    list(world.loop(range(300), {}, None))
    assert world.session.seq < 2 + 6 + 30  # 1% of next to nothing


def saved_after(world: World, values: list[float], every: Every, *, first: int = 0, metric: str = "loss") -> list[int]:
    """One loop that logs these values; the iterations after which it was saved, its last one left out."""
    saved: list[int] = []
    before = world.session.seq
    world.cell()
    for n in world.loop(range(len(values)), {}, every):
        if world.session.seq > before and n > first:
            saved.append(n - 1)
        before = world.session.seq
        world.log(**{metric: values[n]})
    world.end()
    return saved


def values_of(world: World) -> Mapping[str, Any]:
    """What the newest checkpoint's ``values`` hold."""
    world.session.finish_save()
    assert world.session.manifest is not None
    return world.session.manifest.values


def test_on_best_saves_where_a_strictly_better_value_was_logged(world: World) -> None:
    values = [3.0, 2.0, 2.5, float("nan"), 2.0, 1.0, 4.0, 0.0]
    assert saved_after(world, values, on_best("loss")) == [0, 1, 5]
    assert saved_after(world, values, on_best("loss", "max")) == [0, 6], "a new pass has no best yet"
    assert saved_after(world, values, on_best("acc")) == []
    assert saved_after(world, [1.0, *[0.0] * 5, -1.0, 0.0], every_steps(3) & on_best("loss")) == [2, 6]
    # 0.0 comes between two third steps: it is neither saved nor counted at the next one.
    assert saved_after(world, [5.0, 5.0, 1.0, 0.0, 3.0, 2.0, 4.0, 0.5, 9.0], every_steps(3) & on_best("loss")) == [2, 7]


def test_the_best_is_what_it_was_at_the_boundary_that_a_new_attempt_goes_on_from(world: World) -> None:
    world.cell()
    for n, value in zip(world.loop(range(9), {}, on_best("acc")), [0.5, 0.7, 0.6, 0.65], strict=False):
        world.log(acc=value)
        if n == 3:
            break
    world.end(ok=False)
    world.start()
    values = [9, 9, 0.6, 0.7, 0.71, 0.7, 0.72, 0.8, 0.9]
    assert saved_after(world, values, on_best("acc"), first=2, metric="acc") == [4, 6, 7]
    assert saved_after(world, values, on_best("acc"), metric="acc") == [0], "a new pass has no best value yet"
    assert "best" not in values_of(world), "finished loops need none"


def test_on_best_around_an_inner_loop_counts_what_that_one_logged_before_a_death(world: World) -> None:
    def cell(*, die: bool) -> list[int]:
        seen = []
        world.cell()
        for outer in world.loop(range(3), {}, on_best("acc"), name="outer"):
            seen.append(world.session.seq)
            for inner in world.loop(range(3), {}, 1, name="inner"):
                if die and (outer, inner) == (1, 2):
                    world.end(ok=False)
                    return seen
                world.log(acc=0.9 if (outer, inner) == (1, 0) else 0.1 if outer == 0 else 0.0)
        world.end()
        return seen

    assert cell(die=True) == [1, 5]  # the beginning, three inner boundaries, a better value
    world.start()
    # The row of (1, 0) is covered and not logged again; its value makes this boundary the best: 7, 8 and 9.
    assert cell(die=False) == [7, 9]


def test_a_value_that_a_refused_call_had_is_not_heard(world: World) -> None:
    world.cell()
    seqs = []
    for n in world.loop(range(3), {}, on_best("acc")):
        seqs.append(world.session.seq)
        if n == 0:
            with pytest.raises(UsageError):
                world.log(acc=1.0, name="x")
    assert seqs == [1, 1, 1]


def test_near_the_end_of_the_session_each_boundary_is_saved_and_no_more_once_it_outlived_it(tmp_path: Path) -> None:
    clock = ManualClock(0.0)
    world = World(tmp_path)
    world.start(clock=clock, deadline_s=1000.0)
    world.cell()
    saved = []
    before = 1
    for n in world.loop(range(30), {}, "1h"):
        if world.session.seq > before:
            saved.append(n)
            before = world.session.seq
        clock.advance(50.0)
    # At n the clock shows 50 n; the last boundary that can wait has 1000 - 50 n >= 50 + 60 left.
    assert saved == list(range(18, 27))  # and 1000 + 300 is at 26


def test_the_longest_of_the_newest_iterations_decides_how_near_the_end_is(tmp_path: Path) -> None:
    clock = ManualClock(0.0)
    world = World(tmp_path)
    world.start(clock=clock, deadline_s=1000.0)
    world.cell()
    saved = []
    for n in world.loop(range(5), {}, on_best("loss")):
        saved.append(world.session.seq)
        clock.advance(500.0 if n == 0 else 10.0)
    assert saved == [1, 2, 3, 4, 5]


def test_after_a_death_the_default_goes_by_how_long_the_run_has_lived(tmp_path: Path) -> None:
    world = World(tmp_path)
    clock = ManualClock(0.0)
    world.start(clock=clock)
    world.cell()
    for n in world.loop(range(9), {}, 1):
        clock.advance(100.0)
        if n == 3:
            break
    world.end(ok=False)
    assert values_of(world)["alive_s"] == 300.0
    clock = ManualClock(77.0)
    world.start(clock=clock)
    assert len(world.session.history.deaths) == 1
    assert world.session.history.alive_s(clock.now_s()) == 300.0
    world.cell()
    seqs = []
    for n in world.loop(range(60), {}, None):
        world.session.save_s = 0.02  # sqrt(2 · 0.02 · 300) s is 3.5 s; one percent would be 2 s
        seqs.append(world.session.seq)
        clock.advance(1.0)
        if n == 12:
            break
    assert [seq - seqs[0] for seq in seqs] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]


def test_a_named_checkpoint_waits_until_the_store_has_it_and_says_if_it_does_not(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(op: str, *, wait_s: float, **_: object) -> dict[str, Any]:
        asked.append(op)
        assert values_of(world)["name"] == "good"
        assert wait_s <= 60
        if len(asked) == 2:
            raise errors.StoreUnavailable("away")
        return {}

    monkeypatch.setattr(world.session.sidecar, "ask", ask)
    world.cell()
    with pytest.warns(UserWarning, match="'good' is only on this host"):  # noqa: PT031 - the loop is what warns
        for n in world.loop(range(6), {}, "1h"):
            if n in (1, 3):
                world.session.force, world.session.label = True, "good"
    assert asked == ["flush", "flush"]
    assert world.session.seq == 4
    assert "name" not in values_of(world)


def test_short_memory_is_reported_once_and_each_save_is_durable_before_the_loop_continues(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qcity_nb.checkpoint.state import freezer

    monkeypatch.setattr(freezer, "available_bytes", lambda: 1)
    state = {"w": np.zeros(100_000)}
    world.cell()
    with pytest.warns(UserWarning, match="too little memory") as warned:  # noqa: PT031 - the loop is what warns
        for n in world.loop(range(3), state, every=2):
            state["w"] += n + 1
    world.end()
    assert len([warning for warning in warned if "memory" in str(warning.message)]) == 1
    world.start()
    state["w"][:] = -1
    assert run(world, 3, state) == []
    assert set(state["w"]) == {6.0}


def test_a_save_that_comes_to_nothing_keeps_how_the_pass_began(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items that are consumed again need the generators of the pass's beginning, which are captured once."""
    from qcity_nb.checkpoint.encode import Discarded

    def numbers() -> Iterator[int]:
        yield from np.random.permutation(20).tolist()  # as a loader draws its order when it begins

    state: dict[str, Any] = {"seen": []}
    real, left = world.session.tier.save, [1]

    def save(*args: Any, **kwargs: Any) -> Any:
        if left and args[0].seq == 1:
            left.clear()
            raise Discarded("planted")
        return real(*args, **kwargs)

    monkeypatch.setattr(world.session.tier, "save", save)
    np.random.seed(8)
    expected = np.random.permutation(20).tolist()
    np.random.seed(8)
    world.cell()
    with pytest.raises(RuntimeError):  # noqa: PT012 - the loop is what raises
        for number in world.loop(numbers(), state, every=1):
            if len(state["seen"]) == 2:
                raise RuntimeError("dies")
            state["seen"].append(number)
    assert not left
    world.start()
    np.random.seed(99)
    again: dict[str, Any] = {"seen": []}
    world.cell()
    for number in world.loop(numbers(), again, every=1):
        again["seen"].append(number)
    assert again["seen"] == expected


@pytest.mark.parametrize("outer", [1, "1h"])
def test_an_inner_loop_left_by_break_logs_in_each_outer_iteration(world: World, outer: Any) -> None:
    world.cell()
    for n in world.loop(range(3), {"a": 0}, every=outer):
        for _ in world.loop(range(2), {"b": 0}, every=1):
            world.log(n=n)
            for _ in world.loop(range(1), {"c": 0}, every=1):
                pass  # a save in the middle of the iteration that is left
            break
    world.end()
    world.session.finish_save()
    assert [row.value for row in world.rows()] == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "items",
    [{"a", "b"}, frozenset({"a"}), {"a": 1}.keys() | {"b"}, set()],
    ids=["set", "frozenset", "union of keys", "empty"],
)
def test_a_set_has_no_order_that_a_resumed_loop_could_keep(items: Any, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    world.cell()
    with pytest.raises(UsageError, match=r"another order in the next process.*write sorted\("):
        world.loop(items, {})


@pytest.mark.parametrize("items", [{"a": 1, "b": 2}, {"a": 1}.keys(), {"a": 1}.values(), {"a": 1}.items()])
def test_a_dict_keeps_its_order(items: Any, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.start()
    world.cell()
    assert list(world.loop(items, {})) == list(items)
