"""`qcity explain`: what it prints for each variable and in its summary, and when it has nothing to print."""

from __future__ import annotations

import json
import os
import re
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells_world import Kernel
from checkpoint_run import RUN, CheckpointRun
from resume_world import DIED, ResumeWorld

from qcity_nb import cli
from qcity_nb.cli import explain
from qcity_nb.records import Head
from qcity_nb.run import lease
from qcity_nb.stores import open_store


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CheckpointRun:
    """A run of train.ipynb in the working directory's project; no checkpoint yet."""
    for name in ("STORE", "LOCAL_DIR", "TRACEBACK"):
        monkeypatch.delenv(f"QCITY_{name}", raising=False)
    (tmp_path / "pyproject.toml").write_text('[tool.qcity]\nproject = "p"\n')
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".qcity"
    folder.mkdir()
    return CheckpointRun(open_store(str(folder / "store")), folder)


@pytest.fixture
def kernel(run: CheckpointRun, tmp_path: Path) -> Kernel:
    """Its kernel, in which three cells have finished."""
    kernel = Kernel(tmp_path, run.tier, RUN)
    kernel.live.update(np=np, a=np.arange(40_000.0), lock=threading.Lock())
    kernel.live["b"] = [kernel.live["a"]]
    kernel.cell(wall_s=1)
    kernel.live["numbers"] = (n for n in range(3))
    kernel.cell(wall_s=2)
    kernel.live["a"] = kernel.live["b"][0] = np.ones(30_000)
    kernel.cell(wall_s=0.5)
    return kernel


