"""Cells run by hand: which is the next of the earlier kernel's, which only looks, how variables come back."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cells_world import Kernel
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import qcity_nb
from qcity_nb.cells.read_only import asks_for_results, is_read_only
from qcity_nb.checkpoint.storage.manifest import CellRecord, NamespaceRecord
from qcity_nb.errors import CheckpointCorrupt, RunHeld, UsageError
from qcity_nb.interactive import extension
from qcity_nb.interactive.follower import _awaits
from qcity_nb.interactive.history import BEFORE, READ_ONLY, History, hash_earlier_cells
from qcity_nb.interactive.restore import RESULTS, SnapshotRestorer, map_results
from qcity_nb.kernel import ipython_hooks
from qcity_nb.kernel.finished_cells import FinishedCells
from qcity_nb.kernel.ipython_history import user_owns
from qcity_nb.kernel.output_recorder import MANY, Recorder
from qcity_nb.namespace.environment.process import ProcessSettings
from qcity_nb.namespace.snapshot import NamespaceSnapshotter, is_hidden
from qcity_nb.namespace.tombstone import not_saved_of

# -- cells that only look


@pytest.mark.parametrize(
    "source",
    [
        "x",
        "df.head()",
        "df.shape, len(x)",
        "print(x, f'{y!r}')",
        "x[3:5]",
        "x\ny",
        "x?",
        "?x",
        "x.a??",
        "%whos",
        "a < b",
        "-x",
    ],
)
def test_what_only_looks(source: str) -> None:
    assert is_read_only(source)


@pytest.mark.parametrize(
    "source",
    [
        *(
            "x = 1",
            "x.append(1)",
            "next(x)",
            "x.pop()",
            "list(g)",
            "del x",
            "import os",
            "_",
            "_3.head()",
            "Out[2]",
            "",
        ),
        *(
            "[n for n in g]",
            "(y := 2)",
            "f(x)",
            "df.head(next(g))",
            "x.head()()",
            "!make",
            "%run x.py",
            "%%time\nx",
            "x + y",
        ),
        *(
            "lambda: x",
            "await x",
            "x if a else b()",
            "# nothing",
            "print(x, file=f.write('a'))",
            "x ? y",
            "!ls > x",
            "!cat a | sh",
            "!ls\nx",
        ),
    ],
)
def test_what_may_do_more(source: str) -> None:
    assert not is_read_only(source)


def test_a_function_of_the_notebook_may_do_anything() -> None:
    assert not is_read_only("print(x)", {"print"})


def test_results_are_asked_for() -> None:
    assert all(asks_for_results(name) for name in ("_", "x = _3 + 1", "Out[1]", "In[-1]", "!echo {_}", "_i2"))
    assert not any(
        asks_for_results(name) for name in ("x_", "a._3", "__name__", "_x", "Outer", "x_3", "for _ in x: f(_)")
    )


# -- which cell comes next


def records(*sources: str, whole: str = "") -> list[CellRecord]:
    """What a kernel records of these cells; those in ``whole``, by place, have a snapshot; all have if empty."""
    history, made = History([], []), []
    for place, source in enumerate(sources):
        is_look = is_read_only(source)
        namespace = NamespaceRecord() if not is_look and (not whole or str(place) in whole) else None
        extra = {READ_ONLY: True} if is_look else {BEFORE: ["s", "t"]} if place == 0 else {}
        made.append(CellRecord(chain=history.chain(source), namespace=namespace, extra=extra))
        history.add_run(source, is_read_only=is_look)
    return made


def follow(history: History, *sources: str) -> list[int | None]:
    places = []
    for source in sources:
        place = history.find(source)
        places.append(place)
        if place is not None:
            history.skip(place, source)
        elif is_read_only(source):
            history.add_run(source, is_read_only=True)
    return places


def test_the_same_cells_are_found_up_to_the_first_other_one() -> None:
    known = records("a = 1", "b = 2", "c = 3")
    assert follow(History(known, []), "a = 1", "b = 2  ", "c = 3", "a = 1") == [0, 1, 2, None]
    assert follow(History(known, []), "a = 1", "b = 3", "c = 3") == [0, None, None]
    assert follow(History(known, []), "b = 2") == [None]


def test_cells_that_look_may_come_go_and_stay_away() -> None:
    known = records("a = 1", "a", "b = 2", "b", "c = 3")
    assert follow(History(known, []), "a = 1", "a", "b = 2", "b", "c = 3") == [0, 1, 2, 3, 4]
    assert follow(History(known, []), "a = 1", "b = 2", "c = 3") == [0, 2, 4]
    assert follow(History(known, []), "a = 1", "a?", "b = 2", "a", "c = 3") == [0, None, 2, None, 4]


def test_a_cell_that_asks_for_results_comes_after_read_only_ones() -> None:
    known = records("a = 1", "a", "b = _")
    assert follow(History(known, []), "a = 1", "a", "b = _") == [0, 1, 2]
    assert follow(History(known, []), "a = 1", "b = _") == [0, None]
    assert follow(History(known, []), "a = 1", "a", "print(a)", "b = _") == [0, 1, None, None]


def test_only_what_has_a_snapshot_after_it_is_skipped() -> None:
    history = History(records("a = 1", "b = 2", "b", "c = 3", "d = 4", whole="03"), [])
    assert len(history.records) == 4
    assert follow(history, "a = 1", "b = 2", "b") == [0, 1, 2]
    assert (history.find_snapshot(), history.is_over) == ((1, [1]), False)
    assert follow(history, "c = 3") == [3]
    assert (history.find_snapshot(), history.is_over) == ((4, []), True)
    history.go_back(2)
    assert (history.at, history.is_over, history.find_snapshot()) == (2, True, (1, [1]))
    assert history.chain("c = 3") == records("a = 1", "b = 2", "c = 3")[2].chain
    assert History(records("a = 1", "b = 2", whole="x"), []).records == ()


def test_what_ran_before_counts() -> None:
    known = records("a = 1", "b = 2")
    assert len(History(known, ["t"]).records) == 2
    other = History(known, ["t", "new"])
    assert other.is_other
    assert other.records == ()
    assert not History([], ["new"]).is_other
    assert (
        len(
            History(
                [known[0], CellRecord(chain="x", namespace=NamespaceRecord(), extra={BEFORE: ["t"]})], ["s"]
            ).records
        )
        == 1
    )


def test_of_the_cells_before_installs_magics_and_looks_do_not_count() -> None:
    assert hash_earlier_cells(["", "!nvidia-smi\n", "%pip install x", "x", "%load_ext qcity_nb"]) == []
    assert len(hash_earlier_cells(["a = 1", "a = 1 ", "a = 2", "%run x.py", "%%time\na = 3", "!ls\nb = 1"])) == 5


# -- variables come into a shell in which cells have run


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    yield made
    InteractiveShell.clear_instance()


def restore(kernel: Kernel, shell: InteractiveShell, sources: list[str], numbers: list[int]) -> list[str]:
    assert kernel.manifest is not None
    known = kernel.manifest.cells
    finished_cells = FinishedCells(NamespaceSnapshotter(shell.user_ns), ProcessSettings(kernel.root), known)
    with kernel.tier.open_reader(kernel.manifest) as read:
        notes = SnapshotRestorer(shell, finished_cells).restore(known, read, numbers, sources)
    assert len(finished_cells.records) == len(known)
    return notes


def test_the_snapshot_counts_and_what_else_there_is_stays(tmp_path: Path, shell: InteractiveShell) -> None:
    old = Kernel(tmp_path)
    old.live.update(x=[1, 2], rate=3)
    old.cell()
    shell.user_ns.update(rate=1, mine="here")
    assert restore(old, shell, ["x = [1, 2]"], [4]) == []
    assert (shell.user_ns["x"], shell.user_ns["rate"], shell.user_ns["mine"]) == ([1, 2], 3, "here")


def test_what_cannot_be_saved_stays_unless_it_was_used_up(tmp_path: Path, shell: InteractiveShell) -> None:
    old = Kernel(tmp_path)
    for name in ("used", "unused", "gone"):
        old.live[name] = (n for n in range(3))
    old.cell()
    shell.user_ns.update(used=iter([1]), unused=iter([2]))
    notes = restore(old, shell, ["next(used)"], [1])
    assert next(shell.user_ns["unused"]) == 2
    assert not_saved_of(shell.user_ns["used"]) is not None
    assert not_saved_of(shell.user_ns["gone"]) is not None
    assert sorted(note.partition(" ")[0] for note in notes) == ["gone", "used"]


def test_results_get_the_numbers_that_the_cells_have_now(tmp_path: Path, shell: InteractiveShell) -> None:
    old = Kernel(tmp_path)
    old.cells.snapshotter = NamespaceSnapshotter(old.live, old.engine.freezer, hidden=user_owns(is_hidden))
    old.live.update(x=[1], _1="setup", _7="seven")
    old.live["_9"] = old.live["x"]
    old.cell()
    assert old.manifest is not None
    (record,) = old.manifest.cells
    assert map_results(old.live, {7: 0, 9: 1}) == {"7": 0, "9": 1}
    extra = {RESULTS: {"7": 0, "9": 1}}
    shell.user_ns["_1"] = "mine"
    finished_cells = FinishedCells(NamespaceSnapshotter(shell.user_ns), ProcessSettings(tmp_path), [record])
    with old.tier.open_reader(old.manifest) as read:
        SnapshotRestorer(shell, finished_cells).restore([replace(record, extra=extra)], read, [3, 4], ["", ""])
    live: dict[str, Any] = shell.user_ns
    assert (live["_1"], live["_3"], live["Out"]) == ("mine", "seven", {1: "mine", 3: "seven", 4: [1]})
    assert live["_4"] is live["x"] is live["_"]
    assert "_7" not in live


def test_a_second_restore_takes_away_what_was_deleted_meanwhile(tmp_path: Path, shell: InteractiveShell) -> None:
    old = Kernel(tmp_path)
    old.live.update(x=1, y=2)
    old.cell()
    del old.live["x"]
    old.cell()
    assert old.manifest is not None
    known = old.manifest.cells
    restorer = SnapshotRestorer(
        shell, FinishedCells(NamespaceSnapshotter(shell.user_ns), ProcessSettings(tmp_path), known)
    )
    with old.tier.open_reader(old.manifest) as read:
        restorer.restore(known[:1], read, [1], [""])
        assert shell.user_ns["x"] == 1
        restorer.restore(known, read, [1, 2], ["", ""])
    assert "x" not in shell.user_ns
    assert shell.user_ns["y"] == 2


def test_a_restore_that_fails_leaves_all_as_it_was(tmp_path: Path, shell: InteractiveShell) -> None:
    old = Kernel(tmp_path)
    old.live.update(x=1, y=2)
    old.cell()
    assert old.manifest is not None
    shell.user_ns["x"] = "mine"
    names, state, place = dict(shell.user_ns), random.getstate(), Path.cwd()
    count = 0

    def damaged(name: str) -> bytes:
        nonlocal count
        count += 1
        if count > 1:
            raise CheckpointCorrupt("no")
        with old.tier.open_reader(old.manifest) as read:  # type: ignore[arg-type]
            return read(name)

    finished_cells = FinishedCells(NamespaceSnapshotter(shell.user_ns), ProcessSettings(tmp_path), old.manifest.cells)
    with pytest.raises(CheckpointCorrupt):
        SnapshotRestorer(shell, finished_cells).restore(old.manifest.cells, damaged, [1], [""])
    assert shell.user_ns == names
    assert (random.getstate(), Path.cwd()) == (state, place)


def test_what_awaits_is_known() -> None:
    assert _awaits("import asyncio\nawait asyncio.sleep(0)")
    assert not _awaits("async def f():\n    await g()")
    assert not _awaits("x =")


# -- what a whole cell shows


def test_a_cell_is_recorded_as_a_whole_though_loops_forget() -> None:
    recorder = Recorder()
    recorder.records_cell = recorder.is_recording = True
    for n in range(4):
        recorder._add({"kind": "stream", "name": "stdout", "text": str(n)})
    recorder.drop(3)
    assert len(recorder._outputs) == 1
    recorder.is_recording = False
    recorder._add({"kind": "result", "content": {"data": {"text/plain": "5"}, "metadata": {}}})
    text, result = json.loads(recorder.cell_outputs())
    assert (text["text"], result["kind"]) == ("0123", "result")
    recorder.start_cell()
    assert recorder.cell_outputs() == b""


def test_the_record_of_a_cell_is_put_together_as_it_grows() -> None:
    recorder = Recorder()
    recorder.records_cell = True
    for n in range(5 * MANY):
        content = {"data": {"text/plain": str(n)}, "transient": {"display_id": "x"}}
        recorder._add({"kind": "update", "content": content})
    assert len(recorder._outputs) <= MANY
    assert len(recorder._kept) == 1
    (last,) = json.loads(recorder.cell_outputs())
    assert last["content"]["data"]["text/plain"] == str(5 * MANY - 1)


# -- the extension


def test_a_shell_without_a_kernel_and_a_run_that_cannot_be_told(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QCITY_MAILBOX", raising=False)
    error = sys.modules["IPython.core.error"].UsageError
    with pytest.raises(error, match="needs a notebook's kernel"):
        qcity_nb.load_ipython_extension(shell)
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    for kind in (UsageError, RunHeld):

        def up(kind: type[Exception] = kind) -> Any:
            raise kind('say qcity.up(run="train")')

        with pytest.raises(error, match=r'say qcity.up\(run="train"\); then %load_ext qcity_nb'):
            extension.load(shell, up)
    assert shell.ast_transformers == []
    qcity_nb.unload_ipython_extension(shell)


def test_under_the_engine_nothing_is_loaded(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCITY_MAILBOX", "somewhere")
    extension.load(shell, lambda: pytest.fail("it asks for a session"))
    assert shell.ast_transformers == []


def test_the_end_of_a_cell_without_code_is_none() -> None:
    assert ipython_hooks.is_blank(SimpleNamespace(info=SimpleNamespace(raw_cell=" \n")))
    assert not ipython_hooks.is_blank(SimpleNamespace(info=SimpleNamespace(raw_cell="x")))
    assert not ipython_hooks.is_blank(None)
