"""Loops whose code was edited between two attempts, and loops whose cell is another one, or gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loop_world import World

from qcity_nb import crashpoints
from qcity_nb.kernel.changes.moved_loops import write_cells


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    made.start()
    yield made
    crashpoints.arm(None)


def run(world: World, count: int, *, stop_after: int = -1, cell: str = "c", **options: Any) -> list[int]:
    """One cell with one loop; it dies after some iterations."""
    world.cell(cell)
    done: list[int] = []
    try:
        for n in world.loop(range(count), {}, **options):
            if len(done) == stop_after:
                raise KeyboardInterrupt
            done.append(n)
    except KeyboardInterrupt:
        world.end(ok=False)
    else:
        world.end()
    return done


def code(body: str, **names: str) -> dict[str, Any]:
    """The code of a loop as ``cells.loop_sources`` tells it."""
    return {"items": "i", "body": body, "reads": names}


def start_with(world: World, *cells: str) -> None:
    """The next attempt, of a notebook with these cells."""
    world.start()
    write_cells(world.session.sidecar.mailbox.path, [(cell, "…") for cell in cells])


def changes(world: World) -> list[str]:
    return [change["text"] for change in world.session.history.changes]


def test_an_edited_loop_resumes_and_says_so(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.code = code("a", lr="1 lr = 0.1")
    assert run(world, 5, stop_after=3) == [0, 1, 2]
    world.start()
    world.code = code("a", lr="2 lr = 0.01")
    assert run(world, 5) == [3, 4]
    text = (
        "the code of city.loop 'c:0' was edited since it was saved: lr = 0.1 → lr = 0.01; the new code runs from step 3"
        ' on; city.loop(…, changed="restart") begins it anew'
    )
    assert world.session.history.changes == [{"step": 3, "kind": "notebook", "text": text, "term": 2}]
    assert f"qcity: {text}\n" in capsys.readouterr().err


def test_a_finished_loop_says_so_and_is_not_rerun(world: World) -> None:
    world.code = code("a")
    assert run(world, 2) == [0, 1]
    world.start()
    world.code = code("b")
    assert run(world, 2) == []
    (text,) = changes(world)
    assert 'its body; it is finished and is not re-run; city.loop(…, changed="restart") begins it anew' in text
    assert world.session.manifest is not None
    assert world.session.manifest.values["changes"] == world.session.history.changes, "the tracker gets it from there"


def test_the_same_code_says_nothing(world: World) -> None:
    world.code = code("a", lr="1")
    assert run(world, 5, stop_after=3) == [0, 1, 2]
    world.start()
    world.code = {**code("a", lr="1"), "items": "other words for the same items"}
    assert run(world, 5) == [3, 4]
    assert changes(world) == []


class Batch:
    """An item whose content is not compared."""


def run_batches(world: World, count: int) -> int:
    world.cell()
    done = 0
    try:
        for _ in world.loop([Batch() for _ in range(count)], {}):
            if done == 2:
                raise KeyboardInterrupt
            done += 1
    except KeyboardInterrupt:
        world.end(ok=False)
    else:
        world.end()
    return done


def test_an_edit_of_items_that_cannot_be_compared_is_named_once(world: World) -> None:
    world.code = {**code("a"), "item_reads": {"size": "1 size = 16"}}
    assert run_batches(world, 6) == 2
    world.start()
    world.code = {**world.code, "items": "others", "item_reads": {"size": "2 size = 32"}}
    assert run_batches(world, 6) == 2
    (text,) = changes(world)
    assert "was edited since it was saved: its items, size = 16 → size = 32; the new code runs from step 2" in text
    world.start()
    world.code = {**world.code, "items": "yet others"}
    assert run_batches(world, 7) == 2
    (_, text) = changes(world)
    assert "had 6 items and has 7 now" in text, "the check of the items has named it"


def test_restart_begins_anew_once_for_each_edit(world: World) -> None:
    world.code = code("a")
    assert run(world, 4, stop_after=3) == [0, 1, 2]
    world.start()
    world.code = code("b")
    assert run(world, 4, stop_after=2, changed="restart") == [0, 1]
    assert "its body; it begins anew at step 3" in changes(world)[0]
    world.start()
    assert run(world, 4, changed="restart") == [2, 3], "the same edit"
    world.start()
    assert run(world, 4, changed="restart") == [], "the same edit"
    world.start()
    world.code = code("c")
    assert run(world, 4, changed="restart") == [0, 1, 2, 3], "it had ended"


def test_a_decision_may_come_later(world: World) -> None:
    world.code = code("a")
    assert run(world, 6, stop_after=2) == [0, 1]
    world.start()
    world.code = code("b")
    assert run(world, 6, stop_after=2) == [2, 3]
    world.start()
    assert run(world, 6, stop_after=1, changed="restart") == [0]
    assert "was edited after it had begun; it begins anew" in changes(world)[-1]


def test_an_edit_can_be_accepted(world: World) -> None:
    world.code = code("a")
    assert run(world, 6, stop_after=2) == [0, 1]
    world.start()
    world.code = code("b")
    assert run(world, 6, stop_after=2, changed="resume") == [2, 3]
    assert changes(world)[0].endswith("the new code runs from step 2 on")
    world.start()
    assert run(world, 6, changed="restart") == [4, 5], "it was accepted"


def test_an_inner_loop_does_not_repeat_what_the_outer_one_has_said(world: World) -> None:
    def cell(*, die: bool) -> None:
        world.cell()
        try:
            for outer in world.loop(range(2), {}):
                for inner in world.loop(range(3), {}):
                    if die and (outer, inner) == (1, 2):
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            world.end(ok=False)

    world.code = code("a")
    cell(die=True)
    world.start()
    world.code = code("b")
    cell(die=False)
    assert len(changes(world)) == 1


def test_a_cell_that_got_another_id_continues_by_its_content(world: World) -> None:
    world.code = code("a")
    assert run(world, 9, stop_after=3) == [0, 1, 2]
    start_with(world, "new")
    assert run(world, 9, stop_after=1, cell="new") == [3]
    start_with(world, "new")
    assert run(world, 9, stop_after=1, cell="new") == [4]
    assert changes(world) == [], "nothing is lost"
    start_with(world, "new")
    world.code = code("edited")
    assert run(world, 9, stop_after=1, cell="new") == [5], "it is known under its new key"
    assert "its body" in changes(world)[0]


def test_of_a_cell_without_an_id_the_source_may_change(world: World) -> None:
    world.code = code("a")
    for source, expected in (("x", [0, 1]), ("# comment\nx", [2, 3])):
        world.cell(None, source)
        done: list[int] = []
        for n in world.loop(range(9), {}):
            if len(done) == 2:
                break
            done.append(n)
        world.end(ok=False)
        world.start()
        assert done == expected


def test_a_copy_that_is_executed_first_takes_nothing_where_the_cells_are_not_known(world: World) -> None:
    world.code = code("a")
    assert run(world, 9, stop_after=3) == [0, 1, 2]
    world.start()
    assert run(world, 9, stop_after=1, cell="copy") == [0]
    (text,) = changes(world)
    assert text == (
        "this loop begins anew; city.loop 'c:0' of another cell, which had the same code, has done 3 items:"
        " city.loop(…, name='c:0') continues it"
    )


def in_cell(world: World, *bodies: str, dies_in: str = "", after: int = 0) -> dict[str, list[int]]:
    """One cell with a loop for each of the bodies, as ``cells.loop_sources`` describes them."""
    world.cell()
    done: dict[str, list[int]] = {body: [] for body in bodies}
    try:
        for body in bodies:
            around = [other for other in bodies if other != body]
            world.code = {**code(body), "around": around, "is_top": True}
            for n in world.loop(range(4), {}):
                if body == dies_in and len(done[body]) == after:
                    raise KeyboardInterrupt
                done[body].append(n)
    except KeyboardInterrupt:
        world.end(ok=False)
    else:
        world.end()
    return done


def test_a_loop_inserted_before_another_takes_nothing_from_it(world: World) -> None:
    in_cell(world, "a", dies_in="a", after=2)
    world.start()
    assert in_cell(world, "new", "a", dies_in="a", after=1) == {"new": [0, 1, 2, 3], "a": [2]}
    world.start()
    assert in_cell(world, "new", "a") == {"new": [], "a": [3]}
    world.start()
    assert in_cell(world, "new", "a") == {"new": [], "a": []}
    world.start()
    assert in_cell(world, "a") == {"a": []}, "the other one was deleted again"
    world.start()
    assert in_cell(world, "a", "new") == {"a": [], "new": []}
    assert changes(world) == []


def test_a_loop_whose_predecessor_in_the_cell_was_deleted_keeps_its_work(world: World) -> None:
    in_cell(world, "a", "b", "c", dies_in="c", after=2)
    world.start()
    assert in_cell(world, "b", "c", dies_in="c", after=1) == {"b": [], "c": [2]}
    world.start()
    assert in_cell(world, "b", "c") == {"b": [], "c": [3]}
    assert changes(world) == []


def test_loops_that_change_places_keep_their_work(world: World) -> None:
    in_cell(world, "a", "b", dies_in="b", after=3)
    world.start()
    assert in_cell(world, "b", "a") == {"b": [3], "a": []}


def test_a_loop_in_the_new_half_of_a_split_cell_keeps_its_work(world: World) -> None:
    world.code = {**code("a"), "is_top": True}
    assert run(world, 9, stop_after=3) == [0, 1, 2]
    world.start()
    write_cells(world.session.sidecar.mailbox.path, [("c", "x = 1"), ("new", "for n in city.loop(x): pass")])
    assert run(world, 9, stop_after=1, cell="new") == [3]


def test_of_two_equal_loops_without_a_cell_none_is_taken(world: World) -> None:
    world.code = code("a")
    assert run(world, 2, cell="one") == [0, 1]
    assert run(world, 9, stop_after=2, cell="two") == [0, 1]
    world.start()
    write_cells(world.session.sidecar.mailbox.path, [("new", "x = 1")])
    assert run(world, 9, stop_after=1, cell="new") == [0]
    assert len(changes(world)) == 2
    assert changes(world)[1].startswith(
        "city.loop 'two:0' (2 of 9 items done) has no cell any more: its rows up to step 2 come from a cell that no"
    )
    world.start()
    assert run(world, 9, stop_after=1, cell="named", name="two:0") == [2]


def test_a_loop_whose_cell_was_only_not_executed_yet_is_no_orphan(world: World) -> None:
    world.code = code("a")
    assert run(world, 9, stop_after=2, cell="one") == [0, 1]
    world.start()
    write_cells(world.session.sidecar.mailbox.path, [("copy", "…"), ("one", "…")])
    assert run(world, 9, stop_after=1, cell="copy") == [0]
    assert changes(world) == []