def explained(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    assert cli.main(["explain", *words]) == code, capsys.readouterr()
    read = capsys.readouterr()
    assert bool(read.err) == bool(code)
    return read.err if code else read.out


def test_the_list(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    lines = explained(capsys, "train").splitlines()
    assert re.fullmatch(rf"{RUN}: the variables after cell 3, in checkpoint 3, saved \d+ s ago", lines[0])
    assert lines[2:5] == [
        "numbers (generator) is not saved: a generator's frame lives only in this process",
        "    cells 2 and 3 are re-run (2.5 s) if a later cell needs it; else its use raises VariableLost",
        "    advice: keep what it was made from, and create a new one",
    ]
    assert lines[6].split() == ["VARIABLE", "KIND", "SIZE", "COST", "BY", "CELL", "COMES", "BACK"]
    rows = [line.split(maxsplit=2) for line in lines[7:-2]]
    assert [row[:2] for row in rows] == [["a", "ndarray"], ["b", "list"], ["lock", "lock"], ["np", "module"]]
    assert rows[0][2].startswith("240.")
    assert rows[0][2].endswith("  3        restored, shares with b")
    assert rows[1][2].split(maxsplit=3) == ["-", "-", "3", "restored with a"]
    assert rows[2][2].endswith("  1        restored, new inside: lock")
    assert rows[3][2].split() == ["-", "-", "-", "imported:", "numpy"]
    assert lines[-1].startswith("5 variables, 240.")
    assert "Cells 1 to 3 have finished; a new host resumes at cell 4, or at cell 2 to re-create" in lines[-1]
    assert re.search(r" Older snapshots hold 320\.\d KB more\.$", lines[-1])


@pytest.mark.parametrize("word", ["train.ipynb", "./train.ipynb", RUN])
def test_a_notebook_means_its_newest_run(
    word: str, run: CheckpointRun, kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, notebook, created in ((2, "train.ipynb", "2001"), (3, "other.ipynb", "2999")):
        name = f"x-abc-{number}"
        lease.create(run.store, Head(run=name, key="k", project="p", notebook=notebook))
        lease.amend(run.store, name, lambda head, created=created: replace(head, created=created))  # type: ignore[misc]
    assert explained(capsys, word).startswith(f"{RUN}: ")


def test_a_notebook_that_never_ran(run: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run of other.ipynb in" in explained(capsys, "other.ipynb", code=2)
    assert "no run 'other'" in explained(capsys, "other", code=2)


def test_an_earlier_cell(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(capsys, "train", "--cell", "1")
    assert "numbers" not in text
    assert "Other snapshots hold 240." in text
    kernel.cell(snapshot=False)
    for cell in ("4", "9"):
        expected = f"no snapshot after cell {cell}, only after cells 1 to 3"
        assert expected in explained(capsys, "train", "--cell", cell, code=2)
    text = explained(capsys, "train")
    assert "after cell 3, in checkpoint 4" in text
    assert "Cells 1 to 4 have finished; a new host resumes at cell 4, or at cell 2 " in text


def test_too_long_to_re_run(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    kernel.cell(wall_s=100)
    text = explained(capsys, "train")
    assert "    its use raises VariableLost: to re-create it would take 102.5 s\n" in text
    assert "resumes at cell 5. " in text
    (numbers, *_) = json.loads(explained(capsys, "train", "--json"))["variables"]
    assert (numbers["rerun"], numbers["rerun_s"]) == (None, 102.5)


def test_as_json(kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(explained(capsys, "train", "--json"))
    assert (report["run"], report["checkpoint"], report["where"]) == (RUN, 3, ["local (attempt 1)"])
    assert (report["cell"], report["finished"], report["snapshots"], report["resumes_at"]) == (3, 3, [1, 2, 3], 4)
    variables: dict[str, Any] = {each["name"]: each for each in report["variables"]}
    assert [*variables] == ["numbers", "a", "b", "lock", "np"]
    assert variables["numbers"]["rerun"] == 2
    assert (variables["b"]["shares"], variables["b"]["changed"], variables["b"]["kind"]) == (["a"], [3, 3], "list")
    assert variables["a"]["kind"] == "numpy.ndarray"
    assert variables["lock"]["fresh"] == ["lock"]
    assert report["size_bytes"] > 240_000
    assert report["others_bytes"] > 320_000


def test_a_run_that_is_over(run: CheckpointRun, kernel: Kernel, capsys: pytest.CaptureFixture[str]) -> None:
    run.release(lambda head: replace(head, state="succeeded"))
    assert "Cells 1 to 3 have finished, and the run has succeeded." in explained(capsys, "train")
    assert json.loads(explained(capsys, "train", "--json"))["resumes_at"] is None


# --- nothing to explain


def test_no_checkpoint_at_all(run: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "train") == f"{RUN}: no checkpoint yet, neither in the store nor on this host\n"


def test_checkpoints_of_loops_alone(run: CheckpointRun, capsys: pytest.CaptureFixture[str]) -> None:
    run.save({"epochs": {"n": [1]}})
    text = explained(capsys, "train")
    assert text == f"{RUN}: no finished cell is recorded: its checkpoints hold only the states of loops\n"
    report = json.loads(explained(capsys, "train", "--json"))
    assert (report["run"], report["variables"]) == (RUN, [])
    assert report["why"] in text


def test_cells_without_snapshots(run: CheckpointRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Kernel(tmp_path, run.tier, RUN).cell(snapshot=False)
    assert "cell 1 has finished, without a snapshot of the variables" in explained(capsys, "train")


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    run: CheckpointRun, kernel: Kernel, capsys: pytest.CaptureFixture[str]
) -> None:
    (newest,) = run.tier.path.rglob("*3.json")
    newest.chmod(0o600)
    newest.write_bytes(newest.read_bytes()[:100])
    assert explained(capsys, "train").startswith(f"{RUN}: the variables after cell 2, in checkpoint 2")


# --- on a terminal


@pytest.mark.parametrize("columns", [80, 140])
def test_it_fits_a_terminal(
    columns: int, kernel: Kernel, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a_name_that_is_longer_than_most_people_like_to_type"
    kernel.live[name] = kernel.live["a"]
    kernel.live["a_generator_with_a_long_name"] = {"deep": [(n for n in range(3))]}
    kernel.cell()
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    text = explained(capsys, "train")
    assert max(map(len, text.splitlines())) <= columns
    words = " ".join(text.split()).replace(" ", "")
    assert f"shareswith{name},b" in words, "nothing of the last column is lost"
    assert f"{name[:19]}" in text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([3], "cell 3"), ([1, 2], "cells 1 and 2"), ([1, 2, 3, 5, 7, 8], "cells 1 to 3, 5, 7 and 8")],
)
def test_cells_are_named_in_spans(numbers: list[int], text: str) -> None:
    assert explain._cells(numbers) == text


# --- a real run


@pytest.mark.kernel
@pytest.mark.kill
@pytest.mark.timeout(240)
def test_a_run_whose_kernel_died_and_went_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ResumeWorld(tmp_path / "p")
    world.write(
        "import numpy as np\nrows = np.random.default_rng(1).random(50_000)",
        "numbers = (n for n in range(3))",
        "half = rows[:25_000]",
        "die('here')\nprint(next(numbers))",
    )
    world.attempt(code=DIED)
    monkeypatch.chdir(world.folder)
    report = json.loads(explained(capsys, "in.ipynb", "--json"))
    variables = {each["name"]: each for each in report["variables"]}
    assert (report["finished"], report["snapshots"], report["resumes_at"]) == (4, [1, 2, 3, 4], 5)
    assert (variables["rows"]["shares"], variables["rows"]["changed"]) == (["half"], [4, 4])
    assert variables["np"]["module"] == "numpy"
    assert variables["die"]["kind"] == "function"
    assert "_" not in variables
    promised = variables["numbers"]["rerun"]
    world.attempt()
    assert world.ran() == [1, 1, 2, 2, 2]
    assert world.ran().index(2) == promised - 1, "it was re-run from the cell that explain had named"
    assert "the run has succeeded" in explained(capsys, "in.ipynb")
